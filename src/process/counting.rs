//! The use that workers count, sent by one task of the process until its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::store::redis;
use crate::store::usage::ledger::Ledger;

/// A drain that took all of its time still sends what it can in this.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// The task that sends; none where the store has no place for use.
#[derive(Default)]
pub struct Counting(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Counting {
    pub fn start(ledger: Arc<Ledger>, settings: redis::Settings) -> Self {
        let (end, ends) = oneshot::channel::<()>();
        // It ends as well when nobody is left to say so.
        let task = tokio::spawn(ledger.run(settings, async { drop(ends.await) }));
        Self(Some((end, task)))
    }

    /// Sends what the workers have left behind, until `deadline`; once.
    pub async fn finish(&mut self, deadline: Instant) {
        let Some((end, task)) = self.0.take() else { return };
        let _ = end.send(());
        let within = deadline.saturating_duration_since(Instant::now()).max(LAST_MOMENT);
        if timeout(within, task).await.is_err() {
            warn!("the use counted last could not be written in time; it is lost");
        }
    }
}
