//! The shared store: one Redis that all sidecars decide in.
//!
//! `RedisStore` belongs to one worker. A request's question joins a batch (`batch`) and waits for its answer (`pending`); `client`
//! sends the batch as one script call (`script`, `call`, `scripts/decide.lua`) over the worker's pipelined connection (`connection`,
//! `dial`, `pipeline`, `resp`), which one supervisor keeps up. In a cluster (`cluster`, `slot_map`, `hash_slot`) each slot gets a
//! call of its own (`slots`). `probe` finds out when a store that refused serves again.
//!
//! Beside requests: `plain_client` with `documents` and `key_admin` for those who manage keys, `usage_writer` for counts of use,
//! `check` for `sidegate check`. What to do while Redis is away is left to `fallback` and the gate.

mod batch;
mod call;
mod check;
mod client;
mod cluster;
mod cluster_check;
mod connection;
mod dial;
pub mod documents;
mod errors;
mod hash_slot;
mod jitter;
pub mod key_admin;
mod pending;
mod pipeline;
mod plain_client;
mod probe;
mod resp;
mod round_trip;
pub mod script;
mod sentinel;
mod settings;
mod slot_map;
mod slots;
mod stall;
pub mod tls;
pub mod usage_writer;
mod worker_lag;

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

pub use check::check_connection;
pub use documents::RedisDocuments;
pub use settings::{Address, LoginFiles, Sentinels, Settings, Tls, Topology, UrlError};

use self::batch::Batcher;
use self::client::Client;
use super::denial_cache::DenialCache;
use super::fallback::Fallback;
use super::health::StoreHealth;
use super::{Shared, StoreError};
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Question};

/// One worker's access to the shared store.
#[derive(Debug, Clone)]
pub struct RedisStore {
    client: Client,
    batcher: Arc<Batcher>,
    denial_cache: Arc<DenialCache>,
}

impl RedisStore {
    /// Starts to connect in the background. Must be called within the runtime that will use it.
    ///
    /// `fallback` counts where a slot of a cluster that holds limits alone is out of reach.
    pub fn start(settings: Settings, shared: Shared, fallback: Arc<Fallback>) -> Self {
        let denial_cache = shared.denial_cache.clone();
        let client = Client::start(settings, shared, fallback);
        let batcher = Arc::new(Batcher::new(client.clone(), denial_cache.clone()));
        Self { client, batcher, denial_cache }
    }

    /// The denial of a moment ago that still holds for this question.
    pub fn recall(&self, question: &Question, now: Instant) -> Option<Answer> {
        self.denial_cache.recall(question, now.into_std())
    }

    /// Answers one request's question by `deadline`, in one call with whatever else is asked meanwhile.
    ///
    /// Dropping this future takes the request out of its batch; once the call is sent, what it spends stays spent.
    pub fn decide(&self, question: &Question, deadline: Instant) -> impl Future<Output = Result<Answer, StoreError>> {
        self.batcher.decide(question, deadline)
    }

    /// Whose a key is: what stands at `P:at:<sha256 hex>`.
    pub async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Tenant>, StoreError> {
        let Some(found) = self.client.lookup(digest, deadline).await? else { return Ok(None) };
        let tenant = std::str::from_utf8(&found).ok().and_then(Tenant::parse);
        tenant.map(Some).ok_or_else(|| StoreError::Broken(format!("what stands at {digest:?} names no tenant")))
    }

    /// Runs the script without a question, as the breaker's probe.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.client.probe().await
    }

    /// Whether one node answers everything, so that its failures say all there is to say.
    pub(super) fn is_one_node(&self) -> bool {
        self.client.is_one_node()
    }

    pub(super) fn health(&self) -> &Arc<StoreHealth> {
        self.client.health()
    }
}
