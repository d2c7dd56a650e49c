//! May this request pass? The questions in the order they are asked, and the store in the middle.
//!
//! Order of answers: 400, 404 and 405, 401, 403, 429. Everything before the store is pure; a key's documents are remembered
//! but confirmed by the store in the same call that spends (`confirm`), so that a steady-state request makes one call.

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
use super::guessing::Guessing;
use super::known::{KnownKeys, Seen};
use super::observed::counted;
use super::permit::{Basis, Recheck};
use super::records::Records;
use super::trail::{Evidence, LimitsNow, Trail};
use super::unknown::UnknownNames;
use super::weigh::{Routed, rate_limited};
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
    /// What holds for requests that are for no route, where they are let pass.
    unrouted: Arc<Route>,
    records: Rc<Records>,
    /// Absent: use is not counted.
    tally: Option<Rc<Tally>>,
    /// All store work of one request.
    deadline: Duration,
}

/// What the gates of a process share.
#[derive(Debug, Clone)]
pub struct SharedState {
    /// What limits do while the store is away.
    pub fallback: Arc<Fallback>,
    /// Absent: while the store is away, no key is known.
    pub known: Option<Arc<KnownKeys>>,
    /// Absent: every key is looked up.
    pub guessing: Option<Arc<Guessing>>,
    /// What documents may name.
    pub rules: Arc<Rules>,
    /// What they name besides.
    pub unknown: Arc<UnknownNames>,
}

/// What a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct GateRequest<'a> {
    pub method: &'a Method,
    /// As it came.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub client: IpAddr,
    /// Of the body, where the head says it.
    pub length: Option<u64>,
    /// What of the head is larger than it may be.
    pub oversize: Option<Oversize>,
    /// When it came.
    pub arrived: std::time::Instant,
}

