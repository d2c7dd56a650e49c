//! kaicalls: hashed keys, wildcard scope, business scoping, public endpoints (rows K0 to K9 of the profile).

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    Answer, AnswerTo as _, Gate, Stage, Upstream,
    client::{self, printed_by},
    profile,
    redis::sha256,
};

const RESOURCES: [&str; 7] = ["agents", "calls", "leads", "sms", "emails", "webhooks", "sdr"];

// K0

#[test]
fn the_documented_curl_works() {
    let (stage, gate) = kaicalls();
    let key = gate.new_key(&["--name", "Zapier", "--business", "biz_1"]);
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--fail-with-body",
        &gate.url("/api/v1/agents"),
        "-H",
        &format!("Authorization: Bearer {key}"),
    ]);
    printed_by(&mut curl, "apt-get install curl");
    assert_eq!(stage.upstream.only().target, "/api/v1/agents");
}

// K1

#[tokio::test]
async fn a_live_key_is_kc_live_and_44_characters_of_base64url() {
    let (_stage, gate) = kaicalls();
    let key = gate.new_key(&["--name", "Zapier", "--business", "biz_1"]);
    let token = key.strip_prefix("kc_live_").unwrap_or_else(|| panic!("{key}"));
    assert_eq!(token.len(), 44);
    assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{key}");
}

#[tokio::test]
async fn a_key_that_exists_already_works_once_its_digest_is_imported() {
    let (stage, gate) = kaicalls();
    let key = existing_key();
    assert_eq!(ask(&gate, "/api/v1/agents", &key).await.status, 401);
    gate.keys_import(&[json!({"sha256": sha256(&key), "name": "Old", "business": "biz_1", "scopes": ["agents:read"]})]);
    assert_eq!(ask(&gate, "/api/v1/agents", &key).await.status, 200);
    assert_eq!(stage.upstream.only().header("x-business-id"), Some("biz_1"));
    assert_eq!(ask(&gate, "/api/v1/calls", &key).await.status, 403);
}

#[tokio::test]
async fn a_test_key_is_refused_with_a_clear_error() {
    let (stage, gate) = kaicalls();
    let mut watch = stage.redis.watch();
    let answer = ask(&gate, "/api/v1/agents", &existing_key().replace("live", "test")).await;
    assert_eq!(answer.denial(), (401, "invalid_api_key".to_owned()));
    assert_eq!(answer.json()["detail"], "Test keys are not available yet");
    assert_eq!(watch.calls(), [""; 0]);
}

// K2

#[tokio::test]
async fn a_test_key_is_minted_by_its_format_and_sent_to_a_sandbox_where_there_is_one() {
    let (stage, sandbox) = (Stage::set(), Upstream::start());
    let reject = "reject: Test keys are not available yet";
    let of_profile = profile("kaicalls");
    assert!(of_profile.contains(reject));
    let at = |name: &str, url: String| format!("{name}: {{url: '{url}', identity: {{X-Business-Id: '{{business}}'}}}}");
    let (before, behind) = of_profile.split_once("\nupstream:\n").expect("the profile has one upstream");
    let (_, behind) = behind.split_once("\nstore:").expect("the store follows");
    let upstreams = [at("default", stage.upstream.url()), at("sandbox", sandbox.url())].join(", ");
    let yaml = format!("{before}\nupstreams: {{{upstreams}}}\nstore:{behind}").replace(reject, "upstream: sandbox");
    let gate = Gate::start(&yaml, stage.environment()).ready();
    let test = gate.new_key(&["--business", "acme", "--name", "a test", "--format", "kc_test_"]);
    let live = gate.new_key(&["--business", "acme", "--name", "live"]);
    assert!(test.starts_with("kc_test_") && live.starts_with("kc_live_"), "{test} {live}");
    for (key, theirs, others) in [(&test, &sandbox, &stage.upstream), (&live, &stage.upstream, &sandbox)] {
        assert_eq!(ask(&gate, "/api/v1/agents", key).await.status, 200);
        assert_eq!(theirs.only().all("x-business-id"), ["acme"]);
        assert!(others.seen().is_empty(), "{key} reached the other one");
        theirs.take();
    }
    let none = gate.command(&["keys", "create", "--business", "acme", "--name", "n", "--format", "kc_nope_"]);
    assert!(!none.status.success());
}

