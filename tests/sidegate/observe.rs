//! Observe mode: what would be denied is decided, counted and logged as if it were, and the service gets what it got before there
//! was a gate.

mod limits;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Answer, AnswerTo as _, Gate, Key, Stage,
    bytes::{RawUpstream, Wire},
    client,
    gate::text,
    until,
    upstream::Recorded,
};

const WOULD_DENY: &str = "x-sidegate-would-deny";

const FORMATS: &str = "keys: {formats: [{prefix: kc_, length: 44}]}\n";

const YAML: &str = "
mode: observe
upstream: {url: '${UPSTREAM_URL}', identity: {X-Key-Id: '{key_id}', X-Business: '{business}'}}
limits: {per-key: {by: key, windows: 2/1d}}
routes:
  /things/**: {scopes: ['things:read'], limits: [per-key]}
  /admin: admin
  POST /only-post: any
  /small: {public: true, max_body: 4}
  /clamped: {public: true, max_query: {limit: 100}}
";

#[tokio::test]
async fn whatever_would_be_denied_passes_and_the_service_is_told_why() {
    let yard = Yard::set(YAML);
    let Yard { stage, gate, key } = &yard;
    let revoked = stage.redis.mint(json!({"business": "acme", "revoked_at": "2026-03-23T14:30:00Z"}));
    let bearer = |key: &Key| Some(key.text.clone());
    for (method, path, key, reason) in [
        ("GET", "/things/1", None, "missing_key"),
        ("GET", "/things/1", Some("sg_unknown".to_owned()), "unknown_key"),
        ("GET", "/things/1", bearer(&revoked), "revoked_key"),
        ("GET", "/admin", bearer(key), "insufficient_scope"),
        ("GET", "/nowhere", bearer(key), "route_not_found"),
        ("GET", "/only-post", bearer(key), "method_not_allowed"),
        ("POST", "/small", None, "body_too_large"),
        ("GET", "/clamped?limit=all", None, "bad_request"),
    ] {
        let body = if method == "POST" { "too much" } else { "" };
        let mut request = gate.request(method, path).header(WOULD_DENY, "forged").body(body);
        if let Some(key) = &key {
            request = request.bearer_auth(key);
        }
        let answer = request.answer().await;
        assert_eq!(answer.status, 200, "{method} {path}");
        let seen = stage.upstream.only();
        assert_eq!(seen.all(WOULD_DENY), [reason], "{method} {path}: {seen:#?}");
        assert_eq!((seen.method.as_str(), seen.target.as_str(), &seen.body[..]), (method, path, body.as_bytes()));
        assert_eq!((seen.header("x-key-id"), seen.header("x-business")), (None, None), "nobody is vouched for");
        assert_eq!(seen.header("authorization"), None, "a key that looks like one stays at the gate");
        let id = answer.header("x-request-id").expect("every answer has an id").to_owned();
        let logged = gate.logged(&id);
        assert_eq!(
            (&logged["sidegate.decision"], &logged["sidegate.reason"], &logged["http.response.status_code"]),
            (&json!("observed"), &json!(reason), &json!(200))
        );
    }
    assert_eq!(gate.metric("sidegate_requests_total", &["decision=\"observed\""]), 8.0);
    assert_eq!(gate.metric("sidegate_denials_total", &[]), 0.0, "nothing was denied");
    assert_eq!(gate.metric("sidegate_enforcing", &[]), 0.0);
}

#[tokio::test]
async fn what_would_be_allowed_is_told_as_under_enforcement() {
    let Yard { stage, gate, key } = &Yard::set(YAML);
    let answer = gate.get("/things/1").bearer_auth(&key.text).header(WOULD_DENY, "forged").answer().await;
    let seen = stage.upstream.only();
    assert_eq!((seen.header(WOULD_DENY), seen.header("x-business")), (None, Some("acme")));
    assert_eq!(seen.header("x-key-id"), Some(&*key.id));
    assert_eq!(answer.header("x-ratelimit-limit"), None, "the client sees nothing of a gate");
    assert_eq!(gate.logged("/things/1")["sidegate.decision"], "allowed");
}

#[tokio::test]
async fn limits_count_as_if_they_were_enforced() {
    let Yard { stage, gate, key } = &Yard::set(YAML);
    stage.redis.room(86_400_000, 30_000);
    let outcomes: Vec<_> = would_deny(stage, gate, "/things/1", key, 4).await;
    assert_eq!(outcomes, [None, None, Some("rate_limited".to_owned()), Some("rate_limited".to_owned())]);
    for (outcome, times) in [("within", 1.0), ("near", 1.0), ("observed", 2.0), ("over", 0.0)] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(gate.metric("sidegate_limit_checks_total", &["limit=\"per-key\"", &label]), times, "{outcome}");
    }
    stage.upstream.take();
    gate.get("/things/1").bearer_auth(&key.text).answer().await;
    assert_eq!(stage.upstream.only().header("x-key-id"), Some(&*key.id), "who is over a limit is still who it is");
}

#[tokio::test]
async fn denials_that_are_observed_are_always_logged() {
    let Yard { stage, gate, key } = &Yard::set(&format!("{YAML}log: {{sample: 0}}"));
    for key in [&*key.text, "sg_unknown"] {
        gate.get("/things/1").bearer_auth(key).answer().await;
    }
    assert_eq!(gate.logged("/things/1")["sidegate.reason"], "unknown_key", "the other one is not in the sample");
    stage.upstream.take();
}

#[test]
fn a_client_that_waits_to_be_told_to_go_on_is_told() {
    let Yard { stage, gate, .. } = &Yard::set(YAML);
    let mut client = Wire::to(gate.address);
    let head = "POST /things/1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\n";
    client.send(format!("{head}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    assert_eq!(Answer::parse(client.head().as_bytes()).status, 200);
    let seen = stage.upstream.only();
    assert_eq!((seen.header(WOULD_DENY), &seen.body[..]), (Some("missing_key"), &b"body"[..]));
}

/// The whole of a request that a legacy client sends, byte for byte where HTTP lets a proxy keep it.
#[tokio::test]
async fn a_service_with_its_own_basic_authentication_gets_what_it_got_before() {
    for keys in ["", FORMATS] {
        let stage = Stage::set();
        let gate = stage.gate(&format!("{keys}mode: observe\nroutes: {{/v1/**: any, /open: public}}"));
        for (method, target, extra, body) in [
            ("GET", "/v1/%7euser/%41?limit=1&limit=2&q=%20+x", vec![], ""),
            ("POST", "/legacy/form.php?a[]=1", vec!["Content-Type: application/x-www-form-urlencoded"], "a=1&b=2"),
            ("PUT", "/v1/x", vec!["X-HTTP-Method-Override: PATCH", "Cookie: a=1; b=2", "Expect-CT: x"], "{}"),
            ("PROPFIND", "/dav/", vec!["Depth: 1", "X-Api-Key: of-the-service with words"], ""),
            ("OPTIONS", "/v1/x", vec!["Origin: https://a", "Access-Control-Request-Method: PUT"], ""),
            ("DELETE", "/open", vec!["Authorization: Digest username=\"a\", realm=\"b\""], ""),
            ("GET", "/v1/x", vec!["Authorization: Bearer eyJhbGciOi.J9.x"], ""),
        ] {
            let basic = !extra.iter().any(|line| line.starts_with("Authorization"));
            let auth = if basic { "Authorization: Basic dXNlcjpwYXNz\r\n" } else { "" };
            let lines: String = extra.iter().map(|line| format!("{line}\r\n")).collect();
            let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: legacy.example\r\nUser-Agent: old/1.0\r\nAccept: */*\r\n\
                 {auth}{lines}{length}Connection: close\r\n\r\n{body}"
            );
            let [direct, gated] = [stage.upstream.address, gate.address].map(|address| {
                let answer = Answer::parse(&client::exchange(address, request.as_bytes()));
                assert_eq!(answer.status, 200, "{request}");
                stage.upstream.only()
            });
            assert_eq!(told(&direct), told(&gated), "{request}");
            assert_eq!((direct.method, direct.target, direct.body), (gated.method, gated.target, gated.body));
        }
    }
}

