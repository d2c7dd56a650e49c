//! What the YAML means, compiled and immutable: which route needs which scopes and limits, what a scope implies, what a
//! plan allows, where a request may name a business, who is shut out at once, and how a denial reads.
//!
//! Plain data and pure functions. `config/compile` builds it; the gate decides by it; no hyper, tokio or redis here.

pub mod denial_text;
pub mod lenient;
pub mod limit;
pub mod mode;
pub mod pattern;
pub mod percent;
pub mod reason;
pub mod route;
pub mod scope;
pub mod template;
mod tree;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

use http::HeaderName;
use ipnet::IpNet;

use crate::keys::tenant::comparable_id;
use crate::keys::{Digest, Formats};
use crate::limit::Windows;

pub use denial_text::Texts;
pub use limit::{By, Limit};
pub use mode::Mode;
pub use reason::Reason;
pub use route::{Access, Allowances, Route, RouteTable, UpstreamId};
pub use scope::Scopes;

/// Everything the gate decides by.
#[derive(Debug)]
pub struct Policy {
    pub routes: RouteTable,
    pub scopes: Scopes,
    /// Absent: plans play no part.
    pub plans: Option<Plans>,
    pub business_sources: Vec<BusinessSource>,
    pub credentials: Credentials,
    /// Every configured limit, by name: overrides in documents are looked up here.
    pub limits: BTreeMap<String, Arc<Limit>>,
    pub deny: DenyList,
    pub texts: Texts,
    /// Of whatever is no route's; routes have their own.
    pub mode: Mode,
}

impl Policy {
    /// What becomes of a request for which there is no route. One that a backend could take for an enforced route's does not
    /// slip past it.
    pub fn mode_beside_routes(&self, method: &Method, path: &str) -> Mode {
        if self.mode == Mode::Observe && self.routes.guard(method, path) { Mode::Enforce } else { self.mode }
    }

    /// Whether any request may be refused for what it is.
    pub fn enforces(&self) -> bool {
        self.mode == Mode::Enforce || self.routes.enforces()
    }
}

/// The plans by name. `default` stands in where a business has none, or one that is not among them.
#[derive(Debug, Default)]
pub struct Plans(BTreeMap<String, Plan>);

#[derive(Debug)]
pub struct Plan {
    /// Whether the plan includes the API at all.
    pub api: bool,
    pub limits: BTreeMap<String, Arc<Windows>>,
}

impl Plans {
    pub fn new(plans: BTreeMap<String, Plan>) -> Self {
        Self(plans)
    }

    /// The plan that holds for a business whose document says `named`; `None` refuses it.
    pub fn of(&self, named: Option<&str>) -> Option<&Plan> {
        named.and_then(|name| self.0.get(name)).or_else(|| self.0.get("default"))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Plan)> {
        self.0.iter()
    }
}

/// Where a request may say which business it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusinessSource {
    Path(String),
    Query(String),
    Header(HeaderName),
}

/// Where a key is looked for, and how it looks.
#[derive(Debug)]
pub struct Credentials {
    pub sources: Vec<KeySource>,
    pub formats: Formats,
    /// The upstreams that formats name (`upstream: sandbox`), which beat a route's.
    pub format_upstreams: Vec<(String, UpstreamId)>,
    /// How many unknown keys one address may present before it is told to wait; absent: any number.
    pub guessing: Option<Arc<Windows>>,
    /// Whether the key itself reaches the upstream.
    pub forward: bool,
    /// For `WWW-Authenticate`.
    pub realm: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySource {
    pub header: HeaderName,
    /// Compared without case: `Bearer`.
    pub scheme: Option<String>,
}

/// Break-glass: shut out without asking the store.
#[derive(Debug, Default)]
pub struct DenyList {
    /// As they are compared.
    key_ids: HashSet<String>,
    digests: HashSet<Digest>,
    /// The keys in the order in which they are listed.
    pub keys: Vec<DeniedKey>,
    pub addresses: Vec<IpNet>,
}

/// A key that is shut out. One that looks like no format's cannot be told from an id: then it is denied as both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedKey {
    pub id: Option<String>,
    pub digest: Digest,
}

impl DenyList {
    pub fn new(keys: Vec<DeniedKey>, addresses: Vec<IpNet>) -> Self {
        let ids = keys.iter().filter_map(|key| key.id.as_deref());
        let key_ids = ids.map(|id| comparable_id(id).into_owned()).collect();
        Self { key_ids, digests: keys.iter().map(|key| key.digest).collect(), keys, addresses }
    }

    pub fn holds_key(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }

    pub fn holds_id(&self, id: &str) -> bool {
        // Mostly nobody is denied, and this is on the way of every request with a key.
        !self.key_ids.is_empty() && self.key_ids.contains(&*comparable_id(id))
    }

    pub fn holds_address(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.contains(&address))
    }
}
