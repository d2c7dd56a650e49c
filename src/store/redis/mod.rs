//! The shared store: one Redis that all sidecars decide in.
//!
//! `RedisStore` is a worker's: questions gather (`batch`), those who asked wait (`places`), and script calls go out (`line`, `call`,
//! `script`, `encoded`, `scripts/decide.lua`) on its own connection (`connect`, `pipe`), or slot by slot (`slots`) where there are
//! several nodes (`cluster`). What to do while Redis is away is left to `fallback` and the gate. `documents` and `keeper` are the ways in
//! for who keeps keys, `counting` is the way of counts of use.

mod answers;
mod batch;
mod call;
mod cluster;
mod connect;
pub mod counting;
mod dial;
mod distance;
pub mod documents;
mod encoded;
mod errors;
mod hash_slot;
pub mod keeper;
mod lateness;
mod line;
mod nodes;
mod pipe;
mod places;
mod rehearsal;
pub mod script;
mod sentinel;
mod served;
mod settings;
mod slot_map;
mod slots;
mod stray;
pub mod tls;

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

pub use documents::RedisDocuments;
pub use rehearsal::rehearse;
pub use settings::{Address, LoginFiles, Sentinels, Settings, Shape, Tls, UrlError};

use self::batch::Batches;
use self::line::Line;
use super::exhausted::Exhausted;
use super::fallback::Fallback;
use super::health::StoreHealth;
use super::{Shared, StoreError};
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Question};

/// One worker's way to the shared store.
#[derive(Debug, Clone)]
pub struct RedisStore {
    line: Line,
    batches: Arc<Batches>,
    exhausted: Arc<Exhausted>,
}

impl RedisStore {
    /// Starts to connect in the background. Must be called within the runtime that will use it.
    ///
    /// `fallback` counts where a slot of a cluster that holds limits alone is out of reach.
    pub fn start(settings: Settings, shared: Shared, fallback: Arc<Fallback>) -> Self {
        let exhausted = shared.exhausted.clone();
        let line = Line::start(settings, shared, fallback);
        let batches = Arc::new(Batches::new(line.clone(), exhausted.clone()));
        Self { line, batches, exhausted }
    }

    /// The denial of a moment ago that still holds for this question.
    pub fn recall(&self, question: &Question, now: Instant) -> Option<Answer> {
        self.exhausted.recall(question, now.into_std())
    }

    /// Answers one request's question by `deadline`, together with whatever else is asked meanwhile.
    ///
    /// Dropping this future gives the request's place up; once the call has left, what it spends stays spent.
    pub fn decide(&self, question: &Question, deadline: Instant) -> impl Future<Output = Result<Answer, StoreError>> {
        self.batches.ask(question, deadline)
    }

    /// Whose a key is: what stands at `P:at:<sha256 hex>`.
    pub async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Tenant>, StoreError> {
        let Some(found) = self.line.lookup(digest, deadline).await? else { return Ok(None) };
        let tenant = std::str::from_utf8(&found).ok().and_then(Tenant::parse);
        tenant.map(Some).ok_or_else(|| StoreError::Broken(format!("what stands at {digest:?} names no tenant")))
    }

    /// Runs the script without a question, as the breaker's probe.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        self.line.probe().await
    }

    /// Whether one node answers everything, so that its failures say all there is to say.
    pub(super) fn is_one_node(&self) -> bool {
        self.line.is_one_node()
    }

    pub(super) fn health(&self) -> &Arc<StoreHealth> {
        self.line.health()
    }
}
