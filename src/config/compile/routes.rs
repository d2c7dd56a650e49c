//! `routes`, with `defaults`: the table that requests are looked up in.

use std::collections::HashSet;
use std::sync::Arc;

use super::base_path::Base;
use super::limits::Limits;
use super::mode::mode;
use super::reader::entries;
use super::reader::{Reader, items};
use super::scopes::scope_list;
use super::{cors, shadow, upstream};
use crate::config::field_path::FieldPath;
use crate::config::raw::{self, Entries, List, Root, Scalar, Short};
use crate::config::scalar;
use crate::gate::path;
use crate::policy::pattern::{Pattern, Segment};
use crate::policy::scope::is_scope;
use crate::policy::{Access, Allowances, Limit, Mode, Plans, Route, RouteTable, UpstreamId};
use crate::proxy::settings::Upstream;

/// What the rest of the configuration needs to know of the routes besides their table.
pub struct Routes {
    pub table: RouteTable,
    /// Names of path parameters.
    pub parameters: HashSet<String>,
    /// Scopes that some route needs.
    pub scopes: HashSet<String>,
    /// As written, without the base path.
    pub written: Vec<(Pattern, String)>,
}

pub fn table(
    root: &Root,
    base: Option<&Base>,
    upstreams: &[Upstream],
    limits: &mut Limits,
    plans: Option<&Plans>,
    mode: Mode,
    reader: &mut Reader<'_>,
) -> Option<Routes> {
    let path = FieldPath::top("routes");
    let mut defaults = RouteDefaults::new(root, upstreams, limits, plans, mode, reader);
    let mut written = Vec::new();
    for (text, raw) in entries(root.routes.as_ref()) {
        let path = path.field(text);
        let pattern = Pattern::parse(text).map_err(|error| reader.fail(&path, error)).ok();
        let route = defaults.route(&path, text, raw, reader);
        written.extend(pattern.zip(route));
    }
    if entries(root.routes.as_ref()).is_empty() {
        reader.fail(&path, "there is none, so that everything would be refused; write one, such as `/v1/**: any`");
    }
    let parameters = written.iter().flat_map(|(pattern, _)| pattern.parameters().map(str::to_owned)).collect();
    let scopes = written.iter().flat_map(|(_, route)| needed(&route.access).iter().cloned()).collect();
    shadow::warn(written.iter().map(|(pattern, route)| (pattern, route.pattern.as_str())), reader);
    base.into_iter().for_each(|base| warn_of_repeated_base(base, &written, reader));
    let names: Vec<_> = written.iter().map(|(pattern, route)| (pattern.clone(), route.pattern.clone())).collect();
    let placed = written.into_iter().map(|(pattern, route)| match base {
        None => (pattern, route),
        Some(base) => (pattern.below(&base.pattern), route),
    });
    let placed: Vec<_> = placed.collect();
    refuse_unreachable(&placed, &path, reader);
    let table = RouteTable::new(placed).map_err(|overlaps| {
        for overlap in overlaps {
            reader.fail(&path.field(&names[overlap.index].1), overlap);
        }
    });
    Some(Routes { table: table.ok()?, parameters, scopes, written: names })
}

/// Whoever writes whole paths beside a `base_path` has routes that nobody asks for.
fn warn_of_repeated_base(base: &Base, routes: &[(Pattern, Route)], reader: &mut Reader<'_>) {
    for (_, route) in routes.iter().filter(|(pattern, _)| pattern.segments.starts_with(&base.pattern.segments)) {
        let path = route.pattern.split_once(' ').map_or(&*route.pattern, |(_, path)| path);
        reader.warn(
            &FieldPath::top("routes").field(&route.pattern),
            format_args!(
                "`base_path` stands before every route, so that this one is `{base}{path}`; write it without `{base}`",
                base = base.text
            ),
        );
    }
}

/// Routes whose every path the gate refuses before it looks for a route.
fn refuse_unreachable(routes: &[(Pattern, Route)], path: &FieldPath, reader: &mut Reader<'_>) {
    for (pattern, route) in routes {
        let path = path.field(&route.pattern);
        let never = "such a path is refused in requests, so that this route could never match";
        match path::read(&sample(pattern)) {
            Err(_) => reader.fail(&path, format_args!("{never}; remove it")),
            Ok(read) if !route.allows.cover(read.needs) => {
                let needs = [("encoded-slash", read.needs.encoded_slash), ("semicolon", read.needs.semicolon)];
                let words: Vec<_> = needs.into_iter().filter_map(|(word, needed)| needed.then_some(word)).collect();
                reader.fail(&path, format_args!("{never}; add `paths: [{}]` to it", words.join(", ")));
            }
            Ok(_) => {}
        }
    }
}

