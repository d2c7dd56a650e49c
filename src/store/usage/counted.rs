//! One worker's counts, as they are passed from its `tally` to the process's `ledger`.

use std::collections::HashMap;
use std::time::Duration;

use super::batch::Batch;
use super::subject::{Count, Subject};
use crate::keys::ByDigest;

/// How often a worker passes on its counts.
pub const EVERY: Duration = Duration::from_secs(1);

/// A worker's counts since it passed them on last.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub keys: ByDigest<Entry>,
    /// Only requests with unscoped keys: a business's other requests are added up from its keys.
    pub businesses: HashMap<String, Entry>,
    /// Counts of minutes that have ended.
    pub over: Batch,
    /// Counts that are lost because there were too many.
    pub lost: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Boxed, to keep entries small: each request updates one, and reads this once a minute.
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
