//! `sidegate explain` re-enacts the order in which the gate asks its questions: what it says of a request is what then becomes of
//! it, request by request.

use serde_json::Value;

use crate::support::{Gate, Stage, client, gate::text};

const YAML: &str = "
upstream: {url: \"${UPSTREAM_URL}\", identity: {X-Business-Id: '{business}', X-Key-Name: '{key_name}'}}
listen: {address: 127.0.0.1:0, trusted_proxies: [127.0.0.0/8]}
base_path: /api
business: {from: [{query: business_id}, {header: X-Business-Id}]}
deny: {addresses: [203.0.113.9]}
limits:
  per-key: {by: key, windows: 5/1h}
  signup: {by: ip, windows: 2/1h}
  seen: {by: key, windows: 1/1h, mode: observe}
routes:
  GET /v1/calls/{id}: calls:read
  GET /v1/calls: {scopes: calls:read, limits: per-key, cost: 2, max_query: {limit: 100}}
  POST /v1/calls: calls:write
  /v1/watched: {any: true, limits: seen}
  /v1/lenient: {scopes: calls:write, mode: observe}
  /v1/**: any
  /v1/signup: {public: true, limits: signup}
  /open/{name}: public
";

/// Who asks.
#[derive(Debug, Clone, Copy)]
enum With {
    Nothing,
    Reader,
    Revoked,
    Unknown,
}

#[tokio::test]
async fn what_is_explained_of_a_request_is_what_becomes_of_it() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    let reader = gate.new_key(&["--name", "n", "--business", "b1", "--scopes", "calls:read"]);
    let revoked = gate.keys_create(&["--name", "r", "--business", "b1", "--scopes", "calls:read"]);
    let id = revoked["id"].as_str().expect("the document holds the id");
    assert!(gate.command(&["keys", "revoke", id]).status.success());
    stage.redis.room(3_600_000, 120_000);
    for (request, header, with) in [
        ("GET /api/open/x?a=%2f&b", "", With::Nothing),
        ("GET /api/open/x", "X-Forwarded-For: 203.0.113.9", With::Nothing),
        ("GET /api/open/x", "X-Business-Id: forged", With::Nothing),
        ("GET /api/v1/calls/7", "", With::Nothing),
        ("GET /api/v1/calls/7", "", With::Unknown),
        ("GET /api/v1/calls/7", "", With::Revoked),
        ("GET /api/v1/calls/7", "", With::Reader),
        ("GET /api/v1/calls/7?business_id=b1", "X-Business-Id: b1", With::Reader),
        ("GET /api/v1/calls/7?business_id=b1", "X-Business-Id: b2", With::Reader),
        ("GET /api/v1/calls/7?business_id=b2", "", With::Reader),
        ("POST /api/v1/calls", "", With::Reader),
        ("POST /api/v1/lenient", "", With::Reader),
        ("DELETE /api/v1/calls/7", "", With::Reader),
        ("DELETE /api/open/x", "", With::Reader),
        ("GET /v1/calls", "", With::Reader),
        ("GET /api/v1/../x", "", With::Reader),
        ("GET /api/v1/%2e%2e/x", "", With::Reader),
        ("GET /api/v1/calls?limit=5&LIMIT=7", "", With::Reader),
        ("TRACE /api/v1/calls/7", "", With::Reader),
        ("GET /api/v1/calls/7", "Host: a b", With::Reader),
        // Two of five each: the third finds no room.
        ("GET /api/v1/calls?limit=500", "", With::Reader),
        ("GET /api/v1/calls?limit=500", "", With::Reader),
        ("GET /api/v1/calls?limit=500", "", With::Reader),
        ("POST /api/v1/signup", "X-Forwarded-For: 198.51.100.7", With::Nothing),
        ("POST /api/v1/signup", "X-Forwarded-For: 198.51.100.7", With::Nothing),
        ("POST /api/v1/signup", "X-Forwarded-For: 198.51.100.7", With::Nothing),
        ("GET /api/v1/watched", "", With::Reader),
        ("GET /api/v1/watched", "", With::Reader),
    ] {
        let key = match with {
            With::Nothing => "",
            With::Reader => &reader,
            With::Revoked => revoked["key"].as_str().expect("the document holds the key"),
            With::Unknown => "sg_nobody_has_ever_had_this_key",
        };
        let told = explained(&gate, request, header, key);
        becomes(&stage, &gate, request, header, key, &told);
    }
}

fn explained(gate: &Gate, request: &str, header: &str, key: &str) -> Value {
    let mut arguments = vec!["explain", "--json", request];
    if !header.is_empty() {
        arguments.extend(["--header", header]);
    }
    let output = gate.command_reading(&arguments, key);
    assert_eq!(output.status.code(), Some(0), "{request} {header}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

/// Sends the request, and compares.
fn becomes(stage: &Stage, gate: &Gate, request: &str, header: &str, key: &str, told: &Value) {
    let (method, target) = request.split_once(' ').expect("a method and a target");
    let authorization = format!("Authorization: Bearer {key}");
    let mut sent = format!("{request} HTTP/1.1\r\nConnection: close\r\n");
    let host = if header.starts_with("Host:") { "" } else { "Host: localhost" };
    for line in [host, header, if key.is_empty() { "" } else { &authorization }] {
        if !line.is_empty() {
            sent.push_str(line);
            sent.push_str("\r\n");
        }
    }
    let answer = crate::support::Answer::parse(&client::exchange(gate.address, (sent + "\r\n").as_bytes()));
    let said =
        format!("{method} {target} {header:?}: explained as {told}, answered {} {}", answer.status, answer.text());
    let passed = stage.upstream.take();
    if told["allowed"] == false {
        assert!(passed.is_empty(), "{said}");
        assert_eq!(told["denial"]["status"], answer.status, "{said}");
        assert_eq!(told["denial"]["body"]["code"], answer.json()["code"], "{said}");
        return;
    }
    let [passed] = passed.as_slice() else { panic!("it passes once: {said}") };
    assert_eq!((answer.status, &told["forwarded"]["target"]), (200, &Value::from(passed.target.as_str())), "{said}");
    let value = |name: &str| passed.headers.iter().find(|(passed, _)| passed == name).map(|(_, value)| value.as_str());
    for set in told["forwarded"]["set"].as_array().expect("a list") {
        let name = set["name"].as_str().expect("a name");
        // Those are another's for each request.
        if ["x-request-id", "traceparent"].contains(&name) {
            assert!(value(name).is_some(), "no {name}: {said}");
            continue;
        }
        assert_eq!(value(name), set["value"].as_str(), "{name}: {said}");
    }
    for stripped in told["forwarded"]["stripped"].as_array().expect("a list") {
        let name = stripped.as_str().expect("a name");
        let set = told["forwarded"]["set"].to_string().contains(name);
        assert!(set || value(name).is_none(), "{name} passed: {said}");
    }
}
