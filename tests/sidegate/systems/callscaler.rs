//! callscaler: one business, one shared limit (rows C1 to C10 of the profile).

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, AnswerTo as _, Gate, Port, Stage, client::together};

const BUSINESS: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";

// C1 and C3

#[tokio::test]
async fn a_key_looks_like_cs_key_and_is_recognised_by_what_is_shown_of_it() {
    let (stage, gate) = callscaler();
    let created = gate.keys_create(&["--name", "Reports", "--business", BUSINESS]);
    let (key, hint) = (created["key"].as_str().unwrap_or_default(), created["hint"].as_str().unwrap_or_default());
    assert!(key.starts_with("cs_key_"), "{key}");
    assert_eq!(hint.len(), "cs_key_a1b2c3d4".len(), "{hint}");
    assert!(key.starts_with(hint), "{hint} is not how {key} begins");
    assert_eq!(ask(&gate, "/api/v1/calls", key).await.status, 200);
    assert_eq!(stage.upstream.only().target, "/api/v1/calls");
    assert_eq!(ask(&gate, "/v1/calls", key).await.status, 404, "the base URL is /api/v1");
}

// C2

#[tokio::test]
async fn of_eleven_keys_asked_for_at_the_same_moment_on_two_sidecars_ten_are_made() {
    let (stage, one) = callscaler();
    let two = stage.profile("callscaler");
    sign_in(&stage);
    let wanted = json!({"name": "Reports", "business_id": BUSINESS});
    let requests = (0..11).map(|n| [&one, &two][n % 2].signed_in("sid=admin", "POST", "/api/v1/keys").json(&wanted));
    let answers = together(requests).await;
    let made: Vec<_> = answers.iter().filter(|answer| answer.status == 201).map(Answer::json).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 201).collect();
    assert_eq!((made.len(), refused.len()), (10, 1));
    assert_eq!((refused[0].status, &refused[0].json()["error"]["code"]), (409, &json!("409")));
    for key in &made {
        assert_eq!((key["business_id"].as_str(), key["user_id"].as_str()), (Some(BUSINESS), Some("u_1")));
        assert_eq!(ask(&one, "/api/v1/calls", key["key"].as_str().unwrap_or_default()).await.status, 200);
    }
    let path = format!("/api/v1/keys/{}", made[0]["id"].as_str().unwrap_or_default());
    assert_eq!(one.signed_in("sid=admin", "DELETE", &path).answer().await.status, 204);
    assert_eq!(ask(&two, "/api/v1/calls", made[0]["key"].as_str().unwrap_or_default()).await.status, 401);
    assert_eq!(two.signed_in("sid=admin", "POST", "/api/v1/keys").json(&wanted).answer().await.status, 201);
}

#[tokio::test]
async fn only_admins_create_and_revoke_keys() {
    let (stage, gate) = callscaler();
    sign_in(&stage);
    let wanted = json!({"name": "Reports", "business_id": BUSINESS});
    let key = gate.signed_in("sid=admin", "POST", "/api/v1/keys").json(&wanted).answer().await.json();
    let path = format!("/api/v1/keys/{}", key["id"].as_str().unwrap_or_default());
    for (who, created, revoked) in [("sid=member", 403, 403), ("sid=elsewhere", 403, 404), ("sid=nobody", 401, 401)] {
        let answer = gate.signed_in(who, "POST", "/api/v1/keys").json(&wanted).answer().await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (created, &json!(created.to_string())), "{who}");
        assert_eq!(gate.signed_in(who, "DELETE", &path).answer().await.status, revoked, "{who}");
    }
    assert_eq!(ask(&gate, "/api/v1/calls", key["key"].as_str().unwrap_or_default()).await.status, 200);
}

fn sign_in(stage: &Stage) {
    for (cookie, user, business, role) in [
        ("sid=admin", "u_1", BUSINESS, "admin"),
        ("sid=member", "u_2", BUSINESS, "member"),
        ("sid=elsewhere", "u_3", "umbrella", "admin"),
    ] {
        stage.upstream.sign_in(cookie, json!({"user": user, "businesses": [{"id": business, "role": role}]}));
    }
}

