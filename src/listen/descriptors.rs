//! The process's limit on open files.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;

use super::settings::Settings;

/// Descriptors besides connections: listeners, probes, the store, files, and one for a connection that is refused.
const BESIDE: u64 = 48;
/// And for each worker: its runtime, and its connection to the store.
const EACH_WORKER: u64 = 8;

/// Raises the soft limit to the hard one, and warns when that is still too few.
pub fn raise(settings: &Settings) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit on open files cannot be raised");
    }
    let wanted = (settings.bounds.connections as u64).saturating_mul(2).saturating_add(beside(settings.workers));
    let Some(most) = getrlimit(Resource::Nofile).current else { return };
    if most < wanted {
        let served = room(settings.workers);
        warn!(
            most,
            wanted,
            served,
            "fewer files may be open than listen.limits.connections needs, so that fewer are served; raise the limit (ulimit -n)"
        );
    }
}

/// How many connections of clients leave descriptors for probes, the store and upstreams: each request may need one descriptor
/// for the client and one for the upstream.
pub fn room(workers: usize) -> usize {
    let Some(most) = getrlimit(Resource::Nofile).current else { return usize::MAX };
    let clients = most.saturating_sub(beside(workers)) / 2;
    usize::try_from(clients).unwrap_or(usize::MAX).max(1)
}

fn beside(workers: usize) -> u64 {
    BESIDE.saturating_add((workers as u64).saturating_mul(EACH_WORKER))
}
