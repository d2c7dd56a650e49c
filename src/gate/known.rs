//! The keys that pass during an outage (`outage.keys: {known_for: 5m}`).
//!
//! Filled from what the store confirmed, and read only while it does not answer. It fails closed: whatever any worker saw
//! revoked, expired, deleted or unreadable is removed at once, and what two overlapping calls saw differently is removed as well.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::documents::{Documents, Known, KnownBusiness, KnownKey};
use super::sharded::{SHARDS, Sharded};
use super::standing::Standing;
use crate::keys::Digest;
use crate::limit::Outcome;
use crate::store::record::BusinessDocument;

/// Entries of one kind in the process; with their documents about 1 KiB each.
const MOST: usize = 32_768;

/// One per process, where `known_for` is configured.
#[derive(Debug)]
pub struct KnownKeys {
    known_for: Duration,
    keys: Confirmed<Digest, KnownKey>,
    businesses: Confirmed<String, Known<BusinessDocument>>,
    /// Pairs of a user and a business that the user owns.
    owners: Confirmed<(String, String), ()>,
}

/// When a call to the store was made, when it was answered, and the store's clock in between (milliseconds since the Unix epoch).
#[derive(Debug, Clone, Copy)]
pub struct CallTimes {
    pub asked: Instant,
    pub answered: Instant,
    pub store_ms: u64,
    /// This machine's uptime when it was made.
    pub uptime_ms: u64,
}

impl CallTimes {
    /// Its age at this uptime, which a wall clock that is set does not change, and which includes the time that the machine was
    /// suspended.
    fn age_ms(&self, uptime_ms: u64) -> u64 {
        uptime_ms.saturating_sub(self.uptime_ms)
    }

    fn is_fresh(&self, uptime_ms: u64, known_for: Duration) -> bool {
        Duration::from_millis(self.age_ms(uptime_ms)) <= known_for
    }
}

impl KnownKeys {
    pub fn new(known_for: Duration) -> Self {
        Self { known_for, keys: Confirmed::default(), businesses: Confirmed::default(), owners: Confirmed::default() }
    }

    pub fn known_for(&self) -> Duration {
        self.known_for
    }

    /// Takes in the store's answer to a question about these documents. Stale documents are brought here by the caller, once it
    /// has parsed the new ones.
    pub fn on_answer(
        &self,
        documents: &Documents<'_>,
        standing: Option<&Standing>,
        outcome: &Outcome,
        seen: CallTimes,
    ) {
        let owner = standing.and_then(Standing::owner);
        match outcome {
            // A denial may come from the denial cache, and then confirms nothing.
            Outcome::Spent { granted: 0, .. } => {}
            Outcome::Spent { .. } => {
                self.learn_key(documents.digest, documents.key, seen);
                if let Some(business) = documents.business {
                    self.learn_business(business, seen);
                }
                if let Some((user, business)) = owner {
                    self.learn_owner(user, business, seen);
                }
            }
            Outcome::Refused => {
                if let Some((user, business)) = owner {
                    self.forget_owner(user, business, seen.answered);
                }
            }
            Outcome::Expired => self.forget_key(documents.digest, seen.answered),
            Outcome::Broken(_) => {
                self.forget_key(documents.digest, seen.answered);
                if let Some(business) = documents.business {
                    self.forget_business(&business.id, seen.answered);
                }
            }
            Outcome::Stale(_) => {}
        }
    }

    /// Takes in a key's document as the store holds it.
    pub fn learn_key(&self, digest: &Digest, key: &KnownKey, seen: CallTimes) {
        match key.document.document() {
            Some(document) if !document.revoked => self.keys.learn(digest, key, seen, self.known_for),
            _ => self.keys.forget(digest, seen.answered),
        }
    }

    pub fn forget_key(&self, digest: &Digest, now: Instant) {
        self.keys.forget(digest, now);
    }

