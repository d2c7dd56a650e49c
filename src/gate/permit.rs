//! The proof that a request may be forwarded. Its fields are private and only the gate makes one, so that a request that was
//! not decided on cannot be forwarded: it would not compile.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;

use super::credential::Presented;
use super::trail::Caller;
use super::weigh::Routed;
use crate::keys::Digest;
use crate::policy::{Route, UpstreamId};

#[derive(Debug)]
pub struct Permit {
    basis: Basis,
    route: Arc<Route>,
    target: String,
    upstream: UpstreamId,
    key_header: Option<HeaderName>,
    caller: Option<Arc<Caller>>,
    recheck: Option<Recheck>,
}

/// What is asked about again while what was permitted is still open.
#[derive(Debug, Clone)]
pub struct Recheck {
    pub(super) route: Arc<Route>,
    pub(super) digest: Digest,
    /// The business that the request named.
    pub(super) named: Option<String>,
    pub(super) client: IpAddr,
}

/// What a request passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The route needs no key.
    Public,
    /// A browser's question before its request, where the route lets it pass.
    Preflight,
    /// A key that stands, in a business that stands, with the scopes, within the limits.
    Key,
    /// The same as it was last confirmed: the store is away, and the configuration lets keys pass on that for a while.
    KnownFor,
}

impl Permit {
    pub(super) fn public(route: Arc<Route>, target: String) -> Self {
        Self::without_key(Basis::Public, route, target)
    }

    pub(super) fn preflight(route: Arc<Route>, target: String) -> Self {
        Self::without_key(Basis::Preflight, route, target)
    }

    fn without_key(basis: Basis, route: Arc<Route>, target: String) -> Self {
        Self { basis, upstream: route.upstream, route, target, key_header: None, caller: None, recheck: None }
    }

    /// `basis`: `Key` or `KnownFor`. Where the key's format names an upstream, that beats the route's.
    pub(super) fn key(basis: Basis, routed: Routed<'_>, caller: Arc<Caller>, presented: Presented) -> Self {
        let Routed { route, target, named, client, spends: _ } = routed;
        let recheck = Recheck { route: route.clone(), digest: presented.digest, named, client };
        Self {
            basis,
            upstream: presented.upstream.unwrap_or(route.upstream),
            route: route.clone(),
            target,
            key_header: Some(presented.header),
            caller: Some(caller),
            recheck: Some(recheck),
        }
    }

    pub fn basis(&self) -> Basis {
        self.basis
    }

    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Path and query as they were decided on.
    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn upstream(&self) -> UpstreamId {
        self.upstream
    }

    /// The header that the key was read from, where one was.
    pub fn key_header(&self) -> Option<&HeaderName> {
        self.key_header.as_ref()
    }

    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_deref()
    }

    /// What to ask about again while this is open; `None` where it rests on no key.
    pub fn recheck(&self) -> Option<&Recheck> {
        self.recheck.as_ref()
    }
}
