//! salescaling: `x-api-key`, many scopes, three windows at once (rows S1 to S8 of the profile).

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    Answer, AnswerTo as _, Gate, Stage,
    client::{printed_by, together},
    gate::text,
};

const RESOURCES: [&str; 7] =
    ["voice-agents", "contacts", "companies", "calls", "meetings", "opportunities", "calendar"];

// S1

#[test]
fn the_quick_start_with_curl_works() {
    quick_start("apt-get install curl", |url, key| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail-with-body", "--request", "GET", url, "--header", &format!("x-api-key: {key}")]);
        curl
    });
}

#[test]
fn the_quick_start_with_javascript_fetch_works() {
    quick_start("apt-get install nodejs", |url, key| {
        let program = "
            fetch(process.argv[1], { method: 'GET', headers: { 'x-api-key': process.argv[2] } })
                .then(response => response.json())
                .then(data => console.log(JSON.stringify(data)));";
        let mut node = Command::new("node");
        node.args(["-e", program, url, key]);
        node
    });
}

#[test]
fn the_quick_start_with_python_requests_works() {
    quick_start("run scripts/test, which installs the Python package `requests`", |url, key| {
        let program = "
import json, requests, sys
response = requests.get(sys.argv[1], headers={'x-api-key': sys.argv[2]})
print(json.dumps(response.json()))";
        let mut python = Command::new(format!("{CLIENTS}/python/bin/python"));
        python.args(["-c", program, url, key]);
        python
    });
}

#[test]
fn the_quick_start_with_axios_works() {
    quick_start("run scripts/test, which installs the npm package `axios`", |url, key| {
        let program = "
            const axios = require('axios');
            axios.get(process.argv[1], { headers: { 'x-api-key': process.argv[2] } })
                .then(response => console.log(JSON.stringify(response.data)));";
        let mut node = Command::new("node");
        node.args(["-e", program, url, key]).env("NODE_PATH", format!("{CLIENTS}/node_modules"));
        node
    });
}

// S2

#[tokio::test]
async fn each_scope_opens_its_resource_and_method_and_no_other() {
    let (stage, gate) = salescaling();
    for resource in RESOURCES {
        let below = format!("/api/v1/{resource}/7");
        for (action, opened) in [("read", vec!["GET", "HEAD"]), ("write", vec!["POST", "PUT", "PATCH", "DELETE"])] {
            let key = stage.redis.mint(json!({"user": "u_42", "scopes": [format!("{resource}:{action}")]})).text;
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
                let expected = if opened.contains(&method) { 200 } else { 403 };
                let answer = gate.request(method, &below).header("x-api-key", &key).answer().await;
                assert_eq!(answer.status, expected, "{method} {below} with {resource}:{action}");
            }
            assert_eq!(ask(&gate, "GET", "/api/v1/users", &key).await.status, 403, "{resource}:{action}");
        }
    }
    let key = stage.redis.mint(json!({"user": "u_42", "scopes": ["users:read"]})).text;
    assert_eq!(ask(&gate, "GET", "/api/v1/users", &key).await.status, 200);
    assert_eq!(ask(&gate, "POST", "/api/v1/users", &key).await.status, 405);
}

// S3

