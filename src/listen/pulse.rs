//! Whether the workers respond. The operators' listeners and the accept loop run on another thread, so that a worker that hangs
//! is noticed only by pinging it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::worker::Worker;
use crate::observe::Metrics;

/// How often they are pinged.
const EVERY: Duration = Duration::from_secs(1);
/// For how many pings the slowest answer is remembered: about one scrape interval of Prometheus.
const REMEMBERED: usize = 15;

/// What is known of the workers, on the thread that pings them.
#[derive(Debug, Clone)]
pub struct Pulse {
    /// Since when an answer is owed.
    owed_since: Rc<Cell<Option<Instant>>>,
    patience: Duration,
}

impl Pulse {
    /// For workers that may be silent for this long.
    pub fn patient(patience: Duration) -> Self {
        Self { owed_since: Rc::default(), patience }
    }

    /// Whether every worker has answered within its time.
    pub fn is_well(&self) -> bool {
        self.owed_since.get().is_none_or(|since| since.elapsed() < self.patience)
    }

    /// Pings until dropped.
    pub async fn watch(self, workers: Arc<[Worker]>, metrics: Arc<Metrics>) {
        let mut lags: VecDeque<Duration> = VecDeque::new();
        loop {
            let asked = Instant::now();
            // One that has died owes its answer since the first ping that it left without one.
            self.owed_since.set(self.owed_since.get().or(Some(asked)));
            let mut answered = pin!(all_respond(&workers));
            let worst = |lags: &VecDeque<Duration>| lags.iter().copied().max().unwrap_or_default();
            let all = loop {
                match timeout(EVERY, &mut answered).await {
                    Ok(all) => break all,
                    Err(_) => metrics.worker_lag(worst(&lags).max(asked.elapsed())),
                }
            };
            lags.push_back(asked.elapsed());
            if lags.len() > REMEMBERED {
                lags.pop_front();
            }
            metrics.worker_lag(worst(&lags));
            if all {
                self.owed_since.set(None);
            }
            sleep(EVERY).await;
        }
    }
}

/// Pings all at once. A worker that has ended after draining counts as healthy.
pub async fn all_respond(workers: &[Worker]) -> bool {
    let pings: Vec<_> = workers.iter().map(|worker| (worker, worker.ping())).collect();
    for (worker, answer) in pings {
        if answer.await.is_err() && !worker.has_ended() {
            return false;
        }
    }
    true
}
