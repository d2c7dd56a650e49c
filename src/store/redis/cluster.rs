//! A worker's way into a cluster: which master serves a slot, one supervised connection to each that was needed, and what to
//! do when a slot is elsewhere.
//!
//! MOVED, ASK and TRYAGAIN prove that nothing was done, so they are followed with spending calls too. What a question is and
//! which slots it needs is left to `slots`. Only masters are asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::call::{Request, send};
use super::connect::{Connection, some_of};
use super::lateness;
use super::settings::{Address, Settings, Shape};
use super::slot_map::{Direction, SlotMap, read_map};
use crate::store::StoreError;
use crate::store::health::StoreHealth;

/// How often the map is read when nobody has found it wrong, and how soon again when somebody has.
const EVERY: Duration = Duration::from_secs(30);
const SOONEST: Duration = Duration::from_millis(100);

/// How long a slot that is being moved is left alone before it is asked again.
const AGAIN: Duration = Duration::from_millis(5);

/// More directions than this in one call is a cluster that does not know itself.
const MOST_HOPS: usize = 8;

/// What is not well while some slots have no master.
const UNSERVED: &str = "slots without a master";

#[derive(Debug, Clone)]
pub(super) struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    health: Arc<StoreHealth>,
    map: watch::Receiver<Known>,
    /// Somebody has found the map wrong.
    doubted: Arc<Notify>,
    // Never held across an await. Directions that the map does not have yet stand beside the connections.
    nodes: Mutex<Nodes>,
}

#[derive(Debug, Default)]
struct Nodes {
    connections: HashMap<Address, Connection>,
    moved: HashMap<u16, Address>,
}

/// The map as it was last read, or why it never was; `None` while it is read for the first time.
type Known = Option<Result<Arc<SlotMap>, StoreError>>;

impl Cluster {
    /// Starts to read the map in the background. Must be called within a tokio runtime.
    pub(super) fn start(settings: Settings, health: Arc<StoreHealth>) -> Self {
        let (tell, map) = watch::channel(None);
        let inner = Inner { settings, health, map, doubted: Arc::default(), nodes: Mutex::default() };
        let cluster = Self(Arc::new(inner));
        let keeper = Keeper { settings: cluster.0.settings.clone(), doubted: cluster.0.doubted.clone(), told: None };
        tokio::spawn(keeper.keep(Arc::downgrade(&cluster.0), tell));
        cluster
    }

    /// Sends a request to the master of its slot, wherever that goes until the deadline.
    pub(super) async fn send(
        &self,
        slot: u16,
        request: Request<'_>,
        deadline: Instant,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let mut target = self.master(slot, deadline).await?;
        let mut asking = false;
        let mut hops = 0;
        loop {
            let connection = self.0.connection(&target);
            let answer = send(&connection, &self.0.health, request, asking, deadline).await;
            let Err(error) = answer else { return answer };
            match Direction::of(&error, &target) {
                Some(Direction::Moved(address)) if hops < MOST_HOPS => {
                    self.0.lock().moved.insert(slot, address.clone());
                    self.0.doubted.notify_one();
                    (target, asking) = (address, false);
                }
                Some(Direction::Ask(address)) if hops < MOST_HOPS => (target, asking) = (address, true),
                Some(Direction::Again) if Instant::now() + AGAIN < deadline => {
                    sleep(AGAIN).await;
                    (target, asking, hops) = (self.master(slot, deadline).await?, false, 0);
                }
                _ => {
                    // It may have failed over, or be on its way.
                    self.0.lock().moved.remove(&slot);
                    self.0.doubted.notify_one();
                    return Err(error);
                }
            }
            hops += 1;
        }
    }

    /// As whose calls to this slot succeed and fail, as far as that is known without asking.
    pub(super) fn node(&self, slot: u16) -> String {
        let moved = self.0.lock().moved.get(&slot).map(Address::to_string);
        let mapped = || match &*self.0.map.borrow() {
            Some(Ok(map)) => map.master(slot).map(Address::to_string),
            _ => None,
        };
        moved.or_else(mapped).unwrap_or_default()
    }

