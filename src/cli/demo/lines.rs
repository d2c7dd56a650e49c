//! The curl lines of the demo, made from the configuration: what passes, what does not, and where the limit is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use http::Method;

use crate::config::Settings;
use crate::limit::Window;
use crate::policy::pattern::{Pattern, Segment};
use crate::policy::{Access, BusinessSource, KeySource, Policy, Route};
use crate::secret::Secret;
use crate::store::record::KeyDocument;

/// Whose key the demo makes.
pub const BUSINESS: &str = "acme";

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    pub title: String,
    pub method: String,
    /// The path, base path included.
    pub path: String,
    pub with_key: bool,
    pub status: u16,
    /// So many requests at once, one more than the limit has room for.
    pub times: Option<u64>,
}

/// What the demo's key may: what the first route that reads and needs scopes asks for.
pub fn scopes_to_grant(policy: &Policy) -> Vec<String> {
    let route = first_keyed(policy);
    match route.map(|route| &route.access) {
        Some(Access::All(scopes)) => scopes.clone(),
        Some(Access::AnyOf(scopes)) => scopes.iter().take(1).cloned().collect(),
        Some(Access::Any | Access::Public) | None => Vec::new(),
    }
}

pub fn examples(settings: &Settings, key: &KeyDocument) -> Vec<Example> {
    let policy = &settings.policy;
    let base = settings.base_path.as_deref().unwrap_or_default();
    let example = |title: String, route: &Route, with_key, status| Example {
        title,
        method: method(route).to_string(),
        path: format!("{base}{}", path(route, policy)),
        with_key,
        status,
        times: None,
    };
    let mut examples = Vec::new();
    if let Some(route) = first_keyed(policy) {
        examples.push(example("with the key: allowed; the upstream learns whose it is".to_owned(), route, true, 200));
        examples.push(example("without a key".to_owned(), route, false, 401));
    }
    let wrong = policy.routes.iter().find_map(|route| Some((route, missing_scope(policy, route, key)?)));
    if let Some((route, scope)) = wrong {
        examples.push(example(format!("with the key, but it lacks the scope {scope}"), route, true, 403));
    }
    if let Some(route) = policy.routes.iter().find(|route| route.access == Access::Public && route.limits.is_empty()) {
        examples.push(example("a public route".to_owned(), route, false, 200));
    }
    if let Some(route) = first_keyed(policy)
        && let Some((name, window)) = tightest(route)
    {
        let title = format!("over the limit `{name}` of {window}: some pass (200), the rest do not (429)");
        examples.push(Example { times: Some(window.limit + 5), ..example(title, route, true, 429) });
    }
    examples
}

/// What a person sees who has just started the demo.
pub fn page(
    examples: &[Example],
    (gate, admin): (SocketAddr, SocketAddr),
    key: &Secret,
    document: &KeyDocument,
    folder: &Path,
    source: &KeySource,
) -> String {
    let mut page = format!("sidegate stands at http://{gate} before a small upstream that echoes what it gets.\n");
    let scopes =
        if document.scopes.is_empty() { "any route for a valid key".to_owned() } else { document.scopes.join(", ") };
    let _ = writeln!(page, "One key was minted, for business {BUSINESS}, which may: {scopes}\n");
    let _ = writeln!(page, "  KEY={}\n", key.expose());
    let name = as_people_write(source.header.as_str());
    let header = match &source.scheme {
        Some(scheme) => format!("{name}: {scheme} $KEY"),
        None => format!("{name}: $KEY"),
    };
    for example in examples {
        let method = if example.method == "GET" { String::new() } else { format!(" -X {}", example.method) };
        let header = if example.with_key { format!(" -H \"{header}\"") } else { String::new() };
        let url = format!("http://{gate}{}", example.path);
        let line = match example.times {
            None => format!("curl -i{method}{header} {url}"),
            Some(times) => format!(
                "curl -s -o /dev/null -w '%{{http_code}}\\n'{method}{header} \"{url}?n=[1-{times}]\" | sort | uniq -c"
            ),
        };
        let _ = writeln!(page, "# {}: {}\n{line}\n", example.status, example.title);
    }
    let _ = writeln!(page, "# what operators see\ncurl http://{admin}/metrics\n");
    let _ = writeln!(page, "Its keys are in {}; Ctrl-C ends it and removes them.\n", folder.display());
    page
}

/// `X-Api-Key` for `x-api-key`.
fn as_people_write(header: &str) -> String {
    let capitalised = |word: &str| word[..1].to_uppercase() + &word[1..];
    header
        .split('-')
        .map(|word| if word.is_empty() { String::new() } else { capitalised(word) })
        .collect::<Vec<_>>()
        .join("-")
}

/// The first route for keys that reads, the most specific first; or else any for keys.
fn first_keyed(policy: &Policy) -> Option<&Route> {
    let keyed: Vec<&Route> =
        policy.routes.iter().map(AsRef::as_ref).filter(|route: &&Route| route.access != Access::Public).collect();
    let reads = keyed.iter().find(|route| method(route) == Method::GET);
    reads.or(keyed.first()).copied()
}

fn missing_scope<'p>(policy: &Policy, route: &'p Route, key: &KeyDocument) -> Option<&'p String> {
    let lacks = |scope: &&String| !policy.scopes.allow(&key.scopes, scope);
    match &route.access {
        Access::All(scopes) => scopes.iter().find(lacks),
        Access::AnyOf(scopes) if scopes.iter().all(|scope| lacks(&scope)) => scopes.first(),
        Access::AnyOf(_) | Access::Any | Access::Public => None,
    }
}

fn tightest(route: &Route) -> Option<(&str, Window)> {
    let windows = route
        .limits
        .iter()
        .flat_map(|limit| limit.windows.as_slice().iter().map(|window| (limit.name.as_str(), *window)));
    windows.min_by_key(|(_, window)| window.limit)
}

fn method(route: &Route) -> Method {
    let methods = Pattern::parse(&route.pattern).ok().and_then(|pattern| pattern.methods);
    methods.and_then(|methods| methods.into_iter().next()).unwrap_or(Method::GET)
}

/// A path that the pattern matches: the business where it names one, `1` for any other parameter.
fn path(route: &Route, policy: &Policy) -> String {
    let Ok(pattern) = Pattern::parse(&route.pattern) else { return String::new() };
    let is_business = |name: &String| policy.business_sources.contains(&BusinessSource::Path(name.clone()));
    let segments = pattern.segments.iter().map(|segment| match segment {
        Segment::Literal(text) => format!("/{text}"),
        Segment::Parameter(name) if is_business(name) => format!("/{BUSINESS}"),
        Segment::Parameter(_) => "/1".to_owned(),
    });
    let path: String = segments.collect();
    // `/**` alone: anything is below it.
    if path.is_empty() { "/anything".to_owned() } else { path }
}
