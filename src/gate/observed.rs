//! What becomes of a denial where denials are only observed: a permit all the same, and the request goes on as the service got
//! it before there was a gate.
//!
//! This alone turns a denial into a permit. Which denials may be, says `Denial::is_observable`; where, says the policy: a
//! route's mode, and for what is no route's the configuration's.

use std::sync::Arc;

use http::Method;

use super::weigh::rate_limited;
use super::{Denial, Gate, GateRequest, Permit, Recheck, Trail, business, credential, path};
use crate::policy::route::Found;
use crate::policy::{Access, Mode, Policy, Route, UpstreamId};

impl Gate {
    /// The denial, or where it is only observed a permit; then `trail` says what it would have been denied for.
    pub fn unless_observed(
        &self,
        denial: Denial,
        inquiry: &GateRequest<'_>,
        trail: &mut Trail,
    ) -> Result<Permit, Denial> {
        if !denial.is_observable()
            || mode(self.policy(), trail.route.as_deref(), inquiry.method, inquiry.path) == Mode::Enforce
        {
            return Err(denial);
        }
        let route = trail.route.as_ref().unwrap_or(self.unrouted()).clone();
        let shown = self.shown(&route, inquiry);
        // Who is over a limit is who the key says; anybody else denied is nobody whom the service could rely on.
        let stands = matches!(denial, Denial::RateLimited { .. });
        let caller = trail.caller.clone().filter(|_| stands);
        trail.observed = Some(denial.reason());
        let known = matches!(denial, Denial::DeniedKey) || self.knows_key(inquiry, trail);
        let permit = Permit::of_observed(denial, route, caller, shown);
        Ok(permit.untouched(target(inquiry), known))
    }

    /// What may pass on a route that only observes passes as it came; a body that is too large does, too.
    pub(super) fn as_observed(&self, permit: Permit, inquiry: &GateRequest<'_>, trail: &mut Trail) -> Permit {
        let most = permit.most_of_a_body_as_configured();
        let is_too_large = most.zip(inquiry.length).is_some_and(|(most, length)| length > most);
        let permit = permit.untouched(target(inquiry), self.knows_key(inquiry, trail));
        if !is_too_large || permit.observed().is_some() {
            return permit;
        }
        trail.observed = Some(Denial::BodyTooLarge.reason());
        permit.observing(Denial::BodyTooLarge)
    }

    /// Whether the one candidate is a key: the store said so for this request, or for one before.
    fn knows_key(&self, inquiry: &GateRequest<'_>, trail: &Trail) -> bool {
        let remembered = || {
            let presented = credential::read(&self.policy().credentials, inquiry.headers).ok()?;
            self.records().key(&presented.digest)
        };
        trail.caller.is_some() || remembered().is_some()
    }

    /// What of an open stream's end becomes under the configuration that is in force: its route's mode now, where there still
    /// is one.
    pub fn mode_of(&self, route: &Route) -> Mode {
        let same = self.policy().routes.iter().find(|now| now.pattern == route.pattern);
        same.map_or(self.policy().mode, |now| now.mode)
    }

    /// The key that was presented, to be asked about again, and where keys of its format are served.
    fn shown(&self, route: &Arc<Route>, inquiry: &GateRequest<'_>) -> Option<(Recheck, Option<UpstreamId>)> {
        if route.access == Access::Public {
            return None;
        }
        let policy = self.policy();
        let presented = credential::read(&policy.credentials, inquiry.headers).ok()?;
        let path = path::read(inquiry.path).ok()?;
        let parameters = match policy.routes.find(inquiry.method, &path.text) {
            Found::Route { parameters, .. } => parameters,
            Found::OtherMethods { .. } | Found::Nothing => Vec::new(),
        };
        let query = inquiry.query.unwrap_or_default();
        let named = business::named(&policy.business_sources, &parameters, query, inquiry.headers).ok()?;
        let recheck = Recheck { digest: presented.digest, named, client: inquiry.client };
        Some((recheck, presented.upstream))
    }
}

/// Whether denials of a request are enforced.
pub fn mode(policy: &Policy, route: Option<&Route>, method: &Method, path: &str) -> Mode {
    match route {
        Some(route) => route.mode,
        None if policy.mode == Mode::Enforce => Mode::Enforce,
        // What is no path was refused before.
        None => path::read(path).map_or(Mode::Enforce, |path| policy.mode_beside_routes(method, &path.text)),
    }
}

/// What passes, whatever a limit that only observes has to say to that.
pub fn counted(permit: Permit, trail: &mut Trail) -> Permit {
    if trail.over().next().is_none() {
        return permit;
    }
    let denial = rate_limited(trail);
    trail.observed = Some(denial.reason());
    permit.observing(denial)
}

/// Path and query as they came: what is not enforced changes nothing, so that nothing is clamped either.
fn target(inquiry: &GateRequest<'_>) -> String {
    match inquiry.query {
        None => inquiry.path.to_owned(),
        Some(query) => format!("{}?{query}", inquiry.path),
    }
}
