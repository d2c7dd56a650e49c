//! Where keys, businesses and counts live: Redis, shared by all sidecars, or one file beside a single process.
//!
//! `Store` is what a worker holds; `decide` answers a request's question, `lookup` finds the tenant of a key that the
//! worker has not seen. `layout` names things, `record` reads documents.

pub mod counts;
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

use self::file::FileStore;
use self::redis::RedisStore;
use crate::clock;
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Question};

/// What a worker asks: its own way to Redis, or the process's file.
#[derive(Debug, Clone)]
pub enum Store {
    Redis(RedisStore),
    File(Arc<FileStore>),
}

impl Store {
    /// Answers one request's question by `deadline`.
    pub async fn decide(&self, question: &Question, deadline: Instant) -> Result<Answer, StoreError> {
        let questions = std::slice::from_ref(question);
        let answers = match self {
            Self::Redis(redis) => redis.decide(questions, deadline).await?,
            Self::File(file) => file.decide(questions, clock::now_ms()),
        };
        answers.into_iter().next().ok_or_else(|| StoreError::Broken("the answer is empty".to_owned()))
    }

    /// Whose a key is, if it is anybody's.
    pub async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Tenant>, StoreError> {
        match self {
            Self::Redis(redis) => redis.lookup(digest, deadline).await,
            Self::File(file) => Ok(file.lookup(digest)),
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
