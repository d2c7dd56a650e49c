//! The accept loop: each connection goes to the worker with the fewest. No error of `accept` ends it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use super::descriptors;
use super::drain::Watch;
use super::refusal::Refusal;
use super::settings::Settings;
use super::worker::{Accepted, Worker};
use crate::log_throttle::LogThrottle;
use crate::observe::Metrics;

/// How long to wait when descriptors or memory have run out, until connections that end free some.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// The listen backlog, as far as the system allows it (4096 is Linux's default `net.core.somaxconn`).
pub const BACKLOG: i32 = 4096;

/// The limit on connections, and how those beyond it are refused. A reload may change both.
#[derive(Debug)]
pub struct Capacity {
    connections: AtomicUsize,
    tls: AtomicBool,
    /// How many connections there were descriptors for at the start.
    room: usize,
}

impl Capacity {
    pub fn new(settings: &Settings) -> Self {
        let (connections, tls) = (AtomicUsize::default(), AtomicBool::default());
        let capacity = Self { connections, tls, room: descriptors::room(settings.workers) };
        capacity.reconfigure(settings);
        capacity
    }

    pub fn reconfigure(&self, settings: &Settings) {
        let connections = settings.bounds.connections.min(descriptors::room(settings.workers));
        self.connections.store(connections, Ordering::Relaxed);
        self.tls.store(settings.tls.is_some(), Ordering::Relaxed);
    }
}

/// Accepts until draining closes the listener; connections beyond the limit are refused.
pub async fn run(
    listener: TcpListener,
    workers: Arc<[Worker]>,
    capacity: Arc<Capacity>,
    metrics: Arc<Metrics>,
    mut drain: Watch,
) {
    let refusal = Refusal::beside(capacity.room);
    let give = |stream: TcpStream, peer: SocketAddr| {
        if workers.iter().map(Worker::open).sum::<usize>() >= capacity.connections.load(Ordering::Relaxed) {
            metrics.connection_refused();
            refusal.refuse(stream, capacity.tls.load(Ordering::Relaxed));
            return;
        }
        if let (Some(worker), Ok(stream)) = (workers.iter().min_by_key(|worker| worker.open()), stream.into_std()) {
            worker.give(Accepted { stream, peer: peer.ip(), counted: metrics.connection() });
        }
    };
    let exhaustion = Exhaustion::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.closing() => break,
        };
        match accepted {
            Ok((stream, peer)) => give(stream, peer),
            Err(error) => exhaustion.wait(&error, || metrics.accept_failed()).await,
        }
    }
    accept_backlog(listener, give);
}

/// What an accept loop does about errors: those that last are counted, logged once a minute, and waited out.
#[derive(Debug, Default)]
pub struct Exhaustion {
    throttle: LogThrottle,
}

impl Exhaustion {
    pub async fn wait(&self, error: &io::Error, count: impl FnOnce()) {
        if is_of_one_connection(error) {
            return;
        }
        count();
        if self.throttle.is_news("exhausted", Instant::now()) {
            warn!(%error, "no connection can be accepted for now; trying again until one can");
        }
        tokio::time::sleep(EXHAUSTED).await;
    }
}

/// Serves the connections in the backlog, which closing the listener would reset. At most `BACKLOG`: connections that arrive
/// meanwhile must not keep this going for ever.
fn accept_backlog(listener: TcpListener, give: impl Fn(TcpStream, SocketAddr)) {
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            give(stream, peer);
        }
    }
}

/// Errors of a connection that was gone before it was accepted do not concern the next one (accept(2), "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
