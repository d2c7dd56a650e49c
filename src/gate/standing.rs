//! Judges a known key on a route: its own state, its business, its plan, its scopes.
//!
//! Pure: the documents are the cached ones, and the store confirms them in the call that spends. Expiry is not judged here but by
//! the store, with its clock.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::denial::Denial;
use super::trail::Caller;
use crate::policy::{Access, By, Plan, Policy, Route};
use crate::store::record::{BusinessDocument, KeyDocument, Status};

/// The verdict on a key for one request, before its limits.
#[derive(Debug)]
pub struct Standing {
    pub caller: Rc<Caller>,
    pub verdict: Result<(), Denial>,
}

/// The request's part of the input.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    pub route: &'a Route,
    pub named: Option<&'a str>,
    pub client: IpAddr,
    /// The store has said that the user does not own the business named.
    pub not_owned: bool,
}

impl Standing {
    /// The business that the user of an unscoped key must own for the request to pass.
    pub fn must_own(&self) -> Option<&str> {
        self.caller.named.as_deref()
    }

    /// The user and the business that the user must own for this request to pass.
    pub fn owner(&self) -> Option<(&str, &str)> {
        Some((self.caller.key.user.as_deref().unwrap_or_default(), self.must_own()?))
    }

    /// The caller where the store has not said whether the user owns the business named: without that business.
    pub fn unconfirmed(&self) -> Rc<Caller> {
        match self.must_own() {
            None => self.caller.clone(),
            Some(_) => Rc::new(Caller { key: self.caller.key.clone(), ..Caller::default() }),
        }
    }

    /// Whether the request names a business that this key must not reach.
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
    // A business that the store will not confirm is unverified client input: it must not get into logs and metrics.
    let named = circumstances.named.filter(|_| !circumstances.not_owned && !key.revoked);
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
    Circumstances { route, named, client, not_owned }: Circumstances<'_>,
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
    if not_owned || named.is_some_and(|named| caller.business() != Some(named)) {
        return Err(Denial::BusinessForbidden);
    }
    // An unscoped key that names no business must not evade plans and limits by business.
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
