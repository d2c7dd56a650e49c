//! Calls that missed their deadline, in the log: as long as the breaker stays closed, requests that were refused for it would leave
//! nothing there.
//!
//! Misses of one moment are one failure for the breaker, and an answer in between starts its count anew: so a Redis that stalls
//! now and then never opens it. One line tells of all misses within `GATHER`, the next one of those of the minute after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

/// A stall meets what is under way at once.
const GATHER: Duration = Duration::from_secs(1);
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// One per process.
#[derive(Debug, Default)]
pub struct MissedDeadlines {
    untold: AtomicU64,
    /// Somebody tells of them, or waits until it may be told again.
    is_told: AtomicBool,
}

impl MissedDeadlines {
    /// A call has missed its deadline.
    pub fn count(self: &Arc<Self>) {
        self.untold.fetch_add(1, Ordering::Relaxed);
        if !self.is_told.swap(true, Ordering::AcqRel) {
            tokio::spawn(tell(Teller(self.clone())));
        }
    }
}

/// One that ends with its worker's runtime leaves the telling to the next miss.
struct Teller(Arc<MissedDeadlines>);

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.is_told.store(false, Ordering::Release);
    }
}

async fn tell(teller: Teller) {
    let mut pause = GATHER;
    loop {
        sleep(pause).await;
        match teller.0.untold.swap(0, Ordering::Relaxed) {
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
