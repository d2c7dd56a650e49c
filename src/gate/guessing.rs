//! `keys.guessing`: an address that keeps sending unknown keys gets 429 without a lookup, so that guessing puts a bounded load on
//! the store and does not affect other clients.
//!
//! Counted in this process alone, and only keys that the store did not know. Unknown keys are not cached: a key works as soon as
//! it is created. Keys that this process has seen to exist are never slowed, so that a guesser behind the same address does not
//! affect their holders; a key that is new to this process waits until the address is below its limit again.
//!
//! Windows go by the machine's uptime: no other process has to agree on them, and a wall clock that is set back would leave an
//! address waiting for hours.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::asks::counted_address;
use super::sharded::{SHARDS, Sharded};
use crate::keys::Digest;
use crate::limit::{Algorithm, Bucket, BucketAsk, Outcome, Text, Windows, spend};

/// Addresses that are counted at once. With more of them in use a shard is cleared, and its counts start over.
const MOST_ADDRESSES: usize = 65_536;
/// Keys that are remembered to exist.
const MOST_KEYS: usize = 65_536;

/// One per process, where `keys.guessing` is configured.
#[derive(Debug)]
pub struct Guessing {
    ask: BucketAsk,
    guesses: Sharded<HashMap<IpAddr, Bucket>>,
    existing: Sharded<HashSet<Digest>>,
}

impl Guessing {
    pub fn new(windows: Arc<Windows>) -> Self {
        // The bucket is in no store, so its name is not used.
        let ask = BucketAsk { name: Text::default(), algorithm: Algorithm::Fixed, windows, observes: false };
        Self { ask, guesses: Sharded::default(), existing: Sharded::default() }
    }

    /// Whether it was made with these windows.
    pub fn counts(&self, windows: &Windows) -> bool {
        *self.ask.windows == *windows
    }

    /// In how many milliseconds a key that this worker has not seen may be looked up for this client; `None`: now.
    ///
    /// Lookups in flight are not counted yet: concurrent ones may exceed the windows.
    pub fn wait_ms(&self, client: IpAddr, digest: &Digest, uptime_ms: u64) -> Option<u64> {
        let address = counted_address(client);
        let wait_ms = {
            let mut shard = self.guesses.of(&address);
            let bucket = shard.get_mut(&address)?;
            self.spend(bucket, uptime_ms, 0).1
        };
        wait_ms.filter(|ms| *ms > 0 && !self.existing.of(digest).contains(digest))
    }

    /// Counts a key that the store did not know.
    pub fn unknown(&self, client: IpAddr, uptime_ms: u64) {
        let address = counted_address(client);
        let mut shard = self.guesses.of(&address);
        if shard.len() >= MOST_ADDRESSES / SHARDS && !shard.contains_key(&address) {
            shard.retain(|_, bucket| bucket.ends_ms() > uptime_ms);
            if shard.len() >= MOST_ADDRESSES / SHARDS {
                shard.clear();
            }
        }
        let bucket = shard.entry(address).or_default();
        // A lookup that was in flight when the limit was reached is not counted; the address is slowed already.
        self.spend(bucket, uptime_ms, 1);
    }

    /// Remembers a key that the store knew.
    pub fn exists(&self, digest: &Digest) {
        let mut shard = self.existing.of(digest);
        if shard.len() >= MOST_KEYS / SHARDS {
            shard.clear();
        }
        shard.insert(*digest);
    }

    /// Spends `n`, or reads with 0; how many were granted, and the longest wait.
    fn spend(&self, bucket: &mut Bucket, uptime_ms: u64, n: u32) -> (u32, Option<u64>) {
        let mut buckets = [(std::mem::take(bucket), &self.ask)];
        let spent = spend(&mut buckets, uptime_ms, 1, n);
        let [(spent_from, _)] = buckets;
        *bucket = spent_from;
        let Outcome::Spent { granted, windows, .. } = spent else { return (0, None) };
        (granted, windows.iter().flatten().filter_map(|window| window.wait_ms).max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full minute, in which windows begin.
    const START: u64 = 7_200_000;

    fn guessing() -> Guessing {
        Guessing::new(Arc::new(Windows::parse(["3/1m"]).expect("the test's window is valid")))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("the test's addresses are right")
    }

    #[test]
    fn beyond_the_window_an_address_waits_for_its_end() {
        let (guessing, key) = (guessing(), Digest::of("k"));
        for _ in 0..3 {
            assert_eq!(guessing.wait_ms(ip("192.0.2.1"), &key, START + 1000), None);
            guessing.unknown(ip("192.0.2.1"), START + 1000);
        }
        assert_eq!(guessing.wait_ms(ip("192.0.2.1"), &key, START + 1000), Some(59_000));
        guessing.unknown(ip("192.0.2.1"), START + 2000);
        assert_eq!(guessing.wait_ms(ip("192.0.2.1"), &key, START + 60_000), None);
        assert_eq!(guessing.wait_ms(ip("192.0.2.2"), &key, START + 1000), None, "another address is not meant");
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let guessing = guessing();
        for last in 1..=3 {
            guessing.unknown(ip(&format!("2001:db8::{last}")), START);
        }
        assert!(guessing.wait_ms(ip("2001:db8::9"), &Digest::of("k"), START).is_some());
        assert!(guessing.wait_ms(ip("2001:db8:0:1::9"), &Digest::of("k"), START).is_none());
    }

    #[test]
    fn a_key_that_was_seen_to_exist_is_not_slowed() {
        let guessing = guessing();
        guessing.exists(&Digest::of("good"));
        (0..9).for_each(|_| guessing.unknown(ip("192.0.2.1"), START));
        assert_eq!(guessing.wait_ms(ip("192.0.2.1"), &Digest::of("good"), START), None);
        assert!(guessing.wait_ms(ip("192.0.2.1"), &Digest::of("new"), START).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let guessing = guessing();
        for n in 0..2 * u32::try_from(MOST_ADDRESSES).expect("it is a small number") {
            let address = IpAddr::from(n.to_be_bytes());
            guessing.unknown(address, START);
            assert!(guessing.guesses.of(&address).len() <= MOST_ADDRESSES / SHARDS);
        }
        for n in 0..2 * MOST_KEYS {
            let digest = Digest::of(&n.to_string());
            guessing.exists(&digest);
            assert!(guessing.existing.of(&digest).len() <= MOST_KEYS / SHARDS);
        }
    }
}