    async fn master(&self, slot: u16, deadline: Instant) -> Result<Address, StoreError> {
        if let Some(moved) = self.0.lock().moved.get(&slot) {
            return Ok(moved.clone());
        }
        let mut known = self.0.map.clone();
        let read = async { known.wait_for(Option::is_some).await.map(|known| known.clone()) };
        let map = match lateness::until(deadline, read).await {
            None => return Err(StoreError::Deadline),
            Some(Err(_)) => return Err(StoreError::Unreachable("nobody reads the cluster's map".to_owned())),
            Some(Ok(known)) => known.unwrap_or(Err(StoreError::Deadline))?,
        };
        let nobody = || {
            self.0.doubted.notify_one();
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
        let settings = Settings { shape: Shape::Member(address.clone()), ..self.settings.clone() };
        let connection = Connection::start(settings, self.health.clone());
        nodes.connections.insert(address.clone(), connection.clone());
        connection
    }

    /// Forgets what a new map makes superfluous: connections to nodes that left or are no masters any more end.
    fn adopt(&self, map: &SlotMap) {
        let masters = map.masters();
        let mut nodes = self.lock();
        nodes.moved.clear();
        nodes.connections.retain(|address, _| masters.contains(address));
        let left: BTreeSet<_> = masters.iter().map(Address::to_string).collect();
        let is_whole = map.is_whole();
        self.health.forget_nodes(|node| left.contains(node) || !is_whole && node == UNSERVED);
        if !is_whole {
            self.health.failed(UNSERVED);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // Nothing here panics halfway through a change that matters.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the map. It holds the cluster for a moment at a time only, so that connections end with the last `Cluster`.
struct Keeper {
    settings: Settings,
    doubted: Arc<Notify>,
    /// Why it could not be read, as was last logged.
    told: Option<StoreError>,
}

impl Keeper {
    /// Reads the map whenever it is in doubt, and now and then, until the last `Cluster` is dropped.
    async fn keep(mut self, cluster: Weak<Inner>, tell: watch::Sender<Known>) {
        loop {
            let read = tokio::select! {
                read = self.read_map(&tell) => read,
                () = tell.closed() => return,
            };
            let Some(cluster) = cluster.upgrade() else { return };
            self.take(read, &cluster, &tell);
            drop(cluster);
            tokio::select! {
                // Not everybody at the same moment, when all have found it wrong at the same moment.
                () = sleep(SOONEST + some_of(SOONEST)) => {}
                () = tell.closed() => return,
            }
            tokio::select! {
                _ = timeout(EVERY, self.doubted.notified()) => {}
                () = tell.closed() => return,
            }
        }
    }

    /// Reads it from the first node that gives it: those that are masters now, then the configured ones.
    async fn read_map(&self, tell: &watch::Sender<Known>) -> Result<SlotMap, StoreError> {
        let known = tell.borrow().clone();
        let masters = known.and_then(Result::ok).map(|map| map.masters()).unwrap_or_default();
        let mut last = StoreError::Unreachable("no address is configured".to_owned());
        for address in masters.iter().chain(self.settings.shape.addresses()) {
            match read_map(&self.settings, address).await {
                Ok(map) => return Ok(map),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn take(&mut self, read: Result<SlotMap, StoreError>, cluster: &Inner, tell: &watch::Sender<Known>) {
        match read {
            Ok(map) => {
                cluster.adopt(&map);
                // One connection from the start: readiness is to be true of decisions.
                if let Some(first) = map.masters().first() {
                    cluster.connection(first);
                }
                tell.send_replace(Some(Ok(Arc::new(map))));
                self.told = None;
            }
            Err(error) => {
                let never_read = !matches!(&*tell.borrow(), Some(Ok(_)));
                // Told when the reason changes, not at every attempt.
                if self.told.as_ref() != Some(&error) {
                    tracing::warn!(redis = %self.settings.shape, %error, "store: the cluster's map cannot be read");
                    self.told = Some(error.clone());
                }
                cluster.health.failed(&cluster.settings.shape.to_string());
                self.doubted.notify_one();
                if never_read {
                    tell.send_replace(Some(Err(error)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_of_it_is_kept_once_nobody_has_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        drop(listener);
        let node = Settings::from_url(&format!("redis://127.0.0.1:{port}")).expect("an address");
        let settings = Settings { shape: Shape::Cluster(node.shape.addresses().to_vec()), ..node };
        let cluster = Cluster::start(settings, Arc::default());
        let mut known = cluster.0.map.clone();
        // From now on the keeper waits for its next attempt.
        known.wait_for(Option::is_some).await.expect("somebody tells");
        drop(known);
        let weak = Arc::downgrade(&cluster.0);
        drop(cluster);
        assert!(weak.upgrade().is_none(), "connections to its nodes live on");
    }
}
