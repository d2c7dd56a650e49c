//! Buckets in memory: those of the embedded store, and those of the fallback while Redis is unavailable.
//!
//! Documents and membership are confirmed by the caller.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limit::{Bucket, Outcome, Question, spend};

/// One per process: all workers count in the same buckets.
#[derive(Debug, Default)]
pub struct Counts {
    // One lock for all buckets, since a question spends from several of them or from none, and holds it for about a
    // microsecond without awaiting anything. The shared store has no part in it.
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_name: HashMap<String, Bucket>,
    /// The number of buckets at which the next sweep is due.
    sweep_at: usize,
}

/// Sweeping fewer than this is not worth it.
const SWEEP_FROM: usize = 1024;

/// About 40 MB. Beyond it the buckets that end soonest are dropped, which bounds memory: a client with this many addresses gets
/// the rest of their short windows for free.
const MOST_BUCKETS: usize = 200_000;

impl Counts {
    pub fn new() -> Self {
        Self::default()
    }

    /// Spends what the question asks for, all or nothing; its documents and membership are taken as confirmed.
    pub fn spend(&self, question: &Question, now_ms: u64) -> Outcome {
        if question.asks.iter().any(|ask| ask.not_after_ms.is_some_and(|end| now_ms >= end)) {
            return Outcome::Expired;
        }
        let asks = question.asks.iter().flat_map(|ask| ask.buckets.iter().map(move |bucket| (&ask.slot, bucket)));
        let (names, asks): (Vec<String>, Vec<_>) =
            asks.map(|(slot, bucket)| (format!("{slot}/{}", bucket.name), bucket)).unzip();
        if let Some((_, twice)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            return Outcome::Broken(format!("{twice} is asked for twice in one question"));
        }
        let mut held = self.lock();
        // Taken out of the map while they are spent from, since several are borrowed mutably at once.
        let mut buckets: Vec<_> = (names.iter().zip(&asks))
            .map(|(name, &ask)| (held.by_name.remove(name).unwrap_or_default(), ask))
            .collect();
        let outcome = spend(&mut buckets, now_ms, question.cost, question.n);
        let spent_from = buckets.into_iter().map(|(bucket, _)| bucket);
        held.by_name.extend(names.into_iter().zip(spent_from).filter(|(_, bucket)| !bucket.entries.is_empty()));
        held.sweep_when_due(now_ms);
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        // A poisoned lock still guards consistent buckets: nothing panics in the middle of a change.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    /// Drops ended buckets whenever the map has doubled since the last sweep, so that the amortised cost per question is
    /// constant.
    fn sweep_when_due(&mut self, now_ms: u64) {
        if self.by_name.len() < self.sweep_at.max(SWEEP_FROM) {
            return;
        }
        self.by_name.retain(|_, bucket| bucket.counts_at(now_ms));
        if self.by_name.len() >= MOST_BUCKETS {
            self.drop_half();
        }
        self.sweep_at = (self.by_name.len() * 2).clamp(SWEEP_FROM, MOST_BUCKETS);
    }

    fn drop_half(&mut self) {
        let mut ends: Vec<u64> = self.by_name.values().map(Bucket::ends_ms).collect();
        let middle = ends.len() / 2;
        let (_, &mut median, _) = ends.select_nth_unstable(middle);
        let mut surplus = middle;
        self.by_name.retain(|_, bucket| {
            // Many buckets end at the same moment, so that the median alone would drop too many.
            let forget = surplus > 0 && bucket.ends_ms() <= median;
            surplus -= usize::from(forget);
            !forget
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::limit::{Algorithm, Ask, BucketAsk, Windows};

    const START: u64 = 1_774_276_200_000;

    fn question(slot: &str, windows: &str) -> Question {
        let windows = Arc::new(Windows::parse([windows]).expect("the test's window is valid"));
        let bucket = BucketAsk { name: "count:test:k".into(), algorithm: Algorithm::Fixed, windows, observes: false };
        let ask = Ask { slot: slot.into(), buckets: [bucket].into(), ..Ask::default() };
        Question { asks: [ask].into(), cost: 1, n: 1 }
    }

    fn granted(outcome: &Outcome) -> u32 {
        match outcome {
            Outcome::Spent { granted, .. } => *granted,
            other => panic!("not spent: {other:?}"),
        }
    }

    #[test]
    fn threads_that_share_a_limit_never_admit_more_than_it() {
        let counts = Counts::new();
        let question = question("b:acme", "100/1h");
        let admitted: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..50).map(|_| granted(&counts.spend(&question, START))).sum::<u32>()))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a counting thread does not panic")).sum()
        });
        assert_eq!(admitted, 100);
    }

    #[test]
    fn a_question_of_two_slots_spends_in_both_or_in_none() {
        let counts = Counts::new();
        let mut both = question("b:acme", "100/1h");
        both.asks = [&both.asks[..], &question("u:u_42", "1/1h").asks].concat().into();
        assert_eq!(granted(&counts.spend(&both, START)), 1);
        assert_eq!(granted(&counts.spend(&both, START)), 0);
        let Outcome::Spent { windows, .. } = counts.spend(&Question { cost: 0, ..both }, START) else {
            panic!("not spent")
        };
        assert_eq!(windows.iter().map(|w| w[0].remaining).collect::<Vec<_>>(), [99, 0]);
    }

    #[test]
    fn an_expired_question_spends_nothing() {
        let counts = Counts::new();
        let mut expired = question("b:acme", "1/1h");
        expired.asks.change(|asks| asks[0].not_after_ms = Some(START));
        assert_eq!(counts.spend(&expired, START), Outcome::Expired);
        assert_eq!(granted(&counts.spend(&expired, START - 1)), 1);
    }

    #[test]
    fn one_bucket_twice_in_a_question_is_refused() {
        let mut twice = question("b:acme", "9/1h");
        twice.asks = [&twice.asks[..], &twice.asks].concat().into();
        assert!(matches!(Counts::new().spend(&twice, START), Outcome::Broken(_)));
    }

    #[test]
    fn ended_buckets_are_dropped_and_reading_makes_none() {
        let counts = Counts::new();
        for index in 0..5000_u64 {
            counts.spend(&question(&format!("ip:{index}"), "5/1s"), START + index * 10);
            counts.spend(&Question { cost: 0, ..question(&format!("ip:never-{index}"), "5/1s") }, START + index * 10);
        }
        assert!(counts.lock().by_name.len() <= SWEEP_FROM);
    }

    #[test]
    fn memory_is_bounded_when_nothing_ends() {
        let mut held = Buckets::default();
        for index in 0..MOST_BUCKETS * 2 {
            let mut buckets = [(Bucket::default(), &question("ip:x", "5/1h").asks[0].buckets[0])];
            spend(&mut buckets, START, 1, 1);
            let [(bucket, _)] = buckets;
            held.by_name.insert(index.to_string(), bucket);
            held.sweep_when_due(START);
        }
        assert!((MOST_BUCKETS / 2 - 1..=MOST_BUCKETS).contains(&held.by_name.len()));
    }
}
