//! The gate's metrics. Labels are configured patterns and names, and statuses, never a client's text, so that the number of
//! series is bounded whatever clients send.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::durations::{BOUNDS, Durations, OwnDurations};
use super::finished::Decision;
pub use super::labels::{BrokenBy, Checked, FailedAt};
use super::lines::Log;
use super::log;
use crate::gate::UnknownNames;
use crate::log_throttle::LogThrottle;
use crate::policy::{Mode, Policy, Reason, Route};
use crate::store::calls::Calls;
use crate::store::health::StoreHealth;

/// Businesses that have series of their own until the process ends; the rest are `other`.
const BUSINESSES: usize = 100;
pub(super) const OTHER: &str = "other";
/// Decisions take microseconds to a few milliseconds; whole requests what the upstream takes.
const DECISION_SECONDS: [f64; BOUNDS] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25];
const REQUEST_SECONDS: [f64; BOUNDS] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// One per process; every method may be called from any worker.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    denials: IntCounterVec,
    duration: Durations,
    decision_duration: Durations,
    upstream_duration: Durations,
    limit_checks: IntCounterVec,
    business_requests: IntCounterVec,
    limit_used: GaugeVec,
    enforcing: IntGauge,
    store_up: IntGauge,
    store_may_evict: IntGauge,
    store_breaker_open: IntGauge,
    connections: IntGauge,
    connections_refused: IntCounter,
    connections_failed: IntCounterVec,
    in_flight: IntGauge,
    answers_broken: IntCounterVec,
    documents_unreadable: IntCounter,
    guesses_slowed: IntCounter,
    /// For log lines about what is counted here.
    pub throttle: LogThrottle,
    accept_errors: IntCounter,
    worker_lag: Gauge,
    log_dropped: [(IntCounter, Arc<AtomicU64>); 2],
    config_info: IntGaugeVec,
    config_reloads: IntCounterVec,
    last_reload_successful: IntGauge,
    restart_needed: IntGauge,
    certificate_not_after: IntGaugeVec,
    /// Names that have series. Locked for single lookups.
    businesses: Mutex<HashSet<String>>,
    store_health: Option<Arc<StoreHealth>>,
}

