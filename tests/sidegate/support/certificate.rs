//! Certificates of the test's own, as files for a configuration and as settings for a server or a client: self-signed ones, and
//! those of an authority.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

pub struct Certificate {
    pub der: CertificateDer<'static>,
    key: Vec<u8>,
    folder: TempDir,
}

impl Certificate {
    pub fn of(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a name is a valid subject");
        Self::written(&made.cert, &made.signing_key)
    }

    /// Self-signed, and ended long ago.
    pub fn expired(name: &str) -> Self {
        Self::from_to(name, Duration::from_secs(978_307_200), Duration::from_secs(1_009_843_200))
    }

    /// Self-signed, and ends so long after now.
    pub fn ending_in(name: &str, left: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        Self::from_to(name, Duration::from_secs(978_307_200), now + left)
    }

    /// Self-signed; both times since the Unix epoch.
    pub fn from_to(name: &str, not_before: Duration, not_after: Duration) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut parameters = CertificateParams::new([name.to_owned()]).expect("a name is a valid subject");
        parameters.not_before = rcgen::date_time_ymd(1970, 1, 1) + not_before;
        parameters.not_after = rcgen::date_time_ymd(1970, 1, 1) + not_after;
        Self::written(&parameters.self_signed(&key).expect("the parameters are complete"), &key)
    }

    fn written(made: &rcgen::Certificate, key: &KeyPair) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let certificate = Self { der: made.der().clone(), key: key.serialize_der(), folder };
        fs::write(certificate.cert_file(), made.pem()).expect("the folder is writable");
        fs::write(certificate.key_file(), key.serialize_pem()).expect("the folder is writable");
        certificate
    }

    pub fn cert_file(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor_by(&[])
    }

    /// For clients that take one of these protocols by ALPN.
    pub fn acceptor_by(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        self.accepting(WebPkiClientVerifier::no_client_auth(), protocols)
    }

    /// For clients with a certificate of this authority alone.
    pub fn acceptor_for(&self, clients: &Authority) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(clients.certificate.der().clone()).expect("it is an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        self.accepting(verifier.expect("there is an authority to trust"), &[])
    }

    fn accepting(&self, clients: Arc<dyn ClientCertVerifier>, protocols: &[&[u8]]) -> TlsAcceptor {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs speaks TLS 1.2 and 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![self.der.clone()], self.private_key())
            .expect("the key belongs to the certificate");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Signs certificates.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut parameters = CertificateParams::new([]).expect("no name is a valid subject");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("the parameters are complete");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("ca.crt"), certificate.pem()).expect("the folder is writable");
        Self { certificate, issuer: Issuer::new(parameters, key), folder }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    pub fn sign(&self, name: &str) -> Certificate {
        let key = KeyPair::generate().expect("a key can be made");
        let parameters = CertificateParams::new([name.to_owned()]).expect("a name is a valid subject");
        let made = parameters.signed_by(&key, &self.issuer).expect("the issuer is an authority");
        Certificate::written(&made, &key)
    }
}