/// A path that the pattern matches.
fn sample(pattern: &Pattern) -> String {
    if pattern.segments.is_empty() {
        return "/".to_owned();
    }
    let segments = pattern.segments.iter().map(|segment| match segment {
        Segment::Literal(text) => format!("/{text}"),
        Segment::Parameter(_) => "/x".to_owned(),
    });
    segments.collect()
}

fn needed(access: &Access) -> &[String] {
    match access {
        Access::Public | Access::Any => &[],
        Access::All(scopes) | Access::AnyOf(scopes) => scopes,
    }
}

/// What a route may refer to, and what it gets when it says nothing.
struct RouteDefaults<'c> {
    upstreams: &'c [Upstream],
    limits: &'c mut Limits,
    plans: Option<&'c Plans>,
    default_limits: Vec<Arc<Limit>>,
    default_max_query: Vec<(String, u64)>,
    max_body: Option<u64>,
    preflight: bool,
    mode: Mode,
}

impl<'c> RouteDefaults<'c> {
    fn new(
        root: &Root,
        upstreams: &'c [Upstream],
        limits: &'c mut Limits,
        plans: Option<&'c Plans>,
        mode: Mode,
        reader: &mut Reader<'_>,
    ) -> Self {
        let path = FieldPath::top("defaults");
        let nothing = raw::Defaults::default();
        let defaults = root.defaults.as_ref().unwrap_or(&nothing);
        let named = defaults.limits.as_ref();
        let default_limits = named.map(|list| limits.resolve(&path.field("limits"), list, reader));
        let max_body =
            reader.read(&FieldPath::top("max_body"), root.max_body.as_ref(), None, |text| scalar::size(text).map(Some));
        Self {
            upstreams,
            limits,
            plans,
            default_limits: default_limits.unwrap_or_default(),
            default_max_query: max_query(&path.field("max_query"), defaults.max_query.as_ref(), reader),
            max_body,
            preflight: cors::preflight_everywhere(root, reader),
            mode,
        }
    }

    fn route(
        &mut self,
        path: &FieldPath,
        pattern: &str,
        raw: &Short<raw::Route>,
        reader: &mut Reader<'_>,
    ) -> Option<Route> {
        let nothing = raw::Route::default();
        let (fields, access) = match raw {
            Short::Text(text) => (&nothing, reader.parse(path, text, access_word)),
            Short::Fields(fields) => (fields, access(path, fields, reader)),
        };
        let access = access?;
        let is_public = access == Access::Public;
        let timeout = &path.field("response_timeout");
        let body = &path.field("max_body");
        let limits = self.limits(path, fields, is_public, reader);
        Some(Route {
            pattern: pattern.to_owned(),
            cost: self.cost(&path.field("cost"), fields.cost.as_ref(), &limits, reader),
            limits,
            max_query: match &fields.max_query {
                Some(own) => max_query(&path.field("max_query"), Some(own), reader),
                None if is_public => Vec::new(),
                None => self.default_max_query.clone(),
            },
            response_timeout: reader
                .read(timeout, fields.response_timeout.as_ref(), None, |text| scalar::time(text).map(Some)),
            max_body: reader.read(body, fields.max_body.as_ref(), self.max_body, |text| scalar::size(text).map(Some)),
            upstream: self.upstream(&path.field("upstream"), fields.upstream.as_ref(), reader),
            lenient: reader.read(&path.field("lenient"), fields.lenient.as_ref(), false, scalar::flag),
            preflight: cors::preflight(&path.field("preflight"), fields.preflight.as_ref(), self.preflight, reader),
            allows: allowances(&path.field("paths"), fields.paths.as_ref(), reader),
            mode: mode(&path.field("mode"), fields.mode.as_ref(), self.mode, reader),
            access,
        })
    }

    fn limits(
        &mut self,
        path: &FieldPath,
        fields: &raw::Route,
        is_public: bool,
        reader: &mut Reader<'_>,
    ) -> Vec<Arc<Limit>> {
        let Some(list) = &fields.limits else {
            return if is_public { Vec::new() } else { self.default_limits.clone() };
        };
        let path = path.field("limits");
        let limits = self.limits.resolve(&path, list, reader);
        if let Some(limit) = limits.iter().find(|limit| is_public && limit.by.needs_key()) {
            let name = &limit.name;
            reader.fail(
                &path,
                format_args!(
                    "`{name}` counts by what a key says, and a public route reads none; use a limit by ip or global"
                ),
            );
        }
        limits
    }

