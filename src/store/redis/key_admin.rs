//! Key management in Redis beyond reading and writing single documents (`documents`): changes of several keys in one step, how many
//! replicas have them, the audit's stream, and the counts of use.
//!
//! Not on the way of a request. A connection of its own to each node, since WAIT speaks of the writes of its connection.

use std::collections::HashMap;

use bytes::Bytes;
use redis::cmd;
use tokio::time::timeout;

use super::errors::pipeline_error;
use super::plain_client::{COMMAND_TIMEOUT, PlainClient, query_in_time};
use super::settings::{Address, Settings};
use crate::store::StoreError;

const UPDATE_KEYS: &str = include_str!("scripts/update_keys.lua");
/// How many commands are sent together: so few that they hold up nobody's request.
const PER_ROUND_TRIP: usize = 50;

/// Keys of one tenant to be changed together.
#[derive(Debug, Clone, Default)]
pub struct KeyUpdate {
    /// The name of the tenant's set.
    pub set: String,
    /// The name of the number of keys that became active, and what it was; `None`: no key becomes active here that a maximum
    /// counts.
    pub minted: String,
    pub counted: Option<u64>,
    pub documents: Vec<DocumentUpdate>,
}

/// A document to be changed.
#[derive(Debug, Clone)]
pub struct DocumentUpdate {
    pub name: String,
    pub digest: String,
    pub was: Option<Bytes>,
    pub becomes: Option<Bytes>,
}

#[derive(Debug)]
pub struct KeyAdmin {
    client: PlainClient,
}

impl KeyAdmin {
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        Ok(Self { client: PlainClient::find(settings).await? })
    }

    /// The master that the sentinels name now; `None` where there are none to ask.
    pub async fn master_now(&self) -> Result<Option<Address>, StoreError> {
        self.client.master_now().await
    }

    pub fn sends_to(&self, master: &Address) -> bool {
        self.client.sends_to(master)
    }

    /// The store's clock, in milliseconds since the Unix epoch: that of the node which judges what stands at `key`. Those of a
    /// cluster's nodes may differ.
    pub async fn now_ms(&self, key: &str) -> Result<u64, StoreError> {
        let (seconds, micros): (u64, u64) = self.client.query(key, &cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// Makes the change if everything is still as it was; `None`: something is not. Otherwise the node that holds it now.
    pub async fn update(&self, change: &KeyUpdate) -> Result<Option<Address>, StoreError> {
        let mut call = cmd("EVAL");
        call.arg(UPDATE_KEYS).arg(2 + change.documents.len()).arg(&change.set).arg(&change.minted);
        for document in &change.documents {
            call.arg(&document.name);
        }
        call.arg(change.counted.map(|counted| counted.to_string()).unwrap_or_default());
        for DocumentUpdate { digest, was, becomes, .. } in &change.documents {
            let text = |document: &Option<Bytes>| document.clone().unwrap_or_default().to_vec();
            call.arg(digest).arg(text(was)).arg(text(becomes));
        }
        let (node, is_done) = self.client.query_from::<bool>(&change.set, &call).await?;
        Ok(is_done.then_some(node))
    }

    /// The node that serves `key`, as far as is known.
    pub fn serving(&self, key: &str) -> Address {
        self.client.serving(key)
    }

    /// Waits until this many replicas of `node` have what was written to it here, and returns how many do. A cluster redirects
    /// no WAIT, so that it has to be the node that took the write.
    pub async fn wait(&self, node: &Address, replicas: u64) -> Result<u64, StoreError> {
        let timeout_ms = COMMAND_TIMEOUT.as_millis() as u64 * 4 / 5;
        query_in_time(&self.client.node(node).await?, cmd("WAIT").arg(replicas).arg(timeout_ms)).await
    }

    /// Appends one entry to a stream that keeps about `most` of them.
    pub async fn append(&self, stream: &str, most: u64, entry: &str) -> Result<(), StoreError> {
        let added = cmd("XADD").arg(stream).arg("MAXLEN").arg("~").arg(most).arg("*").arg("entry").arg(entry).take();
        self.client.query::<String>(stream, &added).await.map(drop)
    }

    /// The last entries of a stream, the newest first.
    pub async fn last(&self, stream: &str, count: usize) -> Result<Vec<String>, StoreError> {
        type Entry = (String, Vec<(String, String)>);
        let read = cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(count).take();
        let entries: Vec<Entry> = self.client.query(stream, &read).await?;
        Ok(entries.into_iter().filter_map(|(_, fields)| fields.into_iter().next()).map(|(_, entry)| entry).collect())
    }

    /// The fields of a hash; none where there is none.
    pub async fn hash(&self, name: &str) -> Result<HashMap<String, u64>, StoreError> {
        self.client.query(name, cmd("HGETALL").arg(name)).await
    }

    /// The scores of members of sorted sets, in their order; `None`: it is no member.
    pub async fn scores(&self, sets: &[(String, Vec<String>)]) -> Result<Vec<Vec<Option<u64>>>, StoreError> {
        let asked = |(set, members): &(String, Vec<String>)| cmd("ZMSCORE").arg(set).arg(members).take();
        let mut scores = Vec::with_capacity(sets.len());
        if self.client.is_cluster() {
            for set in sets {
                scores.push(self.client.query::<Vec<Option<f64>>>(&set.0, &asked(set)).await?);
            }
        } else {
            let mut connection = self.client.first_master().await?;
            for some in sets.chunks(PER_ROUND_TRIP) {
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
}
