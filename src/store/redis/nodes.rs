//! The nodes that a keeper of keys talks to: one command at a time, to whichever node serves its key.
//!
//! Not on the way of a request: plain connections without a supervisor, each opened on first use; a command that fails says so
//! and ends.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::connect::locate;
use super::dial::{Driver, dial};
use super::errors::{ask, pipeline_error};
use super::hash_slot::slot_of;
use super::sentinel::Watchers;
use super::settings::{Address, Settings, Shape};
use super::slot_map::{Direction, SlotMap, read_map};
use crate::store::StoreError;

/// How long one command may take. Nobody's request waits for it, so it is a person's patience.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// How often one command is led elsewhere, or told to come again, before it is given up.
const MOST_HOPS: usize = 200;
const AGAIN: Duration = Duration::from_millis(20);

/// Connections to the one node, or to the masters of a cluster.
#[derive(Debug)]
pub struct Nodes {
    settings: Box<Settings>,
    /// Where there is a cluster: which master serves which slots.
    map: Option<SlotMap>,
    open: Mutex<HashMap<Address, Node>>,
    /// The one node, or the cluster's first master.
    first: Address,
}

#[derive(Debug)]
struct Node {
    connection: MultiplexedConnection,
    /// Held so that the connection lives as long as this.
    _driver: Driver,
}

impl Nodes {
    /// Finds out where the nodes are; connects to none of them yet.
    pub async fn find(settings: &Settings) -> Result<Self, StoreError> {
        let (map, first) = match &settings.shape {
            Shape::Cluster(addresses) => {
                let map = any_map(settings, addresses).await?;
                let first = map.masters().into_iter().next();
                (Some(map), first.ok_or_else(|| StoreError::Unreachable("no master serves a slot".to_owned()))?)
            }
            shape => (None, locate(shape, Watchers::of(settings).as_mut()).await?),
        };
        Ok(Self { settings: Box::new(settings.clone()), map, open: Mutex::default(), first })
    }

    pub fn is_cluster(&self) -> bool {
        self.map.is_some()
    }

    /// The one node, or the cluster's first master.
    pub async fn first(&self) -> Result<MultiplexedConnection, StoreError> {
        self.node(&self.first).await
    }

    /// Every master.
    pub fn masters(&self) -> Vec<Address> {
        self.map.as_ref().map_or_else(|| vec![self.first.clone()], SlotMap::masters)
    }

    /// Asks the node that serves `key`, wherever a cluster has moved it.
    pub async fn ask<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, StoreError> {
        let serving = self.map.as_ref().and_then(|map| map.master(slot_of(key)));
        let mut address = serving.unwrap_or(&self.first).clone();
        let mut asking = false;
        for _ in 0..MOST_HOPS {
            let connection = self.node(&address).await?;
            let answer = if asking {
                with_asking(&connection, command).await
            } else {
                within_patience(&connection, command).await
            };
            let Err(error) = answer else { return answer };
            match Direction::of(&error, &address) {
                Some(Direction::Moved(elsewhere)) => (address, asking) = (elsewhere, false),
                Some(Direction::Ask(elsewhere)) => (address, asking) = (elsewhere, true),
                Some(Direction::Again) => sleep(AGAIN).await,
                None => return Err(error),
            }
        }
        Err(StoreError::Unreachable("the cluster leads from node to node".to_owned()))
    }

    pub async fn node(&self, address: &Address) -> Result<MultiplexedConnection, StoreError> {
        let mut open = self.open.lock().await;
        if let Some(node) = open.get(address) {
            return Ok(node.connection.clone());
        }
        let (connection, driver) = dial(&self.settings, address).await?;
        open.insert(address.clone(), Node { connection: connection.clone(), _driver: driver });
        Ok(connection)
    }
}

/// The map as the first node tells it that can be reached.
pub async fn any_map(settings: &Settings, addresses: &[Address]) -> Result<SlotMap, StoreError> {
    let mut last = StoreError::Unreachable("no address is configured".to_owned());
    for address in addresses {
        match read_map(settings, address).await {
            Ok(map) => return Ok(map),
            Err(error) => last = error,
        }
    }
    Err(last)
}

pub async fn within_patience<T: FromRedisValue>(
    connection: &MultiplexedConnection,
    command: &Cmd,
) -> Result<T, StoreError> {
    let answer = timeout(COMMAND_TIMEOUT, ask(connection, command)).await;
    answer.unwrap_or(Err(StoreError::Deadline))
}

async fn with_asking<T: FromRedisValue>(connection: &MultiplexedConnection, command: &Cmd) -> Result<T, StoreError> {
    let both = redis::pipe().cmd("ASKING").ignore().add_command(command.clone()).to_owned();
    let mut connection = connection.clone();
    let answer = timeout(COMMAND_TIMEOUT, both.query_async::<(T,)>(&mut connection)).await;
    let (answer,) = answer.map_err(|_| StoreError::Deadline)?.map_err(|error| pipeline_error(&error))?;
    Ok(answer)
}
