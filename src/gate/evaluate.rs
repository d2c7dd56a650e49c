//! A request with a key, weighed against one set of documents: where it stands, and what it asks the store to spend.
//!
//! Pure, and the same whether the store has just given the documents or confirmed them a while ago (`known`). Since a key
//! mostly asks the same under the same documents, the last weighings are kept beside it.

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
    /// The business that it names.
    pub named: Option<String>,
    pub client: IpAddr,
    /// Whether it takes from its limits, or only asks where its key stands.
    pub spends: bool,
}

impl Documents<'_> {
    /// `disowned`: the store has said that the user does not own the business named.
    pub fn weigh(&self, policy: &Policy, routed: &Routed<'_>, disowned: bool) -> Weighed {
        let business = self.business.and_then(|business| business.document.document()).map(Arc::as_ref);
        let circumstances =
            Circumstances { route: routed.route, named: routed.named.as_deref(), client: routed.client, disowned };
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
        Weighed { standing, asked }
    }
}

/// What a weighing comes to.
#[derive(Debug)]
pub struct Weighed {
    /// Absent where the key's document is.
    pub standing: Option<Standing>,
    pub asked: Asked,
}

impl Weighed {
    /// Holds in common with another weighing of the same key what both of them come to.
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

/// Different requests of one key that are remembered: most keys make the same one over and over.
const MOST_WEIGHINGS: usize = 2;

/// The last weighings of one key, as long as its own document does not change.
#[derive(Debug, Default)]
pub struct Weighings(RefCell<[Option<Rc<Weighing>>; MOST_WEIGHINGS]>);

/// One weighing, and all that it rests on besides the key: which finding of the business it was, not just which
/// business.
#[derive(Debug)]
pub struct Weighing {
    policy: Arc<Policy>,
    route: Arc<Route>,
    named: Option<String>,
    disowned: bool,
    /// Where it matters.
    client: Option<IpAddr>,
    pub business: Option<Rc<KnownBusiness>>,
    pub weighed: Weighed,
}

impl Weighing {
    pub fn of(
        policy: &Arc<Policy>,
        (digest, key): (&Digest, &KnownKey),
        business: Option<Rc<KnownBusiness>>,
        routed: &Routed<'_>,
        disowned: bool,
    ) -> Self {
        let documents = Documents { digest, key, business: business.as_deref() };
        let weighed = documents.weigh(policy, routed, disowned);
        let client = client_that_matters(&documents, routed);
        let (policy, route, named) = (policy.clone(), routed.route.clone(), routed.named.clone());
        Self { policy, route, named, disowned, client, business, weighed }
    }

    /// Whether the same would come of it now.
    fn holds(&self, routed: &Routed<'_>, disowned: bool) -> bool {
        Arc::ptr_eq(&self.route, routed.route)
            && self.named == routed.named
            && self.disowned == disowned
            && self.client.is_none_or(|client| client == routed.client)
            && !self.business.as_ref().is_some_and(|business| business.is_outdated())
    }
}

impl Weighings {
    /// What was weighed before, where nothing that counts has changed.
    pub fn recall(&self, routed: &Routed<'_>, disowned: bool) -> Option<Rc<Weighing>> {
        self.0.borrow().iter().flatten().find(|one| one.holds(routed, disowned)).cloned()
    }

    /// Whether the key was weighed under this policy before, as far as is remembered.
    pub fn know(&self, policy: &Arc<Policy>) -> bool {
        self.0.borrow().iter().flatten().any(|one| Arc::ptr_eq(&one.policy, policy))
    }

    /// In the place of the oldest.
    pub fn keep(&self, mut weighing: Weighing) -> Rc<Weighing> {
        let mut held = self.0.borrow_mut();
        held.iter().flatten().for_each(|other| weighing.weighed.share(&other.weighed));
        let weighing = Rc::new(weighing);
        held.rotate_right(1);
        held[0] = Some(weighing.clone());
        weighing
    }
}

fn client_that_matters(documents: &Documents<'_>, routed: &Routed<'_>) -> Option<IpAddr> {
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

/// All documents are confirmed: what stands within its limits may pass.
pub fn settled(standing: &Standing, granted: u32, trail: &mut Trail) -> Result<Rc<Caller>, Denial> {
    trail.caller = Some(standing.caller.clone());
    standing.verdict.clone()?;
    if granted == 0 {
        return Err(rate_limited(trail));
    }
    Ok(standing.caller.clone())
}

/// After `retry_after` seconds every window has room, if nobody else spends; `None` where some window never has.
pub fn rate_limited(trail: &Trail) -> Denial {
    let full: Vec<_> = trail.over().collect();
    let waits: Option<Vec<u64>> = full.iter().map(|limit| limit.now.wait_ms).collect();
    let longest_ms = waits.map(|waits| waits.into_iter().max().unwrap_or_default());
    Denial::RateLimited {
        retry_after: longest_ms.map(|ms| ms.div_ceil(1000).max(1)),
        violated: full.iter().map(|limit| limit.policy_name().into_owned()).collect(),
    }
}