    /// Takes in a business's document, or that there is none.
    pub fn learn_business(&self, KnownBusiness { id, document, .. }: &KnownBusiness, seen: CallTimes) {
        match document {
            Known::Unseen => self.forget_business(id, seen.answered),
            Known::Absent | Known::Is { .. } => self.businesses.learn(&**id, document, seen, self.known_for),
        }
    }

    pub fn forget_business(&self, id: &str, now: Instant) {
        self.businesses.forget(id, now);
    }

    pub fn learn_owner(&self, user: &str, business: &str, seen: CallTimes) {
        self.owners.learn(&(user.to_owned(), business.to_owned()), &(), seen, self.known_for);
    }

    pub fn forget_owner(&self, user: &str, business: &str, now: Instant) {
        self.owners.forget(&(user.to_owned(), business.to_owned()), now);
    }

    /// The key as it was last confirmed, if that is recent enough, and the time by the store's clock, as it has gone on since.
    pub fn key(&self, digest: &Digest, uptime_ms: u64) -> Option<(KnownKey, u64)> {
        let (key, seen) = self.keys.recall(digest, uptime_ms, self.known_for)?;
        Some((key, seen.store_ms.saturating_add(seen.age_ms(uptime_ms))))
    }

    pub fn business(&self, id: &str, uptime_ms: u64) -> Option<Known<BusinessDocument>> {
        Some(self.businesses.recall(id, uptime_ms, self.known_for)?.0)
    }

    pub fn owns(&self, user: &str, business: &str, uptime_ms: u64) -> bool {
        self.owners.recall(&(user.to_owned(), business.to_owned()), uptime_ms, self.known_for).is_some()
    }
}

/// Values that the store confirmed, and when.
#[derive(Debug)]
struct Confirmed<K, V>(Sharded<Shard<K, V>>);

#[derive(Debug)]
struct Shard<K, V> {
    entries: HashMap<K, (V, CallTimes)>,
    /// When something was last removed. A call that was in flight then may have seen what is no longer true, so it adds no entry;
    /// the next confirmation does.
    removed: Option<Instant>,
}

impl<K, V> Default for Confirmed<K, V> {
    fn default() -> Self {
        Self(Sharded::default())
    }
}

impl<K, V> Default for Shard<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), removed: None }
    }
}

impl<K: Hash + Eq, V: PartialEq + Clone> Confirmed<K, V> {
    fn learn<Q>(&self, key: &Q, value: &V, seen: CallTimes, known_for: Duration)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut shard = self.0.of(key);
        let late = shard.removed.is_some_and(|removed| seen.asked <= removed);
        match shard.entries.get_mut(key) {
            Some((known, at)) if known == value => {
                if seen.asked > at.asked {
                    *at = seen;
                }
            }
            Some((known, at)) if seen.asked > at.answered => (*known, *at) = (value.clone(), seen),
            // The calls overlapped and saw different documents: which is the later one cannot be known.
            Some(_) => shard.remove(key, seen.answered),
            None if late => {}
            None => {
                shard.make_room(seen, known_for);
                shard.entries.insert(key.to_owned(), (value.clone(), seen));
            }
        }
    }

    fn forget<Q: Hash + Eq + ?Sized>(&self, key: &Q, now: Instant)
    where
        K: Borrow<Q>,
    {
        self.0.of(key).remove(key, now);
    }

    fn recall<Q: Hash + Eq + ?Sized>(&self, key: &Q, uptime_ms: u64, known_for: Duration) -> Option<(V, CallTimes)>
    where
        K: Borrow<Q>,
    {
        let shard = self.0.of(key);
        let (value, seen) = shard.entries.get(key)?;
        seen.is_fresh(uptime_ms, known_for).then(|| (value.clone(), *seen))
    }
}

