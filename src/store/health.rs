//! Whether the store is up, for readiness and `sidegate_store_up`. One per process, shared by all workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::StoreError;
use super::breaker::Breaker;
use super::missed::MissedDeadlines;
use super::refusal::Refusal;
use crate::log_throttle::LogThrottle;

/// How long a probe may take by default, as `store.deadline`.
const PROBE: Duration = Duration::from_millis(100);

/// Down until the first success; then down from any lost connection or failed call until a script call succeeds again at the same
/// node: in a cluster, success at another node says nothing about it.
#[derive(Debug)]
pub struct StoreHealth {
    /// Mirrors `nodes`: all of them are up.
    up: AtomicBool,
    /// Whether each node is up: one, or the masters of a cluster that were used. Locked for single operations.
    nodes: Mutex<BTreeMap<String, bool>>,
    /// Whether requests are denied without the store.
    needed: AtomicBool,
    /// The nodes whose `maxmemory-policy` may evict keys, as of their last connection.
    evicting: Mutex<BTreeSet<String>>,
    /// The nodes that refuse connections, with their error codes.
    refused_nodes: Mutex<BTreeMap<String, String>>,
    breaker: Breaker,
    /// How many connections were closed because nothing was received from them.
    stalls: AtomicU64,
    pub(super) refusal: Refusal,
    reconnected: Notify,
    /// In milliseconds.
    probe_within: AtomicU64,
    /// Shared, since what happens to the connections of all workers is one event.
    pub(super) log: LogThrottle,
    pub(super) missed: Arc<MissedDeadlines>,
}

impl Default for StoreHealth {
    fn default() -> Self {
        let (up, needed) = (AtomicBool::new(false), AtomicBool::new(true));
        let probe_within = AtomicU64::new(milliseconds(PROBE));
        let (nodes, evicting, refused_nodes, breaker, stalls, refusal, log, missed) = Default::default();
        let reconnected = Notify::new();
        Self {
            up,
            nodes,
            needed,
            evicting,
            refused_nodes,
            breaker,
            stalls,
            refusal,
            reconnected,
            probe_within,
            log,
            missed,
        }
    }
}

impl StoreHealth {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time limit of probes: `store.deadline`, since a store that takes longer serves no request.
    pub fn probed_within(self, deadline: Duration) -> Self {
        self.probe_within(deadline);
        self
    }

    /// The same at a reload, which may change the deadline.
    pub fn probe_within(&self, deadline: Duration) {
        self.probe_within.store(milliseconds(deadline), Ordering::Relaxed);
    }

    /// Whether calls are made and succeed. A restored connection is not enough while the breaker is open, nor are successful
    /// reads while writes are refused.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed) && !self.breaker.is_open() && !self.refusal.stands()
    }

    /// Why the store is not up, for readiness.
    pub fn why_not(&self) -> String {
        if let Some(code) = self.refusal.code() {
            return format!("the store answers and refuses: {code}");
        }
        match self.refused_nodes().values().next() {
            Some(code) => format!("the store refuses the connection: {code}"),
            None => "the store is out of reach".to_owned(),
        }
    }

    /// Whether the gate is ready: also without a store where nothing needs it. Of a cluster one node is enough that is up and
    /// refuses nothing, since keys on it work, and would not if the gate were taken out of service.
    pub fn is_good_enough(&self) -> bool {
        self.is_up() || !self.needed.load(Ordering::Relaxed) || self.is_up_in_part()
    }

    fn is_up_in_part(&self) -> bool {
        let nodes = self.nodes();
        nodes.len() > 1 && nodes.iter().any(|(node, up)| *up && !self.refusal.is_of(node))
    }

    /// Sets whether the store is needed: not in observe mode.
    pub fn need(&self, needed: bool) {
        self.needed.store(needed, Ordering::Relaxed);
    }

    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub(super) fn probe_deadline(&self) -> Duration {
        Duration::from_millis(self.probe_within.load(Ordering::Relaxed))
    }

    /// Notified when any worker has reconnected, so that others retry at once.
    pub(super) fn reconnected(&self) -> Notified<'_> {
        self.reconnected.notified()
    }

    /// A connection to the node has answered the script.
    pub(super) fn connected(&self, node: &str) {
        self.set(node, true);
        self.refused_nodes().remove(node);
        self.reconnected.notify_waiters();
    }

    /// A script call has succeeded there.
    pub fn answered(&self, node: &str) {
        // Only on a change: every call comes here, and workers share the cache line.
        if !self.up.load(Ordering::Relaxed) {
            self.set(node, true);
        }
    }

    /// A call there has failed, or a connection was lost.
    pub fn failed(&self, node: &str) {
        self.set(node, false);
    }

    /// An attempt to connect to the node has failed. If it cannot be reached, a former refusal is outdated.
    pub(super) fn not_connected(&self, node: &str, error: &StoreError) {
        self.failed(node);
        let mut refused_nodes = self.refused_nodes();
        match error.code() {
            Some(code) => refused_nodes.insert(node.to_owned(), code.to_owned()),
            None => refused_nodes.remove(node),
        };
    }

    fn refused_nodes(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.refused_nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps only these nodes: those that the cluster consists of now.
    pub(super) fn retain_nodes(&self, is_kept: impl Fn(&str) -> bool) {
        self.change(|nodes| nodes.retain(|node, _| is_kept(node)));
        self.refused_nodes().retain(|node, _| is_kept(node));
    }

    fn set(&self, node: &str, up: bool) {
        self.change(|nodes| {
            nodes.insert(node.to_owned(), up);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, bool>)) {
        let mut nodes = self.nodes();
        change(&mut nodes);
        self.up.store(!nodes.is_empty() && nodes.values().all(|up| *up), Ordering::Relaxed);
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        // Consistent even when poisoned.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection that was closed because nothing was received from it.
    pub(super) fn stalled(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were so far.
    pub(super) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    /// Whether the store may evict keys, revocations and counts when its memory is full.
    pub fn may_evict(&self) -> bool {
        !self.evicting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Records whether a node may evict; returns whether one that may is new.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_that_does_not_answer_is_not_made_up_for_by_another() {
        let health = StoreHealth::new();
        let told = || (health.is_up(), health.is_good_enough());
        assert_eq!(told(), (false, false));
        health.connected("a");
        assert_eq!(told(), (true, true));
        health.connected("b");
        health.failed("a");
        health.answered("b");
        assert_eq!(told(), (false, true), "the keys of the other go on");
        health.failed("b");
        assert_eq!(told(), (false, false));
        health.answered("b");
        health.retain_nodes(|node| node == "b");
        assert_eq!(told(), (true, true));
        health.failed("b");
        assert_eq!(told(), (false, false), "there is one alone");
    }
}
