//! Documents, sets and names as the command line reads and writes them: to mint, to list, to revoke.
//!
//! Not on the way of a request; `client` finds who serves a key. What the documents mean is left to `store/registry.rs`.

use bytes::Bytes;
use redis::cmd;

use super::cluster_check;
use super::connection::master_only;
use super::plain_client::{PlainClient, query_in_time};
use super::settings::{Address, Settings};
use crate::store::StoreError;

/// How many elements a page of SCAN and SSCAN looks at, so that listing never holds up the requests of others.
const PAGE: usize = 500;

/// Sets a value only where it is still what the caller read. It vanishes by itself when it would have.
const COMPARE_AND_SET: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1";

/// Connections for a command that runs once.
#[derive(Debug)]
pub struct RedisDocuments {
    client: PlainClient,
}

impl RedisDocuments {
    /// Connects now, or says why not.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let client = PlainClient::find(settings).await?;
        let connection = client.first_master().await?;
        if settings.topology.is_standalone() {
            // It would follow a command from node to node, and list the keys of one alone.
            let connection = &connection;
            let query = |command| async move { query_in_time(connection, &command).await };
            cluster_check::refuse_cluster_member(&settings.prefix, query).await?;
        }
        // A key that is minted or revoked on a replica would be no change at all.
        match master_only(query_in_time(&connection, &cmd("ROLE")).await) {
            Err(error @ StoreError::Deadline) => Err(error),
            Err(StoreError::Refused(text)) if text.starts_with("READONLY") => Err(StoreError::Refused(text)),
            // Without a login the first command says it.
            _ => Ok(Self { client }),
        }
    }

    pub fn sends_to(&self, master: &Address) -> bool {
        self.client.sends_to(master)
    }

    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.client.query(key, cmd("GET").arg(key)).await
    }

    /// The values of all `keys`, in their order.
    pub async fn mget(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        if !self.client.is_cluster() {
            return self.client.query("", cmd("MGET").arg(keys)).await;
        }
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.get(key).await?);
        }
        Ok(values)
    }

    pub async fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.client.query(key, cmd("SET").arg(key).arg(value)).await
    }

    /// Sets `key` to `value` if it still holds `expected`; `false` if it holds something else or nothing.
    pub async fn compare_and_set(&self, key: &str, expected: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        self.client.query(key, cmd("EVAL").arg(COMPARE_AND_SET).arg(1).arg(key).arg(expected).arg(value)).await
    }

    /// Sets `key` where nothing stands yet; `false` if something does.
    pub async fn set_absent(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        let set: Option<String> = self.client.query(key, cmd("SET").arg(key).arg(value).arg("NX")).await?;
        Ok(set.is_some())
    }

    /// Removes `key`; `false` if nothing stood there.
    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.client.query(key, cmd("DEL").arg(key)).await
    }

    pub async fn sadd(&self, set: &str, member: &str) -> Result<(), StoreError> {
        self.client.query::<u64>(set, cmd("SADD").arg(set).arg(member)).await.map(drop)
    }

    pub async fn srem(&self, set: &str, member: &str) -> Result<(), StoreError> {
        self.client.query::<u64>(set, cmd("SREM").arg(set).arg(member)).await.map(drop)
    }

    /// All members of `set`, page by page, each once, sorted.
    pub async fn sscan(&self, set: &str) -> Result<Vec<String>, StoreError> {
        let page = |cursor| cmd("SSCAN").arg(set).arg(cursor).arg("COUNT").arg(PAGE).take();
        let mut all = Vec::new();
        let mut cursor = 0;
        loop {
            let (next, found): (u64, Vec<String>) = self.client.query(set, &page(cursor)).await?;
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
        for address in self.client.masters() {
            let connection = self.client.node(&address).await?;
            let mut cursor = 0;
            loop {
                let (next, found): (u64, Vec<String>) = query_in_time(&connection, &page(cursor)).await?;
                all.extend(found);
                if next == 0 {
                    break;
                }
                cursor = next;
            }
        }
        Ok(sorted(all))
    }
}

/// A scan may name an element twice; it is kept once.
fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort_unstable();
    all.dedup();
    all
}
