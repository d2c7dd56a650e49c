//! Evaluates a request with a key against one set of documents: the verdict, and what it asks the store to spend.
//!
//! Pure, and the same whether the store has just given the documents or confirmed them a while ago (`known`). Since most keys
//! make the same request under the same documents, the last evaluations are cached beside the key.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::Denial;
use super::asks::{self, Asked, KeyQuestion};
use super::documents::{Documents, KnownBusiness, KnownKey};
use super::standing::{self, Circumstances, Standing};
use super::trail::{Caller, Trail};
use crate::keys::{Digest, Tenant};
use crate::policy::{By, Policy, Route};

/// A request whose route is known.
pub struct Routed<'a> {
    pub route: &'a Arc<Route>,
    /// Path and query to forward.
    pub target: String,
    /// The business that the request names.
    pub named: Option<String>,
    pub client: IpAddr,
    /// Whether it spends from its limits; a recheck does not.
    pub spends: bool,
}

impl Documents<'_> {
    /// `not_owned`: the store has said that the user does not own the business named.
    pub fn evaluate(&self, policy: &Policy, routed: &Routed<'_>, not_owned: bool) -> Evaluation {
        let business = self.business.and_then(|business| business.document.document()).map(Arc::as_ref);
        let circumstances =
            Circumstances { route: routed.route, named: routed.named.as_deref(), client: routed.client, not_owned };
        let key = self.key.document.document();
        let standing = key.map(|key| standing::judge(policy, key, business, circumstances));
        let mut asked = asks::of_key(&KeyQuestion {
            digest: self.digest,
            key: self.key,
            business: self.business,
            standing: standing.as_ref(),
            plan: standing::plan(policy, business),
            route: routed.route,
            client: routed.client,
        });
        if !routed.spends {
            asked.spend_nothing();
        }
        Evaluation { standing, asked }
    }
}

/// A verdict, and the question for the store.
#[derive(Debug)]
pub struct Evaluation {
    /// Absent if the key's document is.
    pub standing: Option<Standing>,
    pub asked: Asked,
}

impl Evaluation {
    /// Shares what is equal with another evaluation of the same key.
    fn share(&mut self, other: &Self) {
        if self.asked.question.asks == other.asked.question.asks {
            self.asked.question.asks = other.asked.question.asks.clone();
        }
        if let (Some(standing), Some(other)) = (&mut self.standing, &other.standing)
            && standing.caller.is(&other.caller)
        {
            standing.caller = other.caller.clone();
        }
    }
}

/// Evaluations that are cached per key: most keys make the same request over and over.
const MOST_CACHED: usize = 2;

/// The last evaluations of one key; a new document of the key starts an empty cache.
#[derive(Debug, Default)]
pub struct EvaluationCache(RefCell<[Option<Rc<CachedEvaluation>>; MOST_CACHED]>);

/// An evaluation, and everything it depends on besides the key; of the business the very instance that was cached, not just its
/// id.
#[derive(Debug)]
pub struct CachedEvaluation {
    policy: Arc<Policy>,
    route: Arc<Route>,
    named: Option<String>,
    not_owned: bool,
    /// Only where the evaluation depends on it.
    client: Option<IpAddr>,
    pub business: Option<Rc<KnownBusiness>>,
    pub evaluation: Evaluation,
}

impl CachedEvaluation {
    pub fn of(
        policy: &Arc<Policy>,
        (digest, key): (&Digest, &KnownKey),
        business: Option<Rc<KnownBusiness>>,
        routed: &Routed<'_>,
        not_owned: bool,
    ) -> Self {
        let documents = Documents { digest, key, business: business.as_deref() };
        let evaluation = documents.evaluate(policy, routed, not_owned);
        let client = relevant_client(&documents, routed);
        let (policy, route, named) = (policy.clone(), routed.route.clone(), routed.named.clone());
        Self { policy, route, named, not_owned, client, business, evaluation }
    }

    /// Whether it applies to this request.
    fn holds(&self, routed: &Routed<'_>, not_owned: bool) -> bool {
        Arc::ptr_eq(&self.route, routed.route)
            && self.named == routed.named
            && self.not_owned == not_owned
            && self.client.is_none_or(|client| client == routed.client)
            && !self.business.as_ref().is_some_and(|business| business.is_outdated())
    }
}

impl EvaluationCache {
    /// A cached evaluation that applies.
    pub fn recall(&self, routed: &Routed<'_>, not_owned: bool) -> Option<Rc<CachedEvaluation>> {
        self.0.borrow().iter().flatten().find(|one| one.holds(routed, not_owned)).cloned()
    }

    /// Whether an evaluation under this policy is cached.
    pub fn know(&self, policy: &Arc<Policy>) -> bool {
        self.0.borrow().iter().flatten().any(|one| Arc::ptr_eq(&one.policy, policy))
    }

    /// Replaces the oldest.
    pub fn keep(&self, mut cached: CachedEvaluation) -> Rc<CachedEvaluation> {
        let mut held = self.0.borrow_mut();
        held.iter().flatten().for_each(|other| cached.evaluation.share(&other.evaluation));
        let cached = Rc::new(cached);
        held.rotate_right(1);
        held[0] = Some(cached.clone());
        cached
    }
}

fn relevant_client(documents: &Documents<'_>, routed: &Routed<'_>) -> Option<IpAddr> {
    let of_key = documents.key.document.document().is_some_and(|key| key.allow_addresses.is_some());
    let matters = of_key || routed.route.limits.iter().any(|limit| limit.by == By::Ip);
    matters.then_some(routed.client)
}

/// The business whose document the decision rests on, once the key's document is known.
pub fn business_to_confirm<'a>(key: &'a KnownKey, named: Option<&'a str>) -> Option<&'a str> {
    match &key.tenant {
        Tenant::Business(id) => Some(id),
        Tenant::User(_) => key.document.document().and_then(|document| standing::effective_business(document, named)),
    }
}

/// The result, once all documents are confirmed and the limits have answered.
pub fn conclude(standing: &Standing, granted: u32, trail: &mut Trail) -> Result<Rc<Caller>, Denial> {
    trail.caller = Some(standing.caller.clone());
    standing.verdict.clone()?;
    if granted == 0 {
        return Err(rate_limited(trail));
    }
    Ok(standing.caller.clone())
}

/// The denial, with the longest wait of all windows; `None` where some window never has room for the request.
pub fn rate_limited(trail: &Trail) -> Denial {
    let full: Vec<_> = trail.over().collect();
    let waits: Option<Vec<u64>> = full.iter().map(|limit| limit.now.wait_ms).collect();
    let longest_ms = waits.map(|waits| waits.into_iter().max().unwrap_or_default());
    Denial::RateLimited {
        retry_after: longest_ms.map(|ms| ms.div_ceil(1000).max(1)),
        violated: full.iter().map(|limit| limit.policy_name().into_owned()).collect(),
    }
}
