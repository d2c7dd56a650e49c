//! Routes: what each pattern needs, and which one a request means.
//!
//! The most specific pattern wins, whatever the order they were written in; then its method. `pattern` has their grammar,
//! `tree` finds the one that a path means; here stand the table and the near-miss rule.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use thiserror::Error;

use super::limit::Limit;
use super::mode::Mode;
use super::pattern::Pattern;
use super::tree::{Hit, Tree};

/// What the configuration says of one pattern.
#[derive(Debug, Clone)]
pub struct Route {
    /// As configured (`GET /v1/agents/**`): the name of this route in metrics and logs.
    pub pattern: String,
    pub access: Access,
    /// What one request takes from each limit.
    pub cost: u64,
    pub limits: Vec<Arc<Limit>>,
    /// Query parameters that are clamped, with the most they may say.
    pub max_query: Vec<(String, u64)>,
    pub response_timeout: Option<Duration>,
    /// Bytes.
    pub max_body: Option<u64>,
    pub upstream: UpstreamId,
    /// Whether a path that a lenient backend would take for another route's is this route's all the same.
    pub lenient: bool,
    pub allows: Allowances,
    /// Whether a browser's question before its request (CORS preflight) goes to the upstream, without a key.
    pub preflight: bool,
    pub mode: Mode,
}

impl Route {
    /// One that costs and bounds nothing, and goes to the default upstream if anywhere.
    pub fn bare(pattern: String, access: Access) -> Self {
        Self {
            pattern,
            access,
            cost: 0,
            limits: Vec::new(),
            max_query: Vec::new(),
            response_timeout: None,
            max_body: None,
            upstream: UpstreamId(0),
            lenient: false,
            allows: Allowances::default(),
            preflight: false,
            mode: Mode::Enforce,
        }
    }
}

/// What a request needs to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// Any valid key.
    Any,
    /// A key with all of these scopes.
    All(Vec<String>),
    /// A key with one of these scopes.
    AnyOf(Vec<String>),
}

/// What a path may hold that is refused elsewhere, because this backend needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowances {
    pub encoded_slash: bool,
    pub semicolon: bool,
}

impl Allowances {
    pub fn cover(self, needed: Self) -> bool {
        (self.encoded_slash || !needed.encoded_slash) && (self.semicolon || !needed.semicolon)
    }
}

/// Which upstream, by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Two routes for the same requests (names of parameters aside).
#[derive(Debug, Error, PartialEq, Eq)]
#[error("it serves the same requests as `{other}`; keep one of them")]
pub struct Overlap {
    /// Which of the routes given, by its place.
    pub index: usize,
    pub other: String,
}

/// All routes, ready to be asked.
#[derive(Debug)]
pub struct RouteTable {
    tree: Tree,
    endpoints: Vec<Endpoint>,
    /// Whether any of the routes enforces.
    enforces: bool,
}

/// One pattern's routes, by method.
#[derive(Debug)]
struct Endpoint {
    routes: Vec<Entry>,
    /// For `Allow`.
    allow: String,
}

#[derive(Debug)]
struct Entry {
    methods: Option<Vec<Method>>,
    parameters: Vec<String>,
    route: Arc<Route>,
}

/// What a request's method and path mean.
#[derive(Debug)]
pub enum Found<'t, 'p> {
    Route {
        route: &'t Arc<Route>,
        /// The path's parameters by name, still percent-encoded.
        parameters: Vec<(&'t str, &'p str)>,
    },
    /// Some pattern matches, but none with this method.
    OtherMethods {
        allow: &'t str,
    },
    Nothing,
}

impl<'t> Found<'t, '_> {
    pub fn route(&self) -> Option<&'t Arc<Route>> {
        match self {
            Self::Route { route, .. } => Some(route),
            Self::OtherMethods { .. } | Self::Nothing => None,
        }
    }
}

