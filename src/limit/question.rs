//! The question that one request puts to a store, and the answer: confirm these documents, then spend from these buckets.
//!
//! Plain data: the gate writes questions, the stores answer them. A question is answered whole or not at all: when any
//! document is not what the asker believes, or any window has no room, nothing is counted.

use bytes::Bytes;
use smallvec::SmallVec;

use super::ask::BucketAsk;
use super::asks::Asks;

/// What one request asks, all or nothing. `n` identical requests may ask at once; they are granted in order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// One ask per slot. A single node answers them in one step; a cluster goes ask by ask.
    pub asks: Asks,
    /// What each of the `n` takes from every bucket. 0 takes nothing and is always granted: it reads.
    pub cost: u64,
    pub n: u32,
}

impl Question {
    /// The buckets of all asks, in the order asked.
    pub fn buckets(&self) -> impl Iterator<Item = &BucketAsk> {
        self.asks.iter().flat_map(|ask| &ask.buckets)
    }

    /// Of buckets that observe, that so many have passed.
    pub fn all_observed(&self, passed: u32) -> Vec<u32> {
        self.buckets().filter(|bucket| bucket.observes).map(|_| passed).collect()
    }

    /// Whether the two are answered alike: they differ in `n` at the most.
    pub fn is_alike(&self, other: &Self) -> bool {
        self.cost == other.cost && self.asks == other.asks
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The store's clock when it answered (milliseconds since the Unix epoch).
    pub now_ms: u64,
    pub outcome: Outcome,
}

/// The first of these that holds, in this order; only `Spent` with `granted > 0` and a cost has changed anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A value that the question needs has the wrong type or an unreadable shape; the text names it. It harms this question alone.
    Broken(String),
    /// Some document is not as believed. All documents as they are now, per ask, in the order asked.
    Stale(Vec<Vec<Option<Bytes>>>),
    /// `not_after_ms` has come.
    Expired,
    /// The membership does not hold.
    Refused,
    /// `granted` of the `n` passed; `windows` holds, for every bucket of every ask in the order asked, each of its windows
    /// after the spending. When `granted < n`, `wait_ms` says when the first that was not granted would pass. `observed`
    /// holds, for every bucket that observes in the order asked, how many of the `granted` it had room for: the first ones.
    Spent { granted: u32, windows: BucketsNow, observed: Vec<u32> },
}

/// Where the windows of each bucket stand; most questions have one.
pub type BucketsNow = SmallVec<[WindowsNow; 1]>;

/// Where the windows of one bucket stand; most have one.
pub type WindowsNow = SmallVec<[WindowNow; 1]>;

/// Where one window stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowNow {
    /// How many more requests of cost 1 would pass (rounded down).
    pub remaining: u64,
    /// When it is full again, or for a fixed window when it ends (milliseconds since the Unix epoch).
    pub reset_ms: u64,
    /// In how many milliseconds another request of this question's cost passes if nobody else spends: 0 now, `None` never
    /// (the cost is above the limit).
    pub wait_ms: Option<u64>,
    /// Of a token bucket the units that have not refilled yet, `duration_ms` to a token and `limit` to a millisecond:
    /// what `reset_ms` was rounded from. 0 for the others.
    pub owed: u64,
}
