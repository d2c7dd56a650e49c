//! Documents, sets and names as the command line reads and writes them: to mint, to list, to revoke.
//!
//! Not on the way of a request. Its own plain connection without a supervisor: a command that fails says so and ends. What
//! the documents mean is left to `store/registry.rs`.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, cmd};
use tokio::time::timeout;

use super::Settings;
use super::connect::{locate, master_only};
use super::dial::{Driver, dial, store_error};
use super::sentinel::Watchers;
use crate::store::StoreError;

/// How long one command may take. Nobody's request waits for it, so it is a person's patience.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// How many elements a page of SCAN and SSCAN looks at, so that listing never holds up the requests of others.
const PAGE: usize = 500;

/// Sets a value only where it is still what the caller read.
const COMPARE_AND_SET: &str = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1";

/// A connection for a command that runs once.
#[derive(Debug)]
pub struct RedisDocuments {
    connection: MultiplexedConnection,
    /// Held so that the connection lives as long as this.
    _driver: Driver,
}

impl RedisDocuments {
    /// Connects now, or says why not.
    pub async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let address = locate(&settings.shape, Watchers::of(settings).as_mut()).await?;
        let (connection, driver) = dial(settings, &address).await?;
        // A key that is minted or revoked on a replica would be no change at all.
        match timeout(COMMAND_TIMEOUT, master_only(&connection)).await {
            Ok(Err(StoreError::Refused(text))) if text.starts_with("READONLY") => {
                return Err(StoreError::Refused(text));
            }
            // Without a login the first command says it.
            Ok(_) => {}
            Err(_) => return Err(StoreError::Deadline),
        }
        Ok(Self { connection, _driver: driver })
    }

    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        self.ask(cmd("GET").arg(key)).await
    }

    /// The values of all `keys`, in their order.
    pub async fn mget(&self, keys: &[String]) -> Result<Vec<Option<Bytes>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(cmd("MGET").arg(keys)).await
    }

    pub async fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.ask(cmd("SET").arg(key).arg(value)).await
    }

    /// Sets `key` to `value` if it still holds `expected`; `false` if it holds something else or nothing.
    pub async fn compare_and_set(&self, key: &str, expected: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        self.ask(cmd("EVAL").arg(COMPARE_AND_SET).arg(1).arg(key).arg(expected).arg(value)).await
    }

    /// Sets `key` where nothing stands yet; `false` if something does.
    pub async fn set_absent(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        let set: Option<String> = self.ask(cmd("SET").arg(key).arg(value).arg("NX")).await?;
        Ok(set.is_some())
    }

    /// Removes `key`; `false` if nothing stood there.
    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.ask(cmd("DEL").arg(key)).await
    }

    pub async fn sadd(&self, set: &str, member: &str) -> Result<(), StoreError> {
        self.ask::<u64>(cmd("SADD").arg(set).arg(member)).await.map(drop)
    }

    pub async fn srem(&self, set: &str, member: &str) -> Result<(), StoreError> {
        self.ask::<u64>(cmd("SREM").arg(set).arg(member)).await.map(drop)
    }

    /// All members of `set`, page by page, each once, sorted.
    pub async fn sscan(&self, set: &str) -> Result<Vec<String>, StoreError> {
        self.pages(|cursor| cmd("SSCAN").arg(set).arg(cursor).arg("COUNT").arg(PAGE).take()).await
    }

    /// All keys that match `pattern`, page by page, each once, sorted.
    pub async fn scan(&self, pattern: &str) -> Result<Vec<String>, StoreError> {
        self.pages(|cursor| cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(PAGE).take()).await
    }

    /// Follows the cursor until it is 0 again. A scan may name an element twice; it is kept once.
    async fn pages(&self, page: impl Fn(u64) -> Cmd) -> Result<Vec<String>, StoreError> {
        let mut all = Vec::new();
        let mut cursor = 0;
        loop {
            let (next, found): (u64, Vec<String>) = self.ask(&page(cursor)).await?;
            all.extend(found);
            if next == 0 {
                break;
            }
            cursor = next;
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn ask<T: FromRedisValue>(&self, command: &Cmd) -> impl Future<Output = Result<T, StoreError>> {
        let mut connection = self.connection.clone();
        async move {
            match timeout(COMMAND_TIMEOUT, command.query_async(&mut connection)).await {
                Ok(answer) => answer.map_err(|error| store_error(&error)),
                Err(_) => Err(StoreError::Deadline),
            }
        }
    }
}
