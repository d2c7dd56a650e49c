//! What systemd is told (`Type=notify` or `notify-reload`, `WatchdogSec=`): that the gate serves, reloads, ends, and that its
//! workers are well. Without systemd nothing is said.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{interval, timeout};
use tracing::{debug, warn};

use crate::listen::pulse::all_respond;
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

/// How long workers may be silent, where systemd looks after that.
pub fn patience() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Feeds the watchdog at half its interval, for as long as every worker answers within that time. One that hangs stops that,
/// and systemd restarts the process.
pub async fn watchdog(workers: Arc<[Worker]>) {
    let Some(patience) = patience() else { return };
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

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd could not be told");
    }
}
