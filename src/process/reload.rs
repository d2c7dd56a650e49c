//! A reload: the configuration is read again and takes effect as a whole, or the former one stays.
//!
//! Requests in flight keep the configuration that they began with; later ones are served with the new one. Each worker keeps its
//! store connections, its cached keys, and the pools of upstreams whose settings are unchanged.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::shared::{Prepared, Shared, StoreHandle};
use super::systemd;
use crate::clock;
use crate::config::Settings;
use crate::listen::accept::Capacity;
use crate::listen::descriptors;
use crate::listen::tls::Acceptor;
use crate::listen::worker::Worker;
use crate::manage::operation;
use crate::observe::{AccessLog, Metrics, log};
use crate::policy::{Mode, Policy};
use crate::reload::{self, Reading, Watch};

/// How long to wait for workers, which handle commands between two polls of their requests.
const WORKER_TIMEOUT: Duration = Duration::from_secs(5);

/// The current configuration, and what it applies to.
pub struct Running {
    pub settings: Settings,
    pub shared: Shared,
    pub store: StoreHandle,
    pub workers: Arc<[Worker]>,
    pub capacity: Arc<Capacity>,
}

impl Running {
    /// Reads the configuration again and applies it, as a whole or not at all.
    pub async fn reload(&mut self, watch: &mut Watch) {
        systemd::reloading();
        let (reading, prepared) = self.prepare(watch).await;
        match prepared {
            Ok((prepared, fixed)) => self.apply(prepared, &fixed).await,
            Err(errors) => {
                error!(config = %watch.config().display(), errors, "not reloaded; the configuration before stays in force");
                self.shared.metrics.reload_failed();
            }
        }
        if let Some(reading) = reading {
            watch.restart(&reading);
        }
        systemd::ready();
    }

    /// Does everything that can fail, on a blocking thread.
    async fn prepare(&self, watch: &Watch) -> (Option<Reading>, Result<(Prepared, Vec<&'static str>), String>) {
        let (config, files, store) = (watch.config().to_owned(), watch.files().to_owned(), self.store.clone());
        let (running, tls) = (self.settings.clone(), self.shared.tls.clone());
        let prepared = spawn_blocking(move || {
            let reading = reload::read(&config, files);
            let prepared = prepare(&reading, &running, tls.as_ref(), &store);
            (reading, prepared)
        });
        match prepared.await {
            Ok((reading, prepared)) => (Some(reading), prepared),
            Err(error) => (None, Err(format!("it could not be read: {error}"))),
        }
    }

    async fn apply(&mut self, prepared: Prepared, fixed: &[&str]) {
        self.shared = self.shared.renewed(&prepared);
        let settings = prepared.settings;
        if let Some(health) = self.store.health() {
            health.probe_within(settings.store.deadline);
            health.need(settings.policy.enforces());
        }
        if settings.listen.bounds.connections > self.settings.listen.bounds.connections {
            descriptors::raise(&settings.listen);
        }
        self.capacity.reconfigure(&settings.listen);
        // Before the workers, so that series exist before anything is counted in them.
        publish(&settings, self.shared.tls.as_ref(), &self.shared.metrics, &self.shared.access_log);
        let workers = self.workers.iter();
        let renewed: Vec<_> = workers.map(|worker| worker.reload(self.shared.clone().into_reload())).collect();
        let all = async {
            for renewed in renewed {
                let _ = renewed.await;
            }
        };
        if timeout(WORKER_TIMEOUT, all).await.is_err() {
            warn!("a worker does not respond; it serves by the new configuration once it does");
        }
        for warning in &settings.warnings {
            warn!("{warning}");
        }
        if !fixed.is_empty() {
            let fields = fixed.join(", ");
            warn!(fields, "these act after a restart only; until then they stay as they were");
        }
        info!(hash = settings.hash, "reloaded");
        self.shared.metrics.reloaded(!fixed.is_empty());
        self.settings = settings;
    }
}

/// The prepared configuration, and the changed fields that need a restart; or all errors in one line.
fn prepare(
    reading: &Reading,
    running: &Settings,
    tls: Option<&Acceptor>,
    store: &StoreHandle,
) -> Result<(Prepared, Vec<&'static str>), String> {
    let mut settings = match &reading.loaded.settings {
        Ok(settings) => settings.clone(),
        Err(errors) => return Err(errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    let fixed = reload::keep_what_is_fixed(running, &mut settings);
    let prepared = Prepared::new(settings, tls, store).map_err(|error| error.to_string())?;
    Ok((prepared, fixed))
}

/// Applies a configuration to logs and metrics.
pub fn publish(settings: &Settings, tls: Option<&Acceptor>, metrics: &Metrics, access_log: &AccessLog) {
    log::reconfigure(&settings.observe);
    access_log.reconfigure(&settings.observe);
    metrics.reconfigure(&settings.policy, &settings.hash);
    warn_what_is_observed(&settings.policy);
    let operations = settings.management.as_ref().map(operation::labels).unwrap_or_default();
    metrics.start_routes(operations.iter().map(String::as_str));
    let certificates = tls.map(Acceptor::certificates).unwrap_or_default();
    metrics.certificates(certificates.iter().map(|one| (one.file.as_str(), one.not_after)));
    let now_ms = clock::now_ms();
    for one in certificates.iter().filter(|one| one.has_ended(now_ms)) {
        warn!(file = one.file, "this certificate has expired; clients will refuse it");
    }
    for one in certificates.iter().filter(|one| one.ends_soon(now_ms)) {
        let (ends, days) = (one.end_day(), one.days_left(now_ms));
        warn!(file = one.file, ends, days, "this certificate ends soon; renew it");
    }
}

/// Warns of observe mode, in which denials are not enforced.
fn warn_what_is_observed(policy: &Policy) {
    let routes = policy.routes.iter().filter(|route| route.mode == Mode::Observe).count();
    let limits = policy.limits.values().filter(|limit| limit.mode == Mode::Observe).count();
    if policy.mode == Mode::Observe {
        warn!(routes, limits, "observe mode: what would be denied is counted and logged, and passes");
    } else if routes + limits > 0 {
        warn!(
            routes,
            limits, "some routes or limits only observe: what they would deny is counted and logged, and passes"
        );
    }
}
