//! The process's limit on open files.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors besides connections: listeners, the store, files, and one for a connection that is refused.
const BESIDE: u64 = 64;

/// Raises the soft limit to the hard one, and warns when that is still too few: each request may need one descriptor for the
/// client and one for the upstream.
pub fn raise(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit on open files cannot be raised");
    }
    let wanted = (connections as u64).saturating_mul(2).saturating_add(BESIDE);
    let Some(most) = getrlimit(Resource::Nofile).current else { return };
    if most < wanted {
        warn!(
            most,
            wanted, "fewer files may be open than listen.limits.connections needs; raise the limit (ulimit -n)"
        );
    }
}
