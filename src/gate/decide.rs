//! Decides whether a request may pass: the checks in their order, and the store call in the middle.
//!
//! Order of answers: 400, 404 and 405, 401, 403, 429. Everything before the store is pure; a key's documents are cached, but
//! confirmed by the store in the same call that spends (`confirm`), so that a steady-state request makes one call.

mod confirm;

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::time::Instant;

use super::asks::{self, Asked, Counted};
use super::credential;
use super::evaluate::{Routed, rate_limited};
use super::guessing::Guessing;
use super::known::{CallTimes, KnownKeys};
use super::observed::counted;
use super::permit::{Basis, Recheck};
use super::records::Records;
use super::trail::{Evidence, LimitsNow, Trail};
use super::unknown::UnknownNames;
use super::{Denial, Permit, business, path, preflight, query, standing};
use crate::clock;
use crate::keys::Digest;
use crate::keys::rules::Rules;
use crate::limit::{Answer, Outcome};
use crate::policy::route::Found;
use crate::policy::{Access, Allowances, Mode, Policy, Route};
use crate::store::fallback::Fallback;
use crate::store::usage::tally::{self, Tally};
use crate::store::{Store, StoreError};

/// One worker's gate.
pub struct Gate {
    policy: Arc<Policy>,
    store: Store,
    shared: SharedState,
    /// Stands in for the route of requests that match none, in observe mode.
    unrouted: Arc<Route>,
    records: Rc<Records>,
    /// Absent: usage is not counted.
    tally: Option<Rc<Tally>>,
    /// For all store work of one request.
    deadline: Duration,
}

/// State shared by the gates of all workers.
#[derive(Debug, Clone)]
pub struct SharedState {
    /// Decides about limits during an outage.
    pub fallback: Arc<Fallback>,
    /// Keys for an outage (`known_for`); absent: none is let pass then.
    pub known: Option<Arc<KnownKeys>>,
    /// Absent: every key is looked up.
    pub guessing: Option<Arc<Guessing>>,
    /// The names that documents may use.
    pub rules: Arc<Rules>,
    /// Reports the others.
    pub unknown: Arc<UnknownNames>,
}

/// The input of a decision.
#[derive(Debug, Clone, Copy)]
pub struct GateRequest<'a> {
    pub method: &'a Method,
    /// As received.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub client: IpAddr,
    /// The body's length, where the head states it.
    pub length: Option<u64>,
    /// The part of the head that is larger than allowed.
    pub oversize: Option<Oversize>,
    pub arrived: std::time::Instant,
}

/// The part of a request's head that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversize {
    Target,
    Headers,
}

impl From<Oversize> for Denial {
    fn from(oversize: Oversize) -> Self {
        match oversize {
            Oversize::Target => Self::UriTooLong,
            Oversize::Headers => Self::HeadersTooLarge,
        }
    }
}

impl Gate {
    pub fn new(policy: Arc<Policy>, store: Store, shared: SharedState, deadline: Duration) -> Self {
        let unrouted = unrouted(&policy);
        let records = Rc::new(Records::of_one_in(1));
        Self { policy, store, shared, unrouted, records, tally: None, deadline }
    }

    /// With this cache of documents.
    pub fn remembering(self, records: Rc<Records>) -> Self {
        Self { records, ..self }
    }

    /// With usage counted there.
    pub fn counting(self, tally: Option<Rc<Tally>>) -> Self {
        Self { tally, ..self }
    }

    /// The gate after a reload: another policy with the same store connection and the same cache.
    pub fn renewed(&self, policy: Arc<Policy>, shared: SharedState, deadline: Duration) -> Self {
        let (store, records, tally) = (self.store.clone(), self.records.clone(), self.tally.clone());
        Self { unrouted: unrouted(&policy), policy, store, shared, records, tally, deadline }
    }

    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    pub(super) fn unrouted(&self) -> &Arc<Route> {
        &self.unrouted
    }

