//! Limits during an outage of the shared store, by `outage.limits`: counted here, not counted, or denied.
//!
//! Keys (`outage.keys`) are decided on by the gate; a question that is asked here has its documents confirmed or needs none.
//! Counts made here are not written to the store later.

use std::sync::{Arc, Mutex, PoisonError};

use super::StoreError;
use super::calls::Calls;
use super::counts::Counts;
use super::outage::LimitsOutage;
use super::store_clock::StoreClock;
use crate::clock;
use crate::limit::{Answer, BucketAsk, Outcome, Question, Window, Windows, WindowsNow};

/// One per process, shared by all workers.
#[derive(Debug)]
pub struct Fallback {
    /// Locked only during an outage and at a reload.
    outage: Mutex<LimitsOutage>,
    counts: Counts,
    clock: StoreClock,
    calls: Arc<Calls>,
}

impl Fallback {
    /// `calls`: counts the requests that are answered here.
    pub fn new(outage: LimitsOutage, calls: Arc<Calls>) -> Self {
        let clock = StoreClock::new(clock::now_ms(), clock::uptime_ms());
        Self { outage: Mutex::new(outage), counts: Counts::new(), clock, calls }
    }

    /// Changes what limits do; counts are kept.
    pub fn reconfigure(&self, outage: LimitsOutage) {
        *self.outage.lock().unwrap_or_else(PoisonError::into_inner) = outage;
    }

    /// The clock by which limits are counted during an outage.
    pub fn clock(&self) -> &StoreClock {
        &self.clock
    }

    /// Answers a question's limits. With `Allow` each bucket has an empty list of windows, since nothing is known of them. With
    /// `Deny` a question that would spend from a bucket is an error.
    pub fn answer(&self, question: &Question, now_ms: u64) -> Result<Answer, StoreError> {
        let outage = *self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if question.asks.iter().any(|ask| !ask.buckets.is_empty()) {
            self.calls.fell_back(outage, question.n);
        }
        let outcome = match outage {
            LimitsOutage::Local { share: None } => self.counts.spend(question, now_ms),
            LimitsOutage::Local { share: Some(share) } => self.counts.spend(&scaled(question, share), now_ms),
            LimitsOutage::Deny if question.cost > 0 && question.buckets().any(|bucket| !bucket.observes) => {
                return Err(StoreError::Unreachable("limits cannot be counted".to_owned()));
            }
            LimitsOutage::Allow | LimitsOutage::Deny => uncounted(question, now_ms),
        };
        Ok(Answer { now_ms, outcome })
    }

    /// The limit in force during an outage, for requests of this cost.
    pub fn limit_in_force(&self, limit: u64, cost: u64) -> u64 {
        match *self.outage.lock().unwrap_or_else(PoisonError::into_inner) {
            LimitsOutage::Local { share: Some(share) } => share_of(limit, cost, share),
            LimitsOutage::Local { share: None } | LimitsOutage::Allow | LimitsOutage::Deny => limit,
        }
    }
}

fn uncounted(question: &Question, now_ms: u64) -> Outcome {
    if question.asks.iter().any(|ask| ask.not_after_ms.is_some_and(|end| now_ms >= end)) {
        return Outcome::Expired;
    }
    let windows = question.buckets().map(|_| WindowsNow::new()).collect();
    Outcome::Spent { granted: question.n, windows, observed: question.all_observed(question.n) }
}

fn scaled(question: &Question, share: (u64, u64)) -> Question {
    let (mut question, cost) = (question.clone(), question.cost);
    question.asks.change(|asks| {
        let buckets = asks.iter_mut().flat_map(|ask| &mut ask.buckets);
        buckets.for_each(|bucket| scale(bucket, cost, share));
    });
    question
}

fn scale(bucket: &mut BucketAsk, cost: u64, share: (u64, u64)) {
    let windows = bucket.windows.as_slice().iter().map(|w| Window { limit: share_of(w.limit, cost, share), ..*w });
    if let Ok(windows) = Windows::new(windows.collect()) {
        bucket.windows = Arc::new(windows);
    }
}

/// At least one request, if the whole limit allows it: with less, a route would be closed during the whole outage. A limit of 0
/// stays 0.
pub fn share_of(limit: u64, cost: u64, (part, whole): (u64, u64)) -> u64 {
    let share = u128::from(limit) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(limit).clamp(limit.min(cost.max(1)), limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Algorithm, Ask};

    const START: u64 = 1_774_276_200_000;

    fn question(windows: &str, n: u32) -> Question {
        let windows = Windows::parse(windows.split(", ")).expect("the test's windows are valid");
        let bucket = BucketAsk {
            name: "count:test:k".into(),
            algorithm: Algorithm::Fixed,
            windows: Arc::new(windows),
            observes: false,
        };
        Question { asks: [Ask { buckets: [bucket].into(), ..Ask::default() }].into(), cost: 1, n }
    }

    fn fallback(outage: LimitsOutage) -> Fallback {
        Fallback::new(outage, Arc::new(Calls::new().expect("the metrics' names are valid")))
    }

    fn granted(outage: LimitsOutage, question: &Question) -> Result<u32, StoreError> {
        match fallback(outage).answer(question, START)?.outcome {
            Outcome::Spent { granted, .. } => Ok(granted),
            other => panic!("not spent: {other:?}"),
        }
    }

    #[test]
    fn a_process_counts_its_share_and_at_least_one() {
        let local = |share| LimitsOutage::Local { share };
        assert_eq!(granted(local(None), &question("60/1m", 99)), Ok(60));
        assert_eq!(granted(local(Some((1, 4))), &question("60/1m", 99)), Ok(15));
        assert_eq!(granted(local(Some((1, 4))), &question("60/1m, 3/1s", 99)), Ok(1));
        assert_eq!(granted(local(Some((9, 4))), &question("60/1m", 99)), Ok(60));
        let dear = |n| Question { cost: 5, ..question("10/1d", n) };
        assert_eq!(granted(local(Some((1, 4))), &dear(9)), Ok(1), "one that costs more than the share");
        let too_dear = Question { cost: 11, ..question("10/1d", 9) };
        assert_eq!(granted(local(Some((1, 4))), &too_dear), Ok(0), "one that costs more than there is");
        assert_eq!(granted(local(Some((1, 4))), &question("0/1m", 99)), Ok(0), "a closed limit stays closed");
    }

    #[test]
    fn allow_passes_all_and_knows_no_window() {
        let answer = fallback(LimitsOutage::Allow).answer(&question("1/1m", 9), START);
        assert_eq!(
            answer.map(|a| a.outcome),
            Ok(Outcome::Spent { granted: 9, windows: [WindowsNow::new()].into(), observed: vec![] })
        );
    }

    #[test]
    fn deny_refuses_whatever_would_be_counted() {
        assert!(granted(LimitsOutage::Deny, &question("60/1m", 1)).is_err());
        assert_eq!(granted(LimitsOutage::Deny, &Question { cost: 0, ..question("60/1m", 1) }), Ok(1));
        assert_eq!(granted(LimitsOutage::Deny, &Question { asks: [].into(), cost: 1, n: 1 }), Ok(1));
        let mut observing = question("60/1m", 1);
        observing.asks.change(|asks| asks[0].buckets[0].observes = true);
        assert_eq!(granted(LimitsOutage::Deny, &observing), Ok(1), "it denies nobody");
    }
}
