//! The key-management API: who may do what, in which order that is asked, and that it acts at once. On both stores.

mod bounded;
mod described;
mod failover;
mod replicas;
mod sessions;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{
    Answer, AnswerTo as _, Gate, PATIENCE, Stage,
    cluster::{GATE_ACL, KEEPER_ACL, Server},
};

/// `ada` manages acme, and of umbrella's keys only what an editor may; she only looks at initech. `bob` manages initech.
const ADA: &str = "sid=ada";
const BOB: &str = "sid=bob";
const KEYS: &str = "/api/v1/keys";

const YAML: &str = "
base_path: /api
keys: {require: [scopes]}
limits: {per-key: {by: key, windows: 1000/1d}}
defaults: {limits: [per-key]}
routes:
  /v1/**: any
  GET /v1/calls/**: calls:read
  POST /v1/calls/**: calls:write
management:
  session: \"${SESSION_URL}\"
  roles: [admin, editor]
  grants: {editor: [calls:read]}
  max_active_keys: 10
  create_rate: 1000/1m
";
const FILE: &str = "store: file:keys.yaml\n";

fn yard(store: &str, more: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    sign_in(&stage);
    let gate = stage.gate(&format!("{store}{YAML}{more}"));
    (stage, gate)
}

fn sign_in(stage: &Stage) {
    let of = |id: &str, role: &str| json!({"id": id, "role": role});
    let ada = [of("acme", "admin"), of("umbrella", "editor"), of("initech", "viewer")];
    stage.upstream.sign_in(ADA, json!({"user": "u_ada", "businesses": ada}));
    stage.upstream.sign_in(BOB, json!({"user": "u_bob", "businesses": [of("initech", "admin")]}));
    stage.upstream.sign_in("sid=nobody", json!({"user": "u_new", "businesses": []}));
}

/// The same over each of the two stores.
fn yards(more: &str) -> [(Stage, Gate); 2] {
    ["", FILE].map(|store| yard(store, more))
}

fn is_redis(gate: &Gate) -> bool {
    !gate.folder().join("keys.yaml").exists()
}

async fn ask(gate: &Gate, who: &str, method: &str, path: &str, body: Value) -> Answer {
    let request = gate.signed_in(who, method, &format!("{KEYS}{path}"));
    if body.is_null() { request.answer().await } else { request.json(&body).answer().await }
}

async fn create(gate: &Gate, who: &str, business: &str) -> Value {
    let body = json!({"name": "n", "business_id": business, "scopes": ["calls:read"]});
    let answer = ask(gate, who, "POST", "", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()
}

fn text<'a>(document: &'a Value, member: &str) -> &'a str {
    document[member].as_str().unwrap_or_else(|| panic!("{member} of {document}"))
}

async fn uses(gate: &Gate, key: &Value) -> u16 {
    gate.get("/api/v1/calls").bearer_auth(text(key, "key")).answer().await.status
}

fn is_uuid(id: &str) -> bool {
    uuid::Uuid::parse_str(id).is_ok()
}

#[tokio::test]
async fn a_key_lives_from_its_creation_to_its_revocation() {
    for (stage, gate) in yards("") {
        let wanted = json!({"name": "Zapier", "business_id": "acme", "scopes": ["calls:read"], "expires_at": "2099-01-31T00:00:00Z"});
        let created = ask(&gate, ADA, "POST", "", wanted).await;
        assert_eq!((created.status, created.header("content-type")), (201, Some("application/json")));
        assert_eq!(created.header("cache-control"), Some("no-store"), "it shows the key");
        let created = created.json();
        let mut members: Vec<_> = created.as_object().expect("an object").keys().map(String::as_str).collect();
        members.sort_unstable();
        let expected = [
            "business_id",
            "created_at",
            "expires_at",
            "id",
            "key",
            "last_used_at",
            "name",
            "prefix",
            "revoked_at",
            "scopes",
            "user_id",
        ];
        assert_eq!(members, expected);
        let (id, key, prefix) = (text(&created, "id"), text(&created, "key"), text(&created, "prefix"));
        assert!(is_uuid(id) && key.starts_with(prefix), "{created}");
        assert_eq!((text(&created, "user_id"), text(&created, "business_id")), ("u_ada", "acme"));
        assert_eq!(text(&created, "expires_at"), "2099-01-31T00:00:00Z");
        assert_eq!(uses(&gate, &created).await, 200, "it works at once");

        let shown = ask(&gate, ADA, "GET", &format!("/{id}"), Value::Null).await;
        assert_eq!((shown.status, shown.text().contains(key)), (200, false), "it is shown once");
        let changed = ask(
            &gate,
            ADA,
            "PATCH",
            &format!("/{id}"),
            json!({"name": "Other", "scopes": ["calls:write"], "expires_at": null}),
        )
        .await;
        assert_eq!(changed.status, 200, "{}", changed.text());
        let changed = changed.json();
        assert_eq!(
            (text(&changed, "name"), &changed["scopes"], &changed["expires_at"]),
            ("Other", &json!(["calls:write"]), &Value::Null)
        );
        assert_eq!(uses(&gate, &created).await, 403, "a change acts at once");

        let named = format!("?id={id}");
        let one = format!("/{id}");
        for path in [&named, &one] {
            let ended = ask(&gate, ADA, "DELETE", path, Value::Null).await;
            assert_eq!((ended.status, ended.body.len()), (204, 0), "to revoke it twice is no mistake");
            assert_eq!(uses(&gate, &created).await, 401);
        }
        let listed = ask(&gate, ADA, "GET", "", Value::Null).await.json();
        assert_eq!((listed["total"].as_u64(), text(&listed["keys"][0], "id")), (Some(1), id));
        assert!(listed["keys"][0]["revoked_at"].is_string(), "{listed}");
        assert!(stage.upstream.seen().iter().all(|seen| !seen.target.contains("keys")), "the service sees none of it");
    }
}

#[tokio::test]
async fn refusals_come_in_the_contracts_order() {
    for (_stage, gate) in yards("") {
        let post = |who: &str, origin: &str, kind: &str, body: &str| {
            let request = gate.signed_in(who, "POST", KEYS).header("origin", origin).header("content-type", kind);
            request.body(body.to_owned()).answer()
        };
        let (here, json, text) = (gate.url(""), "application/json", "text/plain");
        let good = r#"{"name": "n", "business_id": "acme", "scopes": ["calls:read"]}"#;
        let unknown = r#"{"name": "n", "business_id": "initech", "scopes": ["call:read"]}"#;
        let no_role = r#"{"name": "n", "business_id": "initech", "scopes": ["calls:read"]}"#;
        let anothers = r#"{"name": "n", "business_id": "hooli", "scopes": ["calls:read"]}"#;
        let too_much = r#"{"name": "n", "business_id": "umbrella", "scopes": ["calls:write"]}"#;
        // Each has everything wrong that is asked later.
        for (who, origin, kind, body, status, code) in [
            ("sid=x", "https://evil.example", text, unknown, 403, "cross_site"),
            ("sid=x", &here, text, unknown, 401, "no_session"),
            (ADA, &here, text, unknown, 415, "unsupported_media_type"),
            (ADA, &here, json, "{", 422, "unprocessable"),
            (ADA, &here, json, r#"{"name": "n", "business_id": "hooli", "scopes": []}"#, 422, "unprocessable"),
            (ADA, &here, json, r#"{"name": "n", "scopes": ["*"]}"#, 422, "unprocessable"),
            (ADA, &here, json, r#"{"name": "n", "unscoped": true, "scopes": ["*"]}"#, 422, "unprocessable"),
            (ADA, &here, json, r#"{"name": "n", "business_id": "acme", "user_id": "u_1"}"#, 422, "unprocessable"),
            (ADA, &here, json, unknown, 422, "unprocessable"),
            (ADA, &here, json, no_role, 403, "role_required"),
            (ADA, &here, json, anothers, 403, "business_forbidden"),
            (ADA, &here, json, too_much, 403, "role_required"),
            (ADA, &here, json, good, 201, ""),
        ] {
            let answer = post(who, origin, kind, body).await;
            assert_eq!(answer.denial(), (status, code.to_owned()), "{body}: {}", answer.text());
            assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")));
            if status >= 400 {
                assert_eq!(answer.json()["request_id"].as_str(), answer.header("x-request-id"));
            }
        }
        let said = post(ADA, &here, json, unknown).await.json();
        assert_eq!(said["detail"], "Unknown scope `call:read`; did you mean `calls:read`?");
        assert_eq!(post(ADA, &here, json, &format!("\"{}\"", "x".repeat(70_000))).await.status, 413);
        assert_eq!(post("sid=x", &here, json, &format!("\"{}\"", "x".repeat(70_000))).await.status, 401);
        for (method, path, status) in [
            ("PUT", "", 405),
            ("OPTIONS", "", 405),
            ("GET", "/", 404),
            ("GET", "/a/b", 404),
            ("GET", "/OpenAPI.json", 404),
            ("POST", "/x", 405),
        ] {
            assert_eq!(ask(&gate, ADA, method, path, Value::Null).await.status, status, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn another_sites_page_is_refused_whatever_it_asks() {
    let (stage, gate) = yard("", "");
    let id = text(&create(&gate, ADA, "acme").await, "id").to_owned();
    stage.upstream.take();
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        for (method, path) in
            [("GET", ""), ("POST", ""), ("DELETE", &*format!("/{id}")), ("POST", &format!("/{id}/rotate"))]
        {
            let request = gate.signed_in(ADA, method, &format!("{KEYS}{path}")).header(name, value);
            assert_eq!(request.answer().await.denial(), (403, "cross_site".to_owned()), "{name}: {value} {method}");
        }
    }
    assert!(stage.upstream.seen().is_empty(), "nobody is asked about such a request");
    let own = gate.signed_in(ADA, "GET", KEYS).header("origin", gate.url("")).header("sec-fetch-site", "same-origin");
    assert_eq!(own.answer().await.status, 200);
}

#[tokio::test]
async fn anothers_key_is_no_key_and_a_viewer_may_not_touch_it() {
    for (_stage, gate) in yards("") {
        let bobs = create(&gate, BOB, "initech").await;
        let adas = create(&gate, ADA, "acme").await;
        let all = [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("GET", "/usage")];
        for (method, below) in all {
            let body = if method == "PATCH" { json!({"name": "mine"}) } else { Value::Null };
            let path = |key: &Value| format!("/{}{below}", text(key, "id"));
            let foreign = ask(&gate, BOB, method, &path(&adas), body.clone()).await;
            assert_eq!(foreign.denial(), (404, "key_not_found".to_owned()), "{method} {below}");
            let viewed = ask(&gate, ADA, method, &path(&bobs), body.clone()).await;
            assert_eq!(viewed.denial(), (403, "role_required".to_owned()), "{method} {below}");
            let missing = ask(&gate, ADA, method, &format!("/{}{below}", uuid::Uuid::new_v4()), body).await;
            assert_eq!(missing.denial(), (404, "key_not_found".to_owned()), "{method} {below}");
        }
        let hint = ask(&gate, ADA, "GET", &format!("/{}", text(&adas, "prefix")), Value::Null).await;
        assert_eq!(hint.status, 404, "a key is named by its id alone");
        assert_eq!(uses(&gate, &bobs).await, 200);
        let listed = ask(&gate, ADA, "GET", "", Value::Null).await.json();
        assert_eq!((listed["total"].as_u64(), text(&listed["keys"][0], "id")), (Some(1), text(&adas, "id")));
        for (business, code) in [("initech", "role_required"), ("hooli", "business_forbidden")] {
            let listed = ask(&gate, ADA, "GET", &format!("?business_id={business}"), Value::Null).await;
            assert_eq!(listed.denial(), (403, code.to_owned()));
        }
        let nobody = ask(&gate, "sid=nobody", "GET", "", Value::Null).await;
        assert_eq!(nobody.denial(), (403, "role_required".to_owned()));
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_the_oldest_first() {
    for (_stage, gate) in yards("") {
        for _ in 0..5 {
            create(&gate, ADA, "acme").await;
        }
        create(&gate, ADA, "umbrella").await;
        let page = |query: &str| {
            let path = query.to_owned();
            let gate = &gate;
            async move { ask(gate, ADA, "GET", &path, Value::Null).await.json() }
        };
        let all = page("").await;
        assert_eq!((all["total"].as_u64(), all["keys"].as_array().map(Vec::len)), (Some(6), Some(6)));
        let mut pages = Vec::new();
        for number in 1..=4 {
            let one = page(&format!("?page={number}&per_page=2")).await;
            assert_eq!(one["total"], 6);
            pages.extend(one["keys"].as_array().cloned().unwrap_or_default());
        }
        assert_eq!(Value::from(pages), all["keys"], "the pages are the list");
        assert_eq!(page("?business_id=umbrella").await["total"], 1);
        for wrong in ["?page=0", "?per_page=101", "?page=1&page=2", "?business_id=a%20b"] {
            let answer = ask(&gate, ADA, "GET", wrong, Value::Null).await;
            assert_eq!(answer.denial(), (422, "unprocessable".to_owned()), "{wrong}");
        }
    }
}

#[tokio::test]
async fn a_rotated_key_goes_on_for_its_overlap() {
    for (_stage, gate) in yards("") {
        let old = create(&gate, ADA, "acme").await;
        let rotate = |key: &Value, body: Value| {
            let path = format!("/{}/rotate", text(key, "id"));
            let gate = &gate;
            async move { ask(gate, ADA, "POST", &path, body).await }
        };
        for wrong in [json!({"overlap": "31d"}), json!({"overlap": "soon"}), json!({"overlap": 5}), json!({"x": 1})] {
            assert_eq!(rotate(&old, wrong).await.status, 422);
        }
        let new = rotate(&old, json!({"overlap": "4s"})).await;
        assert_eq!(new.status, 201, "{}", new.text());
        let new = new.json();
        assert_ne!((text(&new, "id"), text(&new, "key")), (text(&old, "id"), text(&old, "key")));
        for same in ["name", "business_id", "user_id", "scopes", "expires_at"] {
            assert_eq!(new[same], old[same], "{same}");
        }
        assert_eq!(uses(&gate, &new).await, 200);
        assert_eq!(rotate(&old, json!({"overlap": null})).await.denial(), (409, "rotated_already".to_owned()));
        let deadline = Instant::now() + PATIENCE;
        while uses(&gate, &old).await != 401 {
            assert!(Instant::now() < deadline, "it never ends");
            assert_eq!(uses(&gate, &new).await, 200, "there is no moment in which neither works");
            sleep(Duration::from_millis(20)).await;
        }
        let last = rotate(&new, Value::Null).await;
        assert_eq!(last.status, 201, "no body is needed: {}", last.text());
        assert_eq!(
            (uses(&gate, &new).await, uses(&gate, &last.json()).await),
            (401, 200),
            "without overlap it ends at once"
        );
    }
}

#[tokio::test]
async fn every_change_is_in_the_audit_with_who_did_it_and_without_the_key() {
    for (stage, gate) in yards("") {
        let created = create(&gate, ADA, "acme").await;
        let id = text(&created, "id");
        ask(&gate, ADA, "PATCH", &format!("/{id}"), json!({"name": "other"})).await;
        let new = ask(&gate, ADA, "POST", &format!("/{id}/rotate"), Value::Null).await.json();
        ask(&gate, ADA, "DELETE", &format!("/{}", text(&new, "id")), Value::Null).await;
        let records = gate.json(&["keys", "audit", "--json"])["changes"].as_array().cloned().expect("a list");
        let actions: Vec<_> = records.iter().map(|record| text(record, "action")).collect();
        assert_eq!(actions, ["key_revoked", "key_rotated", "key_updated", "key_created"]);
        for record in &records {
            assert_eq!((text(record, "actor"), text(record, "from")), ("u_ada", "http 127.0.0.1"));
        }
        for key in [&created, &new] {
            assert!(!gate.written().contains(text(key, "key")));
            assert!(!is_redis(&gate) || !stage.redis.everything().contains(text(key, "key")));
        }
    }
}

#[tokio::test]
async fn a_request_is_logged_and_counted_like_every_other() {
    let (_stage, gate) = yard("", "");
    let label = |pattern: &str| format!("route=\"{pattern}\"");
    let series = gate.operators("/metrics").text();
    assert!(series.contains("route=\"POST /v1/keys/{id}/rotate\""), "its series are there from the start");
    let created = ask(&gate, ADA, "POST", "", json!({"name": "n", "business_id": "acme", "scopes": ["*"]})).await;
    let line = gate.logged(created.header("x-request-id").expect("every answer has one"));
    assert_eq!((text(&line, "http.route"), text(&line, "sidegate.decision")), ("POST /v1/keys", "allowed"));
    let denied = ask(&gate, BOB, "GET", &format!("/{}", text(&created.json(), "id")), Value::Null).await;
    let line = gate.logged(denied.header("x-request-id").expect("every answer has one"));
    assert_eq!((text(&line, "http.route"), text(&line, "sidegate.reason")), ("GET /v1/keys/{id}", "key_not_found"));
    let counted = |labels: &[&str]| gate.metric("sidegate_requests_total", labels);
    assert_eq!(counted(&[&label("POST /v1/keys"), "decision=\"allowed\"", "status=\"201\""]), 1.0);
    assert_eq!(counted(&[&label("GET /v1/keys/{id}"), "decision=\"denied\"", "status=\"404\""]), 1.0);
}

#[tokio::test]
async fn what_is_used_and_left_of_a_key_is_shown_without_spending() {
    for (_stage, gate) in yards("") {
        let key = create(&gate, ADA, "acme").await;
        assert_eq!((uses(&gate, &key).await, uses(&gate, &key).await), (200, 200));
        for _ in 0..2 {
            let usage = ask(&gate, ADA, "GET", &format!("/{}/usage", text(&key, "id")), Value::Null).await;
            assert_eq!(usage.status, 200, "{}", usage.text());
            let window = &usage.json()["limits"][0];
            assert_eq!((text(window, "name"), text(window, "window")), ("per-key", "1000/1d"));
            assert_eq!((window["used"].as_u64(), window["remaining"].as_u64()), (Some(2), Some(998)));
        }
    }
}

#[tokio::test]
async fn the_api_is_served_at_its_path_alone_and_however_that_is_written() {
    let (stage, gate) = yard("", "");
    stage.upstream.take();
    assert_eq!(gate.raw("GET", "/api/v1/%6beys", &[]).denial(), (401, "no_session".to_owned()), "it is one path");
    assert_eq!(gate.raw("GET", "/api/v1/keyss", &[]).denial(), (401, "missing_key".to_owned()), "the gate's");
    assert_eq!(gate.raw("GET", "/v1/keys", &[]).status, 404);
    let key = create(&gate, ADA, "acme").await;
    let keyed = gate.get(KEYS).bearer_auth(text(&key, "key")).answer().await;
    assert_eq!(keyed.denial(), (401, "no_session".to_owned()), "a key is no session");
    assert!(stage.upstream.take().iter().all(|seen| seen.target == "/session"));
}

#[tokio::test]
async fn a_reload_changes_roles_and_path_at_once() {
    let (_stage, gate) = yard("", "");
    let key = create(&gate, ADA, "acme").await;
    gate.reload(
        &YAML.replace("[admin, editor]", "[owner, editor]").replace("  session:", "  path: /v1/tokens\n  session:"),
    );
    let path = format!("/api/v1/tokens/{}", text(&key, "id"));
    let shown = gate.signed_in(ADA, "GET", &path).answer().await;
    assert_eq!(shown.denial(), (403, "role_required".to_owned()), "an admin is nobody any more");
    let old = gate.signed_in(ADA, "GET", KEYS).answer().await;
    assert_eq!(old.denial(), (401, "missing_key".to_owned()), "what is no longer the API's is the service's");
}

#[tokio::test]
async fn no_other_origins_script_reads_what_is_said_of_keys() {
    let (_stage, gate) = yard("", "cors: {origins: ['https://app.example.com']}\n");
    let from = |method: &str, path: &str| {
        let request = gate.request(method, path).header("origin", "https://app.example.com");
        request.header("access-control-request-method", "POST").answer()
    };
    assert!(from("GET", "/api/v1/calls").await.header("access-control-allow-origin").is_some(), "a route's answers");
    for (method, status) in [("OPTIONS", 405), ("POST", 403), ("GET", 403)] {
        let answer = from(method, KEYS).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), None, "{method}");
    }
}

#[tokio::test]
async fn keys_are_kept_with_their_own_login_where_the_gates_may_not_mint() {
    let stage = Stage::set();
    sign_in(&stage);
    let redis = Server::plain(&[]);
    redis.user("gate", &format!(">gates-secret {GATE_ACL}"));
    redis.user("keeper", &format!(">keepers-secret {KEEPER_ACL}"));
    redis.user("default", "off");
    let store = format!(
        "store: {{redis: 'redis://127.0.0.1:{}', username: gate, password: gates-secret, deadline: 10s}}\n",
        redis.port
    );
    let with = |login: &str| format!("{store}{YAML}{login}");
    let gate = stage.gate(&with("  redis: {username: keeper, password: keepers-secret}\n"));
    let key = create(&gate, ADA, "acme").await;
    assert_eq!(uses(&gate, &key).await, 200);
    for (method, below, status) in [("GET", "/usage", 200), ("POST", "/rotate", 201), ("DELETE", "", 204)] {
        let answer = ask(&gate, ADA, method, &format!("/{}{below}", text(&key, "id")), Value::Null).await;
        assert_eq!(answer.status, status, "{method} {below}: {}", answer.text());
    }
    gate.reload(&with(""));
    let wanted = json!({"name": "n", "business_id": "acme", "scopes": ["*"]});
    let refused = ask(&gate, ADA, "POST", "", wanted).await;
    assert_eq!(refused.denial(), (503, "store_unavailable".to_owned()), "a gate without that login cannot mint");
}

#[tokio::test]
async fn a_store_that_comes_back_is_found_again() {
    let (mut stage, gate) = yard("", "");
    let key = create(&gate, ADA, "acme").await;
    stage.redis.stop();
    let away = ask(&gate, ADA, "GET", &format!("/{}", text(&key, "id")), Value::Null).await;
    assert_eq!(away.denial(), (503, "store_unavailable".to_owned()));
    stage.redis.restart();
    let deadline = Instant::now() + PATIENCE;
    while ask(&gate, ADA, "GET", &format!("/{}", text(&key, "id")), Value::Null).await.status != 200 {
        assert!(Instant::now() < deadline, "it never comes back");
        sleep(Duration::from_millis(20)).await;
    }
}
