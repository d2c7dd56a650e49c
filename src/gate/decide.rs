//! May this request pass? The questions in the order they are asked, and the store in the middle.
//!
//! Order of answers: 400, 404 and 405, 401, 403, 429. Everything before the store is pure; a key's documents are remembered
//! but confirmed by the store in the same call that spends, so that a steady-state request makes one call.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::Instant;

use super::asks::{self, Asked, Counted};
use super::credential;
use super::documents::{Documents, Known, KnownBusiness};
use super::guessing::Guessing;
use super::known::{KnownKeys, Seen};
use super::observed::counted;
use super::permit::{Basis, Recheck};
use super::records::{Records, Remembered};
use super::standing::Standing;
use super::trail::{Caller, Trail};
use super::unknown::UnknownNames;
use super::weigh::{Routed, Weighed, Weighing, business_to_confirm, rate_limited, settled};
use super::{Denial, Permit, business, path, preflight, query};
use crate::clock;
use crate::keys::rules::Rules;
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Outcome};
use crate::policy::route::Found;
use crate::policy::{Access, Allowances, Mode, Policy, Route};
use crate::store::fallback::Fallback;
use crate::store::usage::tally::{self, Tally};
use crate::store::{Store, StoreError};

/// How often one request asks again because a document changed under it, before it gives up.
const ROUNDS: usize = 6;

/// One worker's gate.
pub struct Gate {
    policy: Arc<Policy>,
    store: Store,
    commons: Commons,
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
pub struct Commons {
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
pub struct Inquiry<'a> {
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
    pub fn new(policy: Arc<Policy>, store: Store, commons: Commons, deadline: Duration) -> Self {
        let unrouted = unrouted(&policy);
        Self { policy, store, commons, unrouted, records: Rc::default(), tally: None, deadline }
    }

    /// The same, with use counted there.
    pub fn counting(self, tally: Option<Rc<Tally>>) -> Self {
        Self { tally, ..self }
    }