impl RouteTable {
    /// Builds the table, or says which routes serve the same requests.
    pub fn new(routes: Vec<(Pattern, Route)>) -> Result<Self, Vec<Overlap>> {
        let mut table = Self { tree: Tree::default(), endpoints: Vec::new(), enforces: false };
        let mut overlaps = Vec::new();
        for (index, (pattern, route)) in routes.into_iter().enumerate() {
            if let Err(other) = table.insert(pattern, route) {
                overlaps.push(Overlap { index, other });
            }
        }
        if !overlaps.is_empty() {
            return Err(overlaps);
        }
        for endpoint in &mut table.endpoints {
            endpoint.allow = allow(&endpoint.routes);
        }
        table.enforces = table.endpoints.iter().any(Endpoint::enforces);
        Ok(table)
    }

    fn insert(&mut self, pattern: Pattern, route: Route) -> Result<(), String> {
        let id = self.tree.insert(&pattern, self.endpoints.len());
        if id == self.endpoints.len() {
            self.endpoints.push(Endpoint { routes: Vec::new(), allow: String::new() });
        }
        let endpoint = &mut self.endpoints[id];
        let overlaps = |entry: &&Entry| match (&entry.methods, &pattern.methods) {
            (None, None) => true,
            (Some(theirs), Some(_)) => theirs.iter().any(|m| pattern.has(m)),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if let Some(entry) = endpoint.routes.iter().find(overlaps) {
            return Err(entry.route.pattern.clone());
        }
        let parameters = pattern.parameters().map(str::to_owned).collect();
        endpoint.routes.push(Entry { methods: pattern.methods, parameters, route: Arc::new(route) });
        Ok(())
    }

    /// What `method` on `path` means; `path` is in the one form that `gate/path` makes.
    pub fn find<'t, 'p>(&'t self, method: &Method, path: &'p str) -> Found<'t, 'p> {
        let Some(Hit { endpoint: id, captures, loose }) = self.tree.find(path) else { return Found::Nothing };
        let endpoint = &self.endpoints[id];
        let near_miss = loose && self.tree.is_meant_for_another(path, id);
        let Some(entry) = endpoint.entry(method) else {
            return if near_miss { Found::Nothing } else { Found::OtherMethods { allow: &endpoint.allow } };
        };
        if near_miss && !entry.route.lenient {
            return Found::Nothing;
        }
        let parameters = entry.parameters.iter().map(String::as_str).zip(captures).collect();
        Found::Route { route: &entry.route, parameters }
    }

    /// What `Allow` names where no route of the path takes a method: nothing, where there is none.
    pub fn allow(&self, path: &str) -> &str {
        let Some(Hit { endpoint, loose, .. }) = self.tree.find(path) else { return "" };
        if loose && self.tree.is_meant_for_another(path, endpoint) { "" } else { &self.endpoints[endpoint].allow }
    }

    pub fn enforces(&self) -> bool {
        self.enforces
    }

    /// Whether a request for which there is no route could be taken by some backend for one that a route enforces: under
    /// another spelling of the path, or by another method.
    pub fn guard(&self, method: &Method, path: &str) -> bool {
        self.enforces && self.tree.all_meant(path).into_iter().any(|id| self.endpoints[id].guards(method))
    }

    /// Every route at a cost of 0, for a gate that is asked and must not spend.
    pub fn uncharge(&mut self) {
        for entry in self.endpoints.iter_mut().flat_map(|endpoint| &mut endpoint.routes) {
            Arc::make_mut(&mut entry.route).cost = 0;
        }
    }

    /// All routes, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.tree.by_specificity().into_iter().flat_map(|id| self.endpoints[id].routes.iter().map(|e| &e.route))
    }
}

impl Endpoint {
    fn enforces(&self) -> bool {
        self.routes.iter().any(|entry| entry.route.mode == Mode::Enforce)
    }

    /// Backends read a method's case leniently, and let a form or a header turn a POST into another method; what only reads
    /// is never taken for more.
    fn guards(&self, method: &Method) -> bool {
        match method {
            &Method::GET | &Method::HEAD | &Method::OPTIONS => {
                self.entry(method).is_some_and(|entry| entry.route.mode == Mode::Enforce)
            }
            _ => self.enforces(),
        }
    }