/// More of a request's head than a gate takes.
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

    /// The same, with this memory of keys.
    pub fn remembering(self, records: Rc<Records>) -> Self {
        Self { records, ..self }
    }

    /// The same, with use counted there.
    pub fn counting(self, tally: Option<Rc<Tally>>) -> Self {
        Self { tally, ..self }
    }

    /// The gate after a reload: another policy over the same connection to the store and the same memory of keys.
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

    /// Decides on a request; `trail` keeps what became known, also of one that is denied.
    pub async fn decide(&self, inquiry: &GateRequest<'_>, trail: &mut Trail) -> Result<Permit, Denial> {
        match self.judge_request(inquiry, trail).await {
            Ok(permit) if permit.route().mode == Mode::Enforce => Ok(permit),
            Ok(permit) => Ok(self.as_observed(permit, inquiry, trail)),
            Err(denial) => self.unless_observed(denial, inquiry, trail),
        }
    }

    /// The questions in their order, whatever becomes of the answer.
    async fn judge_request(&self, inquiry: &GateRequest<'_>, trail: &mut Trail) -> Result<Permit, Denial> {
        let path = path::read(inquiry.path)?;
        let preflight = self.preflight(inquiry, &path.text);
        let found = match preflight {
            Some(route) => Found::Route { route, parameters: Vec::new() },
            None => self.policy.routes.find(inquiry.method, &path.text),
        };
        trail.route = found.route().cloned();
        // What needs a route's leave to be in a path is malformed where there is no route.
        let allows = found.route().map_or(Allowances::default(), |route| route.allows);
        if !allows.cover(path.needs) {
            return Err(not_taken());
        }
        if let Some(oversize) = inquiry.oversize {
            return Err(oversize.into());
        }
        let (route, parameters) = match found {
            Found::Route { route, parameters } => (route, parameters),
            Found::OtherMethods { allow } => return Err(Denial::MethodNotAllowed { allow: allow.to_owned() }),
            Found::Nothing => return Err(Denial::RouteNotFound),
        };
        let query = inquiry.query.map(|query| query::clamped(query, &route.max_query)).transpose()?;
        if self.policy.deny.holds_address(inquiry.client) {
            return Err(Denial::DeniedAddress);
        }
        if preflight.is_some() {
            return Ok(Permit::preflight(route.clone(), target(path.text, query)));
        }
        let deadline = Instant::from_std(inquiry.arrived) + self.deadline;
        if route.access == Access::Public {
            let target = target(path.text, query);
            let routed = Routed { route, target, named: None, client: inquiry.client, spends: true };
            return self.decide_public(routed, deadline, trail).await;
        }
        let asked = inquiry.query.unwrap_or_default();
        let named = business::named(&self.policy.business_sources, &parameters, asked, inquiry.headers)?;
        let presented = credential::read(&self.policy.credentials, inquiry.headers)?;
        if self.policy.deny.holds_key(&presented.digest) {
            return Err(Denial::DeniedKey);
        }
        let target = target(path.text, query);
        let routed = Routed { route, target, named, client: inquiry.client, spends: true };
        let judged = self.judge(&routed, &presented.digest, deadline, trail).await;
        self.count(&presented.digest, trail, route.mode, judged.as_ref().err());
        if let Err(denial) = &judged {
            self.keep_evidence(denial, &presented.digest, trail);
        }
        let (caller, basis) = judged?;
        Ok(counted(Permit::key(basis, routed, caller, presented), trail))
    }

    /// One more request with a key that there is. A business that an unscoped key names is concerned only where the store has
    /// confirmed that it is its user's: nobody counts in another's name.
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

    /// Whether the key of something that is still open stands, and on what that rests. Nothing is spent.
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

    /// The route that a browser asks about before its request, where that route lets the question pass.
    fn preflight(&self, inquiry: &GateRequest<'_>, path: &str) -> Option<&Arc<Route>> {
        let method = preflight::asked_about(inquiry.method, inquiry.headers)?;
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
                // No key is at stake: the limits alone decide what an outage means.
                Err(error) if error.is_outage() => {
                    let now_ms = fallback.clock().at(clock::uptime_ms());
                    (fallback.answer(&asked.question, now_ms)?, true)
                }
                answer => (answer?, false),
            };
            let Outcome::Spent { granted, windows, observed } = answer.outcome else { return Err(unexpected()) };
            trail.limits = asked.named(Counted { granted, windows, observed }, answer.now_ms);
            if fell_back {
                show_in_force(&mut trail.limits, fallback, routed.route.cost);
            }
            if granted == 0 {
                return Err(rate_limited(trail));
            }
        }
        Ok(counted(Permit::public(routed.route.clone(), routed.target), trail))
    }

    async fn ask(&self, asked: &Asked, deadline: Instant, trail: &mut Trail) -> Result<(Answer, Seen), StoreError> {
        let began = Instant::now();
        let answer = self.store.decide(&asked.question, began, deadline).await;
        let answered = Instant::now();
        trail.waited(answered - began);
        trail.store_answered = Some(answered.into_std());
        let answer = answer?;
        trail.store_ms = Some(answer.now_ms);
        let (asked, answered) = (began.into_std(), answered.into_std());
        let seen = Seen { asked, answered, store_ms: answer.now_ms, uptime_ms: clock::uptime_ms_at(asked) };
        self.shared.fallback.clock().showed(seen.store_ms, seen.uptime_ms);
        Ok((answer, seen))
    }
}

fn unrouted(policy: &Policy) -> Arc<Route> {
    Arc::new(Route { mode: policy.mode, ..Route::bare("none".to_owned(), Access::Public) })
}

fn not_taken() -> Denial {
    Denial::BadPath("The path holds an encoded slash or a semicolon, which is not taken here")
}

/// Path and query to forward: the path as it was matched, the query as it came save for a clamp.
fn target(path: String, query: Option<Cow<'_, str>>) -> String {
    match query {
        None => path,
        Some(query) => format!("{path}?{query}"),
    }
}

/// Clients are shown the limits that hold while the store is away.
fn show_in_force(limits: &mut LimitsNow, fallback: &Fallback, cost: u64) {
    for shown in limits {
        shown.window.limit = fallback.limit_in_force(shown.window.limit, cost);
    }
}

/// Only a key's question has documents, so a public one is only ever spent or refused by its values.
fn unexpected() -> Denial {
    StoreError::Broken("the count of a public route".to_owned()).into()
}