    /// The gate after a reload: another policy over the same connection to the store and the same memory of keys.
    pub fn renewed(&self, policy: Arc<Policy>, commons: Commons, deadline: Duration) -> Self {
        let (store, records, tally) = (self.store.clone(), self.records.clone(), self.tally.clone());
        Self { unrouted: unrouted(&policy), policy, store, commons, records, tally, deadline }
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
    pub async fn decide(&self, inquiry: &Inquiry<'_>, trail: &mut Trail) -> Result<Permit, Denial> {
        match self.judge_request(inquiry, trail).await {
            Ok(permit) if permit.route().mode == Mode::Enforce => Ok(permit),
            Ok(permit) => Ok(self.as_observed(permit, inquiry, trail)),
            Err(denial) => self.unless_observed(denial, inquiry, trail),
        }
    }

    /// The questions in their order, whatever becomes of the answer.
    async fn judge_request(&self, inquiry: &Inquiry<'_>, trail: &mut Trail) -> Result<Permit, Denial> {
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
        let (caller, basis) = judged?;
        Ok(counted(Permit::key(basis, routed, caller, presented), trail))
    }

    /// One more request with a key that there is. A business that an unscoped key names is concerned only where the store has
    /// confirmed that it is its user's: nobody counts in another's name.
    fn count(&self, digest: &Digest, trail: &Trail, mode: Mode, denial: Option<&Denial>) {
        let (Some(tally), Some(caller), Some(at_ms)) = (&self.tally, &trail.caller, trail.store_ms) else { return };
        let request = tally::Request { at_ms, denied: denial.is_some() && mode == Mode::Enforce };
        tally.key(digest, &caller.key, request);
        if let (None, Some(business), None | Some(Denial::RateLimited { .. })) =
            (&caller.key.business, &caller.business, denial)
        {
            tally.business(business, request);
        }
    }

    /// Whether the key of something that is still open stands, and on what that rests. Nothing is spent.
    pub async fn recheck(&self, recheck: &Recheck) -> Result<Basis, Denial> {
        let Recheck { route, digest, named, client } = recheck;
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
    fn preflight(&self, inquiry: &Inquiry<'_>, path: &str) -> Option<&Arc<Route>> {
        let method = preflight::asked_about(inquiry.method, inquiry.headers)?;
        match self.policy.routes.find(&method, path) {
            Found::Route { route, .. } if route.preflight => Some(route),
            Found::Route { .. } | Found::OtherMethods { .. } | Found::Nothing => None,
        }
    }

    async fn decide_public(&self, routed: Routed<'_>, deadline: Instant, trail: &mut Trail) -> Result<Permit, Denial> {
        let asked = asks::of_public(routed.route, routed.client);
        if !asked.is_empty() {
            let answer = match self.ask(&asked, deadline, trail).await.map(|(answer, _)| answer) {
                // No key is at stake: the limits alone decide what an outage means.
                Err(error) if error.is_outage() => self.commons.fallback.answer(&asked.question, clock::now_ms())?,
                answer => answer?,
            };
            let Outcome::Spent { granted, windows, observed } = answer.outcome else { return Err(unexpected()) };
            trail.limits = asked.named(Counted { granted, windows, observed }, answer.now_ms);
            if granted == 0 {
                return Err(rate_limited(trail));
            }
        }
        Ok(counted(Permit::public(routed.route.clone(), routed.target), trail))
    }

    /// By what the store confirms; while it is away, by what it confirmed not long ago, where the configuration says so.
    async fn judge(
        &self,
        routed: &Routed<'_>,
        digest: &Digest,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<(Rc<Caller>, Basis), Denial> {
        match self.confirm(routed, digest, deadline, trail).await {
            Err(Denial::StoreUnavailable(error)) if error.is_outage() => {
                Ok((self.recall(routed, digest, error, trail)?, Basis::KnownFor))
            }
            Err(denial) => {
                self.remember_denial(&denial, digest, routed.client);
                Err(denial)
            }
            Ok(caller) => Ok((caller, Basis::Key)),
        }
    }

    /// Asks until the store confirms what was asked about; each round starts from what the last one learned.
    async fn confirm(
        &self,
        routed: &Routed<'_>,
        digest: &Digest,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<Rc<Caller>, Denial> {
        let mut remembered = self.find_key(digest, routed.client, deadline, trail).await?;
        let mut looked_again = false;
        let mut disowned = false;
        for _ in 0..ROUNDS {
            let weighing = self.weigh(digest, &remembered, routed, disowned);
            let Weighing { weighed: Weighed { standing, asked }, business, .. } = &*weighing;
            let (answer, seen) = self.ask(asked, deadline, trail).await?;
            let documents = Documents { digest, key: &remembered.key, business: business.as_deref() };
            if let Some(known) = &self.commons.known {
                known.heard(&documents, standing.as_ref(), &answer.outcome, seen);
            }
            match answer.outcome {
                Outcome::Broken(what) => {
                    trail.caller = standing.as_ref().map(Standing::unconfirmed);
                    return Err(StoreError::Broken(what).into());
                }
                Outcome::Expired => {
                    trail.caller = standing.as_ref().map(Standing::unconfirmed);
                    return Err(Denial::ExpiredKey);
                }
                Outcome::Refused => disowned = true,
                Outcome::Stale(found) => {
                    if let Err(error) = self.learn(&documents, found, asked, seen) {
                        trail.caller = self.believed(digest);
                        return Err(error.into());
                    }
                    match self.records.key(digest) {
                        Some(known) if !matches!(known.key.document, Known::Absent) => remembered = known,
                        // Nothing stands where the hint pointed: perhaps it moved. Look once more, then believe it.
                        _ if looked_again => return Err(self.unknown(digest)),
                        _ => {
                            looked_again = true;
                            self.records.forget_key(digest);
                            remembered = Box::pin(self.look_up(digest, deadline, trail)).await?;
                        }
                    }
                }
                Outcome::Spent { granted, windows, observed } => {
                    let Some(standing) = standing else { return Err(self.unknown(digest)) };
                    trail.limits = asked.named(Counted { granted, windows, observed }, answer.now_ms);
                    return settled(standing, granted, trail);
                }
            }
        }
        Err(StoreError::Broken("the key's documents change faster than they can be read".to_owned()).into())
    }

    /// As it was weighed before, where nothing has changed since.
    fn weigh(&self, digest: &Digest, remembered: &Remembered, routed: &Routed<'_>, disowned: bool) -> Rc<Weighing> {
        let Remembered { key, weighings } = remembered;
        let kept = if routed.spends { weighings.recall(routed, disowned) } else { None };
        kept.unwrap_or_else(|| {
            let business = business_to_confirm(key, routed.named.as_deref()).map(|id| self.records.business(id));
            let weighing = Rc::new(Weighing::of(&self.policy, (digest, key), business, routed, disowned));
            if routed.spends {
                // What is remembered outlives a reload, and may name what another configuration had.
                if !weighings.know(&self.policy) {
                    self.tell_unknown_names(&Documents { digest, key, business: weighing.business.as_deref() });
                }
                weighings.keep(&weighing);
            }
            weighing
        })
    }

    /// The same questions, answered by what the store last confirmed; `error`, where that is too little or too long ago.
    fn recall(
        &self,
        routed: &Routed<'_>,
        digest: &Digest,
        error: StoreError,
        trail: &mut Trail,
    ) -> Result<Rc<Caller>, Denial> {
        let now = Instant::now().into_std();
        let Some(known) = &self.commons.known else { return Err(error.into()) };
        let Some((key, now_ms)) = known.key(digest, now, clock::now_ms()) else { return Err(error.into()) };
        let business = match business_to_confirm(&key, routed.named.as_deref()) {
            None => None,
            Some(id) => Some(KnownBusiness::new(id.to_owned(), known.business(id, now).ok_or(error.clone())?)),
        };
        let documents = Documents { digest, key: &key, business: business.as_ref() };
        let Weighed { standing: Some(standing), asked } = documents.weigh(&self.policy, routed, false) else {
            return Err(error.into());
        };
        if standing.owner().is_some_and(|(user, business)| !known.owns(user, business, now)) {
            return Err(error.into());
        }
        match self.commons.fallback.answer(&asked.question, now_ms)?.outcome {
            Outcome::Spent { granted, windows, observed } => {
                trail.limits = asked.named(Counted { granted, windows, observed }, now_ms);
                (trail.known_for, trail.store_ms) = (true, Some(now_ms));
                settled(&standing, granted, trail)
            }
            Outcome::Expired => Err(Denial::ExpiredKey),
            Outcome::Broken(_) | Outcome::Stale(_) | Outcome::Refused => Err(error.into()),
        }
    }

    /// What this worker remembers of the key, or the store's hint where to look.
    async fn find_key(
        &self,
        digest: &Digest,
        client: IpAddr,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<Rc<Remembered>, Denial> {
        if let Some(known) = self.records.key(digest) {
            return Ok(known);
        }
        if let Some(guessing) = &self.commons.guessing
            && let Some(wait_ms) = guessing.wait_ms(client, digest, clock::now_ms())
        {
            let retry_after = Some(wait_ms.div_ceil(1000).max(1));
            return Err(Denial::RateLimited { retry_after, violated: vec!["key-guessing".to_owned()] });
        }
        // Boxed: it is done once in a key's life, and would take most of the room of every decision.
        Box::pin(self.look_up(digest, deadline, trail)).await
    }

    async fn look_up(&self, digest: &Digest, deadline: Instant, trail: &mut Trail) -> Result<Rc<Remembered>, Denial> {
        let started = Instant::now();
        let found = self.store.lookup(digest, deadline).await;
        trail.waited(started.elapsed());
        let tenant: Tenant = found?.ok_or(Denial::UnknownKey)?;
        if let Some(guessing) = &self.commons.guessing {
            guessing.exists(digest);
        }
        Ok(self.records.remember_tenant(*digest, tenant))
    }

    /// Takes in documents that had changed.
    fn learn(
        &self,
        documents: &Documents<'_>,
        found: Vec<Vec<Option<Bytes>>>,
        asked: &Asked,
        seen: Seen,
    ) -> Result<(), StoreError> {
        let learned = self.records.learn(documents, &asked.question, found);
        self.tell_unknown_names(documents);
        if let Some(known) = &self.commons.known {
            match self.records.key(documents.digest).filter(|_| learned.is_ok()) {
                Some(remembered) => known.learn_key(documents.digest, &remembered.key, seen),
                None => known.forget_key(documents.digest, seen.answered),
            }
            match documents.business {
                Some(KnownBusiness { id, .. }) if learned.is_ok() => {
                    known.learn_business(&self.records.business(id), seen)
                }
                Some(KnownBusiness { id, .. }) => known.forget_business(id, seen.answered),
                None => {}
            }
        }
        learned
    }

    /// Whose key it is as far as it could be read, where something else could not.
    fn believed(&self, digest: &Digest) -> Option<Rc<Caller>> {
        let key = self.records.key(digest)?.key.document.document()?.clone();
        Some(Rc::new(Caller { business: key.business.clone(), key, ..Caller::default() }))
    }

    fn tell_unknown_names(&self, documents: &Documents<'_>) {
        let Commons { rules, unknown, .. } = &self.commons;
        if let Some(remembered) = self.records.key(documents.digest) {
            unknown.in_key(&remembered.key, rules);
        }
        if let Some(business) = documents.business {
            unknown.in_business(&self.records.business(&business.id), rules);
        }
    }

    /// What a denial says of the key, for the requests that follow.
    fn remember_denial(&self, denial: &Denial, digest: &Digest, client: IpAddr) {
        let unknown = matches!(denial, Denial::UnknownKey);
        if let Some(known) = &self.commons.known
            && (unknown || matches!(denial, Denial::StoreUnavailable(_)))
        {
            known.forget_key(digest, Instant::now().into_std());
        }
        if let Some(guessing) = &self.commons.guessing
            && unknown
        {
            guessing.unknown(client, clock::now_ms());
        }
    }

    fn unknown(&self, digest: &Digest) -> Denial {
        self.records.forget_key(digest);
        Denial::UnknownKey
    }

    async fn ask(&self, asked: &Asked, deadline: Instant, trail: &mut Trail) -> Result<(Answer, Seen), StoreError> {
        let began = Instant::now();
        let answer = self.store.decide(&asked.question, began, deadline).await;
        let answered = Instant::now();
        trail.waited(answered - began);
        trail.store_answered = Some(answered.into_std());
        let answer = answer?;
        trail.store_ms = Some(answer.now_ms);
        let seen = Seen { asked: began.into_std(), answered: answered.into_std(), store_ms: answer.now_ms };
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

/// Only a key's question has documents, so a public one is only ever spent or refused by its values.
fn unexpected() -> Denial {
    StoreError::Broken("the count of a public route".to_owned()).into()
}
