//! TLS towards the client: 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, a certificate by SNI, the first by default; with
//! `client_ca`, mutual TLS.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::settings::{CertificateFiles, Tls};
use crate::clock;

/// With fewer days left a certificate is due to be renewed, as the alert of `deploy/prometheus` has it.
const SOON_DAYS: u64 = 14;

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
    #[error(
        "{0} is an X.509 certificate of version 1, which has no names of hosts and no client takes; make one of version 3, with \
         `subjectAltName` (openssl: `-addext subjectAltName=DNS:api.example.com`, or `-extfile` where a request is signed)"
    )]
    Version(String),
    #[error("{0} ends before it begins, so that it is never valid; make one whose dates are in order")]
    Dates(String),
    #[error("{file}: {error}; it must hold the authorities that clients' certificates come from")]
    ClientCa { file: String, error: VerifierBuilderError },
    #[error("{file}: {error}; every certificate in it must be an authority's")]
    Authority { file: String, error: rustls::Error },
    #[error("{0}: it has expired, and the one in use has not; write a certificate that is valid")]
    Expired(String),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

/// Does the handshake of a new connection.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    /// Shared by all workers and kept at reloads, so that a session can be resumed on any connection. The keys are replaced
    /// every six hours, and no ticket lives longer than twelve.
    tickets: Arc<dyn ProducesTickets>,
    certificates: Arc<[Certificate]>,
    by_name: Arc<ByName>,
}

/// Which of several certificates a connection was presented. Requests for another one's host are not served on it (421).
#[derive(Debug, Clone)]
pub struct Presented {
    by_name: Arc<ByName>,
    index: usize,
}

/// A certificate in use, for the expiry metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub file: String,
    /// Its end, in seconds since the Unix epoch.
    pub not_after: u64,
}

impl Acceptor {
    /// Reads every certificate and key: all are good or none is used.
    pub fn new(settings: &Tls) -> Result<Self, TlsError> {
        Self::with_tickets(settings, aws_lc_rs::Ticketer::new()?)
    }

    /// The acceptor after a reload; earlier sessions can be resumed. No certificate that has expired at `now_ms` replaces a valid
    /// one; where the one in use has expired as well, nothing gets worse, and the rest of the reload may take effect.
    pub fn renewed(&self, settings: &Tls, now_ms: u64) -> Result<Self, TlsError> {
        let renewed = Self::with_tickets(settings, self.tickets.clone())?;
        let ended = |one: &&Certificate| one.has_ended(now_ms);
        let was_ended = |file: &str| self.certificates.iter().filter(ended).any(|former| former.file == file);
        match renewed.certificates.iter().filter(ended).find(|one| !was_ended(&one.file)) {
            Some(worse) => Err(TlsError::Expired(worse.file.clone())),
            None => Ok(renewed),
        }
    }

    fn with_tickets(settings: &Tls, tickets: Arc<dyn ProducesTickets>) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let by_name = Arc::new(ByName::load(&settings.certificates, &provider)?);
        let certificates = by_name.certificates(&settings.certificates)?;
        let config = server_config(by_name.clone(), settings.client_ca.as_deref(), provider, tickets.clone())?;
        Ok(Self { tls: TlsAcceptor::from(Arc::new(config)), tickets, certificates, by_name })
    }

    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The decrypted stream, whether HTTP/2 was agreed on, and which of several certificates was presented.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(impl AsyncRead + AsyncWrite + Unpin + Send + use<>, bool, Option<Presented>)> {
        let stream = self.tls.accept(stream).await?;
        let connection = stream.get_ref().1;
        let h2 = connection.alpn_protocol() == Some(b"h2");
        let index = || connection.server_name().and_then(|name| self.by_name.find(name)).unwrap_or_default();
        let several = self.by_name.named.len() > 1;
        let presented = several.then(|| Presented { by_name: self.by_name.clone(), index: index() });
        Ok((stream, h2, presented))
    }
}

impl Certificate {
    pub fn has_ended(&self, now_ms: u64) -> bool {
        self.not_after < now_ms / 1000
    }

    /// Whether it is valid, and time to renew it.
    pub fn ends_soon(&self, now_ms: u64) -> bool {
        !self.has_ended(now_ms) && self.days_left(now_ms) < SOON_DAYS
    }

    /// Whole days until its end.
    pub fn days_left(&self, now_ms: u64) -> u64 {
        self.not_after.saturating_sub(now_ms / 1000) / (24 * 60 * 60)
    }

    /// `2026-11-26`; `None`: it ends beyond what can be told.
    pub fn end_day(&self) -> Option<String> {
        let ms = self.not_after.checked_mul(1000)?;
        clock::rfc3339(ms).split_once('T').map(|(day, _)| day.to_owned())
    }
}

impl Presented {
    /// Whether `host` belongs to another certificate than this connection's (RFC 9110 §15.5.20). A host that belongs to none is
    /// served: certificates need not name all hosts.
    pub fn is_misdirected(&self, host: &str) -> bool {
        !self.by_name.holds(self.index, host) && self.by_name.find(host).is_some()
    }
}