// C4

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_on_every_sidecar() {
    let (stage, one) = callscaler();
    let two = stage.profile("callscaler");
    let created = one.keys_create(&["--name", "Reports", "--business", BUSINESS]);
    let key = created["key"].as_str().expect("the key is shown at creation");
    for gate in [&one, &two] {
        assert_eq!(ask(gate, "/api/v1/calls", key).await.status, 200);
    }
    let revoked = one.command(&["keys", "revoke", created["id"].as_str().expect("a key has an id")]);
    assert!(revoked.status.success(), "{revoked:?}");
    stage.upstream.take();
    for gate in [&one, &two] {
        assert_eq!(ask(gate, "/api/v1/calls", key).await.status, 401);
    }
    assert!(stage.upstream.seen().is_empty());
}

// C5

#[tokio::test]
async fn an_error_is_exactly_the_documented_body() {
    let (_stage, gate) = callscaler();
    let unknown = format!("cs_key_{}", "a".repeat(43));
    for key in [unknown.as_str(), "cs_key_short", "something-else"] {
        let answer = ask(&gate, "/api/v1/calls", key).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json(), json!({"error": {"code": "401", "message": "Invalid API key"}}), "{key}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let missing = gate.get("/api/v1/calls").answer().await;
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (401, &json!("401")));
}

// C6

#[tokio::test]
async fn all_keys_of_a_business_share_sixty_requests_a_minute_across_sidecars() {
    let (stage, one) = callscaler();
    let two = stage.profile("callscaler");
    let keys = [1, 2].map(|_| stage.redis.mint_as(&random_key(), json!({"business": BUSINESS})).text);
    stage.redis.room(60_000, 25_000);
    let requests = (0..100).map(|i| [&one, &two][i % 2].get("/api/v1/calls").bearer_auth(&keys[i / 2 % 2]));
    let answers = together(requests).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 60);
    assert_eq!(answers.iter().filter(|answer| answer.status == 429).count(), 40);
    let other = stage.redis.mint_as(&random_key(), json!({"business": "umbrella"})).text;
    assert_eq!(ask(&one, "/api/v1/calls", &other).await.status, 200, "another business has its own sixty");
}

// C7

#[tokio::test]
async fn every_answer_after_authentication_says_where_the_limit_stands() {
    let (stage, gate) = callscaler();
    let key = gate.new_key(&["--name", "Reports", "--business", BUSINESS]);
    stage.redis.room(60_000, 25_000);

    stage.upstream.respond_with(404, &[("x-ratelimit-remaining", "7")], "none");
    stands_at(&stage, &ask(&gate, "/api/v1/calls/0", &key).await, 404, 59);
    stage.upstream.respond_with(500, &[], "broken");
    stands_at(&stage, &ask(&gate, "/api/v1/calls", &key).await, 500, 58);
    stage.upstream.echo();
    stands_at(&stage, &ask(&gate, "/api/v1/calls", &key).await, 200, 57);

    stage.redis.set_business(BUSINESS, json!({"status": "suspended"}));
    stands_at(&stage, &ask(&gate, "/api/v1/calls", &key).await, 403, 57);
    stage.redis.set_business(BUSINESS, json!({"status": "active"}));

    let (cut_off, _nobody) = cut_off(&stage);
    stands_at(&stage, &ask(&cut_off, "/api/v1/calls", &key).await, 500, 56);

    let rest = together((0..57).map(|_| gate.get("/api/v1/calls").bearer_auth(&key))).await;
    let denied: Vec<&Answer> = rest.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!(denied.len(), 1);
    stands_at(&stage, denied[0], 429, 0);
}

// C8

#[tokio::test]
async fn over_the_limit_the_body_says_when_to_try_again() {
    let (stage, gate) = callscaler();
    let key = gate.new_key(&["--name", "Reports", "--business", BUSINESS]);
    stage.redis.room(60_000, 25_000);
    together((0..60).map(|_| gate.get("/api/v1/calls").bearer_auth(&key))).await;
    let denied = ask(&gate, "/api/v1/calls", &key).await;
    assert_eq!(denied.status, 429);
    let wait = denied.number("retry-after");
    assert!((1..=60).contains(&wait));
    let message = format!("Too many requests. Limit: 60/min. Try again in {wait} seconds.");
    assert_eq!(denied.json(), json!({"error": "rate_limit_exceeded", "message": message, "retry_after": wait}));
}

