//! Whether the store answers, as readiness and `sidegate_store_up` tell it. One per process, shared by all workers.

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

/// How long a probe may take where nobody says otherwise: the default of `store.deadline`.
const PROBE: Duration = Duration::from_millis(100);

/// Down until the first success; then down from any lost connection or failed call until a script call succeeds again at the same
/// node: of a cluster, what is out of reach is not made up for by what is not.
#[derive(Debug)]
pub struct StoreHealth {
    /// Mirrors `nodes`: every one of them is well.
    up: AtomicBool,
    /// Which nodes answered last, and which did not: one, or the masters of a cluster that were needed. Held for a look-up.
    nodes: Mutex<BTreeMap<String, bool>>,
    /// Whether anything is refused without it.
    needed: AtomicBool,
    /// The nodes that may evict what they should keep, as they said when they were connected to last.
    evicting: Mutex<BTreeSet<String>>,
    /// The nodes that refuse to be connected to, and with which word.
    shut_out: Mutex<BTreeMap<String, String>>,
    breaker: Breaker,
    /// How many connections were given up because nothing came from them any more.
    stalls: AtomicU64,
    pub(super) refusal: Refusal,
    revived: Notify,
    /// In milliseconds.
    probe_within: AtomicU64,
    /// What befalls the connections of all workers is one event.
    pub(super) log: LogThrottle,
    pub(super) missed: Arc<MissedDeadlines>,
}

impl Default for StoreHealth {
    fn default() -> Self {
        let (up, needed) = (AtomicBool::new(false), AtomicBool::new(true));
        let probe_within = AtomicU64::new(milliseconds(PROBE));
        let (nodes, evicting, shut_out, breaker, stalls, refusal, log, missed) = Default::default();
        let revived = Notify::new();
        Self { up, nodes, needed, evicting, shut_out, breaker, stalls, refusal, revived, probe_within, log, missed }
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

    /// Whether calls are made and succeed. A connection that is up again is not enough while the breaker is open, nor are reads that
    /// are answered while what counts is refused.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed) && !self.breaker.is_open() && !self.refusal.stands()
    }

    /// What readiness says of a store that is not up.
    pub fn why_not(&self) -> String {
        if let Some(code) = self.refusal.code() {
            return format!("the store answers and refuses: {code}");
        }
        match self.shut_out().values().next() {
            Some(code) => format!("the store refuses the connection: {code}"),
            None => "the store is out of reach".to_owned(),
        }
    }

    /// Whether requests are served: where everything is let pass, they are without a store, too. Of a cluster one node is enough
    /// that is well and refuses nothing: its keys go on, and a gate that takes itself away would take them along.
    pub fn is_good_enough(&self) -> bool {
        self.is_up() || !self.needed.load(Ordering::Relaxed) || self.is_up_in_part()
    }

    fn is_up_in_part(&self) -> bool {
        let nodes = self.nodes();
        nodes.len() > 1 && nodes.iter().any(|(node, well)| *well && !self.refusal.is_of(node))
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

    /// When a connection is there again, of whichever worker: what waits to try again need not wait any longer.
    pub(super) fn revived(&self) -> Notified<'_> {
        self.revived.notified()
    }

    /// A connection to the node has answered the script.
    pub(super) fn connected(&self, node: &str) {
        self.set(node, true);
        self.shut_out().remove(node);
        self.revived.notify_waiters();
    }

    /// A script call has succeeded there.
    pub fn answered(&self, node: &str) {
        // Looked into only on a change: this is on the way of every call, and the workers share the line.
        if !self.up.load(Ordering::Relaxed) {
            self.set(node, true);
        }
    }

    /// A call there has failed, or a connection was lost.
    pub fn failed(&self, node: &str) {
        self.set(node, false);
    }

    /// An attempt to connect to the node has failed. One that cannot be reached says no more what it said before.
    pub(super) fn not_connected(&self, node: &str, error: &StoreError) {
        self.failed(node);
        let mut shut_out = self.shut_out();
        match error.code() {
            Some(code) => shut_out.insert(node.to_owned(), code.to_owned()),
            None => shut_out.remove(node),
        };
    }

    fn shut_out(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.shut_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster consists of other nodes now.
    pub(super) fn forget_nodes(&self, besides: impl Fn(&str) -> bool) {
        self.change(|nodes| nodes.retain(|node, _| besides(node)));
        self.shut_out().retain(|node, _| besides(node));
    }

    fn set(&self, node: &str, well: bool) {
        self.change(|nodes| {
            nodes.insert(node.to_owned(), well);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, bool>)) {
        let mut nodes = self.nodes();
        change(&mut nodes);
        self.up.store(!nodes.is_empty() && nodes.values().all(|well| *well), Ordering::Relaxed);
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        // Whole at every step.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection was given up because nothing came from it any more.
    pub(super) fn stalled(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }

    /// Differs from what it was whenever one was, in between.
    pub(super) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
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
        health.forget_nodes(|node| node == "b");
        assert_eq!(told(), (true, true));
        health.failed("b");
        assert_eq!(told(), (false, false), "there is one alone");
    }
}
