//! The accept loop: each connection goes to the worker with the fewest. It survives whatever `accept` says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::warn;

use super::drain::Watch;
use super::worker::{Accepted, Worker};
use crate::observe::Metrics;

/// How long to leave `accept` alone when descriptors or memory have run out: connections that end give some back.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// More do not wait to be accepted (`net.core.somaxconn` as Linux has it); those who come while others are accepted are too late.
const BACKLOG: usize = 4096;

/// Accepts until draining closes; past `most` open connections, which a reload may change, a new one is closed at once.
pub async fn run(
    listener: TcpListener,
    workers: Arc<[Worker]>,
    most: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    mut drain: Watch,
) {
    let give = |stream: std::net::TcpStream, peer: SocketAddr| {
        if workers.iter().map(Worker::open).sum::<usize>() >= most.load(Ordering::Relaxed) {
            return;
        }
        if let Some(worker) = workers.iter().min_by_key(|worker| worker.open()) {
            worker.give(Accepted { stream, peer: peer.ip(), counted: metrics.connection() });
        }
    };
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.closing() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                exhausted = false;
                if let Ok(stream) = stream.into_std() {
                    give(stream, peer);
                }
            }
            Err(error) if is_the_connections_own(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    warn!(%error, "no connection can be accepted for now; trying again until one can");
                }
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
    connected_already(listener, give);
}

/// Those who have connected are served: closing the listener would reset them.
fn connected_already(listener: TcpListener, give: impl Fn(std::net::TcpStream, SocketAddr)) {
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..BACKLOG {
        let Ok((stream, peer)) = listener.accept() else { return };
        if stream.set_nonblocking(true).is_ok() {
            give(stream, peer);
        }
    }
}

/// Errors of a connection that was gone before it was accepted say nothing of the next one (accept(2), "Error handling").
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
