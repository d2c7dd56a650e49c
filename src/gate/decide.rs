//! May this request pass? The questions in the order they are asked, and the store in the middle.
//!
//! Order of answers: 400, 404 and 405, 401, 403, 429. Everything before the store is pure; a key's documents are remembered
//! but confirmed by the store in the same call that spends, so that a steady-state request makes one call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::time::Instant;

use super::asks::{self, Asked, KeyQuestion};
use super::credential::{self, Presented};
use super::records::{Known, KnownKey, Records};
use super::standing::{self, Circumstances, Standing};
use super::trail::{StoreCall, Trail};
use super::{Denial, Permit, business, path, query};
use crate::clock;
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Outcome};
use crate::policy::route::Found;
use crate::policy::{Access, Allowances, Policy, Route};
use crate::store::fallback::Fallback;
use crate::store::{Store, StoreError};

/// How often one request asks again because a document changed under it, before it gives up.
const ROUNDS: usize = 6;

/// One worker's gate.
pub struct Gate {
    policy: Arc<Policy>,
    store: Store,
    /// What limits do while the store is away; shared by the workers.
    fallback: Arc<Fallback>,
    records: Records,
    /// All store work of one request.
    deadline: Duration,
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
}

/// A request whose route is known.
struct Routed<'a> {
    route: &'a Arc<Route>,
    target: String,
    named: Option<String>,
    client: IpAddr,
}

impl Gate {
    pub fn new(policy: Arc<Policy>, store: Store, fallback: Arc<Fallback>, deadline: Duration) -> Self {
        Self { policy, store, fallback, records: Records::default(), deadline }
    }

    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Decides on a request; `trail` keeps what became known, also of one that is denied.
    pub async fn decide(&self, inquiry: &Inquiry<'_>, trail: &mut Trail) -> Result<Permit, Denial> {
        let path = path::read(inquiry.path)?;
        let (route, parameters) = match self.policy.routes.find(inquiry.method, &path.text) {
            Found::Route { route, parameters } => (route, parameters),
            // What needs a route's leave to be in a path is malformed where there is no route.
            _ if path.needs != Allowances::default() => return Err(not_taken()),
            Found::OtherMethods { allow } => return Err(Denial::MethodNotAllowed { allow: allow.to_owned() }),
            Found::Nothing => return Err(Denial::RouteNotFound),
        };
        trail.route = Some(route.clone());
        if !route.allows.cover(path.needs) {
            return Err(Denial::BadPath(
                "The path holds an encoded slash or a semicolon, which this route does not take",
            ));
        }
        let target = target(&path.text, inquiry.query, route)?;
        if self.policy.deny.holds_address(inquiry.client) {
            return Err(Denial::DeniedAddress);
        }
        let deadline = Instant::now() + self.deadline;
        if route.access == Access::Public {
            let routed = Routed { route, target, named: None, client: inquiry.client };
            return self.decide_public(routed, deadline, trail).await;
        }
        let query = inquiry.query.unwrap_or_default();
        let named = business::named(&self.policy.business_sources, &parameters, query, inquiry.headers)?;
        let presented = credential::read(&self.policy.credentials, inquiry.headers)?;
        if self.policy.deny.digests.contains(&presented.digest) {
            return Err(Denial::DeniedKey);
        }
        let routed = Routed { route, target, named, client: inquiry.client };
        self.decide_keyed(routed, presented, deadline, trail).await
    }

    async fn decide_public(&self, routed: Routed<'_>, deadline: Instant, trail: &mut Trail) -> Result<Permit, Denial> {
        let asked = asks::of_public(routed.route, routed.client);
        if !asked.is_empty() {
            let answer = match self.ask(&asked, deadline, trail).await {
                // No key is at stake: the limits alone decide what an outage means.
                Err(StoreError::Broken(what)) => return Err(StoreError::Broken(what).into()),
                Err(_) => self.fallback.answer(&asked.question, clock::now_ms())?,
                Ok(answer) => answer,
            };
            let Outcome::Spent { granted, windows } = answer.outcome else { return Err(unexpected()) };
            trail.limits = asked.named(windows, answer.now_ms);
            if granted == 0 {
                return Err(rate_limited(trail));
            }
        }
        Ok(Permit::public(routed.route.clone(), routed.target))
    }

