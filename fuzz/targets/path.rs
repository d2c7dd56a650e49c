//! A request's target through the whole gate: what is decided on is what is forwarded, and nothing that a lenient backend
//! could take for a guarded path passes without the scope.
//!
//! The readings of such a backend are made here anew, one habit at a time and in any order, so that this oracle shares
//! neither code nor mistakes with the gate's own rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Uri};
use sidegate::config::load;
use sidegate::gate::{Denial, Gate, GateRequest, SharedState, Trail, UnknownNames};
use sidegate::policy::UpstreamId;
use sidegate::policy::route::Found;
use sidegate::store::Store;
use sidegate::store::calls::Calls;
use sidegate::store::fallback::Fallback;
use sidegate::store::file::FileStore;
use sidegate::store::outage::LimitsOutage;
use unicode_normalization::UnicodeNormalization;

/// Whatever is not guarded is public, so that every way round a guard is open.
const YAML: &str = "
listen: 127.0.0.1:0
upstream: http://127.0.0.1:1
store: file:none.yaml
routes:
  /admin: admin
  /admin/**: admin
  /public/**: public
  /public/secret/{id}: admin
  /opened/**: {public: true, paths: [encoded-slash, semicolon]}
  /opened/secret: admin
  /items/{id}: public
  /items/{id}/secret: admin
  /files/{name}: {public: true, paths: [semicolon]}
  /files/mine: admin
  /: public
  /{name}: public
  /**: public
";

thread_local! {
    static GATE: Gate = gate();
}

pub fn run(data: &[u8]) {
    // As hyper reads a request line or `:path`: what `Uri` refuses never gets further.
    let Ok(uri) = Uri::try_from(data) else { return };
    let target = GATE.with(|gate| {
        let (headers, client) = (HeaderMap::new(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (path, query) = (uri.path(), uri.query());
        let (method, arrived) = (&Method::GET, Instant::now());
        let asked =
            GateRequest { method, path, query, headers: &headers, client, length: None, oversize: None, arrived };
        let mut trail = Trail::default();
        let decided = now(gate.decide(&asked, &mut trail));
        let Ok(permit) = decided else { return None };
        let route = trail.route.as_ref().expect("what passes has a route").pattern.clone();
        assert_eq!(permit.upstream(), UpstreamId(0));
        decided_is_forwarded(gate, permit.target(), &route);
        Some(permit.target().to_owned())
    });
    let Some(target) = target else { return };
    let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
    assert_eq!(query, uri.query(), "the query is forwarded byte for byte");
    for reading in readings(path) {
        assert!(!is_guarded(&reading), "{path:?} passed without the scope, and some backend reads {reading:?}");
    }
}

/// Forwarded and received again, the target is the same bytes, and means the same route.
fn decided_is_forwarded(gate: &Gate, target: &str, route: &str) {
    let built = Uri::builder().scheme("http").authority("a").path_and_query(target).build();
    // What cannot be written as a URI is refused before it is forwarded.
    let Ok(built) = built else { return };
    let written = built.path_and_query().map(ToString::to_string).unwrap_or_default();
    if written != target {
        // The gate compares them too, and refuses.
        return;
    }
    let again = sidegate::gate::path::read(built.path()).unwrap_or_else(|_| panic!("{target:?} is refused in turn"));
    assert_eq!(again.text, built.path(), "what was decided on is not what is forwarded");
    match gate.policy().routes.find(&Method::GET, &again.text) {
        Found::Route { route: found, .. } => assert_eq!(found.pattern, route, "{target:?}"),
        other => panic!("{target:?} is {other:?} in turn"),
    }
}

/// The embedded store never waits, so that one poll is the whole way.
fn now<T>(decision: impl Future<Output = Result<T, Denial>>) -> Result<T, Denial> {
    match pin!(decision).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(decided) => decided,
        Poll::Pending => panic!("the gate waits for something"),
    }
}

fn gate() -> Gate {
    let nowhere = Path::new("/nonexistent");
    let settings = load::from_text(YAML, nowhere, "fuzz.yaml").expect("the target's configuration is right");
    let calls = Arc::new(Calls::new().expect("the metrics' names are right"));
    let file = FileStore::open(&nowhere.join("none.yaml")).expect("no file is an empty store");
    let store = Store::File { file, calls: calls.clone() };
    let fallback = Arc::new(Fallback::new(LimitsOutage::Deny, calls));
    let (rules, unknown) = (Arc::new(settings.keys), UnknownNames::new().expect("the metric's name is right"));
    let commons = SharedState { fallback, known: None, guessing: None, rules, unknown: Arc::new(unknown) };
    Gate::new(settings.policy, store, commons, Duration::from_secs(1))
}

/// Exactly what the configuration guards; the readings do the rest.
fn is_guarded(path: &str) -> bool {
    let within =
        |path: &str, above: &str| path.strip_prefix(above).is_some_and(|rest| !rest.contains('/') && !rest.is_empty());
    path == "/admin"
        || path.starts_with("/admin/")
        || within(path, "/public/secret/")
        || path == "/opened/secret"
        || path == "/files/mine"
        || path
            .strip_prefix("/items/")
            .and_then(|rest| rest.strip_suffix("/secret"))
            .is_some_and(|id| !id.is_empty() && !id.contains('/'))
}

/// What backends make of a path: every habit below, in every order, a few deep.
fn readings(path: &str) -> BTreeSet<String> {
    const HABITS: [fn(&str) -> String; 13] = [
        decoded,
        |path| path.replace('\\', "/"),
        |path| each_segment(path, |segment| segment.split(';').next().unwrap_or_default().to_owned()),
        merged,
        resolved,
        |path| path.to_lowercase(),
        |path| path.to_uppercase().to_lowercase(),
        |path| if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path.to_owned() },
        |path| each_segment(path, |segment| segment.trim_end_matches('.').to_owned()),
        |path| each_segment(path, |segment| segment.trim().to_owned()),
        |path| path.nfkc().collect(),
        |path| path.split(['?', '#', '\0']).next().unwrap_or_default().to_owned(),
        |path| path.replace(['\u{AD}', '\u{200B}', '\u{200C}', '\u{200D}', '\u{FEFF}'], ""),
    ];
    const MOST: usize = 400;
    let mut known = BTreeSet::from([path.to_owned()]);
    let mut next = vec![path.to_owned()];
    while let Some(path) = next.pop() {
        for habit in HABITS {
            let read = habit(&path);
            if known.len() < MOST && known.insert(read.clone()) {
                next.push(read);
            }
        }
    }
    known
}

fn each_segment(path: &str, change: impl Fn(&str) -> String) -> String {
    let changed = path.split('/').map(|segment| match segment {
        // Dots are for resolving, not for trimming away.
        "." | ".." => segment.to_owned(),
        _ => change(segment),
    });
    changed.collect::<Vec<_>>().join("/")
}

fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut plain = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let value = pair.filter(|_| bytes[at] == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok());
        plain.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn merged(path: &str) -> String {
    let mut plain = String::new();
    for c in path.chars() {
        if c != '/' || !plain.ends_with('/') {
            plain.push(c);
        }
    }
    plain
}

fn resolved(path: &str) -> String {
    let mut stack: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (index, segment) in segments.iter().enumerate() {
        match *segment {
            "." => {}
            ".." => drop(stack.pop()),
            other => stack.push(other),
        }
        if index + 1 == segments.len() && matches!(*segment, "." | "..") {
            stack.push("");
        }
    }
    format!("/{}", stack.join("/"))
}
