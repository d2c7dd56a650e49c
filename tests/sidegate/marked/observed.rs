//! Marked keys where denials are only observed: the service gets the request, and still neither it nor a log gets the key.

use serde_json::json;

use super::scene::{DENIED, SECTIONS, Scene};
use crate::support::bytes::Wire;

pub const OUTCOMES: &[&str] = &[
    "missing_key",
    "malformed_key",
    "foreign_format",
    "unknown_key",
    "revoked_key",
    "expired_key",
    "denied_key",
    "insufficient_scope",
    "plan_required",
    "business_suspended",
    "business_forbidden",
    "denied_address",
    "route_not_found",
    "method_not_allowed",
    "body_too_large",
    "uri_too_long",
    "headers_too_large",
    "rate_limited",
    "store_unavailable",
];

#[test]
fn no_denial_that_is_only_observed_shows_its_key() {
    let mut scene = Scene::set("mode: observe");
    let good = scene.mint(json!({"business": "acme"}));
    for (reason, document) in [
        ("revoked_key", json!({"business": "acme", "revoked_at": "2026-01-01T00:00:00Z"})),
        ("expired_key", json!({"business": "acme", "expires_at": "2026-01-01T00:00:00Z"})),
        ("denied_key", json!({"business": "acme", "id": DENIED})),
        ("plan_required", json!({"business": "poor"})),
        ("business_suspended", json!({"business": "bad"})),
        ("denied_address", json!({"business": "acme", "allow_addresses": ["192.0.2.1"]})),
    ] {
        let key = scene.mint(document);
        scene.passes(reason, &key, "GET /things/x", "");
    }
    let unknown = scene.mark();
    scene.passes("unknown_key", &unknown, "GET /things/x", "");
    scene.passes("foreign_format", &format!("theirs_{}", &good[5..]), "GET /things/x", "");
    let narrow = scene.mint(json!({"business": "acme", "scopes": ["little"]}));
    scene.passes("insufficient_scope", &narrow, "GET /guarded", "");
    scene.passes("business_forbidden", &good, "GET /things/x?business=poor", "");
    scene.passes("route_not_found", &good, "GET /nowhere", "");
    scene.passes("method_not_allowed", &good, "PUT /read", "Content-Length: 0\r\n");
    scene.passes("uri_too_long", &good, &format!("GET /things/{}", "x".repeat(9000)), "");
    scene.passes("headers_too_large", &good, "GET /things/x", &format!("X-Long: {}\r\n", "x".repeat(40_000)));
    scene.asks("", &good, "GET /tight", "");
    scene.passes("rate_limited", &good, "GET /tight", "");
    scene.passes_with("body_too_large", &good, "POST /small", "Content-Length: 13\r\n", "more than ten");
    // What has no format of a key, or stands where none is read, is the service's own and comes to it; the logs hide it all the same.
    let head = format!("GET /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {good}x\r\n");
    scene.is_answered(200, "malformed_key", &head, "");
    let head = format!("GET /things/x?k={good} HTTP/1.1\r\nHost: a\r\nCookie: k={good}\r\n");
    scene.is_answered(200, "missing_key", &head, "");
    // What cannot be observed is refused as ever.
    scene.asks("ambiguous_key", &good, "GET /things/x", &format!("Authorization: Bearer {good}\r\n"));
    scene.asks("bad_path", &good, &format!("GET /things/%zz{good}"), "");
    scene.asks("upstream_unreachable", &good, "GET /dead", "");
    scene.stage.redis.kill();
    for key in [good, scene.mark()] {
        scene.passes("store_unavailable", &key, "GET /things/x", "");
    }
    scene.shows_nothing(OUTCOMES);
}

#[test]
fn an_open_answer_that_loses_its_key_shows_it_neither_observed_nor_ended() {
    let streams = "streams: {recheck: 100ms, max_age: 1h}";
    let mut scene = Scene::set(&format!("mode: observe\n{streams}"));
    let key = scene.mint_whole(json!({"business": "acme"}));
    let body = scene.stage.upstream.stream();
    let mut client = Wire::to(scene.gate.address);
    client.send(format!("GET /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n\r\n", key.text));
    body.send("begun");
    client.until(b"begun");
    scene.stage.redis.rewrite(&key, json!({"revoked_at": "2026-01-01T00:00:00Z"}));
    scene.gate.said("a stream would have been ended: observed");
    scene.gate.reload(&format!("{streams}\n{}{SECTIONS}", scene.upstreams));
    scene.gate.said("a stream was ended");
    let rest = client.rest();
    scene.said.push_str(&rest);
    scene.shows_nothing(&[]);
}
