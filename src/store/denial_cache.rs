//! A short-lived cache of denials by a limit: until there can be room again the store is asked about each denied question ten
//! times a second at most, and other requests get the cached denial, so that an abuser costs the store next to nothing.
//!
//! The key is the whole question: buckets, windows, cost, and the documents that the store confirmed. So a request that was
//! evaluated with a raised limit is another question and is not denied here, and the worst case is a 429 for a moment where 401
//! or the upstream's answer was due.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limit::{Algorithm, Answer, BucketsNow, Outcome, Question, WindowsNow};

/// How often the store is asked about one question.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// The first denials of a question do not delay the next ask: a person who has just raised a limit sees it act on the next
/// request, and only repeated requests are paced.
const AT_ONCE: u32 = 2;

/// The age at which an entry is not used any more, so that it ends even if the request that was to ask again never did (its
/// client disconnected, the store is silent).
const OLDEST: Duration = Duration::from_millis(200);

const SHARDS: usize = 16;

/// Entries in a shard, about a kilobyte each. If it is full of entries younger than `OLDEST`, other questions are not cached.
const MOST_IN_SHARD: usize = 256;

/// One per process, shared by all workers.
#[derive(Debug)]
pub struct DenialCache {
    /// A lock is held to look up or to change one entry, never across an await.
    shards: [Mutex<HashMap<u64, Denied>>; SHARDS],
    hasher: RandomState,
    started: Instant,
    /// When the last entry ends (milliseconds since `started`): saves the lookup while no request is over a limit.
    useful_until_ms: AtomicU64,
}

#[derive(Debug)]
struct Denied {
    question: Question,
    answer: Answer,
    /// When the store was asked, and when it answered: its clock showed `answer.now_ms` in between.
    asked: Instant,
    answered: Instant,
    /// When the next ask would be due if all had been evenly spaced (a GCRA's theoretical arrival time).
    paced: Instant,
}

impl Default for DenialCache {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            started: Instant::now(),
            useful_until_ms: AtomicU64::new(0),
        }
    }
}

impl DenialCache {
    /// The denial that still holds for this question; `None` when the store is to be asked.
    pub fn recall(&self, question: &Question, now: Instant) -> Option<Answer> {
        if question.cost == 0 || self.is_idle(now) {
            return None;
        }
        let fingerprint = self.fingerprint(question);
        let mut shard = self.shard(fingerprint);
        let denied = shard.get_mut(&fingerprint).filter(|denied| denied.question.is_alike(question))?;
        if now >= denied.ends() {
            return None;
        }
        if now + AT_ONCE * ASK_EVERY >= denied.paced {
            denied.paced = denied.paced.max(now) + ASK_EVERY;
            return None;
        }
        Some(denied.answer_at(now))
    }

    /// Records the store's answer to `question`, which was sent at `asked` and arrived at `answered`.
    pub fn record(&self, question: &Question, answer: &Answer, asked: Instant, answered: Instant) {
        match &answer.outcome {
            Outcome::Spent { granted, .. } if question.cost > 0 && *granted < question.n => {
                self.remember(question, answer, asked, answered);
            }
            _ => self.forget(question, answered),
        }
    }

    /// Removes a question's entry.
    pub fn forget(&self, question: &Question, now: Instant) {
        if question.cost == 0 || self.is_idle(now) {
            return;
        }
        let fingerprint = self.fingerprint(question);
        let mut shard = self.shard(fingerprint);
        if shard.get(&fingerprint).is_some_and(|denied| denied.question.is_alike(question)) {
            shard.remove(&fingerprint);
        }
    }

