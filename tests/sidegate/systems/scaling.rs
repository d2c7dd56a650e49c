//! scaling: machine-readable errors with request ids (rows G0 to G6 of the profile).

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, AnswerTo as _, Gate, Stage, load::Load};

const QUICK_START: &str = "/v1/oncall/schedules";

// G0

#[tokio::test]
async fn the_quick_start_works_with_any_key_and_no_limit_is_told() {
    let (stage, gate) = scaling();
    let answer = ask(&gate, &new_key(&gate)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.headers.keys().all(|name| !name.as_str().contains("ratelimit")), "{answer:?}");
    let seen = stage.upstream.only();
    assert_eq!((seen.target.as_str(), seen.header("x-organization-id")), (QUICK_START, Some("acme")));
    assert_eq!(seen.header("authorization"), None);
}

// G1

#[tokio::test]
async fn a_key_looks_like_scl_live_and_anything_else_is_refused_without_asking_redis() {
    let (stage, gate) = scaling();
    let key = new_key(&gate);
    assert!(key.starts_with("scl_live_"), "{key}");
    let mut watch = stage.redis.watch();
    for other in ["sk_live_0123456789", "scl_test_0123456789", "scl_live_", "scl_live_a b", &format!("{key}é")] {
        assert_eq!(gate.raw("GET", QUICK_START, &[format!("Authorization: Bearer {other}").as_bytes()]).status, 401);
    }
    assert_eq!(watch.calls(), [""; 0]);
}

// G2

#[tokio::test]
async fn a_missing_header_is_told_in_exactly_these_members() {
    let (_stage, gate) = scaling();
    let answer = gate.get(QUICK_START).answer().await;
    is_unauthorized(&answer, "missing_authorization_header");
}

// G3

#[tokio::test]
async fn an_invalid_or_expired_key_is_told_with_its_own_code() {
    let (stage, gate) = scaling();
    let expired = stage.redis.mint_as(&format!("scl_live_{}", "e".repeat(43)), json!({"business": "acme"}));
    stage.redis.rewrite(&expired, json!({"expires_at": "2026-03-23T14:30:00Z"}));
    let unknown = format!("scl_live_{}", "u".repeat(43));
    for authorization in [
        format!("Bearer {unknown}"),
        format!("Bearer {}", expired.text),
        "Bearer x".to_owned(),
        "Basic dTpw".to_owned(),
    ] {
        let answer = gate.get(QUICK_START).header("authorization", &authorization).answer().await;
        is_unauthorized(&answer, "invalid_api_key");
    }
}

#[tokio::test]
async fn the_type_of_a_missing_key_is_that_of_401_alone() {
    let (stage, gate) = scaling();
    let suspended = stage.redis.mint_as(&format!("scl_live_{}", "s".repeat(43)), json!({"business": "umbrella"}));
    stage.redis.set_business("umbrella", json!({"status": "suspended"}));
    let forbidden = ask(&gate, &suspended.text).await;
    let unrouted = gate.get("/v2/oncall").answer().await;
    let bad = gate.raw("GET", "/v1//oncall", &[]);
    let trace = gate.raw("TRACE", QUICK_START, &[]);
    for (answer, status) in [(forbidden, 403), (unrouted, 404), (bad, 400), (trace, 405)] {
        let body = answer.json();
        assert_eq!((answer.status, &body["statusCode"]), (status, &Value::from(status)), "{body}");
        let kind = body["type"].as_str().unwrap_or_default();
        assert!(kind.ends_with("_error") && kind != "not_authorized_error", "{body}");
    }
}

// G4

#[tokio::test]
async fn one_request_id_stands_in_the_body_the_header_the_log_and_what_the_upstream_gets() {
    let (stage, gate) = scaling();
    let denied = gate.get(QUICK_START).answer().await;
    let id = request_id(&denied);
    assert_eq!(denied.json()["requestId"], Value::from(id.as_str()));
    gate.logged(&id);

    let allowed = ask(&gate, &new_key(&gate)).await;
    let id = request_id(&allowed);
    assert_eq!(stage.upstream.only().all("x-request-id"), [id.as_str()]);
    gate.logged(&id);
}

// G5

#[tokio::test]
async fn deleting_a_key_revokes_all_access_at_once() {
    let (stage, gate) = scaling();
    let key = stage.redis.mint_as(&format!("scl_live_{}", "d".repeat(43)), json!({"business": "acme"}));
    assert_eq!(ask(&gate, &key.text).await.status, 200);
    stage.redis.delete(&key.document());
    is_unauthorized(&ask(&gate, &key.text).await, "invalid_api_key");
    stage.redis.delete(&key.hint());
    is_unauthorized(&ask(&gate, &key.text).await, "invalid_api_key");
}

// G6

#[tokio::test]
async fn a_key_is_replaced_without_a_moment_in_which_neither_works() {
    let (stage, gate) = scaling();
    stage.upstream.sign_in("sid=1", json!({"user": "u_1", "businesses": [{"id": "acme", "role": "admin"}]}));
    let wanted = json!({"name": "Pager", "business_id": "acme"});
    let old = gate.signed_in("sid=1", "POST", "/v1/keys").json(&wanted).answer().await.json();
    let text = |key: &Value, member: &str| key[member].as_str().unwrap_or_default().to_owned();
    let before = Load::on(QUICK_START, &gate, &text(&old, "key"), 4);
    before.passed(50).await;
    let path = format!("/v1/keys/{}/rotate", text(&old, "id"));
    let rotated = gate.signed_in("sid=1", "POST", &path).json(&json!({"overlap": "1h"})).answer().await;
    assert_eq!(rotated.status, 201, "{}", rotated.text());
    let after = Load::on(QUICK_START, &gate, &text(&rotated.json(), "key"), 4);
    after.passed(50).await;
    before.passed(100).await;
    let answers = [before.end(), after.end()].concat();
    assert!(answers.iter().all(|one| one.status == 200), "{answers:?}");
    let path = format!("/v1/keys/{}", text(&old, "id"));
    assert_eq!(gate.signed_in("sid=1", "DELETE", &path).answer().await.status, 204);
    is_unauthorized(&ask(&gate, &text(&old, "key")).await, "invalid_api_key");
    is_unauthorized(&gate.get("/v1/keys").answer().await, "no_session");
}

fn scaling() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.profile("scaling");
    (stage, gate)
}

fn new_key(gate: &Gate) -> String {
    gate.new_key(&["--name", "Pager", "--business", "acme"])
}

async fn ask(gate: &Gate, key: &str) -> Answer {
    gate.get(QUICK_START).bearer_auth(key).answer().await
}

fn request_id(answer: &Answer) -> String {
    let id = answer.header("x-request-id").expect("every answer has a request id");
    assert!(Uuid::parse_str(id).is_ok(), "{id}");
    id.to_owned()
}

fn is_unauthorized(answer: &Answer, code: &str) {
    assert_eq!(answer.status, 401);
    let id = request_id(answer);
    let body = json!({"statusCode": 401, "type": "not_authorized_error", "code": code, "requestId": id});
    assert_eq!(answer.json(), body);
}
