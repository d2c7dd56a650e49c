//! Whether the store answers, as readiness and `sidegate_store_up` tell it. One per process, shared by all workers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::breaker::Breaker;

/// How long a probe may take where nobody says otherwise: the default of `store.deadline`.
const PROBE: Duration = Duration::from_millis(100);

/// Down until the first success; then down from any lost connection or failed call until a script call succeeds again.
#[derive(Debug)]
pub struct StoreHealth {
    up: AtomicBool,
    /// Whether anything is refused without it.
    needed: AtomicBool,
    /// The nodes that may evict what they should keep, as they said when they were connected to last.
    evicting: Mutex<BTreeSet<String>>,
    breaker: Breaker,
    /// In milliseconds.
    probe_within: AtomicU64,
}

impl Default for StoreHealth {
    fn default() -> Self {
        let (up, needed) = (AtomicBool::new(false), AtomicBool::new(true));
        let probe_within = AtomicU64::new(milliseconds(PROBE));
        Self { up, needed, evicting: Mutex::default(), breaker: Breaker::default(), probe_within }
    }
}

impl StoreHealth {
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that answers in this time is well: `store.deadline`, since what takes longer helps no request.
    pub fn probed_within(self, deadline: Duration) -> Self {
        self.probe_within(deadline);
        self
    }

    /// The same for a store that is in use: the deadline may change at a reload.
    pub fn probe_within(&self, deadline: Duration) {
        self.probe_within.store(milliseconds(deadline), Ordering::Relaxed);
    }

    /// Whether calls are made and succeed. A connection that is up again is not enough while the breaker is open.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed) && !self.breaker.is_open()
    }

    /// Whether requests are served: where everything is let pass, they are without a store, too.
    pub fn is_good_enough(&self) -> bool {
        self.is_up() || !self.needed.load(Ordering::Relaxed)
    }

    /// From now on; a configuration that only observes needs no store.
    pub fn need(&self, needed: bool) {
        self.needed.store(needed, Ordering::Relaxed);
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub(super) fn probe_deadline(&self) -> Duration {
        Duration::from_millis(self.probe_within.load(Ordering::Relaxed))
    }

    /// A script call has succeeded.
    pub fn answered(&self) {
        // Written only on a change: this is on the way of every call, and the workers share the line.
        if !self.up.load(Ordering::Relaxed) {
            self.up.store(true, Ordering::Relaxed);
        }
    }

    /// A call has failed, or a connection was lost.
    pub fn failed(&self) {
        self.up.store(false, Ordering::Relaxed);
    }

    /// Whether the store may forget keys, revocations and counts when its memory is full.
    pub fn may_evict(&self) -> bool {
        !self.evicting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// A node may evict, or may not; whether that is news of one that may.
    pub(super) fn evicts(&self, node: &str, evicts: bool) -> bool {
        let mut evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        if !evicts {
            evicting.remove(node);
            return false;
        }
        evicting.insert(node.to_owned())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