/// AES-128 comes first, as in Mozilla's guidelines: it is out of reach for any attack, and its SHA-256 is done in hardware where
/// the SHA-384 that goes with AES-256 is not, so that a handshake costs less.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_first = |suite: CipherSuite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider.cipher_suites.sort_by_key(|suite| !is_first(suite.suite()));
    provider
}

fn server_config(
    certificates: Arc<ByName>,
    client_ca: Option<&Path>,
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let mut config = match client_ca {
        None => {
            let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
            config.ticketer = tickets;
            config
        }
        Some(file) => {
            let verifier = client_verifier(file, provider)?;
            let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(certificates);
            // No resumption: a resumed session does not present its certificate again, so that one that has expired, or whose
            // authority is no longer trusted, would go on.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    // All suites are good ones; scanners ask for the server's order.
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn client_verifier(file: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let name = || file.display().to_string();
    let mut roots = RootCertStore::empty();
    for authority in chain(file)? {
        roots.add(authority).map_err(|error| TlsError::Authority { file: name(), error })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| TlsError::ClientCa { file: name(), error })
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

    fn certificates(&self, files: &[CertificateFiles]) -> Result<Arc<[Certificate]>, TlsError> {
        let certificates = self.named.iter().zip(files).map(|((_, key), files)| {
            let file = files.cert.display().to_string();
            let not_after = not_after(&leaf(key, files)?).ok_or_else(|| TlsError::Dates(file.clone()))?;
            Ok(Certificate { file, not_after })
        });
        certificates.collect()
    }

    /// The first certificate that names this host.
    fn find(&self, host: &str) -> Option<usize> {
        (0..self.named.len()).find(|index| self.holds(*index, host))
    }

    fn holds(&self, index: usize, host: &str) -> bool {
        self.named.get(index).is_some_and(|(names, _)| names.iter().any(|name| matches(name, host)))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let index = hello.server_name().and_then(|name| self.find(name)).unwrap_or_default();
        self.named.get(index).map(|(_, key)| key.clone())
    }
}

/// Whether a certificate's name matches the one that a client asks for; `*.` stands for one label (RFC 6125 §6.4.3).
fn matches(name: &str, asked: &str) -> bool {
    match name.strip_prefix("*.") {
        None => name.eq_ignore_ascii_case(asked),
        Some(parent) => {
            asked.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
        }
    }
}

fn dns_names(key: &CertifiedKey, files: &CertificateFiles) -> Result<Vec<String>, TlsError> {
    Ok(leaf(key, files)?.valid_dns_names().map(str::to_owned).collect())
}

fn leaf<'k>(key: &'k CertifiedKey, files: &CertificateFiles) -> Result<webpki::EndEntityCert<'k>, TlsError> {
    let cert = || files.cert.display().to_string();
    let first = key.cert.first().ok_or_else(|| TlsError::Empty(cert()))?;
    webpki::EndEntityCert::try_from(first).map_err(|error| TlsError::Certificate { cert: cert(), error })
}

/// A certificate's expiry; `None` where it expires before it begins. `webpki` gives it only in its error: so the certificate is
/// verified at the end of time, which fails on its dates before anything else is checked.
fn not_after(leaf: &webpki::EndEntityCert<'_>) -> Option<u64> {
    let never = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let usage = webpki::KeyUsage::server_auth();
    match leaf.verify_for_usage(&[], &[], &[], never, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs()),
        Err(webpki::Error::InvalidCertValidity) => None,
        // It expires later than `webpki` can say.
        _ => Some(u64::MAX),
    }
}

fn certified_key(files: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = chain(&files.cert)?;
    // Said before the key is compared with it, which such a certificate fails as well.
    let first = chain.first().map(webpki::EndEntityCert::try_from);
    if let Some(Err(webpki::Error::UnsupportedCertVersion)) = first {
        return Err(TlsError::Version(files.cert.display().to_string()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| TlsError::Pem { file: files.key.display().to_string(), error })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::Pair {
        cert: files.cert.display().to_string(),
        key: files.key.display().to_string(),
        error,
    })
}

/// Every certificate in a PEM file, at least one.
fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |error| TlsError::Pem { file: file.display().to_string(), error };
    let chain: Vec<_> = CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if chain.is_empty() {
        return Err(TlsError::Empty(file.display().to_string()));
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_with_128_bits_is_preferred_and_no_suite_is_lost() {
        let ours = provider().cipher_suites;
        assert_eq!(ours[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        let all = aws_lc_rs::default_provider().cipher_suites;
        assert!(ours.len() == all.len() && all.iter().all(|suite| ours.contains(suite)));
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(matches("*.example.com", "api.Example.com"));
        assert!(!matches("*.example.com", "a.b.example.com"));
        assert!(!matches("*.example.com", "example.com"));
        assert!(matches("api.example.com", "API.example.com"));
    }
}
