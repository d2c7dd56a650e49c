//! What systemd is told (`Type=notify` or `notify-reload`, `WatchdogSec=`): that the gate serves, reloads, ends, and that its
//! workers are well. Without systemd nothing is said.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{interval, timeout};
use tracing::{debug, warn};

use crate::listen::worker::Worker;

/// Requests are served from here on.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// To be followed by `ready`, whatever comes of it.
pub fn reloading() {
    // systemd takes a reload for failed that does not say when it began (sd_notify(3), RELOADING=1).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the clock cannot be read; systemd is not notified of the reload"),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog at half its interval, for as long as every worker answers within that time. One that hangs stops that,
/// and systemd restarts the process.
pub async fn watchdog(workers: Arc<[Worker]>) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let half = (patience / 2).max(Duration::from_millis(1));
    let mut ticks = interval(half);
    loop {
        ticks.tick().await;
        match timeout(half, all_respond(&workers)).await {
            Ok(true) => tell(&[NotifyState::Watchdog]),
            Ok(false) | Err(_) => warn!("a worker does not respond; the watchdog is not fed"),
        }
    }
}

/// Asked all at once. A worker that has ended after draining is well.
async fn all_respond(workers: &[Worker]) -> bool {
    let asked: Vec<_> = workers.iter().map(|worker| (worker, worker.ping())).collect();
    for (worker, answer) in asked {
        if answer.await.is_err() && !worker.has_ended() {
            return false;
        }
    }
    true
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd could not be told");
    }
}
