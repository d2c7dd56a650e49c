//! Browsers of another origin: their preflight passes only where the configuration says so, and their scripts may read what the
//! gate itself says.

use serde_json::json;

use crate::support::{Answer, AnswerTo as _, Gate, Stage, gate::text};

const ORIGIN: &[u8] = b"Origin: https://app.example.com";
const ASKS_GET: &[u8] = b"Access-Control-Request-Method: GET";
const ASKS_HEADER: &[u8] = b"Access-Control-Request-Headers: authorization";

const FORWARD: &str = "
upstream: {url: '${UPSTREAM_URL}', identity: {X-Key-Id: '{key_id}'}, headers: {X-Gate-Secret: passed}}
cors: {origins: ['https://app.example.com', 'http://localhost:3000'], preflight: forward}
limits: {per-key: {by: key, windows: 1/1h}, signup: {by: ip, windows: 1/1h}}
routes:
  GET /things/**: {scopes: [things:read], limits: [per-key]}
  POST /things/**: {scopes: [things:write], preflight: deny}
  POST /signup: {public: true, limits: [signup]}
";

#[test]
fn a_preflight_is_denied_unless_the_configuration_forwards_it() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {GET /things: any, OPTIONS /asked: any, /all: any}");
    for (path, status) in [("/things", 405), ("/nowhere", 404), ("/asked", 401), ("/all", 401)] {
        assert_eq!(gate.raw("OPTIONS", path, &[ORIGIN, ASKS_GET]).status, status, "{path}");
    }
    assert!(stage.upstream.seen().is_empty());
}

#[test]
fn a_forwarded_preflight_reaches_the_upstream_without_a_key_and_without_an_identity() {
    let (stage, gate) = yard();
    let allowed = [("access-control-allow-origin", "https://app.example.com"), ("access-control-allow-methods", "GET")];
    stage.upstream.respond_with(204, &allowed, "");
    let forged: [&[u8]; 2] =
        [b"X-Key-Id: forged", b"Authorization: Bearer sg_0123456789012345678901234567890123456789012"];
    let answer = gate.raw("OPTIONS", "/things/7?a=1", &[&[ORIGIN, ASKS_GET, ASKS_HEADER], &forged[..]].concat());
    assert_eq!((answer.status, answer.header("access-control-allow-methods")), (204, Some("GET")));
    let seen = stage.upstream.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("OPTIONS", "/things/7?a=1"));
    assert_eq!(seen.header("access-control-request-headers"), Some("authorization"));
    assert_eq!((seen.header("x-key-id"), seen.header("authorization")), (None, None));
    assert_eq!(seen.header("x-gate-secret"), Some("passed"));
    for _ in 0..3 {
        let answer = gate.raw("OPTIONS", "/signup", &[ORIGIN, b"Access-Control-Request-Method: POST"]);
        assert_eq!(answer.status, 204, "a question takes nothing from the limits of what it asks about");
    }
}

#[test]
fn what_only_looks_like_a_preflight_is_denied() {
    let (stage, gate) = yard();
    let post: &[u8] = b"Access-Control-Request-Method: POST";
    for (what, method, path, lines, status) in [
        ("of a route that says deny", "OPTIONS", "/things/7", &[ORIGIN, post][..], 405),
        (
            "of a method that has no route",
            "OPTIONS",
            "/things/7",
            &[ORIGIN, b"Access-Control-Request-Method: PUT"],
            405,
        ),
        ("of no route", "OPTIONS", "/nowhere", &[ORIGIN, ASKS_GET], 404),
        ("without an origin", "OPTIONS", "/things/7", &[ASKS_GET], 405),
        ("about nothing", "OPTIONS", "/things/7", &[ORIGIN], 405),
        ("about two methods", "OPTIONS", "/things/7", &[ORIGIN, ASKS_GET, ASKS_GET], 405),
        ("with another method", "GET", "/things/7", &[ORIGIN, ASKS_GET], 401),
        ("with a body", "OPTIONS", "/things/7", &[ORIGIN, ASKS_GET, b"Content-Length: 1"], 413),
    ] {
        assert_eq!(gate.raw(method, path, lines).status, status, "{what}");
    }
    assert!(stage.upstream.seen().is_empty());
}

#[tokio::test]
async fn a_browser_may_read_denials_and_the_headers_of_limits() {
    let (stage, gate) = yard();
    let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]})).text;
    stage.redis.room(3_600_000, 20_000);
    let ask = |origin: &str| gate.get("/things/7").header("origin", origin).bearer_auth(&key);
    let answer = gate.get("/things/7").header("origin", "http://localhost:3000").answer().await;
    assert_eq!(answer.status, 401);
    readable(&answer, "http://localhost:3000");
    let preflight = gate.raw("OPTIONS", "/things/7", &[ORIGIN, b"Access-Control-Request-Method: POST"]);
    readable(&preflight, "https://app.example.com");

    // The upstream's answers are its own: without its leave nobody reads them, and with it the gate's headers are read too.
    let answer = ask("https://app.example.com").answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), (None, None));
    assert_eq!(answer.header("access-control-expose-headers"), None);
    let limited = ask("https://app.example.com").answer().await;
    assert_eq!(limited.status, 429);
    readable(&limited, "https://app.example.com");
    for origin in ["https://evil.example", "https://app.example.com.evil.example", "HTTPS://APP.EXAMPLE.COM", "null"] {
        let answer = ask(origin).answer().await;
        assert_eq!(
            (answer.header("access-control-allow-origin"), answer.header("vary")),
            (None, Some("origin")),
            "{origin}"
        );
    }
}

#[tokio::test]
async fn the_upstreams_own_cors_headers_stand_as_they_came() {
    let (stage, gate) = yard();
    let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]})).text;
    let own = [
        ("access-control-allow-origin", "https://other.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "X-Own"),
        ("vary", "Accept"),
    ];
    stage.upstream.respond_with(200, &own, "");
    let answer = gate.get("/things/7").header("origin", "https://app.example.com").bearer_auth(&key).answer().await;
    for (name, value) in own {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let exposed: Vec<_> = answer.headers.get_all("access-control-expose-headers").iter().collect();
    assert!(exposed.len() == 2 && text(exposed[1].as_bytes()).contains("X-RateLimit-Limit"), "{exposed:?}");
}

#[tokio::test]
async fn any_origin_may_be_let_in_and_without_cors_nothing_is_said() {
    let stage = Stage::set();
    for (cors, allowed) in [("cors: {origins: '*'}", Some("*")), ("cors: {preflight: forward}", None), ("", None)] {
        let gate = stage.gate(&format!("routes: {{/things: any}}\n{cors}"));
        let answer = gate.get("/things").header("origin", "https://app.example.com").answer().await;
        assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), (allowed, None), "{cors}");
    }
}

fn readable(answer: &Answer, origin: &str) {
    assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{answer:?}");
    assert_eq!(answer.header("vary"), Some("origin"));
    let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
    let names: Vec<&str> = exposed.split(", ").collect();
    let all = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit", "RateLimit-Policy"];
    assert!(all.iter().chain(&["Retry-After", "X-Request-Id"]).all(|name| names.contains(name)), "{exposed}");
}

fn yard() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(FORWARD);
    (stage, gate)
}