    fn cost(&self, path: &FieldPath, cost: Option<&Scalar>, limits: &[Arc<Limit>], reader: &mut Reader<'_>) -> u64 {
        let Some(scalar) = cost else { return 1 };
        let cost = reader.read(path, Some(scalar), 1, |text| match text {
            "0" => {
                Err("a request that costs nothing is not limited; write a number above 0, or `limits: []`".to_owned())
            }
            _ => scalar::number(1, 1_000_000_000)(text).map_err(|error| error.to_string()),
        });
        if limits.is_empty() {
            reader.warn(path, "the route has no limits, so that its cost plays no part");
        }
        for limit in limits.iter().filter(|limit| !self.can_ever_pass(limit, cost)) {
            let (name, windows) = (&limit.name, &limit.windows);
            reader.fail(path, format_args!("a request of cost {cost} never fits into `{name}` ({windows}); write a smaller cost or a larger limit"));
        }
        cost
    }

    /// Whether the limit, or what a plan makes of it, has room for the cost in each of its windows.
    fn can_ever_pass(&self, limit: &Limit, cost: u64) -> bool {
        let of_plans =
            self.plans.into_iter().flat_map(Plans::iter).filter_map(|(_, plan)| plan.limits.get(&limit.name));
        of_plans.chain([&limit.windows]).any(|windows| windows.as_slice().iter().all(|window| window.limit >= cost))
    }

    fn upstream(&self, path: &FieldPath, name: Option<&Scalar>, reader: &mut Reader<'_>) -> UpstreamId {
        let name = name.and_then(|name| reader.text(path, name));
        name.map_or(UpstreamId(0), |name| upstream::resolve(self.upstreams, path, &name, reader))
    }
}

/// The short form: `any`, `public`, or a scope.
fn access_word(text: &str) -> Result<Access, String> {
    match text {
        "any" => Ok(Access::Any),
        "public" => Ok(Access::Public),
        _ if text.eq_ignore_ascii_case("any") || text.eq_ignore_ascii_case("public") => {
            Err(format!("`{text}` would be a scope; write `{}`", text.to_ascii_lowercase()))
        }
        "" | "true" | "false" => {
            Err(format!("`{text}` does not say who may call it; write a scope, `any`, or `public`"))
        }
        _ if is_scope(text) => Ok(Access::All(vec![text.to_owned()])),
        _ => Err(format!("`{text}` is no scope; write one such as `agents:read`, several as `{{scopes: [a, b]}}`")),
    }
}

/// The long form: exactly one of `scopes`, `any_scope`, `any: true` and `public: true`.
fn access(path: &FieldPath, fields: &raw::Route, reader: &mut Reader<'_>) -> Option<Access> {
    let any = reader.read(&path.field("any"), fields.any.as_ref(), false, scalar::flag);
    let public = reader.read(&path.field("public"), fields.public.as_ref(), false, scalar::flag);
    match (&fields.scopes, &fields.any_scope, any, public) {
        (Some(list), None, false, false) => scopes(&path.field("scopes"), list, reader).map(Access::All),
        (None, Some(list), false, false) => scopes(&path.field("any_scope"), list, reader).map(Access::AnyOf),
        (None, None, true, false) => Some(Access::Any),
        (None, None, false, true) => Some(Access::Public),
        (None, None, false, false) => {
            reader.fail(path, "it does not say who may call it; write `scopes: […]`, `any: true` or `public: true`");
            None
        }
        (_, _, _, true) => {
            reader.fail(
                &path.field("public"),
                "a public route reads no key, so it needs no scopes and not `any`; keep one",
            );
            None
        }
        _ => {
            reader
                .fail(path, "`scopes` (all of them), `any_scope` (one of them) and `any` exclude each other; keep one");
            None
        }
    }
}

fn scopes(path: &FieldPath, list: &List<Scalar>, reader: &mut Reader<'_>) -> Option<Vec<String>> {
    if list.0.is_empty() {
        reader.fail(
            path,
            "no scope is listed; write one, or `any: true` for any valid key, or `public: true` for no key",
        );
        return None;
    }
    let scopes = scope_list(path, Some(list), reader);
    (!scopes.is_empty()).then_some(scopes)
}

fn max_query(path: &FieldPath, raw: Option<&Entries<Scalar>>, reader: &mut Reader<'_>) -> Vec<(String, u64)> {
    let mut most = Vec::new();
    for (name, scalar) in entries(raw) {
        let path = path.field(name);
        if name.is_empty() {
            reader.fail(&path, "a parameter has a name; write it, such as `limit: 100`");
        }
        most.extend(reader.parse(&path, scalar, scalar::number(0, u64::MAX)).map(|most| (name.clone(), most)));
    }
    most
}

fn allowances(path: &FieldPath, list: Option<&List<Scalar>>, reader: &mut Reader<'_>) -> Allowances {
    let mut allows = Allowances::default();
    let words = [("encoded-slash", true), ("semicolon", false)];
    for (path, scalar) in list.into_iter().flat_map(|list| items(path, list)) {
        match reader.parse(&path, scalar, scalar::choice(&words)) {
            Some(true) => allows.encoded_slash = true,
            Some(false) => allows.semicolon = true,
            None => {}
        }
    }
    allows
}
