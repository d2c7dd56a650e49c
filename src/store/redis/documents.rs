//! Documents, sets and names as the command line reads and writes them: to mint, to list, to revoke.
//!
//! Not on the way of a request. Its own plain connection without a supervisor: a command that fails says so and ends. What
//! the documents mean is left to `store/registry.rs`.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, cmd};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::cluster::{Direction, SlotMap, read_map, slot_of};
use super::connect::{ask, locate, master_only};
use super::dial::{Driver, dial, pipeline_error};
use super::sentinel::Watchers;
use super::settings::{Address, Settings, Shape};
use crate::store::StoreError;

/// How long one command may take. Nobody's request waits for it, so it is a person's patience.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// How many elements a page of SCAN and SSCAN looks at, so that listing never holds up the requests of others.
const PAGE: usize = 500;

/// Sets a value only where it is still what the caller read.
const COMPARE_AND_SET: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1";

/// How often one command is led elsewhere, or told to come again, before it is given up.
const MOST_HOPS: usize = 200;
const AGAIN: Duration = Duration::from_millis(20);

/// Connections for a command that runs once.
#[derive(Debug)]
pub struct RedisDocuments {
    settings: Box<Settings>,
    /// Where there is a cluster: which master serves which slots.
    map: Option<SlotMap>,
    nodes: Mutex<HashMap<Address, Node>>,
    /// The one node, or the cluster's first master.
    first: Address,
}

#[derive(Debug)]
struct Node {
    connection: MultiplexedConnection,
    /// Held so that the connection lives as long as this.
    _driver: Driver,
}

impl RedisDocuments {
    /// Connects now, or says why not.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let (map, first) = match &settings.shape {
            Shape::Cluster(addresses) => {
                let map = any_map(settings, addresses).await?;
                let first = map.masters().into_iter().next();
                (Some(map), first.ok_or_else(|| StoreError::Unreachable("no master serves a slot".to_owned()))?)
            }
            shape => (None, locate(shape, Watchers::of(settings).as_mut()).await?),
        };
        let documents =
            Self { settings: Box::new(settings.clone()), map, nodes: Mutex::default(), first: first.clone() };
        let connection = documents.node(&first).await?;
        // A key that is minted or revoked on a replica would be no change at all.
        match timeout(COMMAND_TIMEOUT, master_only(&connection)).await {
            Ok(Err(StoreError::Refused(text))) if text.starts_with("READONLY") => Err(StoreError::Refused(text)),
            // Without a login the first command says it.
            Ok(_) => Ok(documents),
            Err(_) => Err(StoreError::Deadline),
        }
    }

    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.ask(key, cmd("GET").arg(key)).await
    }

    /// The values of all `keys`, in their order.
    pub async fn mget(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        if self.map.is_none() {
            return self.ask("", cmd("MGET").arg(keys)).await;
        }
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.get(key).await?);
        }
        Ok(values)
    }

    pub async fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.ask(key, cmd("SET").arg(key).arg(value)).await
    }

    /// Sets `key` to `value` if it still holds `expected`; `false` if it holds something else or nothing.
    pub async fn compare_and_set(&self, key: &str, expected: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        self.ask(key, cmd("EVAL").arg(COMPARE_AND_SET).arg(1).arg(key).arg(expected).arg(value)).await
    }

    /// Sets `key` where nothing stands yet; `false` if something does.
    pub async fn set_absent(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        let set: Option<String> = self.ask(key, cmd("SET").arg(key).arg(value).arg("NX")).await?;
        Ok(set.is_some())
    }

    /// Removes `key`; `false` if nothing stood there.
    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.ask(key, cmd("DEL").arg(key)).await
    }

    pub async fn sadd(&self, set: &str, member: &str) -> Result<(), StoreError> {
        self.ask::<u64>(set, cmd("SADD").arg(set).arg(member)).await.map(drop)
    }

    pub async fn srem(&self, set: &str, member: &str) -> Result<(), StoreError> {
        self.ask::<u64>(set, cmd("SREM").arg(set).arg(member)).await.map(drop)
    }

    /// All members of `set`, page by page, each once, sorted.
    pub async fn sscan(&self, set: &str) -> Result<Vec<String>, StoreError> {
        let page = |cursor| cmd("SSCAN").arg(set).arg(cursor).arg("COUNT").arg(PAGE).take();
        let mut all = Vec::new();
        let mut cursor = 0;
        loop {
            let (next, found): (u64, Vec<String>) = self.ask(set, &page(cursor)).await?;
            all.extend(found);
            if next == 0 {
                return Ok(sorted(all));
            }
            cursor = next;
        }
    }

    /// All keys that match `pattern`, page by page, each once, sorted: of a cluster, those of every master.
    pub async fn scan(&self, pattern: &str) -> Result<Vec<String>, StoreError> {
        let page = |cursor: u64| cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(PAGE).take();
        let mut all = Vec::new();
        for address in self.map.as_ref().map_or_else(|| vec![self.first.clone()], SlotMap::masters) {
            let connection = self.node(&address).await?;
            let mut cursor = 0;
            loop {
                let (next, found): (u64, Vec<String>) = within_patience(&connection, &page(cursor)).await?;
                all.extend(found);
                if next == 0 {
                    break;
                }
                cursor = next;
            }
        }
        Ok(sorted(all))
    }

    /// Asks the node that serves `key`, wherever a cluster has moved it.
    async fn ask<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, StoreError> {
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

    async fn node(&self, address: &Address) -> Result<MultiplexedConnection, StoreError> {
        let mut nodes = self.nodes.lock().await;
        if let Some(node) = nodes.get(address) {
            return Ok(node.connection.clone());
        }
        let (connection, driver) = dial(&self.settings, address).await?;
        nodes.insert(address.clone(), Node { connection: connection.clone(), _driver: driver });
        Ok(connection)
    }
}

/// The map as the first node tells it that can be reached.
pub(super) async fn any_map(settings: &Settings, addresses: &[Address]) -> Result<SlotMap, StoreError> {
    let mut last = StoreError::Unreachable("no address is configured".to_owned());
    for address in addresses {
        match read_map(settings, address).await {
            Ok(map) => return Ok(map),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn within_patience<T: FromRedisValue>(
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

/// A scan may name an element twice; it is kept once.
fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort_unstable();
    all.dedup();
    all
}