    /// Decides on a request; `trail` records what became known, also of one that is denied.
    pub async fn decide(&self, request: &GateRequest<'_>, trail: &mut Trail) -> Result<Permit, Denial> {
        match self.judge_request(request, trail).await {
            Ok(permit) if permit.route().mode == Mode::Enforce => Ok(permit),
            Ok(permit) => Ok(self.as_observed(permit, request, trail)),
            Err(denial) => self.unless_observed(denial, request, trail),
        }
    }

    /// The checks in their order, as if everything were enforced.
    async fn judge_request(&self, request: &GateRequest<'_>, trail: &mut Trail) -> Result<Permit, Denial> {
        let path = path::read(request.path)?;
        let preflight = self.preflight(request, &path.text);
        let found = match preflight {
            Some(route) => Found::Route { route, parameters: Vec::new() },
            None => self.policy.routes.find(request.method, &path.text),
        };
        trail.route = found.route().cloned();
        // Encoded slashes and semicolons are malformed where no route allows them.
        let allows = found.route().map_or(Allowances::default(), |route| route.allows);
        if !allows.cover(path.needs) {
            return Err(not_allowed());
        }
        if let Some(oversize) = request.oversize {
            return Err(oversize.into());
        }
        let (route, parameters) = match found {
            Found::Route { route, parameters } => (route, parameters),
            Found::OtherMethods { allow } => return Err(Denial::MethodNotAllowed { allow: allow.to_owned() }),
            Found::Nothing => return Err(Denial::RouteNotFound),
        };
        let query = request.query.map(|query| query::clamped(query, &route.max_query)).transpose()?;
        if self.policy.deny.holds_address(request.client) {
            return Err(Denial::DeniedAddress);
        }
        if preflight.is_some() {
            return Ok(Permit::preflight(route.clone(), target(path.text, query)));
        }
        let deadline = Instant::from_std(request.arrived) + self.deadline;
        if route.access == Access::Public {
            let target = target(path.text, query);
            let routed = Routed { route, target, named: None, client: request.client, spends: true };
            return self.decide_public(routed, deadline, trail).await;
        }
        let asked = request.query.unwrap_or_default();
        let named = business::named(&self.policy.business_sources, &parameters, asked, request.headers)?;
        let presented = credential::read(&self.policy.credentials, request.headers)?;
        if self.policy.deny.holds_key(&presented.digest) {
            return Err(Denial::DeniedKey);
        }
        let target = target(path.text, query);
        let routed = Routed { route, target, named, client: request.client, spends: true };
        let judged = self.judge(&routed, &presented.digest, deadline, trail).await;
        self.count(&presented.digest, trail, route.mode, judged.as_ref().err());
        if let Err(denial) = &judged {
            self.keep_evidence(denial, &presented.digest, trail);
        }
        let (caller, basis) = judged?;
        Ok(counted(Permit::key(basis, routed, caller, presented), trail))
    }

    /// Counts the usage of a key that exists. A business that an unscoped key names is counted only where the store has confirmed
    /// that its user owns it, so that nobody counts against another's business.
    fn count(&self, digest: &Digest, trail: &Trail, mode: Mode, denial: Option<&Denial>) {
        let (Some(tally), Some(caller), Some(at_ms)) = (&self.tally, &trail.caller, trail.store_ms) else { return };
        let request = tally::Request { at_ms, denied: denial.is_some() && mode == Mode::Enforce };
        tally.key(digest, &caller.key, request);
        if let (Some(business), None | Some(Denial::RateLimited { .. })) = (&caller.named, denial) {
            tally.business(business, request);
        }
    }

    fn keep_evidence(&self, denial: &Denial, digest: &Digest, trail: &mut Trail) {
        let missing = || {
            let (key, route) = (&trail.caller.as_ref()?.key, trail.route.as_ref()?);
            standing::missing_scopes(&self.policy, &key.scopes, &route.access)
        };
        let evidence = match denial {
            Denial::UnknownKey => Some(Evidence::UnknownKey(*digest)),
            Denial::InsufficientScope { .. } => missing().map(Evidence::MissingScope),
            _ => None,
        };
        trail.evidence = evidence.map(Box::new);
    }

