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
pub mod settings;

use thiserror::Error;

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