#[tokio::test]
async fn only_the_sha256_of_a_key_is_stored() {
    let (stage, gate) = kaicalls();
    let created = gate.keys_create(&["--name", "Zapier", "--business", "biz_1"]);
    let key = created["key"].as_str().expect("the key is shown at creation");
    let stored = stage.redis.everything();
    assert!(stored.contains(&sha256(key)), "{stored}");
    assert!(!stored.contains(key));
    assert!(!stored.contains(&key["kc_live_".len() + 8..]), "more than the shown hint is stored");
}

// K3

#[tokio::test]
async fn signup_and_the_plugin_are_public_and_everything_else_needs_a_key() {
    let (stage, gate) = kaicalls();
    for path in ["/api/v1/signup", "/api/v1/wordpress/plugin/download"] {
        assert_eq!(gate.get(path).answer().await.status, 200, "{path}");
    }
    stage.upstream.take();
    for resource in RESOURCES.iter().chain(&["numbers", "usage", "transcripts", "businesses/biz_1"]) {
        let answer = gate.get(&format!("/api/v1/{resource}")).answer().await;
        assert_eq!(answer.denial(), (401, "missing_key".to_owned()), "{resource}");
    }
    for path in ["/api/v1/signup/x", "/api/v1/wordpress/plugin", "/api/v1/other", "/v1/signup", "/api"] {
        assert_eq!(gate.get(path).answer().await.status, 404, "{path}");
    }
    assert!(stage.upstream.seen().is_empty());
}

// K4

#[tokio::test]
async fn each_scope_opens_its_resource_and_the_wildcard_opens_all() {
    let (stage, gate) = kaicalls();
    let full = stage.redis.mint_as(&existing_key(), json!({"business": "biz_1", "scopes": ["*"]})).text;
    for resource in RESOURCES {
        let path = format!("/api/v1/{resource}/7");
        let scopes = ["read", "write"].map(|action| json!([format!("{resource}:{action}")]));
        let [reader, writer] = scopes
            .map(|scopes| stage.redis.mint_as(&existing_key(), json!({"business": "biz_1", "scopes": scopes})).text);
        for (method, key, status) in [
            ("GET", &reader, 200),
            ("GET", &writer, 403),
            ("POST", &reader, 403),
            ("POST", &writer, 200),
            ("DELETE", &full, 200),
        ] {
            let answer = gate.request(method, &path).bearer_auth(key).answer().await;
            assert_eq!(answer.status, status, "{method} {path}");
        }
        assert_eq!(ask(&gate, "/api/v1/numbers", &reader).await.status, 403);
    }
    assert_eq!(ask(&gate, "/api/v1/numbers", &full).await.status, 200);
}

#[tokio::test]
async fn a_new_key_gets_all_default_scopes_unless_restricted() {
    let (_stage, gate) = kaicalls();
    let all = gate.keys_create(&["--name", "Zapier", "--business", "biz_1"]);
    let mut expected: Vec<String> =
        RESOURCES.iter().flat_map(|resource| ["read", "write"].map(|action| format!("{resource}:{action}"))).collect();
    expected.push("numbers:read".to_owned());
    let mut scopes: Vec<String> = serde_json::from_value(all["scopes"].clone()).expect("scopes are a list");
    scopes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(scopes, expected);
    let some = gate.keys_create(&["--name", "Zapier", "--business", "biz_1", "--scopes", "agents:read"]);
    assert_eq!(some["scopes"], json!(["agents:read"]));
    assert_eq!(ask(&gate, "/api/v1/leads", some["key"].as_str().unwrap_or_default()).await.status, 403);
}

// K5

#[tokio::test]
async fn a_key_of_one_business_cannot_name_another() {
    let (stage, gate) = kaicalls();
    let key = gate.new_key(&["--name", "Zapier", "--business", "biz_1", "--user", "u_42"]);
    names_are_answered(&stage, &gate, &key, "biz_1", 200).await;
    names_are_answered(&stage, &gate, &key, "biz_2", 403).await;
    assert_eq!(ask(&gate, "/api/v1/agents", &key).await.status, 200);
    assert_eq!(stage.upstream.only().all("x-business-id"), ["biz_1"], "the key's own when none is named");
}

#[tokio::test]
async fn an_unscoped_key_reaches_the_businesses_that_its_user_owns_and_no_other() {
    let (stage, gate) = kaicalls();
    let key = gate.new_key(&["--name", "Zapier", "--user", "u_42"]);
    names_are_answered(&stage, &gate, &key, "biz_1", 403).await;
    stage.redis.own("u_42", "biz_1");
    stage.redis.own("u_7", "biz_2");
    names_are_answered(&stage, &gate, &key, "biz_1", 200).await;
    names_are_answered(&stage, &gate, &key, "biz_2", 403).await;
    assert_eq!(ask(&gate, "/api/v1/agents", &key).await.status, 200);
    let seen = stage.upstream.only();
    assert_eq!((seen.header("x-business-id"), seen.header("x-user-id")), (None, Some("u_42")));
}

