//! What a question asks of one slot: confirm these documents, then spend from these buckets.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::text::Text;
use super::window::{Algorithm, Windows};

/// The part of a question that lives in one slot: everything named here stands under `P:{slot}:…`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ask {
    /// The hash tag without braces: `b:acme`, `u:u_42`, `ip:192.0.2.1`, `global`.
    pub slot: Text,
    pub documents: SmallVec<[Document; 2]>,
    /// Apart: hardly any ask has one, and there are many of them.
    pub member: Option<Box<Member>>,
    /// The question is answered `Expired` from this store time on (milliseconds since the Unix epoch).
    pub not_after_ms: Option<u64>,
    pub buckets: SmallVec<[BucketAsk; 1]>,
}

/// A document to confirm: the name below the slot (`business`, `key:<sha256 hex>`), and what the asker believes it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub name: Text,
    pub believed: Believed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Believed {
    /// Never seen: the answer is `Stale` and brings it.
    Unknown,
    /// Known not to exist (an empty document is not an absent one).
    Absent,
    /// These very bytes.
    Is(Bytes),
}

impl Believed {
    pub fn from_found(found: Option<Bytes>) -> Self {
        found.map_or(Self::Absent, Self::Is)
    }
}

/// A membership to confirm: `member` is in the set `P:{slot}:<set>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub set: Text,
    pub member: Text,
}

/// A bucket to spend from: its name below the slot (`count:<limit>:<subject>`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketAsk {
    pub name: Text,
    pub algorithm: Algorithm,
    pub windows: Arc<Windows>,
    /// It denies nobody: of what the others grant it counts what it has room for, as if it alone were beside them.
    pub observes: bool,
}
