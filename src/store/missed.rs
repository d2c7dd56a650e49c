//! Logs calls that missed their deadline: while the breaker stays closed, nothing else would log them.
//!
//! To the breaker concurrent misses are one failure, and an answer in between resets its count: so a Redis that stalls now and
//! then never opens it. One line counts all misses within `GATHER_FOR`, the next one those of the minute after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

/// A stall delays all calls in flight at once.
const GATHER_FOR: Duration = Duration::from_secs(1);
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// One per process.
#[derive(Debug, Default)]
pub struct MissedDeadlines {
    unreported: AtomicU64,
    /// A reporter runs: it gathers, logs, or waits until it may log again.
    is_reporting: AtomicBool,
}

impl MissedDeadlines {
    /// A call has missed its deadline.
    pub fn count(self: &Arc<Self>) {
        self.unreported.fetch_add(1, Ordering::Relaxed);
        if !self.is_reporting.swap(true, Ordering::AcqRel) {
            tokio::spawn(report(Reporter(self.clone())));
        }
    }
}

/// If it is dropped with its worker's runtime, the next miss starts another.
struct Reporter(Arc<MissedDeadlines>);

impl Drop for Reporter {
    fn drop(&mut self) {
        self.0.is_reporting.store(false, Ordering::Release);
    }
}

async fn report(reporter: Reporter) {
    let mut pause = GATHER_FOR;
    loop {
        sleep(pause).await;
        match reporter.0.unreported.swap(0, Ordering::Relaxed) {
            0 => return,
            calls => {
                warn!(
                    calls,
                    "store: calls missed their deadline (`store.deadline`); further ones are reported once a minute"
                )
            }
        }
        pause = AGAIN_AFTER;
    }
}
