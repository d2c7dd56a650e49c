//! Where a known key stands with a route: its own state, its business, its plan, its scopes.
//!
//! Pure: the documents are as the store last gave them, and the store confirms them in the call that spends. Expiry is not
//! judged here but by the store's clock.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::denial::Denial;
use super::trail::Caller;
use crate::policy::{Access, By, Plan, Policy, Route};
use crate::store::record::{BusinessDocument, KeyDocument, Status};

/// A key in the light of one request.
#[derive(Debug)]
pub struct Standing {
    pub caller: Rc<Caller>,
    pub verdict: Result<(), Denial>,
}

/// What the request brings besides the key.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    pub route: &'a Route,
    pub named: Option<&'a str>,
    pub client: IpAddr,
    /// The store has said that the user does not own the business named.
    pub disowned: bool,
}

impl Standing {
    /// The business that the user must own for the key, which is bound to none, to reach it.
    pub fn must_own(&self) -> Option<&str> {
        self.caller.named.as_deref()
    }

    /// The user who must own a business for this request to pass, and the business.
    pub fn owner(&self) -> Option<(&str, &str)> {
        Some((self.caller.key.user.as_deref().unwrap_or_default(), self.must_own()?))
    }

    /// Who asks, where the store did not come to say whether the business named is the user's.
    pub fn unconfirmed(&self) -> Rc<Caller> {
        match self.must_own() {
            None => self.caller.clone(),
            Some(_) => Rc::new(Caller { key: self.caller.key.clone(), ..Caller::default() }),
        }
    }

    /// Whether the request names a business that is not for this key.
    pub fn is_foreign(&self) -> bool {
        matches!(self.verdict, Err(Denial::BusinessForbidden))
    }
}

/// The business that a request with this key is about, if its key may name it.
pub fn effective_business<'a>(key: &'a KeyDocument, named: Option<&'a str>) -> Option<&'a str> {
    key.business.as_deref().or(named)
}

/// The plan that its business has booked, where there are plans.
pub fn plan<'p>(policy: &'p Policy, business: Option<&BusinessDocument>) -> Option<&'p Plan> {
    policy.plans.as_ref()?.of(business.and_then(|business| business.plan.as_deref()))
}

pub fn judge(
    policy: &Policy,
    key: &Arc<KeyDocument>,
    business: Option<&BusinessDocument>,
    circumstances: Circumstances<'_>,
) -> Standing {
    // A business that is not the user's, or is not asked about, is the client's own word: it comes into no log and no metric.
    let named = circumstances.named.filter(|_| !circumstances.disowned && !key.revoked);
    let named = named.filter(|_| key.business.is_none()).map(str::to_owned);
    let plan_name = business.and_then(|business| business.plan.clone());
    let caller = Caller { key: key.clone(), named, plan: plan_name, ..Caller::default() };
    let verdict = verdict(policy, &caller, business, plan(policy, business), circumstances);
    Standing { caller: Rc::new(caller), verdict }
}

/// All reasons for a 401 before all reasons for a 403.
fn verdict(
    policy: &Policy,
    caller: &Caller,
    business: Option<&BusinessDocument>,
    plan: Option<&Plan>,
    Circumstances { route, named, client, disowned }: Circumstances<'_>,
) -> Result<(), Denial> {
    let key = &caller.key;
    if key.revoked {
        return Err(Denial::RevokedKey);
    }
    if policy.deny.holds_id(&key.id) {
        return Err(Denial::DeniedKey);
    }
    if key.allow_addresses.as_ref().is_some_and(|nets| !nets.iter().any(|net| net.contains(&client))) {
        return Err(Denial::DeniedAddress);
    }
    if disowned || named.is_some_and(|named| caller.business() != Some(named)) {
        return Err(Denial::BusinessForbidden);
    }
    // A key that is bound to no business and names none must not slip past what is decided by business.
    if caller.business().is_none()
        && (policy.plans.is_some() || route.limits.iter().any(|limit| limit.by == By::Business))
    {
        return Err(Denial::BusinessForbidden);
    }
    match business.map(|business| business.status) {
        None | Some(Status::Active) => {}
        Some(Status::Suspended | Status::Other) => return Err(Denial::BusinessSuspended),
    }
    if policy.plans.is_some() && !plan.is_some_and(|plan| plan.api) {
        return Err(Denial::PlanRequired);
    }
    scopes(policy, &key.scopes, &route.access)
}

fn scopes(policy: &Policy, granted: &[String], access: &Access) -> Result<(), Denial> {
    let allowed = |required: &String| policy.scopes.allow(granted, required);
    let (passes, required) = match access {
        Access::Public | Access::Any => return Ok(()),
        Access::All(scopes) => (scopes.iter().all(allowed), scopes),
        Access::AnyOf(scopes) => (scopes.iter().any(allowed), scopes),
    };
    if passes { Ok(()) } else { Err(Denial::InsufficientScope { required: required.join(" ") }) }
}

/// Which of the scopes that a route needs are not granted, separated by spaces.
pub fn missing_scopes(policy: &Policy, granted: &[String], access: &Access) -> Option<String> {
    let (Access::All(scopes) | Access::AnyOf(scopes)) = access else { return None };
    let missing = scopes.iter().map(String::as_str).filter(|scope| !policy.scopes.allow(granted, scope));
    Some(missing.collect::<Vec<_>>().join(" "))
}
