//! TLS towards Redis: own authorities, a client certificate, the one provider of the house.
//!
//! The files are read for every connection, so that a rotated certificate is taken up when the next one is made.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::settings::Tls;
use crate::store::StoreError;

/// Why the store's TLS settings cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{file}: {error}; it must be a PEM file that this user may read")]
    Pem { file: String, error: rustls::pki_types::pem::Error },
    #[error("{0} holds no certificate")]
    Empty(String),
    #[error("the system's certificate authorities cannot be read ({0}); name a file as `store.tls.ca`")]
    System(String),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// Reads the files and makes of them what a connection needs.
pub fn client_config(settings: &Tls) -> Result<ClientConfig, TlsError> {
    let roots = match &settings.ca {
        None => system_roots()?,
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate)?;
            }
            Arc::new(roots)
        }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    Ok(match &settings.client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let pem = |error| TlsError::Pem { file: key.display().to_string(), error };
            builder.with_client_auth_cert(certificates(cert)?, PrivateKeyDer::from_pem_file(key).map_err(pem)?)?
        }
    })
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
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsError::System(errors.join("; ")));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |error| TlsError::Pem { file: file.display().to_string(), error };
    let found: Vec<_> = CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if found.is_empty() { Err(TlsError::Empty(file.display().to_string())) } else { Ok(found) }
}