#[tokio::test]
async fn the_service_answers_its_clients_as_if_there_were_no_gate() {
    let Yard { stage, gate, .. } = &Yard::set(YAML);
    let headers = [("www-authenticate", "Basic realm=\"legacy\""), ("x-ratelimit-remaining", "7"), ("etag", "\"a\"")];
    stage.upstream.respond_with(401, &headers, "log in");
    let answer = gate.get("/things/1").answer().await;
    assert_eq!((answer.status, answer.text()), (401, "log in".to_owned()));
    for (name, value) in headers {
        assert_eq!(answer.header(name), Some(value));
    }
    let new: Vec<_> = answer.headers.keys().map(|name| name.as_str()).filter(|name| name.starts_with("x-")).collect();
    assert_eq!(new, ["x-ratelimit-remaining", "x-request-id"]);
}

#[tokio::test]
async fn what_two_servers_could_read_differently_is_refused_all_the_same() {
    let Yard { stage, gate, .. } = &Yard::set(&format!("{FORMATS}{YAML}"));
    let bearer = format!("Authorization: Bearer kc_{}", "a".repeat(44));
    for (target, headers, code) in [
        ("/things/../admin", vec![], "bad_path"),
        ("/nowhere//x", vec![], "bad_path"),
        ("/things/1", vec!["Host: b"], "bad_request"),
        ("/things/1", vec![&*bearer, &*bearer], "ambiguous_key"),
    ] {
        let headers: Vec<&[u8]> = headers.iter().map(|line| line.as_bytes()).collect();
        assert_eq!(gate.raw("GET", target, &headers).denial(), (400, code.to_owned()), "{target}");
    }
    assert_eq!(gate.raw("TRACE", "/things/1", &[]).status, 405, "it would show what the gate sets");
    assert!(stage.upstream.take().is_empty());
}

