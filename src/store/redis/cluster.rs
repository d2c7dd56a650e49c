//! A worker's cluster client: the slot map, one supervised connection to each master that was needed, and redirects.
//!
//! MOVED, ASK and TRYAGAIN prove that nothing was done, so they are followed with spending calls too. What a question is and
//! which slots it needs is left to `slots`. Only masters are asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::call::{Command, send};
use super::connection::Connection;
use super::jitter::jitter;
use super::settings::{Address, Settings, Topology};
use super::slot_map::{Redirect, SlotMap, read_slot_map};
use super::worker_lag;
use crate::store::StoreError;
use crate::store::health::StoreHealth;

/// How often the map is read when no call has found it wrong, and how soon again when one has.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
const REFRESH_SOONEST: Duration = Duration::from_millis(100);

/// The pause before a slot that is being moved is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// More redirects than this in one call is a cluster whose nodes disagree.
const MOST_REDIRECTS: usize = 8;

/// What is not well while some slots have no master.
const UNSERVED: &str = "slots without a master";

#[derive(Debug, Clone)]
pub(super) struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    health: Arc<StoreHealth>,
    map: watch::Receiver<MapState>,
    /// A call has found the map wrong.
    refresh: Arc<Notify>,
    // Never held across an await.
    nodes: Mutex<Nodes>,
}

#[derive(Debug, Default)]
struct Nodes {
    connections: HashMap<Address, Connection>,
    /// Redirects that the map does not have yet.
    moved: HashMap<u16, Address>,
}

/// The map as it was last read, or why it never was; `None` while it is read for the first time.
type MapState = Option<Result<Arc<SlotMap>, StoreError>>;

impl Cluster {
    /// Starts to read the map in the background. Must be called within a tokio runtime.
    pub(super) fn start(settings: Settings, health: Arc<StoreHealth>) -> Self {
        let (publish, map) = watch::channel(None);
        let inner = Inner { settings, health, map, refresh: Arc::default(), nodes: Mutex::default() };
        let cluster = Self(Arc::new(inner));
        let refresher = SlotMapRefresher {
            settings: cluster.0.settings.clone(),
            refresh: cluster.0.refresh.clone(),
            last_error: None,
        };
        tokio::spawn(refresher.run(Arc::downgrade(&cluster.0), publish));
        cluster
    }

    /// Sends a command to the master of its slot, following redirects until the deadline.
    pub(super) async fn send(
        &self,
        slot: u16,
        command: Command<'_>,
        deadline: Instant,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut target = self.master(slot, deadline).await?;
        let mut asking = false;
        let mut redirects = 0;
        loop {
            let connection = self.0.connection(&target);
            let answer = send(&connection, &self.0.health, command, asking, deadline).await;
            let Err(error) = answer else { return answer };
            match Redirect::of(&error, &target) {
                Some(Redirect::Moved(address)) if redirects < MOST_REDIRECTS => {
                    self.0.lock().moved.insert(slot, address.clone());
                    self.0.refresh.notify_one();
                    (target, asking) = (address, false);
                }
                Some(Redirect::Ask(address)) if redirects < MOST_REDIRECTS => (target, asking) = (address, true),
                Some(Redirect::TryAgain) if Instant::now() + TRY_AGAIN_AFTER < deadline => {
                    sleep(TRY_AGAIN_AFTER).await;
                    (target, asking, redirects) = (self.master(slot, deadline).await?, false, 0);
                }
                _ => {
                    // The master may have failed over, or be about to.
                    self.0.lock().moved.remove(&slot);
                    self.0.refresh.notify_one();
                    return Err(error);
                }
            }
            redirects += 1;
        }
    }

    /// The node that health knows calls to this slot by, as far as that is known without asking.
    pub(super) fn node(&self, slot: u16) -> String {
        let moved = self.0.lock().moved.get(&slot).map(Address::to_string);
        let mapped = || match &*self.0.map.borrow() {
            Some(Ok(map)) => map.master(slot).map(Address::to_string),
            _ => None,
        };
        moved.or_else(mapped).unwrap_or_default()
    }

    /// Whether the map says that the node is no master any more, and that the slot has none.
    pub(super) fn has_left(&self, node: &str, slot: u16) -> bool {
        let has_moved = self.0.lock().moved.contains_key(&slot);
        match &*self.0.map.borrow() {
            Some(Ok(map)) if !has_moved && map.master(slot).is_none() => {
                !map.masters().iter().any(|master| master.to_string() == node)
            }
            _ => false,
        }
    }

    async fn master(&self, slot: u16, deadline: Instant) -> Result<Address, StoreError> {
        if let Some(moved) = self.0.lock().moved.get(&slot) {
            return Ok(moved.clone());
        }
        let mut known = self.0.map.clone();
        let read = async { known.wait_for(Option::is_some).await.map(|known| known.clone()) };
        let map = match worker_lag::until(deadline, read).await {
            None => return Err(StoreError::Deadline),
            Some(Err(_)) => return Err(StoreError::Unreachable("nobody reads the cluster's map".to_owned())),
            Some(Ok(known)) => known.unwrap_or(Err(StoreError::Deadline))?,
        };
        let nobody = || {
            self.0.refresh.notify_one();
            StoreError::Unreachable(format!("CLUSTERDOWN no master serves slot {slot}"))
        };
        map.master(slot).cloned().ok_or_else(nobody)
    }
}

impl Inner {
    /// The one connection to this node; it is made when it is first needed.
    fn connection(&self, address: &Address) -> Connection {
        let mut nodes = self.lock();
        if let Some(connection) = nodes.connections.get(address) {
            return connection.clone();
        }
        let settings = Settings { topology: Topology::Member(address.clone()), ..self.settings.clone() };
        let connection = Connection::start(settings, self.health.clone());
        nodes.connections.insert(address.clone(), connection.clone());
        connection
    }

