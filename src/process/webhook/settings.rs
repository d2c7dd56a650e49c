//! What the webhook's command line says.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::inject;
use crate::listen::settings::{CertificateFiles, Drain, Tls};

#[derive(Debug, Clone)]
pub struct Settings {
    /// Where API servers ask.
    pub address: SocketAddr,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// `/livez /readyz /metrics`, in clear.
    pub probes: Option<SocketAddr>,
    pub inject: inject::Settings,
    /// The folder with the token and the authority by which the API server is asked (`token`, `ca.crt`).
    pub service_account: PathBuf,
    /// The API server; `None` outside a cluster, where namespaces have no annotations.
    pub api_server: Option<(String, u16)>,
    pub drain: Drain,
}

impl Settings {
    pub(super) fn tls(&self) -> Tls {
        let pair = CertificateFiles { cert: self.cert.clone(), key: self.key.clone() };
        Tls { certificates: vec![pair], client_ca: None }
    }
}
