//! Connections to one upstream: over TCP, TLS or a unix socket, whatever the request's URI says.
//!
//! The target is the configuration's alone, so that no client can choose where the gate connects to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::settings::{Protocol, Target, Upstream, UpstreamTls};

#[derive(Clone)]
pub struct Connector {
    target: Arc<Target>,
    connect_timeout: Duration,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why an upstream's TLS settings cannot be used.
#[derive(Debug, Error)]
pub enum ConnectorError {
    #[error("{file}: {error}; it must be a PEM file")]
    Pem { file: String, error: rustls::pki_types::pem::Error },
    #[error("{0} holds no certificate")]
    Empty(String),
    #[error("`{0}` is no name that a certificate could hold")]
    Name(String),
    #[error("the system's certificate authorities cannot be read ({0}); name a file as `tls.ca`")]
    System(String),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

impl Connector {
    pub fn new(upstream: &Upstream) -> Result<Self, ConnectorError> {
        let tls = match &upstream.target {
            Target::Tcp { host, protocol: Protocol::Https, .. } => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(|_| ConnectorError::Name(host.clone()))?;
                Some((TlsConnector::from(Arc::new(client_config(&upstream.tls)?)), name))
            }
            Target::Tcp { .. } | Target::Unix(_) => None,
        };
        Ok(Self { target: Arc::new(upstream.target.clone()), connect_timeout: upstream.connect_timeout, tls })
    }

    async fn connect(self) -> io::Result<Socket> {
        let connecting = async {
            let (io, h2): (Box<dyn Io>, bool) = match &*self.target {
                Target::Unix(path) => (Box::new(UnixStream::connect(path).await?), false),
                Target::Tcp { host, port, .. } => {
                    let tcp = TcpStream::connect((host.trim_matches(['[', ']']), *port)).await?;
                    tcp.set_nodelay(true)?;
                    match self.tls {
                        None => (Box::new(tcp), false),
                        Some((tls, name)) => {
                            let stream = tls.connect(name, tcp).await?;
                            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            (Box::new(stream), h2)
                        }
                    }
                }
            };
            Ok(Socket { io: TokioIo::new(io), h2 })
        };
        match timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was not made in time")),
        }
    }
}

fn client_config(settings: &UpstreamTls) -> Result<ClientConfig, ConnectorError> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
                return Err(ConnectorError::System(errors.join("; ")));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let pem = |error| ConnectorError::Pem { file: key.display().to_string(), error };
            builder.with_client_auth_cert(certificates(cert)?, PrivateKeyDer::from_pem_file(key).map_err(pem)?)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, ConnectorError> {
    let pem = |error| ConnectorError::Pem { file: file.display().to_string(), error };
    let found: Vec<_> = CertificateDer::pem_file_iter(file).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)?;
    if found.is_empty() { Err(ConnectorError::Empty(file.display().to_string())) } else { Ok(found) }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Socket;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Socket>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection of whichever kind.
pub struct Socket {
    io: TokioIo<Box<dyn Io>>,
    h2: bool,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        if self.h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}
