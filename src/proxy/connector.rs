//! Connects to one upstream over TCP, TLS or a unix socket. HTTP on the connection is spoken by `upstream`.
//!
//! The target comes from the configuration alone, so that no client can choose where the gate connects to.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::resolve::Resolver;
use super::settings::{Protocol, Target, Upstream, UpstreamTls};
use crate::client_tls::{self, ClientTlsError};

/// Made once; each worker has a clone.
#[derive(Clone)]
pub struct Connector {
    target: Arc<Target>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why an upstream's TLS settings cannot be used.
#[derive(Debug, Error)]
pub enum ConnectorError {
    #[error("`{0}` is no name that a certificate could hold")]
    Name(String),
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
}

/// A connection before any HTTP.
pub struct Connected {
    pub stream: Stream,
    /// None on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Whether HTTP/2 is spoken on it.
    pub h2: bool,
}

pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connector {
    pub fn new(upstream: &Upstream) -> Result<Self, ConnectorError> {
        Self::to(&upstream.target, &upstream.tls)
    }

    pub fn to(target: &Target, tls: &UpstreamTls) -> Result<Self, ConnectorError> {
        let tls = match target {
            Target::Tcp { host, protocol: Protocol::Https, .. } => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(|_| ConnectorError::Name(host.clone()))?;
                Some((TlsConnector::from(Arc::new(client_config(tls)?)), name))
            }
            Target::Tcp { .. } | Target::Unix(_) => None,
        };
        Ok(Self { target: Arc::new(target.clone()), tls })
    }

    /// Connects to the first address that answers. The caller bounds the whole; `time_limit` says how to divide it among
    /// addresses.
    pub async fn connect(&self, resolver: Option<&Rc<Resolver>>, time_limit: Duration) -> io::Result<Connected> {
        let (protocol, resolver) = match (&*self.target, resolver) {
            (Target::Tcp { protocol, .. }, Some(resolver)) => (protocol, resolver),
            (Target::Tcp { .. }, None) => return Err(io::Error::other("a name needs its resolver")),
            (Target::Unix(path), _) => {
                let stream = Stream::Unix(UnixStream::connect(path).await?);
                return Ok(Connected { stream, peer: None, h2: false });
            }
        };
        let (tcp, peer) = connect_resolved(resolver, Instant::now() + time_limit).await?;
        tcp.set_nodelay(true)?;
        let (stream, h2) = match &self.tls {
            None => (Stream::Tcp(tcp), *protocol == Protocol::H2c),
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), tcp).await?;
                let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                (Stream::Tls(Box::new(stream)), h2)
            }
        };
        Ok(Connected { stream, peer: Some(peer), h2 })
    }
}

impl Stream {
    /// Reads what has arrived, or gives `WouldBlock`; registers no waker.
    pub fn read_now(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let stream = match self {
            Self::Tcp(stream) => return stream.try_read(bytes),
            Self::Unix(stream) => return stream.try_read(bytes),
            Self::Tls(stream) => stream,
        };
        let mut buffer = ReadBuf::new(bytes);
        // Unconstrained: once a task has used up its coop budget every read is pending, also one of a closed connection.
        let look = unconstrained(poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buffer))));
        match pin!(look).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Poll::Ready(read)) => read.map(|()| buffer.filled().len()),
            Poll::Ready(Poll::Pending) | Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        // All three write a list of slices at once.
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }
}

/// Connects to one of the name's addresses; when none answers, to those of a fresh lookup, if they differ.
async fn connect_resolved(resolver: &Rc<Resolver>, deadline: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    let addresses = resolver.addresses().await?;
    match connect_first(&addresses, deadline).await {
        Ok(connected) => Ok(connected),
        Err(error) => match resolver.other_than(&addresses).await {
            Some(others) => connect_first(&others, deadline).await,
            None => Err(error),
        },
    }
}

/// Tries the addresses in order, each within its share of the time that is left, so that one that is silent does not use it up.
async fn connect_first(addresses: &[SocketAddr], deadline: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, *address)),
            Ok(Err(error)) => failed = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, format!("{address} did not answer in time")),
        }
    }
    Err(failed)
}

fn client_config(settings: &UpstreamTls) -> Result<ClientConfig, ClientTlsError> {
    let roots = match &settings.ca {
        Some(file) => client_tls::roots_in(file)?,
        None => client_tls::system_roots("tls.ca")?,
    };
    let mut config = client_tls::client_config(roots, settings.client.as_ref())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
