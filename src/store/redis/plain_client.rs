//! A plain client for what is not on the way of a request: one command at a time, to whichever node serves its key.
//!
//! Its connections have no supervisor: each is opened on first use, and a command that fails is not repeated.

use std::collections::HashMap;
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::connection::locate_master;
use super::dial::{Driver, dial};
use super::errors::{pipeline_error, query};
use super::hash_slot::slot_of;
use super::sentinel::SentinelClient;
use super::settings::{Address, Settings, Topology};
use super::slot_map::{Redirect, SlotMap, read_slot_map};
use crate::store::StoreError;

/// How long one command may take. No request waits for it, but perhaps a person.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// How many redirects one command follows, and the pause before a slot that is being moved is tried again.
const MOST_REDIRECTS: usize = 200;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Connections to the one node, or to the masters of a cluster.
#[derive(Debug)]
pub struct PlainClient {
    settings: Box<Settings>,
    /// Where there is a cluster: which master serves which slots.
    map: Option<SlotMap>,
    /// What redirects have said since the map was read: where a command is sent first. Never held across an await.
    moved: StdMutex<HashMap<u16, Address>>,
    connections: Mutex<HashMap<Address, Connected>>,
    /// The one node, or the cluster's first master.
    first_master: Address,
    sentinels: Option<Mutex<SentinelClient>>,
}

#[derive(Debug)]
struct Connected {
    connection: MultiplexedConnection,
    /// Held so that the connection lives as long as this.
    _driver: Driver,
}

impl PlainClient {
    /// Finds out where the nodes are; connects to none of them yet.
    pub async fn find(settings: &Settings) -> Result<Self, StoreError> {
        let mut sentinels = SentinelClient::of(settings);
        let (map, first_master) = match &settings.topology {
            Topology::Cluster(addresses) => {
                let map = any_slot_map(settings, addresses).await?;
                let first_master = map.masters().into_iter().next();
                (Some(map), first_master.ok_or_else(|| StoreError::Unreachable("no master serves a slot".to_owned()))?)
            }
            topology => (None, locate_master(topology, sentinels.as_mut()).await?),
        };
        let (settings, sentinels) = (Box::new(settings.clone()), sentinels.map(Mutex::new));
        let (moved, connections) = (StdMutex::default(), Mutex::default());
        Ok(Self { settings, map, moved, connections, first_master, sentinels })
    }

    /// The master that the sentinels name now; `None` where there are none to ask.
    pub async fn master_now(&self) -> Result<Option<Address>, StoreError> {
        match &self.sentinels {
            Some(sentinels) => sentinels.lock().await.master().await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether this is the node that it sends to.
    pub fn sends_to(&self, master: &Address) -> bool {
        self.first_master == *master
    }

    pub fn is_cluster(&self) -> bool {
        self.map.is_some()
    }

    /// The one node, or the cluster's first master.
    pub async fn first_master(&self) -> Result<MultiplexedConnection, StoreError> {
        self.node(&self.first_master).await
    }

    /// Every master.
    pub fn masters(&self) -> Vec<Address> {
        let Some(map) = &self.map else { return vec![self.first_master.clone()] };
        let mut masters = map.masters();
        masters.extend(self.moved().values().cloned());
        masters.sort_unstable();
        masters.dedup();
        masters
    }

    /// Sends the command to the node that serves `key`, wherever a cluster has moved it.
    pub async fn query<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, StoreError> {
        self.query_from(key, command).await.map(|(_, answer)| answer)
    }

    /// The same, with the node that answered.
    pub async fn query_from<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<(Address, T), StoreError> {
        let mut address = self.serving(key);
        let mut asking = false;
        for _ in 0..MOST_REDIRECTS {
            let connection = self.node(&address).await?;
            let answer = if asking {
                query_asking(&connection, command).await
            } else {
                query_in_time(&connection, command).await
            };
            let error = match answer {
                Ok(answer) => return Ok((address, answer)),
                Err(error) => error,
            };
            match Redirect::of(&error, &address) {
                Some(Redirect::Moved(elsewhere)) => {
                    self.moved().insert(slot_of(key), elsewhere.clone());
                    (address, asking) = (elsewhere, false);
                }
                Some(Redirect::Ask(elsewhere)) => (address, asking) = (elsewhere, true),
                Some(Redirect::TryAgain) => sleep(TRY_AGAIN_AFTER).await,
                None => return Err(error),
            }
        }
        Err(StoreError::Unreachable("the cluster leads from node to node".to_owned()))
    }

    /// The node that serves `key`, as far as is known.
    pub fn serving(&self, key: &str) -> Address {
        let Some(map) = &self.map else { return self.first_master.clone() };
        let slot = slot_of(key);
        let moved = self.moved().get(&slot).cloned();
        moved.or_else(|| map.master(slot).cloned()).unwrap_or_else(|| self.first_master.clone())
    }

    fn moved(&self) -> MutexGuard<'_, HashMap<u16, Address>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn node(&self, address: &Address) -> Result<MultiplexedConnection, StoreError> {
        let mut connections = self.connections.lock().await;
        if let Some(connected) = connections.get(address) {
            return Ok(connected.connection.clone());
        }
        let (connection, driver) = dial(&self.settings, address).await?;
        connections.insert(address.clone(), Connected { connection: connection.clone(), _driver: driver });
        Ok(connection)
    }
}

/// The slot map of the first node that can be reached.
pub async fn any_slot_map(settings: &Settings, addresses: &[Address]) -> Result<SlotMap, StoreError> {
    let mut last = StoreError::Unreachable("no address is configured".to_owned());
    for address in addresses {
        match read_slot_map(settings, address).await {
            Ok(map) => return Ok(map),
            Err(error) => last = error,
        }
    }
    Err(last)
}

pub async fn query_in_time<T: FromRedisValue>(
    connection: &MultiplexedConnection,
    command: &Cmd,
) -> Result<T, StoreError> {
    let answer = timeout(COMMAND_TIMEOUT, query(connection, command)).await;
    answer.unwrap_or(Err(StoreError::Deadline))
}

async fn query_asking<T: FromRedisValue>(connection: &MultiplexedConnection, command: &Cmd) -> Result<T, StoreError> {
    let both = redis::pipe().cmd("ASKING").ignore().add_command(command.clone()).to_owned();
    let mut connection = connection.clone();
    let answer = timeout(COMMAND_TIMEOUT, both.query_async::<(T,)>(&mut connection)).await;
    let (answer,) = answer.map_err(|_| StoreError::Deadline)?.map_err(|error| pipeline_error(&error))?;
    Ok(answer)
}