#[tokio::test]
async fn break_glass_is_observed_like_every_other_denial() {
    let Yard { stage, gate, .. } = &Yard::set(&format!("{YAML}deny: {{addresses: [127.0.0.0/8]}}"));
    assert_eq!(gate.get("/things/1").answer().await.status, 200);
    assert_eq!(stage.upstream.only().header(WOULD_DENY), Some("denied_address"));
}

#[tokio::test]
async fn a_target_longer_than_a_gate_takes_is_observed() {
    let Yard { stage, gate, .. } = &Yard::set(YAML);
    let target = format!("/things/1?q={}", "x".repeat(9000));
    assert_eq!(gate.raw("GET", &target, &[]).status, 200);
    let seen = stage.upstream.only();
    assert_eq!((seen.header(WOULD_DENY), &seen.target), (Some("uri_too_long"), &target));
    for path in ["/things/1;x", "/nowhere%2Fx"] {
        let target = format!("{path}?q={}", "x".repeat(9000));
        assert_eq!(gate.raw("GET", &target, &[]).denial(), (400, "bad_path".to_owned()), "its size is no excuse");
    }
}

#[tokio::test]
async fn a_route_may_enforce_where_the_configuration_observes() {
    let Yard { stage, gate, key } = &Yard::set(
        "mode: observe\nroutes: {/admin: {scopes: admin, mode: enforce}, /v1/**: any, GET /read: {any: true, mode: enforce}, \
         POST /write: {any: true, mode: enforce}}",
    );
    assert_eq!(gate.get("/admin").answer().await.status, 401);
    assert_eq!(gate.get("/admin").bearer_auth(&key.text).answer().await.denial().0, 403);
    // What a lenient service could take for it, under another name or method, does not slip past either.
    for (path, status) in [("/ADMIN", 404), ("/admin/", 404), ("/admin%20", 404), ("/Admin;x", 400)] {
        assert_eq!(gate.raw("GET", path, &[]).status, status, "{path}");
    }
    assert_eq!(gate.post("/read").answer().await.status, 405);
    let said = text(&gate.command(&["explain", "POST /read"]).stdout);
    assert!(said.contains("enforce: a service could take it for a route that is enforced"), "{said}");
    assert!(stage.upstream.take().is_empty());
    // What only reads is never taken for what writes.
    assert_eq!(gate.get("/write").answer().await.status, 200);
    assert_eq!(stage.upstream.only().header(WOULD_DENY), Some("method_not_allowed"));
    assert_eq!(gate.raw("get", "/write", &[]).status, 405);
    for path in ["/v1/x", "/elsewhere"] {
        let header = ("x-original-url", "/admin");
        assert_eq!(gate.get(path).header(header.0, header.1).answer().await.status, 200);
        let seen = stage.upstream.only();
        assert!(seen.header(WOULD_DENY).is_some());
        assert_eq!(seen.header(header.0), None, "it would lead past the route that enforces");
    }
    assert_eq!(gate.operators("/readyz").status, 200);
}

