//! A histogram of durations in parts, one per worker, which are added up for a scrape: a shared one would cost each worker a
//! contended cache line, and four atomic read-modify-writes per value.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// How many bounds a histogram has; above the last one is another bucket.
pub const BOUNDS: usize = 11;

/// A metric with all its series. Clones share it.
#[derive(Clone)]
pub struct Durations(Arc<Shared>);

struct Shared {
    desc: Desc,
    /// In seconds.
    bounds: [f64; BOUNDS],
    /// The parts by the value of the label, or by "" without one. Locked to add a part and to add them up.
    series: Mutex<BTreeMap<String, Vec<Arc<Buckets>>>>,
}

/// One worker's part of one series.
pub struct OwnDurations {
    bounds: [f64; BOUNDS],
    buckets: Arc<Buckets>,
    /// Not `Sync`: only its worker writes to it.
    _not_sync: PhantomData<Cell<()>>,
}

#[derive(Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS + 1],
    /// Seconds, as the bits of an f64.
    sum: AtomicU64,
}

impl Durations {
    /// `label`: the name of its label, if it has one.
    pub fn new(name: &str, help: &str, label: Option<&str>, bounds: [f64; BOUNDS]) -> prometheus::Result<Self> {
        let labels = label.into_iter().map(str::to_owned).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
        let durations = Self(Arc::new(Shared { desc, bounds, series: Mutex::default() }));
        if label.is_none() {
            durations.start("");
        }
        Ok(durations)
    }

    /// Creates the series before anything is counted in it.
    pub fn start(&self, label: &str) {
        self.0.series().entry(label.to_owned()).or_default();
    }

    /// A worker's own part of a series.
    pub fn own(&self, label: &str) -> OwnDurations {
        let buckets = Arc::<Buckets>::default();
        let mut series = self.0.series();
        let parts = series.entry(label.to_owned()).or_default();
        // Parts that were dropped, at a reload, are merged.
        let past = Buckets::default();
        for part in std::mem::take(parts) {
            match Arc::try_unwrap(part) {
                Ok(part) => past.add(&part),
                Err(in_use) => parts.push(in_use),
            }
        }
        parts.extend([Arc::new(past), buckets.clone()]);
        OwnDurations { bounds: self.0.bounds, buckets, _not_sync: PhantomData }
    }
}

impl OwnDurations {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS);
        self.buckets.count(bucket, 1, seconds);
    }
}

impl Buckets {
    /// A load and a store instead of a read-modify-write: correct with a single writer, and a tenth of the cost.
    fn count(&self, bucket: usize, count: u64, seconds: f64) {
        let bucket = &self.counts[bucket];
        bucket.store(bucket.load(Relaxed) + count, Relaxed);
        self.sum.store((self.sum() + seconds).to_bits(), Relaxed);
    }

    fn add(&self, other: &Self) {
        other.counts.iter().enumerate().for_each(|(bucket, count)| self.count(bucket, count.load(Relaxed), 0.0));
        self.sum.store((self.sum() + other.sum()).to_bits(), Relaxed);
    }

    fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Relaxed))
    }
}

impl Shared {
    fn series(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Arc<Buckets>>>> {
        // Consistent even when poisoned.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metric(&self, label: &str, parts: &[Arc<Buckets>]) -> Metric {
        let all = Buckets::default();
        parts.iter().for_each(|part| all.add(part));
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS);
        for (bound, bucket) in self.bounds.iter().zip(&all.counts) {
            count += bucket.load(Relaxed);
            let mut counted = Bucket::default();
            counted.set_upper_bound(*bound);
            counted.set_cumulative_count(count);
            buckets.push(counted);
        }
        let mut histogram = Histogram::default();
        histogram.set_sample_count(count + all.counts[BOUNDS].load(Relaxed));
        histogram.set_sample_sum(all.sum());
        histogram.set_bucket(buckets);
        let labels = self.desc.variable_labels.iter().map(|name| {
            let mut pair = LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(label.to_owned());
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        metric.set_histogram(histogram);
        metric
    }
}

impl Collector for Durations {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(self.0.series().iter().map(|(label, parts)| self.0.metric(label, parts)).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder as _, Registry, TextEncoder};

    use super::*;

    const SECONDS: [f64; BOUNDS] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

    fn shown(collector: impl Collector + 'static) -> String {
        let registry = Registry::new();
        registry.register(Box::new(collector)).expect("it is the only one");
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).expect("a Vec takes whatever is written");
        String::from_utf8(text).expect("it is text")
    }

    #[test]
    fn what_workers_count_is_shown_as_one_histogram_also_when_they_are_gone() {
        let durations = Durations::new("took_seconds", "Help.", Some("route"), SECONDS).expect("its name is one");
        let usual = prometheus::HistogramOpts::new("took_seconds", "Help.").buckets(SECONDS.to_vec());
        let usual = prometheus::HistogramVec::new(usual, &["route"]).expect("its name is one");
        durations.start("/none");
        usual.with_label_values(&["/none"]);
        for round in 0..4 {
            let (own, other) = (durations.own("/a"), durations.own("/a"));
            for milliseconds in [0, 5, 6, 250, 10_000, 11_000 + round] {
                let took = Duration::from_millis(milliseconds);
                own.observe(took);
                other.observe(took);
                usual.with_label_values(&["/a"]).observe(took.as_secs_f64());
                usual.with_label_values(&["/a"]).observe(took.as_secs_f64());
            }
        }
        assert_eq!(durations.0.series()["/a"].len(), 3, "what is past is kept as one");
        let (ours, theirs) = (shown(durations), shown(usual));
        let sum = |text: &str| -> f64 {
            let line = text.lines().find(|line| line.contains("_sum{route=\"/a\"")).expect("it has a sum");
            line.rsplit(' ').next().and_then(|sum| sum.parse().ok()).expect("it is a number")
        };
        assert!((sum(&ours) - sum(&theirs)).abs() < 1e-6);
        let counts = |text: &str| text.lines().filter(|line| !line.contains("_sum{")).collect::<Vec<_>>().join("\n");
        assert_eq!(counts(&ours), counts(&theirs));
    }

    #[test]
    fn one_without_a_label_is_there_before_anything_is_counted() {
        let durations = Durations::new("took_seconds", "Help.", None, SECONDS).expect("its name is one");
        assert!(shown(durations).contains("took_seconds_count 0"));
    }
}
