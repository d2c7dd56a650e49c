//! Observe mode: turns a denial into a permit, and forwards the request as the service would get it without a gate.
//!
//! Only this file turns denials into permits. `Denial::is_observable` says which; the policy says where: a route's mode, or the
//! configuration's where there is no route.

use std::sync::Arc;

use http::Method;

use super::evaluate::rate_limited;
use super::{Denial, Gate, GateRequest, Permit, Recheck, Trail, business, credential, path};
use crate::policy::route::Found;
use crate::policy::{Access, Mode, Policy, Route, UpstreamId};

impl Gate {
    /// The denial, or in observe mode a permit; then `trail` says what it would have been denied for.
    pub fn unless_observed(
        &self,
        denial: Denial,
        request: &GateRequest<'_>,
        trail: &mut Trail,
    ) -> Result<Permit, Denial> {
        if !denial.is_observable()
            || mode(self.policy(), trail.route.as_deref(), request.method, request.path) == Mode::Enforce
        {
            return Err(denial);
        }
        let route = trail.route.as_ref().unwrap_or(self.unrouted()).clone();
        let presented = self.presented(&route, request);
        // Over a limit the key is valid; with any other denial the service must not be told an identity.
        let is_valid = matches!(denial, Denial::RateLimited { .. });
        let caller = trail.caller.clone().filter(|_| is_valid);
        trail.observed = Some(denial.reason());
        let known = matches!(denial, Denial::DeniedKey) || self.knows_key(request, trail);
        let permit = Permit::of_observed(denial, route, caller, presented);
        Ok(permit.untouched(target(request), known))
    }

    /// On an observed route a permitted request is forwarded unchanged, also with too large a body.
    pub(super) fn as_observed(&self, permit: Permit, request: &GateRequest<'_>, trail: &mut Trail) -> Permit {
        let most = permit.configured_max_body();
        let is_too_large = most.zip(request.length).is_some_and(|(most, length)| length > most);
        let permit = permit.untouched(target(request), self.knows_key(request, trail));
        if !is_too_large || permit.observed().is_some() {
            return permit;
        }
        trail.observed = Some(Denial::BodyTooLarge.reason());
        permit.observing(Denial::BodyTooLarge)
    }

    /// Whether the one candidate is a key that the store knows, by this request's answer or by the cache.
    fn knows_key(&self, request: &GateRequest<'_>, trail: &Trail) -> bool {
        let remembered = || {
            let presented = credential::read(&self.policy().credentials, request.headers).ok()?;
            self.records().key(&presented.digest)
        };
        trail.caller.is_some() || remembered().is_some()
    }

    /// The mode for an open request under the current configuration: that of its route, if the route still exists.
    pub fn mode_of(&self, route: &Route) -> Mode {
        let same = self.policy().routes.iter().find(|now| now.pattern == route.pattern);
        same.map_or(self.policy().mode, |now| now.mode)
    }

    /// The presented key, for rechecks, and the upstream of its format.
    fn presented(&self, route: &Arc<Route>, request: &GateRequest<'_>) -> Option<(Recheck, Option<UpstreamId>)> {
        if route.access == Access::Public {
            return None;
        }
        let policy = self.policy();
        let presented = credential::read(&policy.credentials, request.headers).ok()?;
        let path = path::read(request.path).ok()?;
        let parameters = match policy.routes.find(request.method, &path.text) {
            Found::Route { parameters, .. } => parameters,
            Found::OtherMethods { .. } | Found::Nothing => Vec::new(),
        };
        let query = request.query.unwrap_or_default();
        let named = business::named(&policy.business_sources, &parameters, query, request.headers).ok()?;
        let recheck = Recheck { digest: presented.digest, named, client: request.client };
        Some((recheck, presented.upstream))
    }
}

/// Whether denials of a request are enforced.
pub fn mode(policy: &Policy, route: Option<&Route>, method: &Method, path: &str) -> Mode {
    match route {
        Some(route) => route.mode,
        None if policy.mode == Mode::Enforce => Mode::Enforce,
        // An invalid path has been refused before.
        None => path::read(path).map_or(Mode::Enforce, |path| policy.mode_beside_routes(method, &path.text)),
    }
}

/// A permitted request: observed limits that it exceeds are recorded.
pub fn counted(permit: Permit, trail: &mut Trail) -> Permit {
    if trail.over().next().is_none() {
        return permit;
    }
    let denial = rate_limited(trail);
    trail.observed = Some(denial.reason());
    permit.observing(denial)
}

/// Path and query as received: in observe mode nothing is changed, so nothing is clamped either.
fn target(request: &GateRequest<'_>) -> String {
    match request.query {
        None => request.path.to_owned(),
        Some(query) => format!("{}?{query}", request.path),
    }
}