    fn remember(&self, question: &Question, answer: &Answer, asked: Instant, answered: Instant) {
        let Outcome::Spent { windows, .. } = &answer.outcome else { return };
        // Of the requests that were folded into the question at least the last was granted nothing.
        let outcome = Outcome::Spent { granted: 0, windows: windows.clone(), observed: question.all_observed(0) };
        let answer = Answer { now_ms: answer.now_ms, outcome };
        let fingerprint = self.fingerprint(question);
        let mut shard = self.shard(fingerprint);
        let paced = asked + ASK_EVERY;
        match shard.get_mut(&fingerprint) {
            Some(cached) if cached.question.is_alike(question) => {
                // Another worker's answer may be the later one.
                if cached.asked <= asked {
                    (cached.answer, cached.asked, cached.answered) = (answer, asked, answered);
                }
            }
            cached => {
                if cached.is_none() && shard.len() >= MOST_IN_SHARD {
                    shard.retain(|_, denied| denied.asked + OLDEST > answered);
                    if shard.len() >= MOST_IN_SHARD {
                        return;
                    }
                }
                let question = Question { n: 1, ..question.clone() };
                shard.insert(fingerprint, Denied { question, answer, asked, answered, paced });
            }
        }
        drop(shard);
        self.useful_until_ms.fetch_max(self.since_start_ms(asked + OLDEST) + 1, Ordering::Relaxed);
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.since_start_ms(now) >= self.useful_until_ms.load(Ordering::Relaxed)
    }

    fn since_start_ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    fn fingerprint(&self, question: &Question) -> u64 {
        self.hasher.hash_one((question.asks.fingerprint(), question.cost))
    }

    fn shard(&self, fingerprint: u64) -> MutexGuard<'_, HashMap<u64, Denied>> {
        // A poisoned lock still guards consistent entries.
        let shard = &self.shards[(fingerprint % SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Denied {
    /// When the entry ends. Counted from when the store was asked, less the part of a millisecond that its clock truncates, so
    /// that it is never later than when there is room again.
    fn ends(&self) -> Instant {
        // Observed limits deny nothing.
        let enforced = self.question.buckets().zip(self.windows()).filter(|(bucket, _)| !bucket.observes);
        let waits = enforced.flat_map(|(_, windows)| windows).map(|window| window.wait_ms);
        let longest = waits.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b)));
        match longest {
            Some(Some(ms)) => self.asked + Duration::from_millis(ms.saturating_sub(1)).min(OLDEST),
            // Some window never has room.
            Some(None) => self.asked + OLDEST,
            None => self.asked,
        }
    }

    fn windows(&self) -> &[WindowsNow] {
        match &self.answer.outcome {
            Outcome::Spent { windows, .. } => windows,
            _ => &[],
        }
    }

