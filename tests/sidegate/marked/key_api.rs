//! Marked keys given to the key API and to the commands, in every place where somebody may paste one; and the keys that it makes.

use serde_json::json;

use super::scene::{SECTIONS, Scene, status_of};
use crate::support::AnswerTo as _;

pub const OUTCOMES: &[&str] = &[
    "business_forbidden",
    "key_not_found",
    "method_not_allowed",
    "unsupported_media_type",
    "unprocessable",
    "no_session",
    "cross_site",
    "role_required",
];

pub const FULL: &[&str] = &["too_many_keys", "rotated_already", "unconfirmed"];

#[tokio::test]
async fn neither_the_key_api_nor_a_command_shows_a_key_that_it_was_given() {
    let mut scene = Scene::set("");
    let good = scene.mint(json!({"business": "acme"}));
    scene.stage.upstream.sign_in(
        "sid=ada",
        json!({"user": "u", "businesses": [
            {"id": "acme", "role": "admin"}, {"id": "poor", "role": "viewer"},
        ]}),
    );
    let unknown = scene.mark();
    for key in [&good, &unknown] {
        for cookie in ["sid=ada".to_owned(), format!("sid={key}")] {
            let shown = format!("Host: a\r\nCookie: {cookie}\r\nAuthorization: Bearer {key}\r\nX-API-Key: {key}\r\n");
            let signed_in = cookie == "sid=ada";
            let mut answered = |reason: &str, head: &str, body: &str| {
                let reason = if signed_in || reason == "method_not_allowed" { reason } else { "no_session" };
                scene.is_answered(status_of(reason), reason, head, body);
            };
            for (request, reason) in
                [("GET", "business_forbidden"), ("DELETE", "key_not_found"), ("PUT", "method_not_allowed")]
            {
                let head = format!("{request} /v1/keys?id={key}&business_id={key} HTTP/1.1\r\n{shown}");
                answered(reason, &head, "");
            }
            for (request, reason) in
                [("GET", "key_not_found"), ("DELETE", "key_not_found"), ("PATCH", "unsupported_media_type")]
            {
                answered(reason, &format!("{request} /v1/keys/{key} HTTP/1.1\r\n{shown}"), "");
            }
            for body in
                [format!("{{\"{key}\": 1}}"), format!("{{\"name\": \"n\", \"scopes\": [\"{key}\"]}}"), key.clone()]
            {
                let length = body.len();
                let head = format!("{shown}Content-Type: application/json\r\nContent-Length: {length}\r\n");
                for request in ["POST /v1/keys", "POST /v1/keys/x/rotate", "PATCH /v1/keys/x"] {
                    answered("unprocessable", &format!("{request} HTTP/1.1\r\n{head}"), &body);
                }
            }
            if signed_in {
                let elsewhere = format!("GET /v1/keys HTTP/1.1\r\n{shown}Origin: https://{key}\r\n");
                scene.is_answered(403, "cross_site", &elsewhere, "");
                let looks_only = format!("GET /v1/keys?business_id=poor HTTP/1.1\r\n{shown}");
                scene.is_answered(403, "role_required", &looks_only, "");
            }
        }
        for arguments in [
            &["keys", "verify"][..],
            &["keys", "verify", "--json"],
            &["explain", "GET /things/x"],
            &["explain", "--json", "GET /guarded"],
            &["keys", "show", "-"],
            &["keys", "usage", "-"],
            &["keys", "revoke", "-"],
        ] {
            let ended_well = scene.runs(arguments, &format!("{key}\n"));
            assert!(arguments[1] != "verify" || ended_well == (*key == good), "{arguments:?}");
        }
        for command in ["show", "usage", "revoke"] {
            scene.refuses(&["keys", command, key]);
        }
        scene.runs(&["keys", "import", "-"], &format!("{{\"sha256\": \"{key}\"}}\n"));
    }
    scene.stage.redis.kill();
    assert!(!scene.runs(&["keys", "verify"], &good));
    scene.shows_nothing(OUTCOMES);
}

/// The one place in which a key may stand is the answer that brings it.
#[tokio::test]
async fn a_key_that_the_api_makes_is_told_once_and_shown_nowhere() {
    let mut scene = Scene::set("");
    scene.stage.upstream.sign_in("sid=ada", json!({"user": "u", "businesses": [{"id": "acme", "role": "admin"}]}));
    let body = r#"{"name": "n", "business_id": "acme", "scopes": ["admin"]}"#;
    let typed = |body: &str| format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let head = |request: &str| format!("{request} HTTP/1.1\r\nHost: a\r\nCookie: sid=ada\r\n");
    let create = head("POST /v1/keys") + &typed(body);
    let mut made = scene.is_answered(201, "", &create, body).json();
    let rotate = head(&format!("POST /v1/keys/{}/rotate", made["id"].as_str().expect("an id is text")));
    for request in [&create, &rotate] {
        let key = made["key"].as_str().expect("it is told").to_owned();
        scene.marks(&key);
        scene.asks("", &key, "GET /things/x", "");
        let body = if *request == create { body } else { "" };
        made = scene.is_answered(201, "", request, body).json();
    }
    scene.marks(made["key"].as_str().expect("it is told"));
    scene.is_answered(409, "too_many_keys", &create, body);
    scene.is_answered(409, "rotated_already", &rotate, "");
    for request in ["GET /v1/keys", "GET /v1/keys?business_id=acme"] {
        let listed = scene.is_answered(200, "", &head(request), "");
        scene.said.push_str(&listed.text());
    }
    let waiting = SECTIONS.replace("max_active_keys: 2", "max_active_keys: 2, wait_replicas: 1");
    scene.gate.reload(&format!("{}{waiting}", scene.upstreams));
    let revoked = format!("/v1/keys/{}", made["id"].as_str().expect("an id is text"));
    // Replicas are waited for longer than a raw exchange is.
    let unconfirmed = scene.gate.signed_in("sid=ada", "DELETE", &revoked).answer().await;
    scene.is_logged(&unconfirmed, 503, "unconfirmed");
    scene.said.push_str(&unconfirmed.text());
    scene.shows_nothing(FULL);
}