#[tokio::test]
async fn a_route_may_observe_where_the_configuration_enforces() {
    let Yard { stage, gate, .. } = &Yard::set("routes: {/new: {any: true, mode: observe}, /v1/**: any}");
    assert_eq!(gate.get("/new").answer().await.status, 200);
    assert_eq!(stage.upstream.only().header(WOULD_DENY), Some("missing_key"));
    assert_eq!(gate.get("/v1/x").answer().await.status, 401);
    assert_eq!(gate.get("/elsewhere").answer().await.status, 404);
    assert_eq!(gate.metric("sidegate_enforcing", &[]), 1.0);
    gate.said("some routes or limits only observe");
}

#[tokio::test]
async fn everything_passes_without_a_store_and_the_pod_stays_ready() {
    let mut yard = Yard::set(&format!("store: {{redis: '${{REDIS_URL}}'}}\n{YAML}"));
    yard.stage.redis.kill();
    let Yard { stage, gate, key } = &yard;
    until("the breaker to open", || {
        let began = Instant::now();
        assert_eq!(gate.raw("GET", "/things/1", &[format!("X-API-Key: {}", key.text).as_bytes()]).status, 200);
        assert!(began.elapsed() < Duration::from_secs(5), "a client waits for no store");
        (gate.metric("sidegate_store_breaker_open", &[]) == 1.0).then_some(())
    });
    stage.upstream.take();
    let basic = [b"Authorization: Basic dXNlcjpwYXNz".as_slice(), b"X-API-Key: sg_whatever"];
    assert_eq!(gate.raw("GET", "/things/1", &basic).status, 200);
    let seen = stage.upstream.only();
    assert_eq!(seen.header(WOULD_DENY), Some("store_unavailable"));
    assert_eq!((seen.header("authorization"), seen.header("x-api-key")), (Some("Basic dXNlcjpwYXNz"), None));
    assert_eq!((gate.operators("/readyz").status, gate.metric("sidegate_store_up", &[])), (200, 0.0));
    gate.reload(&format!("store: {{redis: '${{REDIS_URL}}'}}\n{}", YAML.replace("mode: observe", "")));
    assert_eq!(gate.operators("/readyz").status, 503, "what enforces needs its store");
}

#[tokio::test]
async fn a_reload_acts_at_once_in_both_directions() {
    let Yard { stage, gate, .. } = &Yard::set(YAML);
    gate.said("observe mode");
    assert_eq!(gate.get("/things/1").answer().await.status, 200);
    gate.reload(&YAML.replace("mode: observe", ""));
    assert_eq!(gate.metric("sidegate_enforcing", &[]), 1.0);
    assert_eq!(gate.get("/things/1").answer().await.status, 401);
    gate.reload(YAML);
    assert_eq!(gate.metric("sidegate_enforcing", &[]), 0.0);
    assert_eq!(gate.get("/things/1").answer().await.status, 200);
    stage.upstream.take();
}

/// Where nothing says how keys look, the store tells which value is one.
#[tokio::test]
async fn without_formats_a_token_that_the_store_does_not_know_is_the_services_own() {
    let Yard { stage, gate, .. } = &Yard::set(YAML);
    let imported = stage.redis.mint_as("0123-imported-key", json!({"business": "acme"}));
    for (token, passes) in [("eyJhbGciOi.J9.x", true), (&*imported.text, false)] {
        assert_eq!(gate.get("/things/1").bearer_auth(token).answer().await.status, 200);
        let bearer = format!("Bearer {token}");
        assert_eq!(stage.upstream.only().header("authorization"), passes.then_some(&*bearer), "{token}");
    }
}

