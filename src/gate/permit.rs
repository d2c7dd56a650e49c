//! The proof that a request may be forwarded. Its fields are private and only the gate makes one, so that a request that was
//! not decided on cannot be forwarded: it would not compile.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::Denial;
use super::credential::{KeysToStrip, Presented};
use super::trail::Caller;
use super::weigh::Routed;
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
    /// What is taken for a key and does not pass.
    keys: KeysToStrip,
    /// Whether the store has confirmed the key for this request.
    confirmed: bool,
}

/// What is asked about again while what was permitted is still open.
#[derive(Debug, Clone)]
pub struct Recheck {
    pub(super) digest: Digest,
    /// The business that the request named.
    pub(super) named: Option<String>,
    pub(super) client: IpAddr,
}

/// What a request passes on.
#[derive(Debug, Clone)]
pub enum Basis {
    /// The route needs no key.
    Public,
    /// A browser's question before its request, where the route lets it pass.
    Preflight,
    /// A key that stands, in a business that stands, with the scopes, within the limits.
    Key,
    /// The same as it was last confirmed: the store is away, and the configuration lets keys pass on that for a while.
    KnownFor,
    /// Nothing but that denials are only observed here: this is what it would have been denied for.
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

    /// The same, with what stands against it in the eyes of a limit or of a route that is only observed.
    pub(super) fn observing(self, denial: Denial) -> Self {
        Self { basis: Basis::Observed(denial), ..self }
    }

    /// As the service got it before there was a gate: this target, and what stands where a key would, as far as it is no
    /// key. `known`: the store knows it as one.
    pub(super) fn untouched(self, target: String, known: bool) -> Self {
        Self { target, keys: KeysToStrip::Recognised { known }, ..self }
    }

    /// Of what presents this key, or none. Nobody is named to the service but who stands.
    pub(super) fn of_observed(
        denial: Denial,
        route: Arc<Route>,
        caller: Option<Rc<Caller>>,
        shown: Option<(Recheck, Option<UpstreamId>)>,
    ) -> Self {
        let upstream = shown.as_ref().and_then(|(_, upstream)| *upstream).unwrap_or(route.upstream);
        let recheck = shown.map(|(recheck, _)| recheck);
        Self { upstream, caller, recheck, ..Self::without_key(Basis::Observed(denial), route, String::new()) }
    }

    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Why it would have been denied, where that is only observed.
    pub fn observed(&self) -> Option<&Denial> {
        match &self.basis {
            Basis::Observed(denial) => Some(denial),
            Basis::Public | Basis::Preflight | Basis::Key | Basis::KnownFor => None,
        }
    }

    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// How many bytes of a body may pass.
    pub fn most_of_a_body(&self) -> Option<u64> {
        match self.route.mode {
            Mode::Enforce => self.most_of_a_body_as_configured(),
            Mode::Observe => None,
        }
    }

    pub(super) fn most_of_a_body_as_configured(&self) -> Option<u64> {
        // What needs no key for its question's sake brings nothing else.
        if matches!(self.basis, Basis::Preflight) { Some(0) } else { self.route.max_body }
    }

    /// What is taken for a key and does not pass.
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

    /// What to ask about again while this is open; `None` where it rests on no key.
    pub fn recheck(&self) -> Option<&Recheck> {
        self.recheck.as_ref()
    }
}
