//! TLS towards servers, for the store and for upstreams: which authorities are trusted, and the client's own certificate.
//!
//! When files are read again, and what is spoken over TLS, is left to the callers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// Why the settings for TLS towards a server cannot be used.
#[derive(Debug, Error)]
pub enum ClientTlsError {
    #[error("{file}: {error}; it must be a PEM file that this user may read")]
    Pem { file: String, error: pem::Error },
    #[error("{0} holds no certificate")]
    Empty(String),
    #[error("the system's certificate authorities cannot be read ({errors}); name a file as `{field}`")]
    System { errors: String, field: &'static str },
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// Trusts `roots` and, where there is one, shows the certificate in the first of two files, whose key is in the second.
pub fn client_config(
    roots: impl Into<Arc<RootCertStore>>,
    client: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, ClientTlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    Ok(match client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let private_key = PrivateKeyDer::from_pem_file(key).map_err(in_file(key))?;
            builder.with_client_auth_cert(certificates(cert)?, private_key)?
        }
    })
}

/// The authorities in a file.
pub fn roots_in(file: &Path) -> Result<RootCertStore, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The system's authorities. `field` is where the configuration names others.
pub fn system_roots(field: &'static str) -> Result<RootCertStore, ClientTlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(ClientTlsError::System { errors: errors.join("; "), field });
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let found = CertificateDer::pem_file_iter(file).map_err(in_file(file))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(in_file(file))?;
    if found.is_empty() { Err(ClientTlsError::Empty(file.display().to_string())) } else { Ok(found) }
}

fn in_file(file: &Path) -> impl Fn(pem::Error) -> ClientTlsError {
    move |error| ClientTlsError::Pem { file: file.display().to_string(), error }
}
