//! TLS towards Redis: own authorities, a client certificate.
//!
//! The files are read for every connection, so that a rotated certificate is taken up when the next one is made.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::settings::Tls;
use crate::client_tls::{self, ClientTlsError};
use crate::store::StoreError;

/// Reads the files and makes of them what a connection needs.
pub fn client_config(settings: &Tls) -> Result<ClientConfig, ClientTlsError> {
    let roots = match &settings.ca {
        None => system_roots()?,
        Some(file) => Arc::new(client_tls::roots_in(file)?),
    };
    client_tls::client_config(roots, settings.client.as_ref())
}

/// The handshake; the server must prove that it is `host`.
pub(super) async fn connect(settings: &Tls, host: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>, StoreError> {
    let unreachable = |what: String| StoreError::Unreachable(format!("TLS: {what}"));
    let config = client_config(settings).map_err(|error| unreachable(error.to_string()))?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| unreachable(format!("`{host}` is no name that a certificate could hold")))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    stream.map_err(|error| unreachable(error.to_string()))
}

/// Read once: there are many, and they change with the system.
fn system_roots() -> Result<Arc<RootCertStore>, ClientTlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let roots = client_tls::system_roots("store.tls.ca")?;
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}
