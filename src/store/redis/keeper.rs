//! Changes to keys in one step, how many replicas have them, the audit's stream and the counts of use: what the keepers of
//! keys do in Redis beyond reading and writing single documents (`documents`).
//!
//! Not on the way of a request. A connection of its own to each node, since WAIT speaks of the writes of its connection.

use std::collections::HashMap;

use bytes::Bytes;
use redis::{Cmd, cmd};
use tokio::time::timeout;

use super::nodes::{COMMAND_TIMEOUT, Nodes};
use super::settings::Settings;
use crate::store::StoreError;
use crate::store::usage::Command;

const KEEP: &str = include_str!("scripts/keep.lua");
/// How many commands travel together.
const TOGETHER: usize = 500;

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
    nodes: Nodes,
}

impl Keeper {
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        Ok(Self { nodes: Nodes::find(settings).await? })
    }

    /// The store's clock, in milliseconds since the Unix epoch.
    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        let (seconds, micros): (u64, u64) = self.nodes.ask("", &cmd("TIME")).await?;
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
        self.nodes.ask(&keeping.set, &call).await
    }

    /// Waits until this many replicas have what this keeper wrote where `key` lives, and says how many do.
    pub async fn wait(&self, key: &str, replicas: u64) -> Result<u64, StoreError> {
        let patience = COMMAND_TIMEOUT.as_millis() as u64 * 4 / 5;
        self.nodes.ask(key, cmd("WAIT").arg(replicas).arg(patience)).await
    }

    /// Appends one entry to a stream that keeps about `most` of them.
    pub async fn append(&self, stream: &str, most: u64, entry: &str) -> Result<(), StoreError> {
        let added = cmd("XADD").arg(stream).arg("MAXLEN").arg("~").arg(most).arg("*").arg("entry").arg(entry).take();
        self.nodes.ask::<String>(stream, &added).await.map(drop)
    }

    /// The last entries of a stream, the newest first.
    pub async fn last(&self, stream: &str, count: usize) -> Result<Vec<String>, StoreError> {
        type Entry = (String, Vec<(String, String)>);
        let read = cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(count).take();
        let entries: Vec<Entry> = self.nodes.ask(stream, &read).await?;
        Ok(entries.into_iter().filter_map(|(_, fields)| fields.into_iter().next()).map(|(_, entry)| entry).collect())
    }

    /// The fields of a hash; none where there is none.
    pub async fn hash(&self, name: &str) -> Result<HashMap<String, u64>, StoreError> {
        self.nodes.ask(name, cmd("HGETALL").arg(name)).await
    }

    /// Sends commands of use, many at a time. What could not be sent is lost: it is a count, not a decision.
    pub async fn count(&self, commands: &[Command]) -> Result<(), StoreError> {
        if self.nodes.is_cluster() {
            for command in commands {
                self.nodes.ask::<redis::Value>(command.name(), &written(command)).await?;
            }
            return Ok(());
        }
        let mut connection = self.nodes.first().await?;
        for some in commands.chunks(TOGETHER) {
            let mut pipeline = redis::pipe();
            for command in some {
                pipeline.add_command(written(command)).ignore();
            }
            let sent = timeout(COMMAND_TIMEOUT, pipeline.query_async::<()>(&mut connection)).await;
            sent.map_err(|_| StoreError::Deadline)?.map_err(|error| super::dial::pipeline_error(&error))?;
        }
        Ok(())
    }
}

fn written(command: &Command) -> Cmd {
    match command {
        Command::Add { name, field, amount } => cmd("HINCRBY").arg(name).arg(field).arg(amount).take(),
        Command::End { name, seconds } => cmd("EXPIRE").arg(name).arg(seconds).take(),
    }
}
