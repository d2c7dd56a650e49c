//! TLS towards the client: 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, a certificate by SNI, the first pair by default.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::settings::{CertificateFiles, Tls};

/// Why the listener's certificates cannot be used, and with which file.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{file}: {error}; it must be a PEM file that this user may read")]
    Pem { file: String, error: rustls::pki_types::pem::Error },
    #[error("{0} holds no certificate; it must be the chain as PEM, the server's own first")]
    Empty(String),
    #[error("{cert} and {key}: {error}; they must be a certificate and its own key")]
    Pair { cert: String, key: String, error: rustls::Error },
    #[error("{0} names no host; every certificate but the first is chosen by the names in it")]
    Nameless(String),
    #[error("{cert}: {error}; it must be an X.509 certificate for a server")]
    Certificate { cert: String, error: webpki::Error },
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// Takes the handshake of a new connection.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// Reads every certificate and key: all are good or none is used.
    pub fn new(settings: &Tls) -> Result<Self, TlsError> {
        server_config(settings).map(|config| Self(TlsAcceptor::from(config)))
    }

    /// The stream in clear, and whether HTTP/2 was agreed on.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(impl AsyncRead + AsyncWrite + Unpin + Send + use<>, bool)> {
        let stream = self.0.accept(stream).await?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((stream, h2))
    }
}

fn server_config(settings: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = ByName::load(&settings.certificates, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificate whose names hold the SNI, else the first.
#[derive(Debug)]
struct ByName {
    named: Vec<(Vec<String>, Arc<CertifiedKey>)>,
}

impl ByName {
    fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut named = Vec::new();
        for files in files {
            let key = certified_key(files, provider)?;
            let names = dns_names(&key, files)?;
            if names.is_empty() && !named.is_empty() {
                return Err(TlsError::Nameless(files.cert.display().to_string()));
            }
            named.push((names, Arc::new(key)));
        }
        Ok(Self { named })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        let holds = |names: &[String]| asked.is_some_and(|asked| names.iter().any(|name| matches(name, asked)));
        let by_name = self.named.iter().find(|(names, _)| holds(names));
        by_name.or(self.named.first()).map(|(_, key)| key.clone())
    }
}

/// A name as certificates hold it against one that a client asks for; `*.` stands for one label (RFC 6125 §6.4.3).
fn matches(name: &str, asked: &str) -> bool {
    match name.strip_prefix("*.") {
        None => name.eq_ignore_ascii_case(asked),
        Some(parent) => {
            asked.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
        }
    }
}

fn dns_names(key: &CertifiedKey, files: &CertificateFiles) -> Result<Vec<String>, TlsError> {
    let unreadable = |error: webpki::Error| TlsError::Certificate { cert: files.cert.display().to_string(), error };
    let leaf = key.cert.first().ok_or_else(|| TlsError::Empty(files.cert.display().to_string()))?;
    let parsed = webpki::EndEntityCert::try_from(leaf).map_err(unreadable)?;
    Ok(parsed.valid_dns_names().map(str::to_owned).collect())
}

fn certified_key(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let pem = |file: &Path| {
        let file = file.display().to_string();
        move |error| TlsError::Pem { file, error }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .map_err(pem(&files.cert))?
        .collect::<Result<_, _>>()
        .map_err(pem(&files.cert))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(files.cert.display().to_string()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem(&files.key))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::Pair {
        cert: files.cert.display().to_string(),
        key: files.key.display().to_string(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(matches("*.example.com", "api.Example.com"));
        assert!(!matches("*.example.com", "a.b.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(matches("api.example.com", "API.example.com"));
    }
}
