//! `limits`, `plans`, and the names of limits that routes and defaults mention.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::mode::mode;
use super::name::{NAME_ADVICE, is_name};
use super::reader::entries;
use super::reader::{Reader, items};
use crate::clock::short_duration;
use crate::config::field_path::FieldPath;
use crate::config::raw::{self, List, Root, Scalar};
use crate::config::{scalar, suggestion};
use crate::limit::{Algorithm, Window, Windows};
use crate::policy::{Access, By, Limit, Mode, Plan, Plans, RouteTable};
use crate::store::fallback::share_of;
use crate::store::outage::LimitsOutage;

pub struct Limits {
    pub compiled: BTreeMap<String, Arc<Limit>>,
    /// All names, those of limits that could not be compiled too: using one is no second error.
    names: Vec<String>,
    used: HashSet<String>,
}

pub fn all(root: &Root, reader: &mut Reader<'_>) -> Limits {
    let mut limits = Limits { compiled: BTreeMap::new(), names: Vec::new(), used: HashSet::new() };
    for (name, raw) in entries(root.limits.as_ref()) {
        let path = FieldPath::top("limits").field(name);
        if !is_name(name) {
            reader.fail(&path, NAME_ADVICE);
        }
        limits.names.push(name.clone());
        if let Some(limit) = limit(name, &path, raw, reader) {
            limits.compiled.insert(name.clone(), Arc::new(limit));
        }
    }
    limits
}

fn limit(name: &str, path: &FieldPath, raw: &raw::Limit, reader: &mut Reader<'_>) -> Option<Limit> {
    let by = [("key", By::Key), ("business", By::Business), ("user", By::User), ("ip", By::Ip), ("global", By::Global)];
    let algorithms = [
        ("fixed-window", Algorithm::Fixed),
        ("sliding-window", Algorithm::Sliding),
        ("token-bucket", Algorithm::Token),
    ];
    let mode = mode(&path.field("mode"), raw.mode.as_ref(), Mode::Enforce, reader);
    let algorithm = path.field("algorithm");
    let algorithm = reader.read(&algorithm, raw.algorithm.as_ref(), Algorithm::Fixed, scalar::choice(&algorithms));
    let by_path = path.field("by");
    let counted = reader.required(&by_path, raw.by.as_ref(), "`by: key` (or business, user, ip, global)");
    let counted = counted.and_then(|text| reader.parse(&by_path, text, scalar::choice(&by)));
    let path = path.field("windows");
    if raw.windows.is_none() {
        reader.fail(&path, "it is missing; write one window, such as `60/1m`, or several in a list");
    }
    let windows = windows(&path, raw.windows.as_ref()?, algorithm, reader);
    Some(Limit { name: name.to_owned(), by: counted?, algorithm, windows: windows?, mode })
}

/// A list of windows, none of which closes: that is for overrides in documents.
pub fn windows(
    path: &FieldPath,
    list: &List<Scalar>,
    algorithm: Algorithm,
    reader: &mut Reader<'_>,
) -> Option<Arc<Windows>> {
    let before = reader.problems.len();
    let mut parsed = Vec::new();
    for (path, scalar) in items(path, list) {
        let Some(window) = reader.parse(&path, scalar, Window::parse) else { continue };
        if window.limit == 0 {
            reader.fail(&path, format_args!(
                "`{window}` lets nothing through; write a number above 0 (a key, a business or a plan is closed in its document)"
            ));
        }
        parsed.push(window);
    }
    let windows = Windows::new(parsed).and_then(|windows| windows.check_for(algorithm).map(|()| windows));
    let windows = windows.map_err(|error| {
        // Of windows that could not be read, that none is left says nothing.
        if reader.problems.len() == before {
            reader.fail(path, error);
        }
    });
    let windows = windows.ok()?;
    warn_of_idle(path, windows.as_slice(), reader);
    Some(Arc::new(windows))
}

/// A window that a longer one always closes first.
fn warn_of_idle(path: &FieldPath, windows: &[Window], reader: &mut Reader<'_>) {
    for window in windows {
        let tighter = |other: &&Window| other.duration_ms > window.duration_ms && other.limit <= window.limit;
        if let Some(tighter) = windows.iter().find(tighter) {
            reader.warn(
                path,
                format_args!(
                    "`{window}` never acts, since `{tighter}` lets no more through in a longer time; write a smaller number, or remove it"
                ),
            );
        }
    }
}

/// An override replaces all windows: one that it does not name bounds nothing any more, save where what it names is as tight.
fn warn_of_lost_windows(path: &FieldPath, replaced: &Windows, windows: &Windows, reader: &mut Reader<'_>) {
    let still_bounds = |lost: &Window| {
        windows.as_slice().iter().any(|one| {
            one.duration_ms == lost.duration_ms || (one.duration_ms > lost.duration_ms && one.limit <= lost.limit)
        })
    };
    for lost in replaced.as_slice().iter().filter(|window| !still_bounds(window)) {
        let duration = short_duration(lost.duration_ms);
        reader.warn(
            path,
            format_args!(
                "this replaces all windows of the limit, so that `{lost}` does not hold here; add one of {duration} if it should"
            ),
        );
    }
}

