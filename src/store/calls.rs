//! Metrics of the calls to the store, counted where they are made: one call may answer many requests, or none that still waits.
//! One per process, shared by all workers; `observe` exports them.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use super::StoreError;
use super::outage::LimitsOutage;
use crate::limit::{Answer, Outcome};

const DECIDE: &str = "decide";
const LOOKUP: &str = "lookup";
const USAGE: &str = "usage";

/// A call takes microseconds to a few milliseconds.
const CALL_SECONDS: [f64; 11] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25];
const REQUESTS_PER_CALL: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

#[derive(Debug)]
pub struct Calls {
    total: IntCounterVec,
    duration: HistogramVec,
    batch_size: Histogram,
    limit_fallbacks: IntCounterVec,
    usage_lost: IntCounter,
}

impl Calls {
    pub fn new() -> prometheus::Result<Self> {
        let total = Opts::new("sidegate_store_calls_total", "Calls to the store by outcome.");
        let duration = HistogramOpts::new("sidegate_store_call_duration_seconds", "How long calls to the store take.")
            .buckets(CALL_SECONDS.to_vec());
        let batch_size = HistogramOpts::new("sidegate_store_batch_size", "Requests that one decision call answers.")
            .buckets(REQUESTS_PER_CALL.to_vec());
        let limit_fallbacks = Opts::new(
            "sidegate_limit_fallbacks_total",
            "Requests whose limits the store could not count, by what `outage.limits` did instead.",
        );
        let usage_lost = Opts::new(
            "sidegate_usage_lost_total",
            "Counts of use (of one key or business in one day or minute) that could not be kept.",
        );
        let calls = Self {
            total: IntCounterVec::new(total, &["op", "outcome"])?,
            duration: HistogramVec::new(duration, &["op"])?,
            batch_size: Histogram::with_opts(batch_size)?,
            limit_fallbacks: IntCounterVec::new(limit_fallbacks, &["outage"])?,
            usage_lost: IntCounter::with_opts(usage_lost)?,
        };
        // A series that appears only with its first event has no rate until its second.
        for op in [DECIDE, LOOKUP, USAGE] {
            calls.duration.with_label_values(&[op]);
            for outcome in ["ok", "stale", "unreachable", "deadline", "refused", "broken"] {
                calls.total.with_label_values(&[op, outcome]);
            }
        }
        for outage in LimitsOutage::NAMES {
            calls.limit_fallbacks.with_label_values(&[outage]);
        }
        Ok(calls)
    }

    /// Counts a decision call for this many requests, as stale or broken if any answer is.
    pub(super) fn decided(&self, answers: &Result<Vec<Answer>, StoreError>, requests: usize, took: Duration) {
        let outcome = match answers {
            Err(error) => error.outcome(),
            Ok(answers) if any(answers, |outcome| matches!(outcome, Outcome::Broken(_))) => "broken",
            Ok(answers) if any(answers, |outcome| matches!(outcome, Outcome::Stale(_))) => "stale",
            Ok(_) => "ok",
        };
        self.called(DECIDE, outcome, took);
        self.batch_size.observe(requests as f64);
    }

    pub(super) fn looked_up<T>(&self, found: &Result<T, StoreError>, took: Duration) {
        self.called(LOOKUP, found.as_ref().err().map_or("ok", StoreError::outcome), took);
    }

    /// Counts a flush of usage counts.
    pub(super) fn flushed(&self, result: &Result<(), StoreError>, took: Duration) {
        self.called(USAGE, result.as_ref().err().map_or("ok", StoreError::outcome), took);
    }

    /// Counts requests whose limits were decided without the store.
    pub(super) fn fell_back(&self, outage: LimitsOutage, requests: u32) {
        self.limit_fallbacks.with_label_values(&[outage.name()]).inc_by(requests.into());
    }

    pub(super) fn usage_lost(&self, counts: u64) {
        if counts > 0 {
            self.usage_lost.inc_by(counts);
        }
    }

    /// The metrics, for the registry.
    pub fn collectors(&self) -> [Box<dyn Collector>; 5] {
        let (total, duration) = (Box::new(self.total.clone()), Box::new(self.duration.clone()));
        let (batch_size, fallbacks) = (Box::new(self.batch_size.clone()), Box::new(self.limit_fallbacks.clone()));
        [total, duration, batch_size, fallbacks, Box::new(self.usage_lost.clone())]
    }

    fn called(&self, op: &str, outcome: &str, took: Duration) {
        self.total.with_label_values(&[op, outcome]).inc();
        self.duration.with_label_values(&[op]).observe(took.as_secs_f64());
    }
}

fn any(answers: &[Answer], is: impl Fn(&Outcome) -> bool) -> bool {
    answers.iter().any(|answer| is(&answer.outcome))
}