    /// The answer as the store would give it now, if nobody else spends. Counted from when it answered, so that a wait is never
    /// too short.
    fn answer_at(&self, now: Instant) -> Answer {
        let passed = now.saturating_duration_since(self.answered).as_millis();
        let passed_ms = u64::try_from(passed).unwrap_or(u64::MAX);
        let now_ms = self.answer.now_ms.saturating_add(passed_ms);
        let mut windows: BucketsNow = self.windows().iter().cloned().collect();
        for (bucket, standing) in self.question.buckets().zip(&mut windows) {
            for (window, now) in bucket.windows.as_slice().iter().zip(standing) {
                now.wait_ms = now.wait_ms.map(|wait| wait.saturating_sub(passed_ms));
                if bucket.algorithm == Algorithm::Fixed && now.reset_ms <= now_ms {
                    // This window has ended, while another one denies.
                    now.remaining = window.limit;
                    now.reset_ms += window.duration_ms;
                }
            }
        }
        let observed = self.question.all_observed(0);
        Answer { now_ms, outcome: Outcome::Spent { granted: 0, windows, observed } }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::limit::{Ask, Believed, BucketAsk, Document, WindowNow, Windows};

    const NOW_MS: u64 = 1_774_276_200_000;

    fn question(slot: &str, windows: &[&str], document: &'static [u8]) -> Question {
        let windows = Windows::parse(windows.iter().copied()).expect("the test's windows are valid");
        let bucket = BucketAsk {
            name: "count:l:x".into(),
            algorithm: Algorithm::Fixed,
            windows: Arc::new(windows),
            observes: false,
        };
        let document = Document { name: "business".into(), believed: Believed::Is(Bytes::from_static(document)) };
        let ask =
            Ask { slot: slot.into(), documents: vec![document].into(), buckets: [bucket].into(), ..Ask::default() };
        Question { asks: [ask].into(), cost: 1, n: 1 }
    }

    fn acme() -> Question {
        question("b:acme", &["5/1m"], b"{}")
    }

    /// `granted`, and of each window what remains, when it ends and how long to wait (milliseconds from `NOW_MS`).
    fn spent(granted: u32, windows: &[(u64, u64, Option<u64>)]) -> Answer {
        let window =
            |&(remaining, reset, wait_ms): &_| WindowNow { remaining, reset_ms: NOW_MS + reset, wait_ms, owed: 0 };
        Answer {
            now_ms: NOW_MS,
            outcome: Outcome::Spent {
                granted,
                windows: [windows.iter().map(window).collect()].into(),
                observed: vec![],
            },
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_in_a_hundred_milliseconds_asks_the_store() {
        let (denial_cache, start) = (DenialCache::default(), Instant::now());
        assert_eq!(denial_cache.recall(&acme(), start), None);
        denial_cache.record(&acme(), &spent(0, &[(0, 30_000, Some(30_000))]), start, start + ms(1));
        let mut asked = Vec::new();
        for at in 1..=1000 {
            let now = start + ms(at);
            match denial_cache.recall(&acme(), now) {
                Some(answer) => {
                    let last = asked.last().expect("the first who were denied are asked about at once");
                    assert_eq!(answer.now_ms, NOW_MS + (at - last - 1), "{at}");
                }
                None => {
                    asked.push(at);
                    denial_cache.record(&acme(), &spent(0, &[(0, 30_000, Some(30_000))]), now, now + ms(1));
                }
            }
        }
        assert_eq!(asked, [1, 2, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]);
    }

    /// Uses up the asks that need not wait, as if their answers were still on their way.
    fn pace(denial_cache: &DenialCache, question: &Question, now: Instant) {
        for _ in 0..AT_ONCE {
            assert_eq!(denial_cache.recall(question, now), None);
        }
    }

    #[test]
    fn the_wait_and_what_ended_meanwhile_are_told_as_they_are_now() {
        let (denial_cache, start) = (DenialCache::default(), Instant::now());
        let two = question("b:acme", &["5/1s", "5/1m"], b"{}");
        denial_cache.record(&two, &spent(0, &[(0, 20, Some(20)), (0, 500, Some(500))]), start, start);
        pace(&denial_cache, &two, start);
        let told = denial_cache.recall(&two, start + ms(50));
        let expected = spent(0, &[(5, 1020, Some(0)), (0, 500, Some(450))]);
        assert_eq!(told, Some(Answer { now_ms: NOW_MS + 50, ..expected }));
    }

    #[test]
    fn nothing_is_remembered_beyond_the_wait_nor_of_an_asker_that_never_came_back() {
        let (denial_cache, start) = (DenialCache::default(), Instant::now());
        denial_cache.record(&acme(), &spent(0, &[(0, 50, Some(50))]), start, start + ms(10));
        pace(&denial_cache, &acme(), start);
        assert!(denial_cache.recall(&acme(), start + ms(48)).is_some());
        assert_eq!(denial_cache.recall(&acme(), start + ms(49)), None);
        denial_cache.record(&acme(), &spent(0, &[(0, 9000, Some(9000))]), start + ms(100), start + ms(101));
        pace(&denial_cache, &acme(), start + ms(200));
        assert!(denial_cache.recall(&acme(), start + ms(299)).is_some());
        assert_eq!(denial_cache.recall(&acme(), start + ms(300)), None, "and it did not come back");
        assert_eq!(denial_cache.recall(&acme(), start + ms(301)), None);
    }

    #[test]
    fn what_is_asked_differently_or_is_no_denial_any_more_is_not_remembered() {
        let (denial_cache, start) = (DenialCache::default(), Instant::now());
        let denial = spent(0, &[(0, 30_000, Some(30_000))]);
        denial_cache.record(&acme(), &denial, start, start);
        let now = start + ms(1);
        pace(&denial_cache, &acme(), now);
        for other in [
            question("b:acme", &["6/1m"], b"{}"),
            question("b:acme", &["5/1m"], b"{ }"),
            question("b:other", &["5/1m"], b"{}"),
            Question { cost: 2, ..acme() },
            Question { cost: 0, ..acme() },
        ] {
            assert_eq!(denial_cache.recall(&other, now), None, "{other:?}");
        }
        assert!(denial_cache.recall(&acme(), now).is_some());
        denial_cache.record(&acme(), &Answer { now_ms: NOW_MS, outcome: Outcome::Stale(vec![]) }, now, now);
        assert_eq!(denial_cache.recall(&acme(), now), None);
        denial_cache.record(&acme(), &denial, now, now);
        denial_cache.forget(&acme(), now);
        assert_eq!(denial_cache.recall(&acme(), now), None);
        denial_cache.record(&Question { n: 3, ..acme() }, &spent(2, &[(0, 30_000, Some(30_000))]), now, now);
        pace(&denial_cache, &acme(), now);
        assert!(denial_cache.recall(&acme(), now).is_some(), "the third of three was denied");
        denial_cache.record(&acme(), &spent(1, &[(0, 30_000, Some(30_000))]), now, now);
        assert_eq!(denial_cache.recall(&acme(), now), None, "granted, if only just");
    }

    #[test]
    fn a_limit_that_only_observes_holds_nobody_up() {
        let (denial_cache, now) = (DenialCache::default(), Instant::now());
        let mut both = question("b:acme", &["5/1m"], b"{}");
        let observing = BucketAsk { name: "count:o:x".into(), observes: true, ..both.asks[0].buckets[0].clone() };
        both.asks.change(|asks| asks[0].buckets.push(observing));
        let windows =
            [Some(50), None].map(|wait_ms| [WindowNow { remaining: 0, reset_ms: 0, wait_ms, owed: 0 }].into());
        let outcome = Outcome::Spent { granted: 0, windows: windows.into_iter().collect(), observed: vec![0] };
        denial_cache.record(&both, &Answer { now_ms: NOW_MS, outcome }, now, now);
        pace(&denial_cache, &both, now);
        assert!(denial_cache.recall(&both, now + ms(48)).is_some());
        assert_eq!(denial_cache.recall(&both, now + ms(50)), None, "there is room again in what denies");
    }

    #[test]
    fn memory_is_bounded_and_what_is_old_makes_room() {
        let (denial_cache, start) = (DenialCache::default(), Instant::now());
        let denial = spent(0, &[(0, 30_000, Some(30_000))]);
        let many = |kind: &str| (0..6000).map(|i| question(&format!("{kind}:{i}"), &["5/1m"], b"{}")).collect();
        let (old, new): (Vec<_>, Vec<_>) = (many("b"), many("u"));
        old.iter().for_each(|question| denial_cache.record(question, &denial, start, start));
        let later = start + OLDEST;
        new.iter().for_each(|question| denial_cache.record(question, &denial, later, later));
        let cached: usize = denial_cache.shards.iter().map(|shard| shard.lock().expect("nobody panicked").len()).sum();
        assert!(cached <= SHARDS * MOST_IN_SHARD);
        new.iter().for_each(|question| {
            (0..AT_ONCE).for_each(|_| drop(denial_cache.recall(question, later)));
        });
        let told = new.iter().filter(|question| denial_cache.recall(question, later).is_some()).count();
        assert_eq!(told, cached, "only what is new is held");
    }
}