impl<K: Hash + Eq, V> Shard<K, V> {
    fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, now: Instant)
    where
        K: Borrow<Q>,
    {
        self.entries.remove(key);
        self.removed = self.removed.max(Some(now));
    }

    /// Drops what is too old to be used, and where that is not enough the older half.
    fn make_room(&mut self, now: CallTimes, known_for: Duration) {
        const MOST_HERE: usize = MOST / SHARDS;
        if self.entries.len() < MOST_HERE {
            return;
        }
        self.entries.retain(|_, (_, seen)| seen.is_fresh(now.uptime_ms, known_for));
        if self.entries.len() >= MOST_HERE {
            let mut asked: Vec<Instant> = self.entries.values().map(|(_, seen)| seen.asked).collect();
            let middle = asked.len() / 2;
            let (_, &mut median, _) = asked.select_nth_unstable(middle);
            self.entries.retain(|_, (_, seen)| seen.asked > median);
        }
        self.removed = self.removed.max(Some(now.answered));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::keys::Tenant;
    use crate::store::record::KeyDocument;

    const STORE_MS: u64 = 1_774_276_200_000;
    const UPTIME_MS: u64 = 7_200_000;
    const FIVE_MINUTES: Duration = Duration::from_secs(300);

    struct Clock(Instant);

    impl Clock {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }

        fn seen(&self, asked: u64, answered: u64) -> CallTimes {
            let (store_ms, uptime_ms) = (STORE_MS + asked, UPTIME_MS + asked);
            CallTimes { asked: self.at(asked), answered: self.at(answered), store_ms, uptime_ms }
        }
    }

    fn uptime(ms: u64) -> u64 {
        UPTIME_MS + ms
    }

    fn key(json: &str) -> KnownKey {
        let raw = Bytes::copy_from_slice(json.as_bytes());
        let document = Arc::new(KeyDocument::parse(json.as_bytes()).expect("the test's documents are right"));
        KnownKey { tenant: Tenant::Business("acme".to_owned()), document: Known::Is { raw, document } }
    }

    fn live() -> KnownKey {
        key(r#"{"id":"k1","business":"acme","scopes":["read"]}"#)
    }

    fn knows(known: &KnownKeys, uptime_ms: u64) -> bool {
        known.key(&Digest::of("k"), uptime_ms).is_some()
    }

    #[test]
    fn a_key_is_known_for_so_long_after_it_was_last_confirmed() {
        let (known, clock) = (KnownKeys::new(FIVE_MINUTES), Clock(Instant::now()));
        known.learn_key(&Digest::of("k"), &live(), clock.seen(0, 1));
        assert!(knows(&known, uptime(300_000)));
        assert!(!knows(&known, uptime(300_001)));
        known.learn_key(&Digest::of("k"), &live(), clock.seen(200_000, 200_001));
        assert!(knows(&known, uptime(500_000)));
        assert!(known.key(&Digest::of("other"), uptime(0)).is_none());
    }

    #[test]
    fn a_revoked_or_deleted_key_is_gone_and_late_answers_do_not_bring_it_back() {
        let revoked = key(r#"{"id":"k1","business":"acme","scopes":["read"],"revoked_at":null}"#);
        let deleted = KnownKey { document: Known::Absent, ..live() };
        for gone in [revoked, deleted] {
            let (known, clock) = (KnownKeys::new(FIVE_MINUTES), Clock(Instant::now()));
            known.learn_key(&Digest::of("k"), &live(), clock.seen(0, 1));
            known.learn_key(&Digest::of("k"), &gone, clock.seen(10, 20));
            assert!(!knows(&known, uptime(20)));
            known.learn_key(&Digest::of("k"), &live(), clock.seen(15, 30));
            assert!(!knows(&known, uptime(30)), "that call was under way when the key was seen revoked");
            known.learn_key(&Digest::of("k"), &live(), clock.seen(21, 31));
            assert!(knows(&known, uptime(31)), "this one began later: the revocation was taken back");
        }
    }

    #[test]
    fn of_two_versions_the_later_holds_and_in_doubt_neither() {
        let narrower = key(r#"{"id":"k1","business":"acme","scopes":[]}"#);
        let (known, clock) = (KnownKeys::new(FIVE_MINUTES), Clock(Instant::now()));
        known.learn_key(&Digest::of("k"), &live(), clock.seen(0, 10));
        known.learn_key(&Digest::of("k"), &narrower, clock.seen(11, 12));
        let (found, _) = known.key(&Digest::of("k"), uptime(13)).expect("it is known");
        assert_eq!(found.document, narrower.document);
        known.learn_key(&Digest::of("k"), &live(), clock.seen(5, 14));
        assert!(!knows(&known, uptime(15)), "the calls overlapped");
    }

    #[test]
    fn it_is_what_the_stores_clock_said_and_what_has_passed_since() {
        let (known, clock) = (KnownKeys::new(FIVE_MINUTES), Clock(Instant::now()));
        known.learn_key(&Digest::of("k"), &live(), clock.seen(0, 1));
        let time = |uptime_ms| known.key(&Digest::of("k"), uptime_ms).map(|(_, ms)| ms);
        assert_eq!(time(uptime(2000)), Some(STORE_MS + 2000));
        assert_eq!(time(uptime(300_000)), Some(STORE_MS + 300_000));
        assert_eq!(time(uptime(300_001)), None, "too long ago");
        assert_eq!(time(0), Some(STORE_MS), "a clock that goes back makes nothing older");
    }

    #[test]
    fn an_answer_that_granted_nothing_confirms_nothing() {
        let (known, clock) = (KnownKeys::new(FIVE_MINUTES), Clock(Instant::now()));
        let (digest, key) = (Digest::of("k"), live());
        let business = KnownBusiness::new("acme", Known::Absent);
        let documents = Documents { digest: &digest, key: &key, business: Some(&business) };
        let spent = |granted| Outcome::Spent { granted, windows: Default::default(), observed: Vec::new() };
        known.on_answer(&documents, None, &spent(0), clock.seen(0, 1));
        assert!(!knows(&known, uptime(1)));
        known.on_answer(&documents, None, &spent(1), clock.seen(2, 3));
        assert!(knows(&known, uptime(3)) && known.business("acme", uptime(3)).is_some());
        for outcome in [Outcome::Expired, Outcome::Broken("a count".to_owned())] {
            known.on_answer(&documents, None, &spent(1), clock.seen(10, 11));
            known.on_answer(&documents, None, &outcome, clock.seen(12, 13));
            assert!(!knows(&known, uptime(13)));
        }
    }

    #[test]
    fn businesses_and_owners_are_known_as_keys_are() {
        let (known, clock) = (KnownKeys::new(FIVE_MINUTES), Clock(Instant::now()));
        assert!(known.business("acme", uptime(0)).is_none() && !known.owns("u", "acme", uptime(0)));
        known.learn_business(&KnownBusiness::new("acme", Known::Absent), clock.seen(0, 1));
        known.learn_owner("u", "acme", clock.seen(0, 1));
        assert!(matches!(known.business("acme", uptime(2)), Some(Known::Absent)));
        assert!(known.owns("u", "acme", uptime(2)) && !known.owns("u", "other", uptime(2)));
        known.forget_owner("u", "acme", clock.at(3));
        assert!(!known.owns("u", "acme", uptime(4)));
        assert!(known.business("acme", uptime(300_001)).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let (confirmed, clock) = (Confirmed::<u64, ()>::default(), Clock(Instant::now()));
        let held = |n: u64| confirmed.recall(&n, uptime(n), FIVE_MINUTES).is_some();
        let all = 3 * MOST as u64;
        for n in 0..all {
            confirmed.learn(&n, &(), clock.seen(n, n), FIVE_MINUTES);
        }
        let remembered = (0..all).filter(|n| held(*n)).count();
        assert!((MOST / 4..=MOST).contains(&remembered), "{remembered}");
    }
}
