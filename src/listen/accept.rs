//! The accept loop: each connection goes to the worker with the fewest. It survives whatever `accept` says.

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

/// How long to leave `accept` alone when descriptors or memory have run out: connections that end give some back.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// How many connections wait to be accepted, where the system lets so many (`net.core.somaxconn` as Linux has it).
pub const BACKLOG: i32 = 4096;

/// How many connections there is room for, and how the others are refused. A reload may change it.
#[derive(Debug)]
pub struct Capacity {
    most: AtomicUsize,
    tls: AtomicBool,
    /// How many the system had descriptors for at the start.
    room: usize,
}

impl Capacity {
    pub fn new(settings: &Settings) -> Self {
        let (most, tls) = (AtomicUsize::default(), AtomicBool::default());
        let capacity = Self { most, tls, room: descriptors::room(settings.workers) };
        capacity.follow(settings);
        capacity
    }

    pub fn follow(&self, settings: &Settings) {
        self.most.store(settings.bounds.connections.min(descriptors::room(settings.workers)), Ordering::Relaxed);
        self.tls.store(settings.tls.is_some(), Ordering::Relaxed);
    }
}

/// Accepts until draining closes; a connection for which there is no room is refused.
pub async fn run(
    listener: TcpListener,
    workers: Arc<[Worker]>,
    capacity: Arc<Capacity>,
    metrics: Arc<Metrics>,
    mut drain: Watch,
) {
    let refusal = Refusal::beside(capacity.room);
    let give = |stream: TcpStream, peer: SocketAddr| {
        if workers.iter().map(Worker::open).sum::<usize>() >= capacity.most.load(Ordering::Relaxed) {
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
    connected_already(listener, give);
}

/// What an accept loop does about errors: those that last are counted, said once a minute, and waited out.
#[derive(Debug, Default)]
pub struct Exhaustion {
    said: LogThrottle,
}

impl Exhaustion {
    pub async fn wait(&self, error: &io::Error, count: impl FnOnce()) {
        if is_the_connections_own(error) {
            return;
        }
        count();
        if self.said.is_news("exhausted", Instant::now()) {
            warn!(%error, "no connection can be accepted for now; trying again until one can");
        }
        tokio::time::sleep(EXHAUSTED).await;
    }
}

/// Those who have connected are served: closing the listener would reset them. More have not; those who come while others are
/// accepted are too late.
fn connected_already(listener: TcpListener, give: impl Fn(TcpStream, SocketAddr)) {
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            give(stream, peer);
        }
    }
}

/// Errors of a connection that was gone before it was accepted say nothing of the next one (accept(2), "Error handling").
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