#[tokio::test]
async fn sources_that_disagree_are_refused() {
    let (stage, gate) = kaicalls();
    let key = gate.new_key(&["--name", "Zapier", "--user", "u_42"]);
    stage.redis.own("u_42", "biz_1");
    stage.redis.own("u_42", "biz_2");
    for (path, header) in [
        ("/api/v1/agents?business_id=biz_1", Some("biz_2")),
        ("/api/v1/businesses/biz_1/agents", Some("biz_2")),
        ("/api/v1/businesses/biz_1/agents?business_id=biz_2", None),
        ("/api/v1/agents?business_id=biz_1&business_id=biz_2", None),
        ("/api/v1/agents?business_id=biz_1&%62usiness_id=biz_2", None),
    ] {
        let request = gate.get(path).bearer_auth(&key);
        let answer = match header {
            Some(business) => request.header("X-Business-Id", business).answer().await,
            None => request.answer().await,
        };
        assert_eq!(answer.status, 400, "{path} {header:?}");
    }
    assert!(stage.upstream.seen().is_empty());
    let agreed = gate.get("/api/v1/businesses/biz_1/agents?business_id=biz_1").bearer_auth(&key);
    assert_eq!(agreed.header("X-Business-Id", "biz_1").answer().await.status, 200);
    assert_eq!(stage.upstream.only().all("x-business-id"), ["biz_1"]);
}

// K6, and with it K2 and K4

#[tokio::test]
async fn keys_are_created_listed_and_revoked_with_a_session_and_not_with_a_key() {
    let (stage, gate) = kaicalls();
    stage.upstream.sign_in("sid=1", json!({"user": "u_42", "businesses": [{"id": "biz_1", "role": "owner"}]}));
    let create = |body: Value| gate.signed_in("sid=1", "POST", "/api/v1/keys").json(&body).answer();
    let created = create(json!({"name": "Zapier", "business_id": "biz_1"})).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let created = created.json();
    let (id, key) = (created["id"].as_str().unwrap_or_default(), created["key"].as_str().unwrap_or_default());
    assert_eq!(created["scopes"].as_array().map(Vec::len), Some(15), "all default scopes");
    let some = create(json!({"name": "Zapier", "business_id": "biz_1", "scopes": ["agents:read"]})).await.json();
    assert_eq!(some["scopes"], json!(["agents:read"]));
    assert_eq!(ask(&gate, "/api/v1/agents", key).await.status, 200);

    let listed = gate.signed_in("sid=1", "GET", "/api/v1/keys").answer().await;
    assert_eq!((listed.status, listed.json()["total"].as_u64()), (200, Some(2)));
    assert!(!listed.text().contains(key), "a key is shown once");
    let stored = stage.redis.everything();
    assert!(stored.contains(&sha256(key)) && !stored.contains(key));

    stage.upstream.take();
    let named = format!("/api/v1/keys?id={id}");
    for (method, path) in [("POST", "/api/v1/keys"), ("GET", "/api/v1/keys"), ("DELETE", &named)] {
        let keyed = gate.request(method, path).bearer_auth(key).answer().await;
        assert_eq!(keyed.denial(), (401, "no_session".to_owned()), "{method}");
    }
    assert!(stage.upstream.seen().is_empty(), "a key is never shown to who knows the sessions");
    assert_eq!(gate.signed_in("sid=1", "DELETE", &named).answer().await.status, 204);
    assert_eq!(ask(&gate, "/api/v1/agents", key).await.status, 401);
}

#[tokio::test]
async fn a_key_for_all_businesses_is_its_users_own() {
    let (stage, gate) = kaicalls();
    stage.upstream.sign_in("sid=1", json!({"user": "u_42", "businesses": [{"id": "biz_1", "role": "owner"}]}));
    stage.redis.own("u_42", "biz_1");
    let wanted = json!({"name": "Zapier", "unscoped": true});
    let created = gate.signed_in("sid=1", "POST", "/api/v1/keys").json(&wanted).answer().await.json();
    let key = created["key"].as_str().unwrap_or_default();
    stage.upstream.take();
    names_are_answered(&stage, &gate, key, "biz_1", 200).await;
    names_are_answered(&stage, &gate, key, "biz_2", 403).await;
}

