//! What the workers of a process have counted, until it is sent: by one task on the main thread, over a connection of its own.
//!
//! A process that dies loses what is here, and what its workers count for a second: at most ten seconds of use together. What
//! cannot be sent waits and is added up; a command whose answer is lost may have acted and is not sent again, so that nothing is
//! counted twice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::batch::Batch;
use super::tally;
use crate::store::StoreError;
use crate::store::calls::Calls;
use crate::store::redis::Settings;
use crate::store::redis::counting::{Counting, Written};

/// Together with what a worker keeps to itself, ten seconds.
pub const EVERY: Duration = Duration::from_secs(10).saturating_sub(tally::EVERY);

/// One per process.
#[derive(Debug)]
pub struct Ledger {
    /// Workers come here once a second; never held across an await.
    batch: Mutex<Batch>,
    filling: Notify,
    calls: Arc<Calls>,
}

impl Ledger {
    pub fn new(calls: Arc<Calls>) -> Self {
        Self { batch: Mutex::default(), filling: Notify::new(), calls }
    }

    /// Takes over what a worker has counted; `lost` of it found no room there.
    pub fn add(&self, batch: Batch, lost: u64) {
        if batch.is_empty() && lost == 0 {
            return;
        }
        let (more, is_filling) = {
            let mut standing = self.standing();
            (standing.merge(batch), standing.is_filling())
        };
        self.calls.usage_lost(lost + more);
        if is_filling {
            self.filling.notify_one();
        }
    }

    /// Sends what there is every now and then, and once more when `end` resolves.
    pub async fn keep(self: Arc<Self>, settings: Settings, end: impl Future<Output = ()>) {
        let mut sending = Sending { counting: Counting::new(settings), ledger: self, failing: None };
        let mut end = std::pin::pin!(end);
        loop {
            let ends = tokio::select! {
                () = sleep(EVERY) => false,
                // Not more often than workers hand on: while the store is away, it stays full.
                () = async { sleep(tally::EVERY).await; sending.ledger.filling.notified().await } => false,
                () = &mut end => true,
            };
            sending.send().await;
            if ends {
                return;
            }
        }
    }

    fn standing(&self) -> MutexGuard<'_, Batch> {
        // Nothing in here panics halfway through a change.
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sending {
    counting: Counting,
    ledger: Arc<Ledger>,
    /// Why the last attempt failed, if it did.
    failing: Option<&'static str>,
}

impl Sending {
    async fn send(&mut self) {
        let batch = std::mem::take(&mut *self.ledger.standing());
        if batch.is_empty() {
            return;
        }
        let started = Instant::now();
        let Written { left, mut lost, result } = self.counting.write(batch).await;
        self.ledger.calls.flushed(&result, started.elapsed());
        match &result {
            // Nobody will take them: the login would have to be another one.
            Err(error) if error.is_forbidden() => lost += left.len() as u64,
            Err(_) | Ok(()) => lost += self.ledger.standing().merge(left),
        }
        self.ledger.calls.usage_lost(lost);
        self.tell(result);
    }

    /// Told when it changes, not at every attempt.
    fn tell(&mut self, result: Result<(), StoreError>) {
        let failing = result.as_ref().err().map(StoreError::outcome);
        match result {
            Err(error) if self.failing != failing && error.is_forbidden() => {
                warn!(%error, "store: use is not counted, since this login may not write it; the gate works without");
            }
            Err(error) if self.failing != failing => {
                warn!(%error, "store: use could not be written; it is kept and sent again");
            }
            Ok(()) if self.failing.is_some() => info!("store: use is written again"),
            Err(_) | Ok(()) => {}
        }
        self.failing = failing;
    }
}