impl Limits {
    /// The limits that a list names.
    pub fn resolve(&mut self, path: &FieldPath, list: &List<Scalar>, reader: &mut Reader<'_>) -> Vec<Arc<Limit>> {
        let mut seen: Vec<String> = Vec::new();
        for (path, scalar) in items(path, list) {
            let Some(name) = reader.text(&path, scalar) else { continue };
            if !self.names.contains(&name) {
                self.unknown(&path, &name, reader);
            } else if seen.contains(&name) {
                reader.fail(&path, format_args!("`{name}` stands there twice; keep one of them"));
            } else {
                self.used.insert(name.clone());
                seen.push(name);
            }
        }
        seen.iter().filter_map(|name| self.compiled.get(name)).cloned().collect()
    }

    /// The names, and whether a key may have windows of its own.
    pub fn known(&self) -> Vec<(String, bool)> {
        self.compiled.values().map(|limit| (limit.name.clone(), limit.by == By::Key)).collect()
    }

    /// By name, how each counts.
    pub fn algorithms(&self) -> BTreeMap<String, Algorithm> {
        self.compiled.values().map(|limit| (limit.name.clone(), limit.algorithm)).collect()
    }

    fn unknown(&self, path: &FieldPath, name: &str, reader: &mut Reader<'_>) {
        let advice = suggestion::advice(name, self.names.iter().map(String::as_str));
        reader.fail(path, format_args!("there is no limit `{name}`; {advice}"));
    }

    pub fn report_unused(&self, reader: &mut Reader<'_>) {
        for name in self.names.iter().filter(|name| !self.used.contains(*name)) {
            let path = FieldPath::top("limits").field(name);
            reader.fail(&path, "no route uses it; name it in `defaults.limits` or in a route's `limits`, or remove it");
        }
    }
}

/// Plans hold for keys: on a public route nobody has one.
pub fn warn_of_idle_plans(plans: Option<&Plans>, routes: &RouteTable, reader: &mut Reader<'_>) {
    let with_key: HashSet<&str> = routes
        .iter()
        .filter(|route| route.access != Access::Public)
        .flat_map(|route| route.limits.iter().map(|limit| limit.name.as_str()))
        .collect();
    for (name, plan) in plans.into_iter().flat_map(Plans::iter) {
        let path = FieldPath::top("plans").field(name).field("limits");
        for limit in plan.limits.keys().filter(|limit| !with_key.contains(limit.as_str())) {
            reader.warn(
                &path.field(limit),
                "only public routes have this limit, where no plan is known, so that it has no effect; remove it, or name the \
                 limit on a route with keys",
            );
        }
    }
}

/// What one process gives of a limit while the store is away may be less than one request costs.
pub fn warn_of_small_shares(routes: &RouteTable, outage: LimitsOutage, reader: &mut Reader<'_>) {
    let LimitsOutage::Local { share: Some(share) } = outage else { return };
    for route in routes.iter().filter(|route| route.cost > 1) {
        let windows =
            route.limits.iter().flat_map(|limit| limit.windows.as_slice().iter().map(move |one| (limit, one)));
        let small = windows.filter(|(_, one)| (share_of(one.limit, 1, share) + 1..=one.limit).contains(&route.cost));
        for (limit, window) in small {
            let (part, whole) = share;
            reader.warn(
                &FieldPath::top("routes").field(&route.pattern),
                format_args!(
                    "one request costs {}, and {part}/{whole} of `{}` ({window}) is {}: while Redis is away each process lets one pass a \
                     window, which in sum may be more than the limit; see `store.outage.limits`",
                    route.cost,
                    limit.name,
                    share_of(window.limit, 1, share)
                ),
            );
        }
    }
}

/// The names of the plans.
pub fn names(plans: Option<&Plans>) -> Vec<String> {
    plans.into_iter().flat_map(Plans::iter).map(|(name, _)| name.clone()).collect()
}

pub fn plans(root: &Root, limits: &Limits, reader: &mut Reader<'_>) -> Option<Plans> {
    let raw = root.plans.as_ref()?;
    let path = FieldPath::top("plans");
    if raw.0.is_empty() {
        reader.fail(&path, "there is no plan, so that every key would be refused; write one, or remove `plans`");
    }
    let mut plans = BTreeMap::new();
    for (name, raw) in &raw.0 {
        let path = path.field(name);
        if !is_name(name) {
            reader.fail(&path, NAME_ADVICE);
        }
        let api = reader.read(&path.field("api"), raw.api.as_ref(), true, scalar::flag);
        let path = path.field("limits");
        let mut overrides = BTreeMap::new();
        for (limit, list) in entries(raw.limits.as_ref()) {
            let path = path.field(limit);
            if !limits.names.contains(limit) {
                limits.unknown(&path, limit, reader);
            }
            let algorithm = limits.compiled.get(limit).map_or(Algorithm::Fixed, |limit| limit.algorithm);
            let Some(windows) = windows(&path, list, algorithm, reader) else { continue };
            if let Some(replaced) = limits.compiled.get(limit) {
                warn_of_lost_windows(&path, &replaced.windows, &windows, reader);
            }
            overrides.insert(limit.clone(), windows);
        }
        plans.insert(name.clone(), Plan { api, limits: overrides });
    }
    Some(Plans::new(plans))
}
