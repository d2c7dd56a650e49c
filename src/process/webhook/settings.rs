//! Settings of the webhook, from the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::inject;
use crate::listen::settings::{CertificateFiles, Drain, Tls};

#[derive(Debug, Clone)]
pub struct Settings {
    /// The listener for API servers.
    pub address: SocketAddr,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// `/livez /readyz /metrics`, in clear.
    pub probes: Option<SocketAddr>,
    pub inject: inject::Settings,
    /// The folder with the service account's token and the API server's CA (`token`, `ca.crt`).
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