    /// A named method beats none, an explicit HEAD beats GET's.
    fn entry(&self, method: &Method) -> Option<&Entry> {
        let named = |wanted: &Method| {
            self.routes.iter().find(|e| e.methods.as_ref().is_some_and(|methods| methods.contains(wanted)))
        };
        named(method)
            .or_else(|| if method == Method::HEAD { named(&Method::GET) } else { None })
            .or_else(|| self.routes.iter().find(|e| e.methods.is_none()))
    }
}

/// `GET, HEAD, POST`: every method that some route of the pattern has. One that names none takes those that nobody knows, too.
fn allow(routes: &[Entry]) -> String {
    if routes.iter().any(|entry| entry.methods.is_none()) {
        return "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT".to_owned();
    }
    let mut names: Vec<&str> = Vec::new();
    for method in routes.iter().filter_map(|e| e.methods.as_ref()).flatten() {
        names.push(method.as_str());
        if method == Method::GET {
            names.push("HEAD");
        }
    }
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(pattern: &str) -> (Pattern, Route) {
        let parsed = Pattern::parse(pattern).expect("the test's patterns are right");
        let route = Route {
            pattern: pattern.to_owned(),
            access: Access::Any,
            cost: 1,
            limits: Vec::new(),
            max_query: Vec::new(),
            response_timeout: None,
            max_body: None,
            upstream: UpstreamId(0),
            lenient: pattern.contains("lenient"),
            allows: Allowances::default(),
            preflight: false,
            mode: if pattern.contains("watched") { Mode::Observe } else { Mode::Enforce },
        };
        (parsed, route)
    }

    fn table(patterns: &[&str]) -> RouteTable {
        RouteTable::new(patterns.iter().map(|p| route(p)).collect()).expect("the test's routes do not overlap")
    }

    fn meaning(table: &RouteTable, method: &str, path: &str) -> String {
        let method = Method::from_bytes(method.as_bytes()).expect("the test's methods are right");
        match table.find(&method, path) {
            Found::Route { route, .. } => route.pattern.clone(),
            Found::OtherMethods { allow } => format!("405 {allow}"),
            Found::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn the_most_specific_pattern_wins_then_its_method() {
        let table = table(&[
            "/v1/**",
            "GET /v1/agents/{id}",
            "GET /v1/agents/mine",
            "POST /v1/agents/{other}",
            "/v1/agents/{any}",
            "HEAD /v1/agents/mine",
            "DELETE /v1/calls",
        ]);
        for (method, path, expected) in [
            ("GET", "/v1/agents/mine", "GET /v1/agents/mine"),
            ("HEAD", "/v1/agents/mine", "HEAD /v1/agents/mine"),
            ("HEAD", "/v1/agents/a1", "GET /v1/agents/{id}"),
            ("POST", "/v1/agents/a1", "POST /v1/agents/{other}"),
            ("PUT", "/v1/agents/a1", "/v1/agents/{any}"),
            ("PUT", "/v1/agents/mine", "405 GET, HEAD"),
            ("GET", "/v1/agents/a1/x", "/v1/**"),
            ("GET", "/v1", "/v1/**"),
            ("GET", "/v1/", "/v1/**"),
            ("GET", "/v1/agents/", "/v1/**"),
            ("GET", "/v1/calls", "405 DELETE"),
            ("GET", "/v2", "404"),
            ("GET", "/", "404"),
        ] {
            assert_eq!(meaning(&table, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_dead_end_below_a_literal_falls_back_to_the_parameter() {
        let table = table(&["/a/b/c", "/a/{x}/d", "/{y}/b/e"]);
        assert_eq!(meaning(&table, "GET", "/a/b/d"), "/a/{x}/d");
        assert_eq!(meaning(&table, "GET", "/a/b/e"), "/{y}/b/e");
    }

    #[test]
    fn what_a_lenient_backend_would_take_for_another_route_is_none() {
        let table = table(&["/**", "/admin", "/v1/{id}", "/v1/Me", "/v1/users:batch", "/open/{lenient}", "/open/x"]);
        for path in [
            "/ADMIN",
            "/admin/",
            "/admin.",
            "/admin%20",
            "/Admin%20./",
            "/v1/me",
            "/v1/ME",
            "/v1/me.",
            "/v1/users%3Abatch",
            "/v1/Me/",
            "/admin%2F",
            "/%EF%BC%A1dmin",
            "/%20admin",
            "/admin%3Fx",
            "/admin%23x",
            "/admin;v=1",
            "/admin%3Bv=1",
            "/admin;v%2F1",
            "/v1;x/me",
            "/adm%C4%B1n",
            "/ad%C2%ADmin",
            "/admin%C2%A0",
        ] {
            assert_eq!(meaning(&table, "GET", path), "404", "{path}");
        }
        assert_eq!(meaning(&table, "GET", "/administrator"), "/**");
        assert_eq!(meaning(&table, "GET", "/v1/mE2"), "/v1/{id}");
        assert_eq!(meaning(&table, "GET", "/open/X"), "/open/{lenient}");
    }

    #[test]
    fn what_could_be_an_enforced_route_to_some_backend_is_guarded() {
        let table = table(&["GET /admin", "/open/{watched}", "/open/secret", "/v1/{watched}"]);
        for path in ["/admin", "/ADMIN", "/admin/", "/admin%20", "/Open/secret.", "/%61dmin;x"] {
            assert!(table.guard(&Method::GET, path) && table.guard(&Method::POST, path), "{path}");
        }
        for path in ["/", "/elsewhere", "/open/x", "/Open/x", "/V1/admin", "/administrator"] {
            assert!(!table.guard(&Method::GET, path) && !table.guard(&Method::POST, path), "{path}");
        }
        assert!(!self::table(&["/watched"]).guard(&Method::GET, "/watched"));
        let written = self::table(&["POST /admin"]);
        for (method, guarded) in
            [("GET", false), ("HEAD", false), ("OPTIONS", false), ("get", true), ("PUT", true), ("QUERY", true)]
        {
            let method = Method::from_bytes(method.as_bytes()).expect("the test's methods are tokens");
            assert_eq!(written.guard(&method, "/Admin"), guarded, "{method}");
        }
        assert!(table.guard(&Method::HEAD, "/admin"), "GET implies it");
    }

    #[test]
    fn a_trailing_slash_is_another_path() {
        let table = table(&["/a", "/b/", "/"]);
        assert_eq!(meaning(&table, "GET", "/a"), "/a");
        assert_eq!(meaning(&table, "GET", "/a/"), "404");
        assert_eq!(meaning(&table, "GET", "/b/"), "/b/");
        assert_eq!(meaning(&table, "GET", "/b"), "404");
        assert_eq!(meaning(&table, "GET", "/"), "/");
    }

    #[test]
    fn parameters_are_named_as_the_route_names_them() {
        let table = table(&["GET /b/{business_id}/x/{id}", "POST /b/{b}/x/{i}"]);
        let Found::Route { parameters, .. } = table.find(&Method::POST, "/b/acme/x/a%20b") else {
            panic!("the route is there");
        };
        assert_eq!(parameters, [("b", "acme"), ("i", "a%20b")]);
    }

    #[test]
    fn routes_for_the_same_requests_are_refused() {
        let overlap = |a: &str, b: &str| RouteTable::new(vec![route(a), route(b)]).map(|_| ());
        let expected = |other: &str| Err(vec![Overlap { index: 1, other: other.to_owned() }]);
        assert_eq!(overlap("GET,PUT /a/{x}", "POST,PUT /a/{y}"), expected("GET,PUT /a/{x}"));
        assert_eq!(overlap("/a", "/%61"), expected("/a"));
        assert_eq!(overlap("GET /a", "/a"), Ok(()));
        assert_eq!(overlap("GET /a", "HEAD /a"), Ok(()));
        assert_eq!(overlap("/a/**", "/a"), Ok(()));
    }

    #[test]
    fn routes_are_listed_by_specificity() {
        let table = table(&["/**", "/a/**", "/a/{x}", "/a/b"]);
        let listed: Vec<_> = table.iter().map(|r| r.pattern.as_str()).collect();
        assert_eq!(listed, ["/a/b", "/a/{x}", "/a/**", "/**"]);
    }
}
