//! The proof that a request may be forwarded. Its fields are private and only the gate can make one, so that forwarding a request
//! without a decision does not compile.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::Denial;
use super::credential::{KeysToStrip, Presented};
use super::evaluate::Routed;
use super::trail::Caller;
use crate::keys::Digest;
use crate::policy::{Mode, Route, UpstreamId};

#[derive(Debug)]
pub struct Permit {
    basis: Basis,
    route: Arc<Route>,
    target: String,
    upstream: UpstreamId,
    caller: Option<Rc<Caller>>,
    recheck: Option<Recheck>,
    /// Which values are removed as keys.
    keys: KeysToStrip,
    /// Whether the store has confirmed the key for this request.
    confirmed: bool,
}

/// What is rechecked while a permitted request is open.
#[derive(Debug, Clone)]
pub struct Recheck {
    pub(super) digest: Digest,
    /// The business that the request named.
    pub(super) named: Option<String>,
    pub(super) client: IpAddr,
}

/// Why a request may pass.
#[derive(Debug, Clone)]
pub enum Basis {
    /// The route needs no key.
    Public,
    /// A CORS preflight, where the route lets it pass.
    Preflight,
    /// A valid key with the scopes, of an active business, within the limits.
    Key,
    /// The same, as it was confirmed within `known_for` before an outage.
    KnownFor,
    /// Observe mode: this is what it would have been denied for.
    Observed(Denial),
}

impl Permit {
    pub(super) fn public(route: Arc<Route>, target: String) -> Self {
        Self::without_key(Basis::Public, route, target)
    }

    pub(super) fn preflight(route: Arc<Route>, target: String) -> Self {
        Self::without_key(Basis::Preflight, route, target)
    }

    fn without_key(basis: Basis, route: Arc<Route>, target: String) -> Self {
        let (caller, recheck) = (None, None);
        Self {
            basis,
            upstream: route.upstream,
            route,
            target,
            caller,
            recheck,
            keys: KeysToStrip::Candidates,
            confirmed: false,
        }
    }

    /// `basis`: `Key` or `KnownFor`. Where the key's format names an upstream, that beats the route's.
    pub(super) fn key(basis: Basis, routed: Routed<'_>, caller: Rc<Caller>, presented: Presented) -> Self {
        let Routed { route, target, named, client, spends: _ } = routed;
        let recheck = Recheck { digest: presented.digest, named, client };
        Self {
            confirmed: matches!(basis, Basis::Key),
            basis,
            upstream: presented.upstream.unwrap_or(route.upstream),
            route: route.clone(),
            target,
            caller: Some(caller),
            recheck: Some(recheck),
            keys: KeysToStrip::In(presented.header),
        }
    }

    /// The same, with a denial by an observed limit or route.
    pub(super) fn observing(self, denial: Denial) -> Self {
        Self { basis: Basis::Observed(denial), ..self }
    }

    /// For observe mode: with the target as received, and with credentials that are not keys left in place. `known`: the store
    /// knows the candidate as a key.
    pub(super) fn untouched(self, target: String, known: bool) -> Self {
        Self { target, keys: KeysToStrip::Recognised { known }, ..self }
    }

    /// From an observed denial. `caller`: only where the key is valid, since it is named to the service.
    pub(super) fn of_observed(
        denial: Denial,
        route: Arc<Route>,
        caller: Option<Rc<Caller>>,
        presented: Option<(Recheck, Option<UpstreamId>)>,
    ) -> Self {
        let upstream = presented.as_ref().and_then(|(_, upstream)| *upstream).unwrap_or(route.upstream);
        let recheck = presented.map(|(recheck, _)| recheck);
        Self { upstream, caller, recheck, ..Self::without_key(Basis::Observed(denial), route, String::new()) }
    }

    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Why it would have been denied, in observe mode.
    pub fn observed(&self) -> Option<&Denial> {
        match &self.basis {
            Basis::Observed(denial) => Some(denial),
            Basis::Public | Basis::Preflight | Basis::Key | Basis::KnownFor => None,
        }
    }

    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The largest request body, in bytes.
    pub fn max_body(&self) -> Option<u64> {
        match self.route.mode {
            Mode::Enforce => self.configured_max_body(),
            Mode::Observe => None,
        }
    }

    pub(super) fn configured_max_body(&self) -> Option<u64> {
        // A preflight passes without a key, so it must not carry a body to the service.
        if matches!(self.basis, Basis::Preflight) { Some(0) } else { self.route.max_body }
    }

    /// Which values are removed as keys.
    pub fn keys(&self) -> &KeysToStrip {
        &self.keys
    }

    /// Whether the store has confirmed the key for this very request.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Path and query as they were decided on.
    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn upstream(&self) -> UpstreamId {
        self.upstream
    }

    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_deref()
    }

    /// What to recheck while the request is open; `None` without a key.
    pub fn recheck(&self) -> Option<&Recheck> {
        self.recheck.as_ref()
    }
}