impl Metrics {
    /// `store_health`: absent where the store is the process's own file, which is always up.
    pub fn new(
        policy: &Policy,
        config_hash: &str,
        store_calls: &Calls,
        unknown_names: &UnknownNames,
        store_health: Option<Arc<StoreHealth>>,
        dropped_access_lines: Arc<AtomicU64>,
    ) -> prometheus::Result<Self> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        store_calls.collectors().into_iter().try_for_each(|collector| registry.register(collector))?;
        registry.register(unknown_names.collector())?;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let durations = |name: &str, help: &str, label: Option<&str>, bounds: [f64; BOUNDS]| {
            registered(&registry, Durations::new(name, help, label, bounds)?)
        };
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help)?);
        let gauges = |name: &str, help: &str, label: &str| {
            registered(&registry, IntGaugeVec::new(Opts::new(name, help), &[label])?)
        };
        let log_dropped = counters(
            "sidegate_log_lines_dropped_total",
            "Lines of a log (`access`, or the `process`'s own) lost because nobody read them in time, or they could not be written.",
            &["log"],
        )?;
        let lost = |log: Log, lines| (log_dropped.with_label_values(&[log.name()]), lines);
        let log_dropped = [lost(Log::Access, dropped_access_lines), lost(Log::Process, log::dropped())];
        let info = |name: &str, help: &str, label: &str, value: &str| -> prometheus::Result<()> {
            let gauge: Gauge = Gauge::with_opts(Opts::new(name, help).const_label(label, value))?;
            registered(&registry, gauge)?.set(1.0);
            Ok(())
        };
        info("sidegate_build_info", "The version that runs.", "version", env!("CARGO_PKG_VERSION"))?;
        let metrics = Self {
            requests: counters(
                "sidegate_requests_total",
                "Requests by route, decision (allowed, denied, observed, failed) and the status sent.",
                &["route", "decision", "status"],
            )?,
            denials: counters(
                "sidegate_denials_total",
                "Requests that were not served, by reason.",
                &["route", "reason"],
            )?,
            duration: durations(
                "sidegate_request_duration_seconds",
                "From a request's head to its response's head.",
                Some("route"),
                REQUEST_SECONDS,
            )?,
            decision_duration: durations(
                "sidegate_decision_duration_seconds",
                "From a request's head to the decision, the store included.",
                None,
                DECISION_SECONDS,
            )?,
            upstream_duration: durations(
                "sidegate_upstream_duration_seconds",
                "From the forwarded request's head to the upstream's response head.",
                None,
                REQUEST_SECONDS,
            )?,
            limit_checks: counters(
                "sidegate_limit_checks_total",
                "Limits checked: within, near (from 80 % used), over, or observed: over, and let pass.",
                &["limit", "outcome"],
            )?,
            business_requests: counters(
                "sidegate_business_requests_total",
                "Requests by business (the first 100, then `other`) and decision.",
                &["business", "decision"],
            )?,
            limit_used: registered(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "sidegate_limit_used_ratio",
                        "How much of a limit by business was used when that business last asked, 0 to 1.",
                    ),
                    &["limit", "business"],
                )?,
            )?,
            enforcing: gauge(
                "sidegate_enforcing",
                "1 where denials are enforced, 0 where the configuration only observes; routes and limits may differ.",
            )?,
            store_up: gauge(
                "sidegate_store_up",
                "0 from the first lost connection, failed call or refusal until what failed is served again, and while a needed node \
                 of a cluster is out of reach or slots have no master.",
            )?,
            store_may_evict: gauge(
                "sidegate_store_may_evict",
                "1 where Redis' maxmemory-policy was not noeviction when it was connected to.",
            )?,
            store_breaker_open: gauge(
                "sidegate_store_breaker_open",
                "1 while calls to the store fail at once, until a probe succeeds.",
            )?,
            connections: gauge("sidegate_connections", "Client connections that are open.")?,
            connections_refused: counter(
                "sidegate_connections_refused_total",
                "Connections refused with 503 (with TLS: closed) because `listen.limits.connections` were open.",
            )?,
            connections_failed: counters(
                "sidegate_connections_failed_total",
                "Connections that failed before a request: at the TLS handshake, the PROXY header, or a request's head.",
                &["why"],
            )?,
            in_flight: gauge("sidegate_requests_in_flight", "Requests whose responses have not ended.")?,
            answers_broken: counters(
                "sidegate_answers_broken_total",
                "Upstreams' answers that did not come to their end, by whose doing: upstream, client, gate.",
                &["by"],
            )?,
            documents_unreadable: counter(
                "sidegate_documents_unreadable_total",
                "Requests that met a key, a business or a count in the store that cannot be read.",
            )?,
            guesses_slowed: counter(
                "sidegate_guesses_slowed_total",
                "Requests refused as rate_limited without a look-up: unknown keys keep coming from their address (`keys.guessing`).",
            )?,
            throttle: LogThrottle::default(),
            config_info: gauges("sidegate_config_info", "A hash of the configuration that is in force.", "hash")?,
            config_reloads: counters(
                "sidegate_config_reloads_total",
                "Reloads of the configuration: success, or failure, after which the one before stays in force.",
                &["outcome"],
            )?,
            last_reload_successful: gauge(
                "sidegate_config_last_reload_successful",
                "0 while the configuration that was last read cannot be used, and the one before is in force.",
            )?,
            restart_needed: gauge(
                "sidegate_config_restart_needed",
                "1 while the configuration says something that acts after a restart only.",
            )?,
            certificate_not_after: gauges(
                "sidegate_tls_certificate_not_after_timestamp_seconds",
                "When a certificate of the listener ends, by its file.",
                "file",
            )?,
            accept_errors: counter(
                "sidegate_accept_errors_total",
                "Times that no connection could be accepted, of clients or operators: descriptors or memory had run out.",
            )?,
            worker_lag: registered(
                &registry,
                Gauge::new(
                    "sidegate_worker_lag_seconds",
                    "How late the slowest worker answered the process in the last 15 seconds; asked once a second.",
                )?,
            )?,
            log_dropped,
            businesses: Mutex::default(),
            store_health,
            registry,
        };
        for outcome in ["success", "failure"] {
            metrics.config_reloads.with_label_values(&[outcome]);
        }
        for at in FailedAt::ALL {
            metrics.connections_failed.with_label_values(&[at.name()]);
        }
        for by in BrokenBy::ALL {
            metrics.answers_broken.with_label_values(&[by.name()]);
        }
        metrics.last_reload_successful.set(1);
        metrics.start_business(OTHER);
        metrics.reconfigure(policy, config_hash);
        Ok(metrics)
    }

    /// Sets the current configuration. Series of routes and limits that it shares with the former one go on.
    pub fn reconfigure(&self, policy: &Policy, config_hash: &str) {
        self.config_info.reset();
        self.config_info.with_label_values(&[config_hash]).set(1);
        self.enforcing.set(i64::from(policy.mode == Mode::Enforce));
        self.start_series(policy);
    }

    /// Sets the listener's certificates: file, and expiry in seconds since the Unix epoch.
    pub fn certificates<'c>(&self, certificates: impl IntoIterator<Item = (&'c str, u64)>) {
        self.certificate_not_after.reset();
        for (file, not_after) in certificates {
            let not_after = i64::try_from(not_after).unwrap_or(i64::MAX);
            self.certificate_not_after.with_label_values(&[file]).set(not_after);
        }
    }

    /// Counts a reload; `restart_needed`: some changes act only after a restart.
    pub fn reloaded(&self, restart_needed: bool) {
        self.config_reloads.with_label_values(&["success"]).inc();
        self.last_reload_successful.set(1);
        self.restart_needed.set(i64::from(restart_needed));
    }

    pub fn reload_failed(&self) {
        self.config_reloads.with_label_values(&["failure"]).inc();
        self.last_reload_successful.set(0);
    }

    /// A series that appears only with its first event has no rate until its second.
    fn start_series(&self, policy: &Policy) {
        self.start_routes(policy.routes.iter().map(|route| route.pattern.as_str()).chain(["none"]));
        let observes = |route: &&Arc<Route>| {
            route.mode == Mode::Observe || route.limits.iter().any(|limit| limit.mode == Mode::Observe)
        };
        let observed = policy.routes.iter().filter(observes).map(|route| route.pattern.as_str());
        for route in observed.chain((policy.mode == Mode::Observe).then_some("none")) {
            self.requests.with_label_values(&[route, Decision::Observed.name(), "200"]);
        }
        for limit in policy.limits.keys() {
            for checked in Checked::ALL {
                self.limit_checks(limit, checked);
            }
        }
    }

    /// Creates the series of these routes before anything is counted in them.
    pub fn start_routes<'r>(&self, routes: impl IntoIterator<Item = &'r str>) {
        for route in routes {
            self.duration.start(route);
            self.requests.with_label_values(&[route, Decision::Allowed.name(), "200"]);
            for reason in Reason::ALL {
                self.denials.with_label_values(&[route, reason.name()]);
                let decision = if reason.is_failure() { Decision::Failed } else { Decision::Denied };
                self.requests.with_label_values(&[route, decision.name(), &reason.status().to_string()]);
            }
        }
    }

    fn start_business(&self, business: &str) {
        for decision in Decision::ALL {
            self.business_requests.with_label_values(&[business, decision.name()]);
        }
    }

    pub(super) fn denied(&self, route: &str, reason: Reason) {
        self.denials.with_label_values(&[route, reason.name()]).inc();
    }

    /// Counts a key that was not looked up, since its address has sent too many unknown ones.
    pub(super) fn guess_slowed(&self) {
        self.guesses_slowed.inc();
    }

    pub(super) fn duration(&self, route: &str) -> OwnDurations {
        self.duration.own(route)
    }

    pub(super) fn decision_duration(&self) -> OwnDurations {
        self.decision_duration.own("")
    }

    pub(super) fn upstream_duration(&self) -> OwnDurations {
        self.upstream_duration.own("")
    }

    pub(super) fn requests(&self, route: &str, decision: Decision, status: u16) -> IntCounter {
        let status = StatusCode::from_u16(status);
        let status = status.as_ref().map_or("0", |status| status.as_str());
        self.requests.with_label_values(&[route, decision.name(), status])
    }

    pub(super) fn business_requests(&self, label: &str, decision: Decision) -> IntCounter {
        self.business_requests.with_label_values(&[label, decision.name()])
    }

    pub(super) fn limit_checks(&self, limit: &str, checked: Checked) -> IntCounter {
        self.limit_checks.with_label_values(&[limit, checked.name()])
    }

    pub(super) fn limit_used(&self, limit: &str, business: &str, ratio: f64) {
        self.limit_used.with_label_values(&[limit, business]).set(ratio);
    }

    /// The businesses with series of their own, once there can be no more.
    pub(super) fn all_named_businesses(&self) -> Option<HashSet<String>> {
        let known = self.businesses.lock().unwrap_or_else(PoisonError::into_inner);
        (known.len() >= BUSINESSES).then(|| known.clone())
    }

    /// The business's own name, or `other` if there are no more series.
    pub(super) fn business_label<'b>(&self, business: &'b str) -> &'b str {
        let mut known = self.businesses.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(business) {
            return business;
        }
        if known.len() >= BUSINESSES {
            return OTHER;
        }
        known.insert(business.to_owned());
        self.start_business(business);
        business
    }

    /// A connection or a request that counts as long as the guard lives.
    pub fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// The system has given no connection, though one waits.
    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// How late the slowest worker was lately.
    pub fn worker_lag(&self, lag: Duration) {
        self.worker_lag.set(lag.as_secs_f64());
    }

    pub fn connection_failed(&self, at: FailedAt) {
        self.connections_failed.with_label_values(&[at.name()]).inc();
    }

    pub fn request_in_flight(&self) -> Counted {
        Counted::new(&self.in_flight)
    }

    /// Counts an answer that broke off.
    pub fn answer_broken(&self, by: BrokenBy) {
        self.answers_broken.with_label_values(&[by.name()]).inc();
    }

    /// Counts a request that needed an unreadable document.
    pub fn document_unreadable(&self) {
        self.documents_unreadable.inc();
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let up = self.store_health.as_ref().is_none_or(|health| health.is_up());
        self.store_up.set(i64::from(up));
        let may_evict = self.store_health.as_ref().is_some_and(|health| health.may_evict());
        self.store_may_evict.set(i64::from(may_evict));
        let open = self.store_health.as_ref().is_some_and(|health| health.breaker().is_open());
        self.store_breaker_open.set(i64::from(open));
        for (counter, dropped) in &self.log_dropped {
            counter.inc_by(dropped.load(Ordering::Relaxed).saturating_sub(counter.get()));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// One more in a gauge until dropped.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