// C9

#[tokio::test]
async fn what_the_api_does_not_document_is_told_in_statuses_that_it_does() {
    let (mut stage, gate) = callscaler();
    let key = gate.new_key(&["--name", "Reports", "--business", BUSINESS]);
    is_error(&gate.raw("TRACE", "/api/v1/calls", &[]), 404, "Not found");
    is_error(&gate.raw("GET", "/api/v1/../calls", &[]), 400, "");
    is_error(&gate.get("/elsewhere").answer().await, 404, "Not found");
    let (cut_off, _nobody) = cut_off(&stage);
    is_error(&ask(&cut_off, "/api/v1/calls", &key).await, 500, "Internal server error");
    stage.upstream.fall_silent();
    is_error(&ask(&gate, "/api/v1/calls", &key).await, 500, "Internal server error");
    stage.redis.stop();
    is_error(&ask(&gate, "/api/v1/calls", &key).await, 500, "Internal server error");
}

// C10

#[tokio::test]
async fn any_valid_key_may_use_every_method_and_queries_arrive_byte_for_byte() {
    let (stage, gate) = callscaler();
    let created = gate.keys_create(&["--name", "Reports", "--business", BUSINESS]);
    let key = created["key"].as_str().expect("the key is shown at creation");
    assert!(Uuid::parse_str(created["id"].as_str().unwrap_or_default()).is_ok(), "{created}");
    let stamp = created["created_at"].as_str().unwrap_or_default();
    assert!(stamp.len() == "2026-03-23T14:30:00Z".len() && stamp.ends_with('Z'), "{stamp}");
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = gate.request(method, "/api/v1/numbers/7").bearer_auth(key).answer().await;
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(stage.upstream.only().method, method);
    }
    let bearer = format!("Authorization: Bearer {key}");
    for query in ["page=2&per_page=50", "phone=+15735551234", "a=%2B1&b=&&=c&%e2%82%ac", "q=a?b/c;d", ""] {
        let target = format!("/api/v1/calls?{query}");
        assert_eq!(gate.raw("GET", &target, &[bearer.as_bytes()]).status, 200, "{target}");
        assert_eq!(stage.upstream.only().target, target);
    }
}

fn callscaler() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.profile("callscaler");
    (stage, gate)
}

async fn ask(gate: &Gate, path: &str, key: &str) -> Answer {
    gate.get(path).bearer_auth(key).answer().await
}

/// A key of the profile's format, as another service would mint it.
fn random_key() -> String {
    format!("cs_key_{}{}", Uuid::new_v4().simple(), &Uuid::new_v4().simple().to_string()[..11])
}

/// A gate before an upstream that does not listen, at the port that is kept from others.
fn cut_off(stage: &Stage) -> (Gate, Port) {
    let nobody = Port::reserve();
    (stage.profile_before("callscaler", &format!("http://{}", nobody.address())), nobody)
}

fn stands_at(stage: &Stage, answer: &Answer, status: u16, remaining: u64) {
    assert_eq!(answer.status, status);
    assert_eq!(answer.number("x-ratelimit-limit"), 60, "{status}");
    assert_eq!(answer.headers.get_all("x-ratelimit-remaining").iter().count(), 1, "{status}");
    assert_eq!(answer.number("x-ratelimit-remaining"), remaining, "{status}");
    let now = stage.redis.now_ms() / 1000;
    assert_eq!(answer.number("x-ratelimit-reset"), (now / 60 + 1) * 60, "{status}: the end of this minute");
}

/// The documented error body with this status; an empty message stands for any.
fn is_error(answer: &Answer, status: u16, message: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["error"]["code"], Value::from(status.to_string()), "{body}");
    let told = body["error"]["message"].as_str().unwrap_or_default();
    assert!(if message.is_empty() { !told.is_empty() } else { told == message }, "{body}");
}
