//! What a fault of the store did to those who asked meanwhile, in figures: one line a fault, of which `benches/faults` makes a table.

use std::time::{Duration, Instant};

use super::load::{One, Who};

/// sidegate's default for `store.deadline`.
pub const DEADLINE: Duration = Duration::from_millis(100);

/// What an answer may take beside the store's deadline.
const BESIDE: Duration = Duration::from_millis(10);

pub struct Figures {
    answers: usize,
    pub wrong: usize,
    median: Duration,
    p99: Duration,
    longest: Duration,
    bound: Duration,
    late: usize,
    /// From when the first good request was made that was refused until the last one was answered.
    refused_for: Duration,
    /// From when the fault was over until the last refusal of a good request.
    recovered: Duration,
}

impl Figures {
    /// Of what was answered from when the fault began until all was well again.
    pub fn of(asked: &[One], began: Instant, over: Instant) -> Self {
        Self::bounded(asked, DEADLINE + BESIDE, began, over)
    }

    /// As `of`, with this bound of how long an answer may take.
    pub fn bounded(asked: &[One], bound: Duration, began: Instant, over: Instant) -> Self {
        // What is over a limit is refused rightly.
        let is_refused = |one: &&One| one.who == Who::Good && ![200, 429].contains(&one.status);
        let refused = asked.iter().filter(|one| one.answered() >= began).filter(is_refused);
        let first = refused.clone().map(|one| one.asked).min().unwrap_or(over);
        let last = refused.map(One::answered).max().unwrap_or(first);
        let well = over.max(last);
        let meant = asked.iter().filter(|one| one.answered() >= began && one.asked <= well);
        let mut took: Vec<Duration> = meant.map(|one| one.took).collect();
        took.sort_unstable();
        assert!(!took.is_empty(), "nobody asked during the fault");
        Self {
            answers: took.len(),
            wrong: asked.iter().filter(|one| one.who != Who::Good && one.status == 200).count(),
            median: took[took.len() / 2],
            p99: took[took.len() * 99 / 100],
            longest: took[took.len() - 1],
            bound,
            late: took.iter().filter(|took| **took > bound).count(),
            refused_for: last - first,
            recovered: last.saturating_duration_since(over),
        }
    }

    /// Prints them, and checks what holds however busy the machine is: nobody passed who may not, and most do not wait for a store
    /// that does not answer. A gate that finds itself late waits for up to a second longer.
    pub fn report(&self, fault: &str) {
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
        let Self { answers, wrong, median, p99, longest, bound, late, refused_for, recovered } = self;
        let times = [p99, longest, bound].map(|time| ms(*time)).join(" | ");
        println!(
            "fault | {fault} | {answers} | {wrong} | {times} | {late} | {} | {}",
            ms(*refused_for),
            ms(*recovered)
        );
        assert_eq!(*wrong, 0, "{fault}: wrong admissions");
        assert!(*median < *bound + Duration::from_secs(1), "{fault}: the median is {median:?}");
    }
}