#[test]
fn an_open_stream_is_not_cut_until_a_reload_enforces() {
    let upstream =
        RawUpstream::that_answers("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    let stage = Stage::set();
    let yaml = format!(
        "mode: observe\nupstream: http://{}\nstreams: {{recheck: 100ms, max_age: 1h}}\nroutes: {{/ws: any}}\n",
        upstream.address
    );
    let gate = stage.gate(&yaml);
    let key = stage.redis.mint(json!({"business": "acme"}));
    let mut client = Wire::to(gate.address);
    let key_line = format!("X-API-Key: {}", key.text);
    client.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n{key_line}\r\n\r\n"));
    assert_eq!(Answer::parse(client.head().as_bytes()).status, 101);
    let (_, mut service) = upstream.next();
    stage.redis.rewrite(&key, json!({"revoked_at": "2026-03-23T14:30:00Z"}));
    let said = gate.said("a stream would have been ended: observed");
    assert!(said.contains("revoked_key"), "{said}");
    client.send("ping");
    assert_eq!(service.until(b"ping"), "ping", "it goes on");
    gate.reload(&yaml.replace("mode: observe\n", ""));
    assert_eq!(client.rest(), "", "and ends once that is enforced");
    assert_eq!(gate.written().matches("would have been ended").count(), 1, "told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_outlives_its_age_where_that_is_only_observed() {
    let Yard { stage, gate, .. } = &Yard::set("mode: observe\nstreams: {max_age: 1s}\nroutes: {/open: public}");
    let body = stage.upstream.stream();
    let mut response = gate.get("/open").send().await.expect("the head comes before the body");
    body.send("begun");
    assert!(response.chunk().await.is_ok());
    let said = gate.said("a stream would have been ended: observed");
    assert!(said.contains("max_age"), "{said}");
    body.send("more");
    assert_eq!(response.chunk().await.expect("it stands").as_deref(), Some(&b"more"[..]));
}

#[test]
fn check_and_explain_say_what_is_only_observed() {
    let Yard { gate, key, .. } = &Yard::set(
        "
mode: observe
limits: {soft: {by: key, windows: 2/1d, mode: observe}}
routes: {/things: {any: true, limits: [soft]}, /admin: {scopes: admin, mode: enforce}}
",
    );
    let checked = text(&gate.command(&["check"]).stdout);
    for words in ["mode      observe", "ENFORCED", "2/1d ONLY OBSERVED", "anything else would be 404 and passes"] {
        assert!(checked.contains(words), "no {words:?} in\n{checked}");
    }
    let explain = |request: &str, key: &str| {
        let output = gate.command_reading(&["explain", request, "--json"], key);
        serde_json::from_slice::<Value>(&output.stdout).expect("it is one document")
    };
    let missing = explain("GET /things", "");
    assert_eq!(
        (&missing["mode"], &missing["allowed"], &missing["observed"]),
        (&json!("observe"), &json!(true), &json!("missing_key"))
    );
    let said = text(&gate.command_reading(&["explain", "GET /things"], "").stdout);
    assert!(said.contains("would be refused with 401: missing_key, but passes: observed"), "{said}");
    assert_eq!(explain("GET /things", &key.text)["observed"], Value::Null);
    let enforced = explain("GET /admin", &key.text);
    assert_eq!((&enforced["mode"], &enforced["allowed"]), (&json!("enforce"), &json!(false)));
    assert_eq!(explain("GET /elsewhere", "")["observed"], "route_not_found");
}

struct Yard {
    stage: Stage,
    gate: Gate,
    key: Key,
}

impl Yard {
    fn set(yaml: &str) -> Self {
        let stage = Stage::set();
        let gate = stage.gate(yaml);
        let key = stage.redis.mint(json!({"business": "acme", "user": "u_42", "scopes": ["things:read"]}));
        Self { stage, gate, key }
    }
}

/// What the service is told of so many requests with this key.
async fn would_deny(stage: &Stage, gate: &Gate, path: &str, key: &Key, times: usize) -> Vec<Option<String>> {
    let mut told = Vec::new();
    for _ in 0..times {
        assert_eq!(gate.get(path).bearer_auth(&key.text).answer().await.status, 200);
        told.push(stage.upstream.only().header(WOULD_DENY).map(str::to_owned));
    }
    told
}

/// What each header says, save what a proxy adds and what belongs to one connection.
fn told(seen: &Recorded) -> BTreeMap<String, Vec<String>> {
    const ADDED: [&str; 8] = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "via",
        "x-request-id",
        "traceparent",
        WOULD_DENY,
        "connection",
    ];
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in seen.headers.iter().filter(|(name, _)| !ADDED.contains(&name.as_str())) {
        told.entry(name.clone()).or_default().push(value.clone());
    }
    told
}
