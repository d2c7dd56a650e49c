//! Where keys, businesses and counts live: Redis, shared by all sidecars, or one file beside a single process.
//!
//! `Store` is what a worker holds; `decide` answers a request's question, `lookup` finds the tenant of a key that the
//! worker has not seen. `layout` names things, `record` reads documents.

pub mod calls;
pub mod counts;
pub mod exhausted;
pub mod fallback;
pub mod file;
pub mod health;
pub mod layout;
pub mod record;
pub mod redis;
pub mod registry;
pub mod settings;

use std::sync::Arc;

use thiserror::Error;
use tokio::time::Instant;

use self::calls::Calls;
use self::exhausted::Exhausted;
use self::file::FileStore;
use self::health::StoreHealth;
use self::redis::RedisStore;
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
}

impl Shared {
    pub fn new() -> prometheus::Result<Self> {
        Ok(Self { health: Arc::default(), calls: Arc::new(Calls::new()?), exhausted: Arc::default() })
    }
}

impl Store {
    /// Answers one request's question by `deadline`.
    pub async fn decide(&self, question: &Question, deadline: Instant) -> Result<Answer, StoreError> {
        match self {
            Self::Redis(redis) => redis.decide(question, deadline).await,
            Self::File { file, calls } => {
                let started = Instant::now();
                let answers = Ok(file.decide(std::slice::from_ref(question), clock::now_ms()));
                calls.decided(&answers, 1, started.elapsed());
                let answer = answers.ok().and_then(|answers| answers.into_iter().next());
                answer.ok_or_else(|| StoreError::Broken("the answer is empty".to_owned()))
            }
        }
    }

    /// Whose a key is, if it is anybody's.
    pub async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Tenant>, StoreError> {
        match self {
            Self::Redis(redis) => redis.lookup(digest, deadline).await,
            Self::File { file, calls } => {
                let started = Instant::now();
                let found = Ok(file.lookup(digest));
                calls.looked_up(&found, started.elapsed());
                found
            }
        }
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

impl StoreError {
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
