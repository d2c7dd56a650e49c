//! A self-signed certificate of the test's own, as files for a configuration and as settings for a server.

use std::{fs, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
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
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let certificate = Self { der: made.cert.der().clone(), key: made.signing_key.serialize_der(), folder };
        fs::write(certificate.cert_file(), made.cert.pem()).expect("the folder is writable");
        fs::write(certificate.key_file(), made.signing_key.serialize_pem()).expect("the folder is writable");
        certificate
    }

    pub fn cert_file(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    pub fn key_file(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .expect("the key belongs to the certificate");
        TlsAcceptor::from(Arc::new(config))
    }
}
