//! The store's clock, also during an outage: its last time, and what has passed since.
//!
//! So limits that are counted locally have the same windows as in the store, and clients are shown the same resets. This
//! machine's wall clock is read once, for the time before the first answer: if it were followed and set back, windows would exist
//! that have not begun.

use std::sync::atomic::{AtomicU64, Ordering};

/// Differences up to this, from varying round trips, are not stored: all workers read the value with every answer, and would
/// contend for its cache line.
const TOLERANCE_MS: u64 = 1000;

/// One per process.
#[derive(Debug)]
pub struct StoreClock {
    /// The store's clock minus this machine's uptime.
    ahead_ms: AtomicU64,
}

impl StoreClock {
    /// `now_ms`: its assumed time until the first answer.
    pub fn new(now_ms: u64, uptime_ms: u64) -> Self {
        Self { ahead_ms: AtomicU64::new(now_ms.saturating_sub(uptime_ms)) }
    }

    /// Takes the time of an answer, to a call that was made at this uptime.
    pub fn update(&self, now_ms: u64, uptime_ms: u64) {
        let ahead_ms = now_ms.saturating_sub(uptime_ms);
        if self.ahead_ms.load(Ordering::Relaxed).abs_diff(ahead_ms) > TOLERANCE_MS {
            self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn at(&self, uptime_ms: u64) -> u64 {
        self.ahead_ms.load(Ordering::Relaxed).saturating_add(uptime_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_MS: u64 = 1_774_276_200_000;

    #[test]
    fn it_goes_on_from_what_the_store_showed_last() {
        let clock = StoreClock::new(WALL_MS, 5000);
        assert_eq!(clock.at(8000), WALL_MS + 3000, "nothing better is known yet");
        let hour = 3_600_000;
        clock.update(WALL_MS - hour, 8000);
        assert_eq!(clock.at(9000), WALL_MS - hour + 1000);
        clock.update(WALL_MS - hour + 50, 8000);
        assert_eq!(clock.at(9000), WALL_MS - hour + 1000, "that answer was longer under way");
        clock.update(WALL_MS + hour, 9000);
        assert_eq!(clock.at(9000), WALL_MS + hour, "another store");
    }
}
