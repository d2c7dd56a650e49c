//! One client connection from its first byte to its last: the PROXY protocol, TLS, then HTTP/1.1 or HTTP/2, each wait bounded.
//!
//! hyper speaks HTTP; `watch` samples whatever may take long. An idle HTTP/1.1 connection is parked: hyper's state is dropped
//! with its buffers, and made again at the next byte.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, warn};

use super::drain::Watch;
use super::http1_turns::Http1Turns;
use super::monitored::MonitoredStream;
use super::poll_on_wake::PollOnWake;
use super::proxy_protocol;
use super::serving::{self, InFlight, MonitoredBody, Peer, Transport};
use super::settings::{Bounds, Settings};
use super::streams::Streams;
use super::watch::{Observation, TRICKLE, Wait, tick};
use super::worker_state::WorkerState;
use crate::observe::metrics::FailedAt;
use crate::proxy::arrival::Address;

/// The connection preface (RFC 9113 §3.4); no HTTP/1.1 request begins like it. All of it is waited for here, since hyper does not
/// bound the wait for its rest.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long an HTTP/1.1 connection is idle before it is parked. Waking it costs about as much as reading a request: little to a
/// client with fewer than ten requests a second, nothing to one with more.
const PARK_AFTER: Duration = Duration::from_millis(100);

/// How many times the allowed number of header fields hyper reads. It reserves stack for as many with each request, 64 bytes a
/// field, which is not touched where there are fewer.
const HEADERS_READ: usize = 4;

/// How many bytes beyond the allowed HTTP/2 head are read, so that a request that is too large gets an answer that says so, and
/// is counted. Past that h2 answers a bare 431, and past four times that it ends the connection.
const H2_HEADERS_READ: u32 = 48 * 1024;

/// How long an idle HTTP/1.1 connection stays open once draining closes connections: a request that is on its way gets an answer
/// with `Connection: close` instead of a reset.
const H1_LINGER: Duration = Duration::from_millis(500);

/// Serves the connection until it ends, or until draining ends it.
pub async fn serve(worker: Rc<WorkerState>, stream: TcpStream, peer: IpAddr, drain: Watch) {
    if let Err(error) = connected(&worker, stream, peer, drain).await {
        // Only at debug level: clients disconnect at any time.
        debug!(%peer, %error, "a connection ended");
    }
}

async fn connected(worker: &Rc<WorkerState>, mut stream: TcpStream, peer: IpAddr, drain: Watch) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Only these parts of the context are kept for the connection: a reload replaces the rest.
    let (settings, tls) = (worker.now().settings.clone(), worker.now().tls.clone());
    let bounds = &settings.bounds;
    let ip = match settings.proxy_protocol {
        false => peer,
        true => {
            let read = proxy_protocol::read(&mut stream, peer, &settings.trusted_proxies);
            timed(bounds.header_read, read).await.inspect_err(|error| failed(worker, peer, FailedAt::Proxy, error))?
        }
    };
    let address = Address::from(ip);
    match tls {
        None => {
            let h2 = timed(bounds.header_read, speaks_h2(&stream, bounds.header_read)).await?;
            http(worker, settings, stream, Peer { address, secure: false, presented: None }, h2, drain).await
        }
        Some(acceptor) => {
            // Boxed, like the futures below: a parked connection should not hold memory for steps that are done.
            let accepted = timed(bounds.handshake, Box::pin(acceptor.accept(stream))).await;
            let (stream, h2, presented) = accepted.inspect_err(|error| failed(worker, ip, FailedAt::Tls, error))?;
            http(worker, settings, stream, Peer { address, secure: true, presented }, h2, drain).await
        }
    }
}

/// Counts and logs a connection that failed without a request that could be logged.
fn failed(worker: &WorkerState, peer: IpAddr, at: FailedAt, error: &io::Error) {
    // A peer that connects and disconnects is mostly a TCP health check.
    if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        return;
    }
    let context = worker.now();
    let metrics = &context.service.counts.metrics;
    metrics.connection_failed(at);
    if metrics.throttle.is_news(at.name(), Instant::now().into_std()) {
        let what = match at {
            FailedAt::Http2 => "an HTTP/2 connection was ended, with every request on it",
            FailedAt::Tls | FailedAt::Proxy | FailedAt::Head => "a connection failed before its request",
        };
        warn!(%peer, at = at.name(), %error, "{what}; others are only counted for a minute");
    }
}