    /// Asks until the store confirms what was asked about; each round starts from what the last one learned.
    async fn decide_keyed(
        &self,
        routed: Routed<'_>,
        presented: Presented,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<Permit, Denial> {
        let digest = presented.digest;
        let mut key = self.find_key(&digest, deadline, trail).await?;
        let mut looked_again = false;
        let mut disowned = false;
        for _ in 0..ROUNDS {
            let business_id = business_to_confirm(&key, routed.named.as_deref());
            let business = business_id.as_deref().map_or(Known::Absent, |id| self.records.business(id));
            let circumstances =
                Circumstances { route: routed.route, named: routed.named.as_deref(), client: routed.client, disowned };
            let standing = key.document.document().map(|document| {
                standing::judge(&self.policy, document, business.document().map(Arc::as_ref), circumstances)
            });
            let asked = asks::of_key(&KeyQuestion {
                digest: &digest,
                key: &key,
                business: business_id
                    .as_deref()
                    .map(|id| (id, business.believed(), business.document().map(Arc::as_ref))),
                standing: standing.as_ref(),
                route: routed.route,
                client: routed.client,
            });
            let answer = self.ask(&asked, deadline, trail).await?;
            match answer.outcome {
                Outcome::Broken(what) => return Err(StoreError::Broken(what).into()),
                Outcome::Expired => {
                    trail.caller = standing.map(|standing| standing.caller);
                    return Err(Denial::ExpiredKey);
                }
                Outcome::Refused => disowned = true,
                Outcome::Stale(found) => {
                    self.learn(&digest, &key.tenant, &asked, business_id.as_deref(), found)?;
                    match self.records.key(&digest) {
                        Some(known) if !matches!(known.document, Known::Absent) => key = known,
                        // Nothing stands where the hint pointed: perhaps it moved. Look once more, then believe it.
                        _ if looked_again => return Err(self.unknown(&digest)),
                        _ => {
                            looked_again = true;
                            self.records.forget_key(&digest);
                            key = self.find_key(&digest, deadline, trail).await?;
                        }
                    }
                }
                Outcome::Spent { granted, windows } => {
                    let Some(standing) = standing else { return Err(self.unknown(&digest)) };
                    trail.limits = asked.named(windows, answer.now_ms);
                    return permit(routed, standing, granted, presented, trail);
                }
            }
        }
        Err(StoreError::Refused("the key's documents change faster than they can be read".to_owned()).into())
    }

    /// What this worker remembers of the key, or the store's hint where to look.
    async fn find_key(&self, digest: &Digest, deadline: Instant, trail: &mut Trail) -> Result<KnownKey, Denial> {
        if let Some(known) = self.records.key(digest) {
            return Ok(known);
        }
        let started = Instant::now();
        let found = self.store.lookup(digest, deadline).await;
        trail.store_calls.push(StoreCall {
            op: "lookup",
            outcome: found.as_ref().err().map_or("ok", StoreError::outcome),
            took: started.elapsed(),
        });
        let tenant: Tenant = found?.ok_or(Denial::UnknownKey)?;
        self.records.remember_tenant(*digest, tenant.clone());
        Ok(KnownKey { tenant, document: Known::Unseen })
    }

    fn learn(
        &self,
        digest: &Digest,
        tenant: &Tenant,
        asked: &Asked,
        business: Option<&str>,
        found: Vec<Vec<Option<bytes::Bytes>>>,
    ) -> Result<(), StoreError> {
        for (ask, found) in asked.question.asks.iter().zip(found) {
            for (document, found) in ask.documents.iter().zip(found) {
                match business {
                    Some(id) if document.name == crate::store::layout::BUSINESS => {
                        self.records.learn_business(id, found)?
                    }
                    _ => self.records.learn_key(*digest, tenant, found)?,
                }
            }
        }
        Ok(())
    }

    fn unknown(&self, digest: &Digest) -> Denial {
        self.records.forget_key(digest);
        Denial::UnknownKey
    }

    async fn ask(&self, asked: &Asked, deadline: Instant, trail: &mut Trail) -> Result<Answer, StoreError> {
        let started = Instant::now();
        let answer = self.store.decide(&asked.question, deadline).await;
        let outcome = match &answer {
            Ok(Answer { outcome: Outcome::Stale(_), .. }) => "stale",
            Ok(Answer { outcome: Outcome::Broken(_), .. }) => "broken",
            Ok(_) => "ok",
            Err(error) => error.outcome(),
        };
        trail.store_calls.push(StoreCall { op: "decide", outcome, took: started.elapsed() });
        answer
    }
}

fn not_taken() -> Denial {
    Denial::BadPath("The path holds an encoded slash or a semicolon, which is not taken here")
}

/// Path and query to forward: the path as it was matched, the query as it came save for a clamp.
fn target(path: &str, query: Option<&str>, route: &Route) -> Result<String, Denial> {
    match query {
        None => Ok(path.to_owned()),
        Some(query) => Ok(format!("{path}?{}", query::clamped(query, &route.max_query)?)),
    }
}

/// The business whose document the decision rests on, once the key's document is known.
fn business_to_confirm(key: &KnownKey, named: Option<&str>) -> Option<String> {
    match &key.tenant {
        Tenant::Business(id) => Some(id.clone()),
        Tenant::User(_) => key.document.document().and_then(|document| standing::effective_business(document, named)),
    }
}

/// The store has confirmed everything: what stands within its limits may pass.
fn permit(
    routed: Routed<'_>,
    standing: Standing<'_>,
    granted: u32,
    presented: Presented,
    trail: &mut Trail,
) -> Result<Permit, Denial> {
    trail.caller = Some(standing.caller.clone());
    standing.verdict?;
    if granted == 0 {
        return Err(rate_limited(trail));
    }
    Ok(Permit::key(routed.route.clone(), routed.target, standing.caller, presented.upstream))
}

/// After `retry_after` seconds every window has room, if nobody else spends; `None` where some window never has.
fn rate_limited(trail: &Trail) -> Denial {
    let full: Vec<_> = trail.limits.iter().filter(|limit| limit.now.wait_ms != Some(0)).collect();
    let waits: Option<Vec<u64>> = full.iter().map(|limit| limit.now.wait_ms).collect();
    let longest_ms = waits.map(|waits| waits.into_iter().max().unwrap_or_default());
    Denial::RateLimited {
        retry_after: longest_ms.map(|ms| ms.div_ceil(1000).max(1)),
        violated: full.iter().map(|limit| limit.policy_name()).collect(),
    }
}

/// Only a key's question has documents, so a public one is only ever spent or refused by its values.
fn unexpected() -> Denial {
    StoreError::Broken("the count of a public route".to_owned()).into()
}
