//! State behind several small locks, which the workers of a process share without contention.
//!
//! A lock is held for one operation and never across an await; what is in a shard, and how it is bounded, is left to its owner.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than there are workers, so that two rarely lock the same one.
pub const SHARDS: usize = 16;

pub struct Sharded<S> {
    shards: [Mutex<S>; SHARDS],
    // Seeded at random, so that no client can choose a shard.
    hasher: RandomState,
}

impl<S: Default> Default for Sharded<S> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl<S> Sharded<S> {
    /// The shard that a key belongs to.
    pub fn of(&self, key: &(impl Hash + ?Sized)) -> MutexGuard<'_, S> {
        let shard = self.hasher.hash_one(key) % SHARDS as u64;
        // Below SHARDS, and so a valid index. A poisoned shard is consistent: owners never leave one half changed.
        self.shards[shard as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> fmt::Debug for Sharded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sharded(…)")
    }
}