    /// Forgets what a new map makes superfluous: connections to nodes that left or are no masters any more end.
    fn apply(&self, map: &SlotMap) {
        let masters = map.masters();
        let mut nodes = self.lock();
        nodes.moved.clear();
        nodes.connections.retain(|address, _| masters.contains(address));
        let left: BTreeSet<_> = masters.iter().map(Address::to_string).collect();
        let is_whole = map.is_whole();
        self.health.retain_nodes(|node| left.contains(node) || !is_whole && node == UNSERVED);
        if !is_whole {
            self.health.failed(UNSERVED);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // Nothing here panics halfway through a change that matters.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that reads the map. It holds the cluster for a moment at a time only, so that connections end with the last
/// `Cluster`.
struct SlotMapRefresher {
    settings: Settings,
    refresh: Arc<Notify>,
    /// Why it could not be read, as was last logged.
    last_error: Option<StoreError>,
}

impl SlotMapRefresher {
    /// Reads the map whenever a call has found it wrong, and now and then, until the last `Cluster` is dropped.
    async fn run(mut self, cluster: Weak<Inner>, publish: watch::Sender<MapState>) {
        loop {
            let read = tokio::select! {
                read = self.read_slot_map(&publish) => read,
                () = publish.closed() => return,
            };
            let Some(cluster) = cluster.upgrade() else { return };
            self.adopt(read, &cluster, &publish);
            drop(cluster);
            tokio::select! {
                // With jitter, since all workers may have found it wrong at the same moment.
                () = sleep(REFRESH_SOONEST + jitter(REFRESH_SOONEST)) => {}
                () = publish.closed() => return,
            }
            tokio::select! {
                _ = timeout(REFRESH_EVERY, self.refresh.notified()) => {}
                () = publish.closed() => return,
            }
        }
    }

    /// Reads it from the first node that can be reached: those that are masters now, then the configured ones.
    async fn read_slot_map(&self, publish: &watch::Sender<MapState>) -> Result<SlotMap, StoreError> {
        let known = publish.borrow().clone();
        let masters = known.and_then(Result::ok).map(|map| map.masters()).unwrap_or_default();
        let mut last = StoreError::Unreachable("no address is configured".to_owned());
        for address in masters.iter().chain(self.settings.topology.addresses()) {
            match read_slot_map(&self.settings, address).await {
                Ok(map) => return Ok(map),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn adopt(&mut self, read: Result<SlotMap, StoreError>, cluster: &Inner, publish: &watch::Sender<MapState>) {
        match read {
            Ok(map) => {
                cluster.apply(&map);
                // One connection from the start: readiness is to be true of decisions.
                if let Some(first) = map.masters().first() {
                    cluster.connection(first);
                }
                publish.send_replace(Some(Ok(Arc::new(map))));
                self.last_error = None;
            }
            Err(error) => {
                let never_read = !matches!(&*publish.borrow(), Some(Ok(_)));
                // Logged when the reason changes, not at every attempt.
                if self.last_error.as_ref() != Some(&error) {
                    tracing::warn!(redis = %self.settings.topology, %error, "store: the cluster's map cannot be read");
                    self.last_error = Some(error.clone());
                }
                cluster.health.failed(&cluster.settings.topology.to_string());
                self.refresh.notify_one();
                if never_read {
                    publish.send_replace(Some(Err(error)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn a_node_has_left_that_is_no_master_any_more_where_no_other_took_its_slot() {
        let master = |first, last, port| {
            let host = Value::BulkString(b"127.0.0.1".to_vec());
            Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(vec![host, Value::Int(port)])])
        };
        let address = |port| Address { host: "127.0.0.1".to_owned(), port };
        let slots = Value::Array(vec![master(0, 99, 7001), master(200, 299, 7002)]);
        let map = SlotMap::read(&slots, &address(7001)).expect("it is what CLUSTER SLOTS answers");
        let node = Settings::from_url("redis://127.0.0.1:7001").expect("an address");
        let settings = Settings { topology: Topology::Cluster(node.topology.addresses().to_vec()), ..node };
        let (publish, map) = watch::channel(Some(Ok(Arc::new(map))));
        let inner = Inner { settings, health: Arc::default(), map, refresh: Arc::default(), nodes: Mutex::default() };
        let cluster = Cluster(Arc::new(inner));
        assert!(cluster.has_left("127.0.0.1:7003", 150), "nobody serves the slot");
        assert!(!cluster.has_left("127.0.0.1:7003", 99), "another serves it");
        assert!(!cluster.has_left("127.0.0.1:7001", 150), "it serves others");
        cluster.0.lock().moved.insert(150, address(7003));
        assert!(!cluster.has_left("127.0.0.1:7003", 150), "it is newer than the map");
        publish.send_replace(Some(Err(StoreError::Deadline)));
        assert!(!cluster.has_left("127.0.0.1:7003", 151), "nobody knows");
    }

    #[tokio::test]
    async fn nothing_of_it_is_kept_once_nobody_has_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        drop(listener);
        let node = Settings::from_url(&format!("redis://127.0.0.1:{port}")).expect("an address");
        let settings = Settings { topology: Topology::Cluster(node.topology.addresses().to_vec()), ..node };
        let cluster = Cluster::start(settings, Arc::default());
        let mut known = cluster.0.map.clone();
        // From now on the refresher waits for its next attempt.
        known.wait_for(Option::is_some).await.expect("the refresher publishes");
        drop(known);
        let weak = Arc::downgrade(&cluster.0);
        drop(cluster);
        assert!(weak.upgrade().is_none(), "connections to its nodes live on");
    }
}
