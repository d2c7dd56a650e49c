//! What one worker has counted, as it goes from the worker's `tally` to the process's `ledger`.

use std::collections::HashMap;
use std::time::Duration;

use super::batch::Batch;
use super::subject::{Count, Subject};
use crate::keys::ByDigest;

/// How often the process takes what a worker has counted.
pub const EVERY: Duration = Duration::from_secs(1);

/// What a worker has counted since it handed on last.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub keys: ByDigest<Entry>,
    /// Only those that a key bound to no business spoke for: the others are the sum of their keys.
    pub businesses: HashMap<String, Entry>,
    /// Of minutes that are over.
    pub over: Batch,
    /// Counts that found no room.
    pub lost: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Elsewhere: each request comes here, and looks at it once a minute.
    pub subject: Box<Subject>,
    pub last_ms: u64,
    pub count: Count,
}

impl Counted {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.businesses.is_empty() && self.over.is_empty() && self.lost == 0
    }

    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.keys.into_values().chain(self.businesses.into_values())
    }
}
