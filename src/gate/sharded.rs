//! A map behind several small locks: what the workers of a process share without waiting for one another.
//!
//! A lock is held for a look-up and never across an await; what is in a shard, and how it is bounded, is its owner's affair.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than there are workers, so that two of them rarely want the same one.
pub const SHARDS: usize = 16;

pub struct Sharded<S> {
    shards: [Mutex<S>; SHARDS],
    // Seeded by the process: no client can aim at one shard.
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
        // Below SHARDS, and so a valid index on every platform. Owners leave a shard whole at every step.
        self.shards[shard as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> fmt::Debug for Sharded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sharded(…)")
    }
}