async fn timed<T>(time_limit: Duration, wait: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(time_limit, wait).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether the connection begins with the HTTP/2 preface (prior knowledge), without taking the bytes.
async fn speaks_h2(stream: &TcpStream, time_limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + time_limit;
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

async fn http<S>(
    worker: &Rc<WorkerState>,
    settings: Arc<Settings>,
    stream: S,
    peer: Peer,
    h2: bool,
    mut drain: Watch,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = MonitoredStream::new(stream);
    if h2 {
        return Box::pin(http2(worker, &settings.bounds, stream, peer, drain)).await;
    }
    let (mut requests, mut parked) = (0, stream);
    loop {
        match Box::pin(http1(worker, &settings.bounds, parked, &peer, &mut requests, &mut drain)).await? {
            None => return Ok(()),
            Some(stream) => parked = stream,
        }
        let bounds = &settings.bounds;
        let time_limit = if requests == 0 { bounds.header_read } else { bounds.idle };
        if !wakes(&mut parked, time_limit, &mut drain).await? {
            return timed(bounds.handshake, parked.shutdown()).await;
        }
    }
}

/// Waits for a parked connection's next byte; whether there is one.
async fn wakes<S>(parked: &mut MonitoredStream<S>, time_limit: Duration, drain: &mut Watch) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut first = [0];
    let read = tokio::select! {
        read = timeout(time_limit, parked.read(&mut first)) => read,
        () = lingered(drain) => return Ok(false),
    };
    let Ok(length) = read else { return Ok(false) };
    if length? == 0 {
        return Ok(false);
    }
    parked.put_back(Bytes::copy_from_slice(&first));
    Ok(true)
}

/// Resolves when idle HTTP/1.1 connections are to end.
async fn lingered(drain: &mut Watch) {
    drain.closing().await;
    sleep(H1_LINGER).await;
}

/// What an HTTP/1.1 connection's task wakes for.
enum Event {
    Ended(hyper::Result<()>),
    Closing,
    Sample,
}

/// Serves requests until the connection is idle, and returns its stream to be parked; `None`: the connection has ended.
async fn http1<S>(
    worker: &Rc<WorkerState>,
    bounds: &Bounds,
    stream: MonitoredStream<S>,
    peer: &Peer,
    requests: &mut u32,
    drain: &mut Watch,
) -> io::Result<Option<MonitoredStream<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Dropped with hyper's state when the connection is parked: what stayed would fragment the freed memory.
    let turns = Rc::new(Http1Turns::new(stream.activity.clone(), *requests));
    let mut connection = http1_builder(bounds)
        .serve_connection(TokioIo::new(stream), service(worker.clone(), peer.clone(), Transport::H1(turns.clone())))
        .with_upgrades();
    let mut closing = pin!(lingered(drain));
    let mut next_sample = pin!(sleep(PARK_AFTER));
    let (mut observation, mut leaving, mut on_wake) = (Observation::begin(), false, PollOnWake::default());
    loop {
        let event = poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            on_wake.poll(cx, |cx| {
                if !leaving && closing.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Closing);
                }
                next_sample.as_mut().poll(cx).map(|()| Event::Sample)
            })
        });
        match event.await {
            Event::Ended(ended) => {
                if let Err(error) = ended {
                    let is_head = error.is_parse();
                    let error = io::Error::other(error);
                    if is_head {
                        failed(worker, peer.address.ip(), FailedAt::Head, &error);
                    }
                    return Err(error);
                }
                if turns.upgraded.is_there() {
                    // Boxed, so that connections that are never upgraded hold no memory for it.
                    Box::pin(tunnel(worker, &turns, bounds)).await;
                }
                return Ok(None);
            }
            Event::Closing => {
                leaving = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Event::Sample => {
                let (now, (wait, progress)) = (Instant::now(), Wait::of_connection(&turns));
                match (wait, observation.update(now, wait, progress)) {
                    (Wait::Request, waited) if waited >= PARK_AFTER && !leaving => break,
                    (wait, waited) if waited >= wait.time_limit(bounds, worker.is_full()) => {
                        if wait == Wait::Stream {
                            turns.progress.borrow().end_idle();
                        }
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    (Wait::Request, _) => next_sample.as_mut().reset(now + PARK_AFTER),
                    _ => next_sample.as_mut().reset(now + tick(bounds)),
                }
            }
        }
    }
    *requests = turns.requests.get();
    // `None` only for an upgraded connection, which does not get here.
    let Some(parts) = connection.into_parts() else { return Ok(None) };
    let mut stream = parts.io.into_inner();
    stream.put_back(parts.read_buf);
    Ok(Some(stream))
}

