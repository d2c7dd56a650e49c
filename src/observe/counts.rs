//! One worker's request metrics. It keeps a handle to each series that it uses: to find one by its labels hashes them all and
//! takes a lock that all workers share, which costs several times the increment. There are few, so that comparing names costs
//! less than hashing.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use prometheus::IntCounter;
use smallvec::SmallVec;

use super::durations::OwnDurations;
use super::finished::{Decision, Finished};
use super::metrics::{Checked, Metrics, OTHER};
use crate::gate::{Denial, LimitNow};
use crate::policy::{By, Route};

/// The used ratio from which a limit is `near`.
const NEAR: f64 = 0.8;

/// Made anew for each configuration, so that no handles of former ones are kept.
pub struct Counts {
    pub metrics: Arc<Metrics>,
    decision_duration: OwnDurations,
    upstream_duration: OwnDurations,
    /// By the route's address, which is unique as long as the route is kept here; 0: no route.
    routes: RefCell<BTreeMap<usize, OfRoute>>,
    /// By their names.
    limits: RefCell<BTreeMap<String, OfLimit>>,
    /// By their labels, which are few.
    businesses: RefCell<BTreeMap<String, OfBusiness>>,
    /// The businesses with series of their own, once there can be no more: others are found to be such without the lock that all
    /// workers share.
    named: OnceCell<HashSet<String>>,
}

/// The handles of one route's series.
struct OfRoute {
    _route: Option<Arc<Route>>,
    duration: OwnDurations,
    /// By decision and status.
    requests: SmallVec<[(Decision, u16, IntCounter); 2]>,
}

type OfLimit = SmallVec<[(Checked, IntCounter); 4]>;
type OfBusiness = SmallVec<[(Decision, IntCounter); 4]>;

impl Counts {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let (routes, limits, businesses) = Default::default();
        let (decision_duration, upstream_duration) = (metrics.decision_duration(), metrics.upstream_duration());
        Self { metrics, decision_duration, upstream_duration, routes, limits, businesses, named: OnceCell::new() }
    }

    pub fn count(&self, finished: &Finished<'_>) {
        self.count_route(finished);
        // Absent where the request did not get so far.
        if let Some(took) = finished.decided_in {
            self.decision_duration.observe(took);
        }
        if let Some(took) = finished.upstream_took {
            self.upstream_duration.observe(took);
        }
        if let Some(denial) = finished.denial {
            self.metrics.denied(finished.route(), denial.reason());
        }
        if finished.trail.guess_slowed {
            self.metrics.guess_slowed();
        }
        let is_limited = matches!(finished.denial, Some(Denial::RateLimited { .. }));
        let business = finished.business().map(|business| self.count_business(business, finished.decision()));
        // Windows of one limit are adjacent; the fullest one decides.
        for windows in finished.trail.limits.chunk_by(|a, b| a.limit.name == b.limit.name) {
            self.count_limit(windows, is_limited, business);
        }
    }

    fn count_route(&self, finished: &Finished<'_>) {
        let (route, decision, status) = (finished.trail.route.as_ref(), finished.decision(), finished.status);
        let mut routes = self.routes.borrow_mut();
        let of_route = routes.entry(route.map_or(0, |route| Arc::as_ptr(route) as usize)).or_insert_with(|| OfRoute {
            _route: route.cloned(),
            duration: self.metrics.duration(finished.route()),
            requests: SmallVec::new(),
        });
        of_route.duration.observe(finished.took);
        let requests = &mut of_route.requests;
        match requests.iter().find(|(of, sent, _)| (*of, *sent) == (decision, status)) {
            Some((_, _, series)) => series.inc(),
            None => {
                let series = self.metrics.requests(finished.route(), decision, status);
                series.inc();
                requests.push((decision, status, series));
            }
        }
    }

    /// Counts a business's request; returns its label.
    fn count_business<'b>(&self, business: &'b str, decision: Decision) -> &'b str {
        if self.count_known(business, decision) {
            return business;
        }
        let label = self.label(business);
        if label == business || !self.count_known(label, decision) {
            let series = self.metrics.business_requests(label, decision);
            series.inc();
            self.businesses.borrow_mut().entry(label.to_owned()).or_default().push((decision, series));
        }
        label
    }

    /// Counts with a known handle; whether there was one.
    fn count_known(&self, label: &str, decision: Decision) -> bool {
        let businesses = self.businesses.borrow();
        let series = businesses.get(label).and_then(|counted| counted.iter().find(|(of, _)| *of == decision));
        series.inspect(|(_, series)| series.inc()).is_some()
    }

    /// The business's own name, or `other`.
    fn label<'b>(&self, business: &'b str) -> &'b str {
        if self.named.get().is_some_and(|named| !named.contains(business)) {
            return OTHER;
        }
        let label = self.metrics.business_label(business);
        if label != business
            && let Some(named) = self.metrics.all_named_businesses()
        {
            self.named.get_or_init(|| named);
        }
        label
    }

    fn count_limit(&self, windows: &[LimitNow], denied: bool, business: Option<&str>) {
        let Some(LimitNow { limit, .. }) = windows.first() else { return };
        let used = windows.iter().map(used_ratio).fold(0.0, f64::max);
        let checked = match () {
            () if windows.iter().any(|window| window.over) => {
                if denied {
                    Checked::Over
                } else {
                    Checked::Observed
                }
            }
            () if used >= NEAR => Checked::Near,
            () => Checked::Within,
        };
        self.count_check(&limit.name, checked);
        if let (By::Business, Some(business)) = (limit.by, business) {
            self.metrics.limit_used(&limit.name, business, used);
        }
    }

    fn count_check(&self, limit: &str, checked: Checked) {
        let mut limits = self.limits.borrow_mut();
        if let Some(counted) = limits.get(limit)
            && let Some((_, series)) = counted.iter().find(|(of, _)| *of == checked)
        {
            return series.inc();
        }
        let series = self.metrics.limit_checks(limit, checked);
        series.inc();
        limits.entry(limit.to_owned()).or_default().push((checked, series));
    }
}

/// The used part of a window, 1 for a limit of 0.
fn used_ratio(window: &LimitNow) -> f64 {
    match window.window.limit {
        0 => 1.0,
        // Limits stay far below 2⁵³, so both are exact.
        limit => 1.0 - (window.now.remaining.min(limit) as f64 / limit as f64),
    }
}
