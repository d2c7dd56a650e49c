//! What time it is by the store's clock, also while the store is away: what it showed last, and what has passed since.
//!
//! Limits that are counted meanwhile have their windows where the store has them, and clients are shown the ends that they were
//! shown before. This machine's wall clock is read once, for the time before the first answer: one that is set later, back
//! above all, would leave windows standing that have not begun yet.

use std::sync::atomic::{AtomicU64, Ordering};

/// What two answers may differ by, which are under way for different times, without one of them being written down: all
/// workers read this with every answer.
const TOLERANCE_MS: u64 = 1000;

/// One per process.
#[derive(Debug)]
pub struct StoreClock {
    /// By how much it is ahead of this machine's uptime.
    ahead_ms: AtomicU64,
}

impl StoreClock {
    /// `now_ms`: what it is taken to show, until an answer says it.
    pub fn new(now_ms: u64, uptime_ms: u64) -> Self {
        Self { ahead_ms: AtomicU64::new(now_ms.saturating_sub(uptime_ms)) }
    }

    /// An answer to a call that was made at this uptime showed it.
    pub fn showed(&self, now_ms: u64, uptime_ms: u64) {
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
        clock.showed(WALL_MS - hour, 8000);
        assert_eq!(clock.at(9000), WALL_MS - hour + 1000);
        clock.showed(WALL_MS - hour + 50, 8000);
        assert_eq!(clock.at(9000), WALL_MS - hour + 1000, "that answer was longer under way");
        clock.showed(WALL_MS + hour, 9000);
        assert_eq!(clock.at(9000), WALL_MS + hour, "another store");
    }
}
