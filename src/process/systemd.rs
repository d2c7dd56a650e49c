//! Notifications to systemd (`Type=notify` or `notify-reload`, `WatchdogSec=`): ready, reloading, stopping, and the watchdog.
//! Without systemd they do nothing.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{interval, timeout};
use tracing::{debug, warn};

use crate::listen::pulse::all_respond;
use crate::listen::worker::Worker;

/// The process serves requests.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// To be followed by `ready`, whether or not the reload succeeds.
pub fn reloading() {
    // Without the time at which it began systemd considers a reload failed (sd_notify(3), RELOADING=1).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => warn!(%error, "the clock cannot be read; systemd is not notified of the reload"),
    }
}

pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// How long workers may be silent, if systemd's watchdog is enabled.
pub fn watchdog_timeout() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Feeds the watchdog at half its interval, as long as every worker answers within that time. If one hangs, systemd restarts the
/// process.
pub async fn watchdog(workers: Arc<[Worker]>) {
    let Some(timeout_after) = watchdog_timeout() else { return };
    let half = (timeout_after / 2).max(Duration::from_millis(1));
    let mut ticks = interval(half);
    loop {
        ticks.tick().await;
        match timeout(half, all_respond(&workers)).await {
            Ok(true) => notify(&[NotifyState::Watchdog]),
            Ok(false) | Err(_) => warn!("a worker does not respond; the watchdog is not fed"),
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd could not be told");
    }
}
