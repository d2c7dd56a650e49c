//! What a worker's memory of keys takes, counted by the allocator: what README says of it rests on this.
//!
//! The only test of its program, since whatever else ran beside it would be counted, too.

use std::alloc::System;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cap::Cap;
use http::{HeaderMap, HeaderValue, Method};
use sidegate::config::load;
use sidegate::gate::records::Records;
use sidegate::gate::{Gate, GateRequest, SharedState, Trail, UnknownNames};
use sidegate::keys::Digest;
use sidegate::store::Store;
use sidegate::store::calls::Calls;
use sidegate::store::fallback::Fallback;
use sidegate::store::file::FileStore;
use sidegate::store::outage::LimitsOutage;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const YAML: &str = "
listen: 127.0.0.1:0
upstream: http://127.0.0.1:1
store: file:keys.yaml
limits:
  per-key: {by: key, windows: 1000/1h}
  per-business: {by: business, windows: 1000/1h}
defaults: {limits: [per-key, per-business]}
routes: {/one: items:read, /other: items:read}
";

/// Of one worker of eight.
const REMEMBERED: usize = 1_750;
const KEYS: usize = 3 * REMEMBERED;
/// Bytes of a key that is bound to a business of its own and under two limits, beside its document's text, which the embedded store
/// holds once for itself and its askers.
const ON_ONE_ROUTE: usize = 2_000;
/// Nothing that both come to is held twice.
const ON_TWO_ROUTES: usize = 2_300;

#[test]
fn a_flood_of_keys_takes_no_more_memory_than_is_said() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let path = folder.path().join("keys.yaml");
    std::fs::write(&path, keys()).expect("the file is written");
    let file = FileStore::open(&path).expect("the file is right");
    for (routes, each) in [(&["/one"][..], ON_ONE_ROUTE), (&["/one", "/other"], ON_TWO_ROUTES)] {
        // What the store counts is not what is measured: it has all its buckets from then on.
        flood(&gate(&file), routes);
        let before = ALLOCATOR.allocated();
        let gate = gate(&file);
        flood(&gate, routes);
        // The thread that looks at the file has a moment's memory of its own.
        let until = Instant::now() + Duration::from_secs(20);
        let taken = loop {
            let taken = ALLOCATOR.allocated().saturating_sub(before);
            if taken <= REMEMBERED * each || Instant::now() > until {
                break taken / REMEMBERED;
            }
            sleep(Duration::from_millis(50));
        };
        println!("{routes:?}: {taken} bytes a key");
        assert!(taken <= each, "{taken} bytes for each of {REMEMBERED} keys on {routes:?}");
        assert!(taken >= each / 2, "{taken} bytes: what this is to measure is not there");
    }
}

fn key(n: usize) -> String {
    format!("{n:043}")
}

fn keys() -> String {
    let mut yaml = "keys:\n".to_owned();
    for n in 0..KEYS {
        let sha256 = Digest::of(&key(n)).to_hex();
        let (id, business) = (format!("01491d84-0220-41bb-8e2b-{n:012}"), format!("acme-{n:06}"));
        let line = format!(
            "- {{sha256: {sha256}, id: {id}, name: Key {n}, business: {business}, scopes: [items:read, items:write]}}"
        );
        writeln!(yaml, "{line}").expect("a text takes all");
    }
    yaml
}

fn gate(file: &Arc<FileStore>) -> Gate {
    let settings = load::from_text(YAML, Path::new("/nonexistent"), "test.yaml").expect("the configuration is right");
    let calls = Arc::new(Calls::new().expect("the metrics' names are right"));
    let store = Store::File { file: file.clone(), calls: calls.clone() };
    let fallback = Arc::new(Fallback::new(LimitsOutage::Deny, calls));
    let unknown = Arc::new(UnknownNames::new().expect("the metric's name is right"));
    let shared = SharedState { fallback, known: None, guessing: None, rules: Arc::new(settings.keys), unknown };
    let gate = Gate::new(settings.policy, store, shared, Duration::from_secs(10));
    gate.remembering(Rc::new(Records::of_one_in(8)))
}

/// Each key asks once on each route.
fn flood(gate: &Gate, routes: &[&str]) {
    let mut headers = HeaderMap::new();
    for n in 0..KEYS {
        let bearer = format!("Bearer {}", key(n));
        headers.insert("authorization", HeaderValue::try_from(bearer).expect("it is plain text"));
        for path in routes {
            let request = GateRequest {
                method: &Method::GET,
                path,
                query: None,
                headers: &headers,
                client: IpAddr::V4(Ipv4Addr::LOCALHOST),
                length: None,
                oversize: None,
                arrived: Instant::now(),
            };
            assert!(now(gate.decide(&request, &mut Trail::default())).is_ok(), "key {n} on {path}");
        }
    }
}

/// The embedded store never waits, so that one poll is the whole way.
fn now<T>(decision: impl Future<Output = T>) -> T {
    match pin!(decision).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(decided) => decided,
        Poll::Pending => panic!("the gate waits for something"),
    }
}