    /// Whether an open request's key is still valid, and on what basis. Nothing is spent.
    pub async fn recheck(&self, route: &Arc<Route>, recheck: &Recheck) -> Result<Basis, Denial> {
        let Recheck { digest, named, client } = recheck;
        if self.policy.deny.holds_address(*client) {
            return Err(Denial::DeniedAddress);
        }
        if self.policy.deny.holds_key(digest) {
            return Err(Denial::DeniedKey);
        }
        let routed = Routed { route, target: String::new(), named: named.clone(), client: *client, spends: false };
        let deadline = Instant::now() + self.deadline;
        let (_, basis) = self.judge(&routed, digest, deadline, &mut Trail::default()).await?;
        Ok(basis)
    }

    /// The route that a CORS preflight asks about, where that route lets preflights pass.
    fn preflight(&self, request: &GateRequest<'_>, path: &str) -> Option<&Arc<Route>> {
        let method = preflight::requested_method(request.method, request.headers)?;
        match self.policy.routes.find(&method, path) {
            Found::Route { route, .. } if route.preflight => Some(route),
            Found::Route { .. } | Found::OtherMethods { .. } | Found::Nothing => None,
        }
    }

    async fn decide_public(&self, routed: Routed<'_>, deadline: Instant, trail: &mut Trail) -> Result<Permit, Denial> {
        if !routed.route.limits.is_empty() {
            let asked = asks::of_public(routed.route, routed.client);
            let fallback = &self.shared.fallback;
            let (answer, fell_back) = match self.ask(&asked, deadline, trail).await.map(|(answer, _)| answer) {
                // Without a key only `outage.limits` applies.
                Err(error) if error.is_outage() => {
                    let now_ms = fallback.clock().at(clock::uptime_ms());
                    (fallback.answer(&asked.question, now_ms)?, true)
                }
                answer => (answer?, false),
            };
            let Outcome::Spent { granted, windows, observed } = answer.outcome else { return Err(unexpected()) };
            trail.limits = asked.limits_now(Counted { granted, windows, observed }, answer.now_ms);
            if fell_back {
                show_in_force(&mut trail.limits, fallback, routed.route.cost);
            }
            if granted == 0 {
                return Err(rate_limited(trail));
            }
        }
        Ok(counted(Permit::public(routed.route.clone(), routed.target), trail))
    }

    async fn ask(
        &self,
        asked: &Asked,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<(Answer, CallTimes), StoreError> {
        let began = Instant::now();
        let answer = self.store.decide(&asked.question, began, deadline).await;
        let answered = Instant::now();
        trail.waited(answered - began);
        trail.store_answered = Some(answered.into_std());
        let answer = answer?;
        trail.store_ms = Some(answer.now_ms);
        let (asked, answered) = (began.into_std(), answered.into_std());
        let seen = CallTimes { asked, answered, store_ms: answer.now_ms, uptime_ms: clock::uptime_ms_at(asked) };
        self.shared.fallback.clock().update(seen.store_ms, seen.uptime_ms);
        Ok((answer, seen))
    }
}

fn unrouted(policy: &Policy) -> Arc<Route> {
    Arc::new(Route { mode: policy.mode, ..Route::bare("none".to_owned(), Access::Public) })
}

fn not_allowed() -> Denial {
    Denial::BadPath("The path holds an encoded slash or a semicolon, which is not taken here")
}

/// Path and query to forward: the path as it was matched, the query as received except for a clamp.
fn target(path: String, query: Option<Cow<'_, str>>) -> String {
    match query {
        None => path,
        Some(query) => format!("{path}?{query}"),
    }
}

/// Sets the limits that clients are shown to those in force during an outage.
fn show_in_force(limits: &mut LimitsNow, fallback: &Fallback, cost: u64) {
    for shown in limits {
        shown.window.limit = fallback.limit_in_force(shown.window.limit, cost);
    }
}

/// A public route's question has no documents, so that it is never stale, expired or refused.
fn unexpected() -> Denial {
    StoreError::Broken("the count of a public route".to_owned()).into()
}