// K7

#[tokio::test]
async fn an_expired_key_is_unauthorized() {
    let (stage, gate) = kaicalls();
    let key = existing_key();
    let expires_at = stage.redis.now_ms() / 1000 + 5;
    let expiry = sidegate::clock::rfc3339(expires_at * 1000);
    gate.keys_import(&[json!({"sha256": sha256(&key), "name": "Old", "business": "biz_1", "expires_at": expiry})]);
    stage.redis.wait_until(expires_at * 1000);
    let answer = ask(&gate, "/api/v1/agents", &key).await;
    assert_eq!((answer.status, &answer.json()["title"]), (401, &Value::from("Unauthorized")));
}

// K8

#[tokio::test]
async fn an_address_may_sign_up_five_times_an_hour() {
    let (stage, gate) = kaicalls();
    stage.redis.room(3_600_000, 30_000);
    let from = |address: [u8; 4]| client::http(&[]).local_address(std::net::IpAddr::from(address)).build();
    let [one, other] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(|address| from(address).expect("loopback can be bound"));
    let signup = gate.url("/api/v1/signup");
    for _ in 0..5 {
        assert_eq!(one.post(&signup).answer().await.status, 200);
    }
    let denied = one.post(&signup).answer().await;
    assert_eq!(denied.denial(), (429, "rate_limited".to_owned()));
    assert!((1..=3600).contains(&denied.number("retry-after")));
    assert_eq!(other.post(&signup).answer().await.status, 200, "another address has its own five");
}

// K9

#[tokio::test]
async fn a_list_returns_at_most_what_its_endpoint_allows() {
    let (stage, gate) = kaicalls();
    let key = gate.new_key(&["--name", "Zapier", "--business", "biz_1"]);
    for (asked, forwarded) in [
        ("agents?limit=1000", "agents?limit=100"),
        ("agents?limit=100", "agents?limit=100"),
        ("agents?limit=7&q=a%20b&x", "agents?limit=7&q=a%20b&x"),
        ("agents?q=a+b&limit=101&z=%2B", "agents?q=a+b&limit=100&z=%2B"),
        ("agents?limit=99999999999999999999999999", "agents?limit=100"),
        ("agents", "agents"),
        ("agents?page=2", "agents?page=2"),
        ("usage?limit=1000", "usage?limit=500"),
        ("transcripts?limit=1000", "transcripts?limit=50"),
    ] {
        assert_eq!(ask(&gate, &format!("/api/v1/{asked}"), &key).await.status, 200, "{asked}");
        assert_eq!(stage.upstream.only().target, format!("/api/v1/{forwarded}"));
    }
    for wrong in
        ["limit=7&limit=8", "limit=7&%6cimit=1000", "limit=ten", "limit=", "limit", "limit=-1", "limit=+7", "limit=7.0"]
    {
        let answer = ask(&gate, &format!("/api/v1/agents?{wrong}"), &key).await;
        assert_eq!(answer.denial(), (400, "bad_request".to_owned()), "{wrong}");
    }
    assert!(stage.upstream.seen().is_empty());
}

fn kaicalls() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.profile("kaicalls");
    (stage, gate)
}

async fn ask(gate: &Gate, path: &str, key: &str) -> Answer {
    gate.get(path).bearer_auth(key).answer().await
}

/// A key as the service minted them before the gate came: 44 characters of base64url, no checksum.
fn existing_key() -> String {
    format!("kc_live_{}-_{}", uuid::Uuid::new_v4().simple(), &uuid::Uuid::new_v4().simple().to_string()[..10])
}

/// Names the business in the path, in the query and in a header, and looks at the answer and at what the upstream saw.
async fn names_are_answered(stage: &Stage, gate: &Gate, key: &str, business: &str, status: u16) {
    let in_path = gate.get(&format!("/api/v1/businesses/{business}/agents"));
    let in_query = gate.get(&format!("/api/v1/agents?business_id={business}"));
    let in_header = gate.get("/api/v1/agents").header("X-Business-Id", business);
    for (place, request) in [("path", in_path), ("query", in_query), ("header", in_header)] {
        let answer = request.bearer_auth(key).answer().await;
        assert_eq!(answer.status, status, "{business} in the {place}");
        match status {
            200 => assert_eq!(stage.upstream.only().all("x-business-id"), [business], "{place}"),
            _ => assert_eq!(answer.denial(), (status, "business_forbidden".to_owned()), "{place}"),
        }
    }
    assert!(stage.upstream.seen().is_empty());
}
