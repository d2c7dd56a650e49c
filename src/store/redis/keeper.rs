//! Changes to keys in one step, how many replicas have them, the audit's stream and the counts of use: what the keepers of
//! keys do in Redis beyond reading and writing single documents (`documents`).
//!
//! Not on the way of a request. A connection of its own to each node, since WAIT speaks of the writes of its connection.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, cmd};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::cluster::{Direction, SlotMap, read_map, slot_of};
use super::connect::{ask, locate};
use super::dial::{Driver, dial, pipeline_error};
use super::sentinel::Watchers;
use super::settings::{Address, Settings, Shape};
use crate::store::StoreError;

const KEEP: &str = include_str!("scripts/keep.lua");
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
const MOST_HOPS: usize = 200;
const AGAIN: Duration = Duration::from_millis(20);
/// How many commands travel together: so few that they hold up nobody's request.
const TOGETHER: usize = 50;

/// Keys of one tenant to be changed together.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    /// The name of the tenant's set.
    pub set: String,
    /// The name of the number of keys that became active, and what it was; `None`: no key becomes active here that a maximum
    /// counts.
    pub minted: String,
    pub counted: Option<u64>,
    pub documents: Vec<Kept>,
}

/// A document to be changed.
#[derive(Debug, Clone)]
pub struct Kept {
    pub name: String,
    pub digest: String,
    pub was: Option<Bytes>,
    pub becomes: Option<Bytes>,
}

#[derive(Debug)]
pub struct Keeper {
    settings: Box<Settings>,
    map: Option<SlotMap>,
    first: Address,
    nodes: Mutex<HashMap<Address, (MultiplexedConnection, Driver)>>,
}

impl Keeper {
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let (map, first) = match &settings.shape {
            Shape::Cluster(addresses) => {
                let mut found = Err(StoreError::Unreachable("no address is configured".to_owned()));
                for address in addresses {
                    found = read_map(settings, address).await;
                    if found.is_ok() {
                        break;
                    }
                }
                let map = found?;
                let first = map.masters().into_iter().next();
                (Some(map), first.ok_or_else(|| StoreError::Unreachable("no master serves a slot".to_owned()))?)
            }
            shape => (None, locate(shape, Watchers::of(settings).as_mut()).await?),
        };
        Ok(Self { settings: Box::new(settings.clone()), map, first, nodes: Mutex::default() })
    }

    /// The store's clock, in milliseconds since the Unix epoch.
    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        let (seconds, micros): (u64, u64) = self.ask("", &cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// Makes the change if everything is still as it was; `false`: something is not.
    pub async fn keep(&self, keeping: &Keeping) -> Result<bool, StoreError> {
        let mut call = cmd("EVAL");
        call.arg(KEEP).arg(2 + keeping.documents.len()).arg(&keeping.set).arg(&keeping.minted);
        for document in &keeping.documents {
            call.arg(&document.name);
        }
        call.arg(keeping.counted.map(|counted| counted.to_string()).unwrap_or_default());
        for Kept { digest, was, becomes, .. } in &keeping.documents {
            let text = |document: &Option<Bytes>| document.clone().unwrap_or_default().to_vec();
            call.arg(digest).arg(text(was)).arg(text(becomes));
        }
        self.ask(&keeping.set, &call).await
    }

    /// Waits until this many replicas have what this keeper wrote where `key` lives, and says how many do.
    pub async fn wait(&self, key: &str, replicas: u64) -> Result<u64, StoreError> {
        let patience = COMMAND_TIMEOUT.as_millis() as u64 * 4 / 5;
        self.ask(key, cmd("WAIT").arg(replicas).arg(patience)).await
    }

    /// Appends one entry to a stream that keeps about `most` of them.
    pub async fn append(&self, stream: &str, most: u64, entry: &str) -> Result<(), StoreError> {
        let added = cmd("XADD").arg(stream).arg("MAXLEN").arg("~").arg(most).arg("*").arg("entry").arg(entry).take();
        self.ask::<String>(stream, &added).await.map(drop)
    }

    /// The last entries of a stream, the newest first.
    pub async fn last(&self, stream: &str, count: usize) -> Result<Vec<String>, StoreError> {
        type Entry = (String, Vec<(String, String)>);
        let read = cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(count).take();
        let entries: Vec<Entry> = self.ask(stream, &read).await?;
        Ok(entries.into_iter().filter_map(|(_, fields)| fields.into_iter().next()).map(|(_, entry)| entry).collect())
    }

    /// The fields of a hash; none where there is none.
    pub async fn hash(&self, name: &str) -> Result<HashMap<String, u64>, StoreError> {
        self.ask(name, cmd("HGETALL").arg(name)).await
    }

    /// The scores of members of sorted sets, in their order; `None`: it is no member.
    pub async fn scores(&self, sets: &[(String, Vec<String>)]) -> Result<Vec<Vec<Option<u64>>>, StoreError> {
        let asked = |(set, members): &(String, Vec<String>)| cmd("ZMSCORE").arg(set).arg(members).take();
        let mut scores = Vec::with_capacity(sets.len());
        if self.map.is_some() {
            for set in sets {
                scores.push(self.ask::<Vec<Option<f64>>>(&set.0, &asked(set)).await?);
            }
        } else {
            let mut connection = self.node(&self.first).await?;
            for some in sets.chunks(TOGETHER) {
                let mut pipeline = redis::pipe();
                for set in some {
                    pipeline.add_command(asked(set));
                }
                let answers = timeout(COMMAND_TIMEOUT, pipeline.query_async(&mut connection)).await;
                let answers = answers.map_err(|_| StoreError::Deadline)?;
                scores.extend::<Vec<Vec<Option<f64>>>>(answers.map_err(|error| pipeline_error(&error))?);
            }
        }
        // Milliseconds stay far below 2⁵³, so they are exact.
        let whole = |score: Option<f64>| score.map(|score| score as u64);
        Ok(scores.into_iter().map(|of| of.into_iter().map(whole).collect()).collect())
    }

    /// Asks the node that serves `key`, wherever a cluster has moved it.
    async fn ask<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, StoreError> {
        let serving = self.map.as_ref().and_then(|map| map.master(slot_of(key)));
        let mut address = serving.unwrap_or(&self.first).clone();
        for _ in 0..MOST_HOPS {
            let connection = self.node(&address).await?;
            let answer = timeout(COMMAND_TIMEOUT, ask(&connection, command)).await;
            let answer = answer.unwrap_or(Err(StoreError::Deadline));
            let Err(error) = answer else { return answer };
            match Direction::of(&error, &address) {
                Some(Direction::Moved(elsewhere)) => address = elsewhere,
                // A slot on its way arrives soon: nobody's request waits for this.
                Some(Direction::Ask(_) | Direction::Again) => sleep(AGAIN).await,
                None => return Err(error),
            }
        }
        Err(StoreError::Unreachable("the cluster leads from node to node".to_owned()))
    }

    async fn node(&self, address: &Address) -> Result<MultiplexedConnection, StoreError> {
        let mut nodes = self.nodes.lock().await;
        if let Some((connection, _)) = nodes.get(address) {
            return Ok(connection.clone());
        }
        let (connection, driver) = dial(&self.settings, address).await?;
        nodes.insert(address.clone(), (connection.clone(), driver));
        Ok(connection)
    }
}
