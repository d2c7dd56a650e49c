//! Where keys, businesses and counts live: Redis, shared by all sidecars, or one file beside a single process.
//!
//! `Store` is what a worker holds; `decide` answers a request's question, `lookup` finds the tenant of a key that the
//! worker has not seen. `layout` names things, `record` reads documents; `outage` and `fallback` are for when it is away.

pub mod audit;
pub mod breaker;
pub mod calls;
pub mod counts;
pub mod exhausted;
pub mod fallback;
pub mod file;
pub mod health;
pub mod keyring;
pub mod layout;
pub mod members;
mod missed;
pub mod outage;
pub mod record;
pub mod redis;
pub mod refusal;
pub mod registry;
pub mod settings;
pub mod usage;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, timeout};

use self::calls::Calls;
use self::exhausted::Exhausted;
use self::file::FileStore;
use self::health::StoreHealth;
use self::redis::RedisStore;
use self::usage::ledger::Ledger;
use crate::clock;
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Question};

/// What a worker asks: its own way to Redis, or the process's file.
#[derive(Debug, Clone)]
pub enum Store {
    Redis(RedisStore),
    File { file: Arc<FileStore>, calls: Arc<Calls> },
}

/// What all workers of a process share of the store.
#[derive(Debug, Clone)]
pub struct Shared {
    pub health: Arc<StoreHealth>,
    pub calls: Arc<Calls>,
    pub exhausted: Arc<Exhausted>,
    pub ledger: Arc<Ledger>,
}

impl Shared {
    /// A store that answers within `deadline` is well.
    pub fn new(deadline: Duration) -> prometheus::Result<Self> {
        let health = Arc::new(StoreHealth::new().probed_within(deadline));
        let calls = Arc::new(Calls::new()?);
        let ledger = Arc::new(Ledger::new(calls.clone()));
        Ok(Self { health, calls, exhausted: Arc::default(), ledger })
    }
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

    /// Whose a key is, if it is anybody's.
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

/// Every call to Redis passes the breaker: while it is open, the call fails before anything is awaited. A call is begun here,
/// since one that is handed over would take its room twice in every request.
async fn guarded<T, F: Future<Output = Result<T, StoreError>>>(
    redis: &RedisStore,
    now: Instant,
    call: impl FnOnce() -> F,
) -> Result<T, StoreError> {
    // One node of a cluster that is gone says nothing about the others; there each connection knows for itself.
    if !redis.is_one_node() {
        return seen(redis, call().await);
    }
    let breaker = redis.health().breaker();
    breaker.admit()?;
    let answer = seen(redis, call().await);
    if breaker.record(now.into_std(), answer.as_ref().err()) {
        tokio::spawn(probe(redis.clone()));
    }
    answer
}

fn seen<T>(redis: &RedisStore, answer: Result<T, StoreError>) -> Result<T, StoreError> {
    if let Err(StoreError::Deadline) = answer {
        redis.health().missed.count();
    }
    answer
}

/// Runs the script without a question until that works. One probe at a time: who opened the breaker has started the only one.
async fn probe(redis: RedisStore) {
    let prober = Prober(redis.health().clone());
    for pause in breaker::pauses() {
        // A connection that is there again is worth a probe at once.
        let _ = timeout(pause, prober.0.revived()).await;
        match redis.probe().await {
            Err(error) if error.is_of_the_whole_store() => {}
            _ => return prober.0.breaker().close(),
        }
    }
}

/// A prober that ends with its worker's runtime leaves a breaker behind that nobody would close.
struct Prober(Arc<StoreHealth>);

impl Drop for Prober {
    fn drop(&mut self) {
        self.0.breaker().abandon();
    }
}

/// Why a store gave no answer. None of these carries a key or a password.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum StoreError {
    /// No connection, or it broke.
    #[error("the store is out of reach: {0}")]
    Unreachable(String),
    /// The deadline of the request's store work has passed.
    #[error("the store did not answer within the deadline")]
    Deadline,
    /// The store answered with an error (NOAUTH, LOADING, READONLY, OOM …).
    #[error("the store refused: {0}")]
    Refused(String),
    /// A value has a type or shape that the contract does not know; the text names the value.
    #[error("the store holds something unreadable: {0}")]
    Broken(String),
}

/// What a server says that cannot serve anybody for now: it loads, is a replica, knows no login, has lost its cluster, or is
/// stuck in a script. OOM, MISCONF, NOREPLICAS and NOPERM are not among them: they come at once, and to some calls only, while keys are
/// still judged and routes without limits pass. They are told (`refusal`) and harm the requests that they meet. Nor is ERR, which
/// may be about one document.
const UNWELL: [&str; 7] = ["LOADING", "READONLY", "MASTERDOWN", "NOAUTH", "WRONGPASS", "CLUSTERDOWN", "BUSY"];

impl StoreError {
    /// Whether the store is away, as opposed to holding something unreadable: then `outage` in the configuration decides.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Deadline | Self::Refused(_) => true,
            Self::Broken(_) => false,
        }
    }

    /// Whether it says that the next call would fail as well, whatever it asks.
    pub fn is_of_the_whole_store(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Deadline => true,
            Self::Refused(text) => UNWELL.iter().any(|code| text.starts_with(code)),
            Self::Broken(_) => false,
        }
    }

    /// Whether the login lacks the right to do this.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused(text) if text.starts_with("NOPERM"))
    }

    /// For the metric of store calls: a word that no client can influence.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Deadline => "deadline",
            Self::Refused(_) => "refused",
            Self::Broken(_) => "broken",
        }
    }
}
