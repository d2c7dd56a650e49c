//! The task that flushes usage counts, until the process ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::store::redis;
use crate::store::usage::ledger::Ledger;

/// The time for the last flush, if draining has used up all of its own.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// The flushing task; none with the embedded store, which counts no usage.
#[derive(Default)]
pub struct Counting(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Counting {
    pub fn start(ledger: Arc<Ledger>, settings: redis::Settings) -> Self {
        let (end, ends) = oneshot::channel::<()>();
        // It also ends if the sender is dropped.
        let task = tokio::spawn(ledger.run(settings, async { drop(ends.await) }));
        Self(Some((end, task)))
    }

    /// Flushes the last counts and ends the task, by `deadline`; at most once.
    pub async fn finish(&mut self, deadline: Instant) {
        let Some((end, task)) = self.0.take() else { return };
        let _ = end.send(());
        let within = deadline.saturating_duration_since(Instant::now()).max(LAST_MOMENT);
        if timeout(within, task).await.is_err() {
            warn!("the use counted last could not be written in time; it is lost");
        }
    }
}
