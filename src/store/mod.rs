//! The store of keys, businesses and counts: Redis, shared by all sidecars, or one file beside a single process.
//!
//! `Store` is what a worker holds; `decide` answers a request's question, `lookup` finds the tenant of a key that the
//! worker has not seen. `layout` names keys, `record` parses documents, `error` says why there is no answer;
//! `outage` and `fallback` deal with outages.

pub mod audit;
pub mod breaker;
pub mod calls;
pub mod counts;
pub mod denial_cache;
pub mod error;
pub mod fallback;
pub mod file;
pub mod health;
pub mod keyring;
pub mod layout;
pub mod members;
mod missed;
pub mod outage;
pub mod probing;
pub mod record;
pub mod redis;
pub mod refusal;
pub mod registry;
pub mod settings;
pub mod shared;
pub mod store_clock;
pub mod usage;

use std::future::Future;
use std::sync::Arc;

use tokio::time::{Instant, timeout};

pub use self::error::StoreError;
pub use self::shared::Shared;

use self::calls::Calls;
use self::file::FileStore;
use self::health::StoreHealth;
use self::redis::RedisStore;
use crate::clock;
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Question};

/// A worker's store: its own Redis client, or the process's file.
#[derive(Debug, Clone)]
pub enum Store {
    Redis(RedisStore),
    File { file: Arc<FileStore>, calls: Arc<Calls> },
}

impl Store {
    /// Answers one request's question, asked `now`, by `deadline`.
    pub async fn decide(&self, question: &Question, now: Instant, deadline: Instant) -> Result<Answer, StoreError> {
        match self {
            Self::Redis(redis) => match redis.recall(question, now) {
                Some(denied) => Ok(denied),
                None => guarded(redis, now, || redis.decide(question, deadline)).await,
            },
            Self::File { file, calls } => {
                let answers = Ok(file.decide(std::slice::from_ref(question), clock::now_ms()));
                calls.decided(&answers, 1, now.elapsed());
                let answer = answers.ok().and_then(|answers| answers.into_iter().next());
                answer.ok_or_else(|| StoreError::Broken("the answer is empty".to_owned()))
            }
        }
    }

    /// The tenant of a key, if the store knows the key.
    pub async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Tenant>, StoreError> {
        match self {
            Self::Redis(redis) => guarded(redis, Instant::now(), || redis.lookup(digest, deadline)).await,
            Self::File { file, calls } => {
                let started = Instant::now();
                let found = Ok(file.lookup(digest));
                calls.looked_up(&found, started.elapsed());
                found
            }
        }
    }
}

/// Makes a call to Redis through the breaker: while it is open, the call fails at once. The call is a closure, since a future as
/// an argument would take memory twice in every request's future.
async fn guarded<T, F: Future<Output = Result<T, StoreError>>>(
    redis: &RedisStore,
    now: Instant,
    call: impl FnOnce() -> F,
) -> Result<T, StoreError> {
    // In a cluster one node's failure says nothing about the others; there each connection tracks its own.
    if !redis.is_one_node() {
        return count_missed(redis, call().await);
    }
    let breaker = redis.health().breaker();
    breaker.admit()?;
    let answer = count_missed(redis, call().await);
    if breaker.record(now.into_std(), answer.as_ref().err()) {
        tokio::spawn(probe(redis.clone()));
    }
    answer
}

fn count_missed<T>(redis: &RedisStore, answer: Result<T, StoreError>) -> Result<T, StoreError> {
    if let Err(StoreError::Deadline) = answer {
        redis.health().missed.count();
    }
    answer
}

/// Probes with the script until it succeeds, and closes the breaker. There is one prober: the call that opened the breaker
/// started it.
async fn probe(redis: RedisStore) {
    let prober = Prober(redis.health().clone());
    for pause in breaker::pauses() {
        // A restored connection is probed at once.
        let _ = timeout(pause, prober.0.reconnected()).await;
        match redis.probe().await {
            Err(error) if error.is_of_the_whole_store() => {}
            _ => return prober.0.breaker().close(),
        }
    }
}

/// Half-opens the breaker when it is dropped with its worker's runtime, since nobody else would close it.
struct Prober(Arc<StoreHealth>);

impl Drop for Prober {
    fn drop(&mut self) {
        self.0.breaker().abandon();
    }
}