#[tokio::test]
async fn a_key_without_a_scope_is_not_created() {
    let (_stage, gate) = salescaling();
    let output = gate.command(&["keys", "create", "--name", "CRM", "--user", "u_42", "--json"]);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    assert!(text(&output.stderr).to_lowercase().contains("scope"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_webhook_key_can_call_the_webhook_and_nothing_else() {
    let (_stage, gate) = salescaling();
    let key = new_key(&gate, "voice-agents:webhook");
    assert_eq!(ask(&gate, "POST", "/api/v1/voice-agents/webhook", &key).await.status, 200);
    for (method, path) in [("GET", "voice-agents"), ("POST", "voice-agents"), ("PUT", "voice-agents/webhook2")] {
        let answer = ask(&gate, method, &format!("/api/v1/{path}"), &key).await;
        assert_eq!(answer.denial(), (403, "insufficient_scope".to_owned()), "{method} {path}");
    }
    for resource in RESOURCES {
        assert_eq!(ask(&gate, "GET", &format!("/api/v1/{resource}"), &key).await.status, 403, "{resource}");
    }
    let writer = new_key(&gate, "voice-agents:write");
    assert_eq!(ask(&gate, "POST", "/api/v1/voice-agents/webhook", &writer).await.status, 403);
}

// S4, by the command line

#[tokio::test]
async fn a_key_has_a_name_and_an_expiry_and_is_shown_once() {
    let (stage, gate) = salescaling();
    let arguments = ["--name", "CRM", "--user", "u_42", "--scopes", "users:read", "--expires", "90d"];
    let created = gate.keys_create(&arguments);
    let key = created["key"].as_str().expect("the key is shown at creation");
    assert_eq!(created["name"], "CRM");
    assert_eq!(created["expires_at"].as_str().map(str::len), Some("2026-03-23T14:30:00Z".len()));
    assert_eq!(ask(&gate, "GET", "/api/v1/users", key).await.status, 200);

    let list = gate.command(&["keys", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&list.stdout).expect("one JSON document");
    assert_eq!(listed["total"], 1, "{listed}");
    assert_eq!(listed["keys"][0]["id"], created["id"]);
    assert_eq!(listed["keys"][0]["hint"], created["hint"]);
    assert!(!listed.to_string().contains(key), "the key can be read back from the list");
    assert!(!stage.redis.everything().contains(key), "the key can be read back from the store");
}

// S3, S4 and S8 over HTTP

#[tokio::test]
async fn a_key_is_created_changed_listed_and_ended_by_who_is_signed_in() {
    let (stage, gate) = salescaling();
    stage.upstream.sign_in("sid=1", json!({"user": "u_42", "businesses": [{"id": "acme", "role": "owner"}]}));
    let keys = |method: &str, below: &str, body: Value| {
        let request = gate.signed_in("sid=1", method, &format!("/api/v1/keys{below}"));
        if body.is_null() { request.answer() } else { request.json(&body).answer() }
    };
    let none = keys("POST", "", json!({"name": "CRM", "unscoped": true})).await;
    assert_eq!(none.denial(), (422, "unprocessable".to_owned()));
    assert!(none.text().contains("at least one scope"), "{}", none.text());
    let hook = json!({"name": "CRM", "unscoped": true, "scopes": ["voice-agents:webhook"]});
    let created = keys("POST", "", hook).await.json();
    let (id, key) = (created["id"].as_str().unwrap_or_default(), created["key"].as_str().unwrap_or_default());
    assert_eq!(ask(&gate, "POST", "/api/v1/voice-agents/webhook", key).await.status, 200);
    for (method, path) in [("GET", "/api/v1/voice-agents"), ("GET", "/api/v1/contacts"), ("GET", "/api/v1/users")] {
        assert_eq!(ask(&gate, method, path, key).await.status, 403, "{method} {path}");
    }
    let one = format!("/{id}");
    let changed = keys("PATCH", &one, json!({"name": "Other", "expires_at": "2099-01-01T00:00:00Z"})).await;
    assert_eq!((changed.status, &changed.json()["name"]), (200, &json!("Other")));
    assert_eq!(keys("PATCH", &one, json!({"expires_at": "2020-01-01T00:00:00Z"})).await.status, 422);
    assert_eq!(keys("PATCH", &one, json!({"expires_at": null})).await.json()["expires_at"], Value::Null);
    let usage = keys("GET", &format!("{one}/usage"), Value::Null).await.json();
    let used: Vec<_> = usage["limits"].as_array().into_iter().flatten().map(|window| &window["window"]).collect();
    assert_eq!(used, ["20/1s", "200/10s", "1000/1m"], "{usage}");
    let listed = keys("GET", "", Value::Null).await;
    assert!(listed.json()["total"] == 1 && !listed.text().contains(key), "{}", listed.text());
    let made = listed.json()["keys"][0]["created_at"].clone();
    assert!(made.as_str().is_some_and(|at| at.ends_with('Z')), "by this one knows which were not rotated: {made}");
    assert_eq!(keys("DELETE", &one, Value::Null).await.status, 204);
    assert_eq!(ask(&gate, "POST", "/api/v1/voice-agents/webhook", key).await.status, 401);
}

// S5

#[tokio::test]
async fn the_upstream_learns_the_keys_user_and_a_client_cannot_forge_it() {
    let (stage, gate) = salescaling();
    let key = new_key(&gate, "users:read");
    let forged =
        gate.get("/api/v1/users").header("x-api-key", &key).header("X-User-Id", "u_1").header("X_User_Id", "u_1");
    assert_eq!(forged.answer().await.status, 200);
    let seen = stage.upstream.only();
    assert_eq!(seen.all("x-user-id"), ["u_42"]);
    assert_eq!(seen.all("x_user_id"), [""; 0]);
    assert_eq!(seen.header("x-api-key"), None, "the key itself stays at the gate");
}

// S6

#[tokio::test]
async fn the_second_window_denies_the_twenty_first_request_until_the_time_it_names() {
    let (stage, gate) = salescaling();
    let key = new_key(&gate, "users:read");
    let began = stage.redis.now_ms();
    let mut answers = Vec::new();
    // A busy machine may send sixty within three seconds and more; beyond the third time the other windows would deny.
    while answers.len() < 180 && !answers.iter().any(|answer: &Answer| answer.status == 429) {
        answers.extend(together((0..60).map(|_| gate.get("/api/v1/users").header("x-api-key", &key))).await);
    }
    let windows = stage.redis.now_ms() / 1000 - began / 1000 + 1;
    let passed = answers.iter().filter(|answer| answer.status == 200).count() as u64;
    assert!(passed >= 20 && passed <= 20 * windows, "{passed} passed within {windows} aligned seconds");
    let denied = answers.into_iter().find(|answer| answer.status == 429).expect("60 requests do not fit in a second");
    assert_eq!(denied.number("retry-after"), 1);
    assert_eq!(denied.number("x-ratelimit-limit"), 20);
    passes_after_waiting(&stage, &gate, &key, &denied).await;
}

#[tokio::test]
async fn the_ten_second_window_denies_on_its_own() {
    only_this_window_denies(json!(["5000/1s", "200/10s", "1000/1m"]), 200, 10).await;
}

#[tokio::test]
async fn the_minute_denies_on_its_own() {
    only_this_window_denies(json!(["5000/1s", "5000/10s", "1000/1m"]), 1000, 60).await;
}

// S7

#[tokio::test]
async fn one_key_gets_higher_limits_without_touching_the_others() {
    let (stage, gate) = salescaling();
    let [raised, other] = [1, 2].map(|_| stage.redis.mint(json!({"user": "u_42", "scopes": ["users:read"]})));
    assert_eq!(ask(&gate, "GET", "/api/v1/users", &raised.text).await.number("x-ratelimit-limit"), 20);
    stage.redis.rewrite(&raised, json!({"limits": {"per-key": ["500/1s"]}}));
    assert_eq!(ask(&gate, "GET", "/api/v1/users", &raised.text).await.number("x-ratelimit-limit"), 500);
    assert_eq!(ask(&gate, "GET", "/api/v1/users", &other.text).await.number("x-ratelimit-limit"), 20);
}

#[tokio::test]
async fn one_business_gets_higher_limits_without_touching_the_others() {
    let (stage, gate) = salescaling();
    let [raised, other] = ["acme", "umbrella"]
        .map(|business| stage.redis.mint(json!({"user": "u_42", "business": business, "scopes": ["users:read"]})).text);
    assert_eq!(ask(&gate, "GET", "/api/v1/users", &raised).await.number("x-ratelimit-limit"), 20);
    stage.redis.set_business("acme", json!({"limits": {"per-key": ["500/1s"]}}));
    assert_eq!(ask(&gate, "GET", "/api/v1/users", &raised).await.number("x-ratelimit-limit"), 500);
    assert_eq!(ask(&gate, "GET", "/api/v1/users", &other).await.number("x-ratelimit-limit"), 20);
}

/// Where `scripts/test` puts the Python and npm packages.
const CLIENTS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/clients");

fn salescaling() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.profile("salescaling");
    (stage, gate)
}

fn new_key(gate: &Gate, scopes: &str) -> String {
    gate.new_key(&["--name", "CRM", "--user", "u_42", "--scopes", scopes])
}

async fn ask(gate: &Gate, method: &str, path: &str, key: &str) -> Answer {
    gate.request(method, path).header("x-api-key", key).answer().await
}

/// What a user copies, run as a program of its own; it prints what the API answered.
fn quick_start(hint: &str, program: impl Fn(&str, &str) -> Command) {
    let (stage, gate) = salescaling();
    let key = new_key(&gate, "users:read");
    let printed = printed_by(&mut program(&gate.url("/api/v1/users"), &key), hint);
    let answer: Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    assert_eq!(answer["path"], "/api/v1/users");
    assert_eq!(stage.upstream.only().header("x-user-id"), Some("u_42"));
}

/// Widens the other windows for one key, fills the one that is left as the profile has it, and looks at the next request.
async fn only_this_window_denies(windows: Value, limit: u64, seconds: u64) {
    let (stage, gate) = salescaling();
    let key = stage.redis.mint(json!({"user": "u_42", "scopes": ["users:read"], "limits": {"per-key": windows}})).text;
    let mut passed = 0;
    let denied = loop {
        let answers = together((0..50).map(|_| gate.get("/api/v1/users").header("x-api-key", &key))).await;
        passed += answers.iter().filter(|answer| answer.status == 200).count() as u64;
        if let Some(denied) = answers.into_iter().find(|answer| answer.status == 429) {
            break denied;
        }
    };
    assert_eq!(denied.number("x-ratelimit-limit"), limit);
    // On a busy machine the requests may have run into a next aligned window, which gives `limit` again.
    assert!(passed >= limit, "{passed} passed before one was denied");
    let wait = denied.number("retry-after");
    assert!((1..=seconds).contains(&wait), "Retry-After: {wait}");
    if seconds <= 10 {
        passes_after_waiting(&stage, &gate, &key, &denied).await;
    }
}

async fn passes_after_waiting(stage: &Stage, gate: &Gate, key: &str, denied: &Answer) {
    stage.redis.wait_until(stage.redis.now_ms() + denied.number("retry-after") * 1000);
    assert_eq!(ask(gate, "GET", "/api/v1/users", key).await.status, 200, "after {denied:?}");
}
