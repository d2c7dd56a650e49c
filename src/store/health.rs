//! Whether the store answers, as readiness and `sidegate_store_up` tell it. One per process, shared by all workers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Connections to nodes of a cluster that stand, and those that do not.
    parts_here: AtomicUsize,
    parts_away: AtomicUsize,
    breaker: Breaker,
    /// In milliseconds.
    probe_within: AtomicU64,
}

impl Default for StoreHealth {
    fn default() -> Self {
        let (up, needed) = (AtomicBool::new(false), AtomicBool::new(true));
        let probe_within = AtomicU64::new(milliseconds(PROBE));
        let (parts_here, parts_away) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (evicting, breaker) = (Mutex::default(), Breaker::default());
        Self { up, needed, evicting, parts_here, parts_away, breaker, probe_within }
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

    /// Whether calls are made and succeed. A connection that is up again is not enough while the breaker is open. A cluster is up
    /// while any of its nodes is: those slots are served, and a gate that is taken out of service serves none.
    pub fn is_up(&self) -> bool {
        let away = self.parts_away.load(Ordering::Relaxed) > 0;
        let reached = !away || self.parts_here.load(Ordering::Relaxed) > 0;
        self.up.load(Ordering::Relaxed) && reached && !self.breaker.is_open()
    }

    /// Whether it is up, and no node of a cluster that was needed is out of reach: requests of some slots may fail while others pass.
    pub fn is_whole(&self) -> bool {
        self.is_up() && self.parts_away.load(Ordering::Relaxed) == 0
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

/// One worker's connection to a node of a cluster, as health counts it until it is dropped.
#[derive(Debug)]
pub struct Part {
    health: Arc<StoreHealth>,
    /// `None`: it has never been made, nor failed.
    stands: Option<bool>,
}

impl Part {
    pub fn new(health: Arc<StoreHealth>) -> Self {
        Self { health, stands: None }
    }

    pub fn is_here(&mut self, here: bool) {
        self.becomes(Some(here));
    }

    fn becomes(&mut self, stands: Option<bool>) {
        let count = |stands: bool| if stands { &self.health.parts_here } else { &self.health.parts_away };
        // The new one first: between the two a cluster is rather whole and away than neither.
        if let Some(stands) = stands {
            count(stands).fetch_add(1, Ordering::Relaxed);
        }
        if let Some(stood) = self.stands {
            count(stood).fetch_sub(1, Ordering::Relaxed);
        }
        self.stands = stands;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.becomes(None);
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_without_one_of_its_nodes_is_up_and_not_whole() {
        let health = Arc::new(StoreHealth::new());
        let told = || (health.is_up(), health.is_whole());
        let (mut one, mut other) = (Part::new(health.clone()), Part::new(health.clone()));
        assert_eq!(told(), (false, false), "nothing has answered yet");
        one.is_here(true);
        health.answered();
        assert_eq!(told(), (true, true), "the other was not needed yet");
        other.is_here(false);
        assert_eq!(told(), (true, false));
        one.is_here(false);
        assert_eq!(told(), (false, false), "no node is left");
        one.is_here(true);
        assert_eq!(told(), (true, false));
        drop(other);
        assert_eq!(told(), (true, true), "the map names it no more");
    }
}
