//! The accept loop: each connection goes to the worker with the fewest. It survives whatever `accept` says.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tracing::warn;

use super::drain::Watch;
use super::refusal::Refusal;
use super::settings::Settings;
use super::worker::{Accepted, Worker};
use crate::observe::Metrics;

/// How long to leave `accept` alone when descriptors or memory have run out: connections that end give some back.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Accepts until draining closes; past the bound on open connections a new one is refused.
pub async fn run(
    listener: TcpListener,
    workers: Arc<[Worker]>,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    mut drain: Watch,
) {
    let refusal = Refusal::new(settings.tls.is_some());
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.closing() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                exhausted = false;
                if workers.iter().map(Worker::open).sum::<usize>() >= settings.bounds.connections {
                    refusal.refuse(stream);
                    continue;
                }
                let Some(worker) = workers.iter().min_by_key(|worker| worker.open()) else { return };
                if let Ok(stream) = stream.into_std() {
                    worker.give(Accepted { stream, peer: peer.ip(), counted: metrics.connection() });
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
}

/// Errors of a connection that was gone before it was accepted say nothing of the next one (accept(2), "Error handling").
fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
