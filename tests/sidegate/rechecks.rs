//! What is still open is asked about again: at the gate itself, which from outside forgets a key only after thousands of others.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use sidegate::{
    config::load,
    gate::{Basis, Denial, Gate, GateRequest, Guessing, Permit, SharedState, Trail, UnknownNames},
    limit::Windows,
    store::{Store, calls::Calls, fallback::Fallback, file::FileStore, outage::LimitsOutage},
};

use crate::support::redis::sha256;

const YAML: &str = "
listen: 127.0.0.1:0
upstream: http://127.0.0.1:1
store: file:keys.yaml
routes: {/things: any}
";

/// A gate that remembers no key yet, and denies an address after its second guess.
fn gate(keys: &Path) -> Gate {
    let settings = load::from_text(YAML, Path::new("/nonexistent"), "test.yaml").expect("the configuration is right");
    let calls = Arc::new(Calls::new().expect("the metrics' names are right"));
    let file = FileStore::open(keys).expect("the store opens");
    let store = Store::File { file, calls: calls.clone() };
    let windows = Windows::parse(["2/30d"]).expect("the window is a valid one");
    let shared = SharedState {
        fallback: Arc::new(Fallback::new(LimitsOutage::Deny, calls)),
        known: None,
        guessing: Some(Arc::new(Guessing::new(Arc::new(windows)))),
        rules: Arc::new(settings.keys),
        unknown: Arc::new(UnknownNames::new().expect("the metric's name is right")),
    };
    Gate::new(settings.policy, store, shared, Duration::from_secs(60))
}

async fn decide(gate: &Gate, key: &str) -> Result<Permit, Denial> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}")).expect("a header value"));
    let request = GateRequest {
        method: &Method::GET,
        path: "/things",
        query: None,
        headers: &headers,
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        length: None,
        oversize: None,
        arrived: Instant::now(),
    };
    gate.decide(&request, &mut Trail::default()).await
}

#[tokio::test]
async fn an_open_stream_is_asked_about_whoever_guesses_keys_at_its_address() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let keys = folder.path().join("keys.yaml");
    let key = |text: &str| format!("keys:\n- {{sha256: {}, id: {text}, name: {text}, business: acme}}\n", sha256(text));
    std::fs::write(&keys, key("open")).expect("the folder is writable");
    let permit = decide(&gate(&keys), "open").await.expect("the key stands");
    let again = permit.recheck().expect("it has a key");

    let gate_of_others = gate(&keys);
    for _ in 0..2 {
        assert!(matches!(decide(&gate_of_others, "guess").await, Err(Denial::UnknownKey)));
    }
    assert!(matches!(decide(&gate_of_others, "open").await, Err(Denial::RateLimited { .. })), "it is new there");
    let answered = gate_of_others.recheck(permit.route(), again).await;
    assert!(matches!(answered, Ok(Basis::Key)), "{answered:?}");

    std::fs::write(&keys, key("other")).expect("the folder is writable");
    let gate = gate(&keys);
    for _ in 0..9 {
        assert!(matches!(gate.recheck(permit.route(), again).await, Err(Denial::UnknownKey)));
    }
    assert!(decide(&gate, "other").await.is_ok(), "what was open is no guess");
}
