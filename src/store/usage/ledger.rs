//! Adds up the workers' counts and sends them: one task on the main thread, over a connection of its own.
//!
//! A process that is killed loses what is here and what its workers have not passed on: at most ten seconds of usage. Counts that
//! cannot be sent wait and are added up; a command whose answer is lost may have been executed and is not sent again, so that
//! nothing is counted twice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::batch::Batch;
use super::counted::{self, Counted, Entry};
use crate::store::StoreError;
use crate::store::calls::Calls;
use crate::store::redis::Settings;
use crate::store::redis::usage_writer::{UsageWriter, WriteOutcome};

/// Together with the second for which a worker keeps its counts, ten seconds.
pub const EVERY: Duration = Duration::from_secs(10).saturating_sub(counted::EVERY);

/// Entries that are added up before the task yields.
const AT_ONCE: usize = 256;

/// One per process.
#[derive(Debug)]
pub struct Ledger {
    /// Held while adding up, so that sending waits for all of it. The locks below are never held across an await.
    adding_up: tokio::sync::Mutex<()>,
    // Workers lock only the first, once a second.
    counted: Mutex<Vec<Counted>>,
    batch: Mutex<Batch>,
    filling: Notify,
    calls: Arc<Calls>,
}

impl Ledger {
    pub fn new(calls: Arc<Calls>) -> Self {
        Self {
            adding_up: Default::default(),
            counted: Mutex::default(),
            batch: Mutex::default(),
            filling: Notify::new(),
            calls,
        }
    }

    /// Takes a worker's counts.
    pub(super) fn add(&self, counted: Counted) {
        if !counted.is_empty() {
            lock(&self.counted).push(counted);
        }
    }

    /// Adds up the workers' counts, a few at a time: this thread accepts connections, too.
    async fn add_up(&self) {
        let _alone = self.adding_up.lock().await;
        while let Some(mut counted) = { lock(&self.counted).pop() } {
            let mut lost = counted.lost + lock(&self.batch).merge(std::mem::take(&mut counted.over));
            let mut entries = counted.into_entries();
            loop {
                let some: Vec<Entry> = entries.by_ref().take(AT_ONCE).collect();
                if some.is_empty() {
                    break;
                }
                lost += {
                    let mut batch = lock(&self.batch);
                    some.into_iter()
                        .map(|Entry { subject, last_ms, count }| batch.add(*subject, last_ms, count))
                        .sum::<u64>()
                };
                yield_now().await;
            }
            self.calls.usage_lost(lost);
        }
        if lock(&self.batch).is_filling() {
            self.filling.notify_one();
        }
    }

    /// Keeps adding up while a flush waits for the store.
    async fn add_up_forever(&self) {
        loop {
            sleep(counted::EVERY).await;
            self.add_up().await;
        }
    }

    /// Flushes periodically, and once more when `end` resolves.
    pub async fn run(self: Arc<Self>, settings: Settings, end: impl Future<Output = ()>) {
        let flusher = Flusher { usage_writer: UsageWriter::new(settings), ledger: self.clone(), failing: None };
        tokio::select! {
            () = flusher.run(end) => {}
            () = self.add_up_forever() => {}
        }
    }
}

/// Nothing here panics halfway through a change.
fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Flusher {
    usage_writer: UsageWriter,
    ledger: Arc<Ledger>,
    /// Why the last attempt failed, if it did.
    failing: Option<&'static str>,
}

impl Flusher {
    async fn run(mut self, end: impl Future<Output = ()>) {
        let mut end = std::pin::pin!(end);
        loop {
            let ends = tokio::select! {
                () = sleep(EVERY) => false,
                // Not more often than workers pass on counts: during an outage the batch stays full.
                () = async { sleep(counted::EVERY).await; self.ledger.filling.notified().await } => false,
                () = &mut end => true,
            };
            self.send().await;
            if ends {
                return;
            }
        }
    }

    async fn send(&mut self) {
        self.ledger.add_up().await;
        let batch = std::mem::take(&mut *lock(&self.ledger.batch));
        if batch.is_empty() {
            return;
        }
        let started = Instant::now();
        let WriteOutcome { left, mut lost, result } = self.usage_writer.write(batch).await;
        self.ledger.calls.flushed(&result, started.elapsed());
        match &result {
            // Dropped: with this login they can never be written.
            Err(error) if error.is_forbidden() => lost += left.len() as u64,
            Err(_) | Ok(()) => lost += lock(&self.ledger.batch).merge(left),
        }
        self.ledger.calls.usage_lost(lost);
        self.log_change(result);
    }

    /// Logs changes, not every attempt.
    fn log_change(&mut self, result: Result<(), StoreError>) {
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
