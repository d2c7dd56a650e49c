//! The proof that a request may be forwarded. Its fields are private and only the gate makes one, so that a request that was
//! not decided on cannot be forwarded: it would not compile.

use std::sync::Arc;

use crate::policy::{Route, UpstreamId};

use super::trail::Caller;

#[derive(Debug)]
pub struct Permit {
    basis: Basis,
    route: Arc<Route>,
    target: String,
    upstream: UpstreamId,
    caller: Option<Arc<Caller>>,
}

/// What a request passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The route needs no key.
    Public,
    /// A key that stands, in a business that stands, with the scopes, within the limits.
    Key,
    /// The same as it was last confirmed: the store is away, and the configuration lets keys pass on that for a while.
    KnownFor,
}

impl Permit {
    pub(super) fn public(route: Arc<Route>, target: String) -> Self {
        Self { basis: Basis::Public, upstream: route.upstream, route, target, caller: None }
    }

    /// `basis`: `Key` or `KnownFor`. `upstream`: where the key's format sends its requests, which beats the route's.
    pub(super) fn key(
        basis: Basis,
        route: Arc<Route>,
        target: String,
        caller: Arc<Caller>,
        upstream: Option<UpstreamId>,
    ) -> Self {
        Self { basis, upstream: upstream.unwrap_or(route.upstream), route, target, caller: Some(caller) }
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

    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_deref()
    }
}