/// Serves an upgraded connection, a request in flight, until it ends or nothing passes for `stream_idle`; once it is half closed,
/// for `body_idle`.
async fn tunnel(worker: &WorkerState, turns: &Http1Turns, bounds: &Bounds) {
    let _slot = InFlight::take(&worker.in_flight);
    turns.activity.set_tunnel();
    let idle = async {
        let mut observation = Observation::begin();
        loop {
            sleep(tick(bounds)).await;
            let wait = if turns.upgraded.one_side_has_ended() { Wait::Body } else { Wait::Stream };
            if observation.update(Instant::now(), wait, turns.activity.passed()) >= wait.time_limit(bounds, false) {
                break;
            }
        }
    };
    tokio::select! {
        biased;
        () = turns.upgraded.serve() => {}
        () = idle => debug!("an upgraded connection on which nothing passed was ended"),
    }
}

async fn http2<S>(
    worker: &Rc<WorkerState>,
    bounds: &Bounds,
    stream: MonitoredStream<S>,
    peer: Peer,
    mut drain: Watch,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = stream.activity.clone();
    let (streams, ip) = (Streams::default(), peer.address.ip());
    let builder = http2_builder(bounds, streams.clone());
    let service = service(worker.clone(), peer, Transport::H2(streams.clone()));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut closing = pin!(drain.closing());
    let mut next_sample = pin!(sleep(tick(bounds)));
    let (mut observation, mut leaving) = (Observation::begin(), false);
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = &ended && ended_by_h2(error) {
                    failed(worker, ip, FailedAt::Http2, &io::Error::other(innermost(error)));
                }
                return ended.map_err(io::Error::other);
            }
            () = streams.abused() => {
                connection.as_mut().graceful_shutdown();
                // One poll writes the GOAWAY; open streams end with the connection.
                let _ = poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx))).await;
                streams.end();
                let error = io::Error::other("the client gave up too many streams");
                failed(worker, ip, FailedAt::Http2, &error);
                return Err(error);
            }
            () = &mut closing, if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut next_sample => {
                let (now, is_full) = (Instant::now(), worker.is_full());
                streams.check(now, bounds, is_full);
                let (wait, progress) = if activity.is_blocked() { (Wait::ClientRead, activity.written()) } else { streams.wait() };
                let (waited, limit) = (observation.update(now, wait, progress), wait.time_limit(bounds, is_full));
                // After a graceful shutdown hyper waits until all is written, which a client that does not read prevents.
                let hard_limit = if wait == Wait::Request { limit.saturating_add(bounds.body_idle) } else { limit };
                if waited >= hard_limit {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                if waited >= limit && !leaving {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                next_sample.as_mut().reset(now + tick(bounds));
            }
        }
    }
}

/// Whether h2 ended the connection, and open requests with it, for what the client sent, such as far too large a head or a flood.
fn ended_by_h2(error: &hyper::Error) -> bool {
    let of_h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    of_h2.is_some_and(|error| error.is_go_away() && error.is_library())
}

/// The cause of an error, which hyper's own text leaves out.
fn innermost(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// What hyper calls for each request.
fn service(
    worker: Rc<WorkerState>,
    peer: Peer,
    transport: Transport,
) -> impl HttpService<Incoming, ResBody = MonitoredBody, Error = Infallible, Future: 'static> + Unpin {
    service_fn(move |request: Request<Incoming>| {
        // Synchronously: hyper spawns the stream's task right after, which `Streams` takes for this request's.
        let active = transport.begin(&request);
        worker.heartbeat.keep();
        serving::answer(&worker, request, &peer, active)
    })
}

fn http1_builder(bounds: &Bounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // hyper's timer would run during the idle time before a request as well, and be set anew for each; `watch` bounds heads.
        .header_read_timeout(None)
        // `MonitoredStream` detects a client that disconnects while it waits.
        .half_close(true)
        // More than what is allowed, so that a request that is somewhat too large gets an answer that says so; what is larger
        // still gets hyper's own, which is a status alone.
        .max_headers(HEADERS_READ * bounds.headers)
        .max_buf_size(2 * bounds.header_bytes);
    builder
}

fn http2_builder(bounds: &Bounds, streams: Streams) -> http2::Builder<Streams> {
    let bounds = &bounds.h2;
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.streams)
        .max_header_list_size(bounds.header_bytes.saturating_add(H2_HEADERS_READ))
        .initial_stream_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window)
        .keep_alive_interval(bounds.ping)
        .keep_alive_timeout(bounds.ping_answer)
        .max_pending_accept_reset_streams(bounds.pending_resets)
        .max_local_error_reset_streams(bounds.local_resets);
    builder
}
