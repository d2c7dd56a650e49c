//! One client connection from its first byte to its last: TLS, then HTTP/1.1 or HTTP/2, each wait bounded.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use super::client_addr;
use super::drain::Watch;
use super::heartbeat::Heartbeat;
use super::settings::Settings;
use super::tls::Acceptor;
use crate::proxy::Service;
use crate::proxy::arrival::{Address, Arrival};
use crate::proxy::upgrade::Upgraded;

/// The connection preface (RFC 9113 §3.4); no HTTP/1.1 request begins like it. It is waited for whole, since nothing bounds
/// the wait for its rest once the connection is hyper's.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often a client that sends its preface byte by byte is looked at again.
const TRICKLE: Duration = Duration::from_millis(5);

/// Bounds on one HTTP/2 connection (YARDSTICK: rapid reset CVE-2023-44487, server-induced reset CVE-2025-8671, header floods).
const H2_HEADER_BYTES: u32 = 16 * 1024;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const H2_PING: Duration = Duration::from_secs(30);
const H2_PING_ANSWER: Duration = Duration::from_secs(10);
const H2_PENDING_RESETS: usize = 20;
const H2_LOCAL_RESETS: usize = 256;

/// What every connection of a worker shares.
pub struct Context {
    pub service: Service,
    pub settings: Arc<Settings>,
    pub tls: Option<Acceptor>,
    pub heartbeat: Heartbeat,
}

/// Serves the connection until it ends, or until draining ends it.
pub async fn serve(context: Rc<Context>, stream: TcpStream, peer: IpAddr, drain: Watch) {
    if let Err(error) = connected(&context, stream, peer, drain).await {
        // Clients come and go; that is no event for an operator.
        debug!(%peer, %error, "a connection ended");
    }
}

async fn connected(context: &Rc<Context>, stream: TcpStream, peer: IpAddr, drain: Watch) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let bounds = &context.settings.bounds;
    match &context.tls {
        None => {
            let h2 = timed(bounds.header_read, speaks_h2(&stream, bounds.header_read)).await?;
            http(context, stream, peer, false, h2, drain).await
        }
        Some(acceptor) => {
            let (stream, h2) = timed(bounds.handshake, acceptor.accept(stream)).await?;
            http(context, stream, peer, true, h2, drain).await
        }
    }
}

async fn timed<T>(patience: Duration, wait: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, wait).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Looks at the first bytes without taking them: HTTP/2 by prior knowledge announces itself.
async fn speaks_h2(stream: &TcpStream, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    let mut first = [0; H2_PREFACE.len()];
    loop {
        let seen = timeout_at(deadline, stream.peek(&mut first)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[..seen] != H2_PREFACE[..seen] {
            return Ok(false);
        }
        if seen == first.len() {
            return Ok(true);
        }
        sleep(TRICKLE).await;
    }
}

async fn http<S>(context: &Rc<Context>, stream: S, peer: IpAddr, secure: bool, h2: bool, drain: Watch) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let answered = context.clone();
    let peer = Address::from(peer);
    let upgraded = Upgraded::default();
    let tunnel = upgraded.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let context = answered.clone();
        context.heartbeat.keep();
        let arrival = arrival(&context.settings, &request, &peer, secure, &upgraded);
        // Boxed, so that a connection that waits for its next request holds no room for the whole way of one.
        Box::pin(async move { Ok::<_, std::convert::Infallible>(context.service.handle(request, arrival).await) })
    });
    let io = TokioIo::new(stream);
    let result = if h2 {
        let connection = http2_builder(&context.settings).serve_connection(io, service);
        gently(connection, drain, |connection| connection.graceful_shutdown()).await
    } else {
        let connection = http1_builder(&context.settings).serve_connection(io, service).with_upgrades();
        gently(connection, drain, |connection| connection.graceful_shutdown()).await
    };
    result.map_err(io::Error::other)?;
    tunnel.serve().await;
    Ok(())
}

fn arrival(
    settings: &Settings,
    request: &Request<Incoming>,
    peer: &Address,
    secure: bool,
    upgraded: &Upgraded,
) -> Arrival {
    let trusted = client_addr::is_trusted(peer.ip(), &settings.trusted_proxies);
    let client = if trusted {
        client_addr::of(peer.ip(), request.headers(), &settings.trusted_proxies).into()
    } else {
        peer.clone()
    };
    Arrival { peer: peer.clone(), client, trusted, secure, upgraded: upgraded.clone() }
}

/// Drives a connection; once draining closes, `shut_down` lets it end after what is in flight.
async fn gently<C: Future>(
    connection: C,
    mut drain: Watch,
    shut_down: impl FnOnce(std::pin::Pin<&mut C>),
) -> C::Output {
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = drain.closing() => {}
    }
    shut_down(connection.as_mut());
    connection.await
}

fn http1_builder(settings: &Settings) -> http1::Builder {
    let bounds = &settings.bounds;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_read)
        .max_headers(bounds.headers)
        // Twice what is allowed, so that a request that is somewhat too large gets an answer that says so.
        .max_buf_size(2 * bounds.header_bytes.max(8 * 1024));
    builder
}

fn http2_builder(settings: &Settings) -> http2::Builder<OnThisWorker> {
    let mut builder = http2::Builder::new(OnThisWorker);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.bounds.h2_streams)
        .max_header_list_size(H2_HEADER_BYTES)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING_ANSWER)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS)
        .max_local_error_reset_streams(H2_LOCAL_RESETS);
    builder
}

/// Streams of a connection stay on its worker's thread, so that nothing on the way of a request needs a lock.
#[derive(Debug, Clone, Copy)]
struct OnThisWorker;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisWorker {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
