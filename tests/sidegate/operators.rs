//! What operators see: liveness, readiness, metrics, and one log line per request that holds no key.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;

use serde_json::json;
use tokio::net::TcpSocket;

use crate::prometheus::OF_THE_WEBHOOK;
use crate::support::{
    AnswerTo as _, Certificate, Gate, PATIENCE, Stage, client, gate::text, in_repository, until, within,
};

const YAML: &str = "
limits: {per-business: {by: business, windows: 2/1h}}
routes:
  GET /things/**: {scopes: ['things:read'], limits: [per-business]}
  /public: public
";

#[tokio::test]
async fn the_gate_is_alive_without_redis_and_ready_with_it() {
    let (mut stage, gate) = yard();
    let answers =
        |path: &'static str, status: u16| until(path, || (gate.operators(path).status == status).then_some(()));
    answers("/livez", 200);
    stage.redis.stop();
    answers("/readyz", 503);
    answers("/livez", 200);
    stage.redis.restart();
    answers("/readyz", 200);
}

#[tokio::test]
async fn the_operators_paths_are_not_on_the_clients_listener() {
    let (_stage, gate) = yard();
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(gate.get(path).answer().await.status, 404, "{path}");
    }
}

/// All that a gate counts. What has labels that only an event names (a certificate's file, a business) comes with that event.
const METRICS: [&str; 34] = [
    "sidegate_accept_errors_total",
    "sidegate_answers_broken_total",
    "sidegate_build_info",
    "sidegate_business_requests_total",
    "sidegate_config_info",
    "sidegate_config_last_reload_successful",
    "sidegate_config_reloads_total",
    "sidegate_config_restart_needed",
    "sidegate_connections",
    "sidegate_connections_failed_total",
    "sidegate_connections_refused_total",
    "sidegate_decision_duration_seconds",
    "sidegate_denials_total",
    "sidegate_documents_unreadable_total",
    "sidegate_enforcing",
    "sidegate_guesses_slowed_total",
    "sidegate_limit_checks_total",
    "sidegate_limit_fallbacks_total",
    "sidegate_limit_used_ratio",
    "sidegate_log_lines_dropped_total",
    "sidegate_request_duration_seconds",
    "sidegate_requests_in_flight",
    "sidegate_requests_total",
    "sidegate_store_batch_size",
    "sidegate_store_breaker_open",
    "sidegate_store_call_duration_seconds",
    "sidegate_store_calls_total",
    "sidegate_store_may_evict",
    "sidegate_store_up",
    "sidegate_tls_certificate_not_after_timestamp_seconds",
    "sidegate_unknown_names_total",
    "sidegate_upstream_duration_seconds",
    "sidegate_usage_lost_total",
    "sidegate_worker_lag_seconds",
];
#[tokio::test]
async fn every_metric_of_the_contract_is_there_from_the_start() {
    let stage = Stage::set();
    let certificate = Certificate::of("gate.example");
    let gate = stage.gate(&format!(
        "listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{}', key: '{}'}}}}}}{YAML}",
        certificate.cert_file().display(),
        certificate.key_file().display()
    ));
    let names = || -> BTreeSet<String> {
        let page = gate.operators("/metrics").text();
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect()
    };
    let own = |names: BTreeSet<String>| names.into_iter().filter(|name| !name.starts_with("process_"));
    let before = names();
    assert!(before.contains("process_resident_memory_bytes"), "{before:?}");
    let without_events: Vec<&str> = METRICS.into_iter().filter(|name| *name != "sidegate_limit_used_ratio").collect();
    assert_eq!(own(before).collect::<Vec<_>>(), without_events);
    assert!((gate.metric("sidegate_store_up", &[]) - 1.0).abs() < f64::EPSILON);
    assert!((gate.metric("sidegate_enforcing", &[]) - 1.0).abs() < f64::EPSILON);

    let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]})).text;
    let client = client::http(std::slice::from_ref(&certificate.der)).resolve("gate.example", gate.address);
    let client = client.build().expect("the client's settings are valid");
    let url = format!("https://gate.example:{}/things/7", gate.address.port());
    assert_eq!(client.get(url).bearer_auth(&key).answer().await.status, 200);
    until("its business to have a series", || own(names()).eq(METRICS).then_some(()));
}

/// So that nobody looks for what is not there; parts of names (`sidegate_store_…`) are passed over.
#[test]
fn the_readme_names_no_metric_that_there_is_none_of() {
    let readme = std::fs::read_to_string(in_repository("README.md")).expect("the README is there");
    let words = readme.split(|c: char| !c.is_ascii_alphanumeric() && !"_…*:".contains(c));
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("sidegate_") && word.is_ascii()).collect();
    let parts = ["", "_bucket", "_count", "_sum"];
    let known = |word: &str| parts.iter().any(|part| METRICS.contains(&word.strip_suffix(part).unwrap_or_default()));
    let unknown: Vec<&&str> = named
        .iter()
        .filter(|word| !known(word) && !OF_THE_WEBHOOK.contains(word) && !word.ends_with(['_', '*']))
        .collect();
    assert_eq!(unknown, Vec::<&&str>::new());
    assert!(named.len() > 20, "{named:?}");
}

#[tokio::test]
async fn requests_denials_and_limits_are_counted_by_route_and_reason() {
    let (stage, gate) = yard();
    let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]})).text;
    stage.redis.room(3_600_000, 30_000);
    for status in [200, 200, 429] {
        assert_eq!(gate.get("/things/7").bearer_auth(&key).answer().await.status, status);
    }
    gate.get("/public").answer().await;
    gate.get("/things/7").answer().await;
    gate.get("/nowhere").answer().await;
    let route = r#"route="GET /things/**""#;
    for (name, labels, value) in [
        ("sidegate_requests_total", vec![route, r#"decision="allowed""#, r#"status="200""#], 2.0),
        ("sidegate_requests_total", vec![route, r#"decision="denied""#], 2.0),
        ("sidegate_requests_total", vec![r#"route="/public""#, r#"decision="allowed""#], 1.0),
        ("sidegate_requests_total", vec![r#"route="none""#, r#"decision="denied""#], 1.0),
        ("sidegate_denials_total", vec![route, r#"reason="rate_limited""#], 1.0),
        ("sidegate_denials_total", vec![route, r#"reason="missing_key""#], 1.0),
        ("sidegate_denials_total", vec![r#"reason="route_not_found""#], 1.0),
        ("sidegate_limit_checks_total", vec![r#"limit="per-business""#, r#"outcome="over""#], 1.0),
        ("sidegate_request_duration_seconds_count", vec![route], 4.0),
    ] {
        // A count may follow the answer by a moment.
        until(&format!("{name} {labels:?} = {value}"), || {
            ((gate.metric(name, &labels) - value).abs() < f64::EPSILON).then_some(())
        });
    }
}

#[tokio::test]
async fn a_name_in_a_document_that_nothing_is_configured_for_is_counted_and_told_once() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
plans: {default: {}, pro: {}}
limits: {per-key: {by: key, windows: 60/1h}, per-business: {by: business, windows: 50/1h}}
routes: {/things: {scopes: ['things:read'], limits: [per-key, per-business]}}
",
    );
    let counts = || {
        [("key", "limit"), ("key", "scope"), ("business", "limit"), ("business", "plan")].map(|(holder, what)| {
            let labels = [format!("in=\"{holder}\""), format!("what=\"{what}\"")];
            gate.metric("sidegate_unknown_names_total", &labels.each_ref().map(String::as_str)) as u64
        })
    };
    let page = gate.operators("/metrics").text();
    assert_eq!(page.matches("\nsidegate_unknown_names_total{").count(), 4, "all are there from the start");

    let right = json!({"business": "acme", "scopes": ["things:read", "things:*"], "limits": {"per-key": "55/1h"}});
    let key = stage.redis.mint(right);
    let passes = async |limit| {
        for _ in 0..4 {
            let answer = gate.get("/things").bearer_auth(&key.text).answer().await;
            assert_eq!((answer.status, answer.number("x-ratelimit-limit")), (200, limit));
        }
    };
    stage.redis.set_business("acme", json!({"plan": "pro", "limits": {"per-key": "59/1h", "per-business": "58/1h"}}));
    passes(55).await;
    assert_eq!(counts(), [0; 4]);

    stage.redis.rewrite(&key, json!({"limits": {"per-kye": "5/1h", "per-business": "5/1h"}}));
    passes(58).await;
    assert_eq!(counts(), [1, 0, 0, 0]);
    let told = "names what has no effect here";
    let line = gate.said(told);
    for part in
        ["WARN", &format!("key {}", key.id), "`per-kye`; did you mean `per-key`?", "`per-business` is not counted"]
    {
        assert!(line.contains(part), "no {part} in {line}");
    }
    // Another document with the same names counts, and says nothing new.
    let other = stage.redis.mint(json!({"business": "acme", "limits": {"per-kye": "5/1h"}}));
    assert_eq!(gate.get("/things").bearer_auth(&other.text).answer().await.status, 200);
    assert_eq!(counts(), [2, 0, 0, 0]);

    stage.redis.rewrite(&key, json!({"limits": null}));
    passes(58).await;
    assert_eq!(counts(), [2, 0, 0, 0]);
    stage.redis.rewrite(&key, json!({"scopes": ["things:read", "thing:read"]}));
    stage.redis.set_business("acme", json!({"plan": "prp", "limits": {"all": "1/1h"}}));
    passes(50).await;
    assert_eq!(counts(), [2, 1, 1, 1]);
    for part in ["`thing:read`", "there is no limit `all`", "there is no plan `prp`"] {
        gate.said(part);
    }
    assert_eq!(gate.written().matches(told).count(), 3, "one line for each document");
}

/// What a worker remembers of keys and businesses outlives a reload.
#[tokio::test]
async fn a_name_that_a_reload_takes_away_is_counted_and_told_with_the_next_request() {
    let stage = Stage::set();
    let yaml = |plan: &str, limit: &str| {
        format!(
            "workers: 1
plans: {{{plan}: {{}}}}
limits: {{{limit}: {{by: key, windows: 60/1h}}}}
routes: {{/things: {{any: true, limits: [{limit}]}}}}"
        )
    };
    let gate = stage.gate(&yaml("team", "per-key"));
    let key = stage.redis.mint(json!({"business": "acme", "limits": {"per-key": "55/1h"}}));
    stage.redis.set_business("acme", json!({"plan": "team"}));
    let status = async || gate.get("/things").bearer_auth(&key.text).answer().await.status;
    let count = |holder: &str, what: &str| {
        let labels = [format!("in=\"{holder}\""), format!("what=\"{what}\"")];
        gate.metric("sidegate_unknown_names_total", &labels.each_ref().map(String::as_str)) as u64
    };
    assert_eq!((status().await, count("key", "limit"), count("business", "plan")), (200, 0, 0));

    gate.reload(&yaml("teams", "per-key"));
    for _ in 0..3 {
        assert_eq!(status().await, 403);
    }
    assert_eq!((count("key", "limit"), count("business", "plan")), (0, 1));
    gate.said("there is no plan `team`; did you mean `teams`?");
    let shown = text(&gate.command(&["business", "show", "acme"]).stdout);
    assert!(shown.contains("team (no such plan)"), "{shown}");
    for command in [&["explain", "/things"][..], &["keys", "verify"]] {
        let told = text(&gate.command_reading(command, &key.text).stdout);
        assert!(
            told.contains("plan_required") && told.contains("acme: there is no plan `team`"),
            "{command:?}: {told}"
        );
    }
    gate.reload(&yaml("team", "by-key"));
    for _ in 0..3 {
        assert_eq!(status().await, 200);
    }
    assert_eq!((count("key", "limit"), count("business", "plan")), (1, 1));
    gate.said("there is no limit `per-key`");
}

#[tokio::test]
async fn strangers_cannot_make_the_number_of_series_grow() {
    let (_stage, gate) = yard();
    let ask = |i: usize| {
        let method = ["GET", "POST", "BREW", "X1"][i % 4];
        gate.raw(method, format!("/random-{i}"), &[format!("X-API-Key: sg_random_{i}").as_bytes()]);
        gate.raw("GET", "/things/7", &[format!("X-API-Key: sg_random_{i}").as_bytes()]);
    };
    let series = || gate.operators("/metrics").text().lines().filter(|line| !line.starts_with('#')).count();
    (0..20).for_each(ask);
    let before = series();
    (20..120).for_each(ask);
    assert_eq!(series(), before);
}

#[tokio::test]
async fn a_request_is_one_json_line_with_its_id_its_key_and_no_secret() {
    let (stage, gate) = yard();
    let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]}));
    let bearer = format!("Authorization: Bearer {}", key.text);
    let agent = b"User-Agent: a \"quoted\", \\n \xff\tagent";
    let answer = gate.raw("GET", "/things/7?token=in-the-query", &[bearer.as_bytes(), agent]);
    let id = answer.header("x-request-id").unwrap_or_default().to_owned();
    let line = gate.logged(&id);
    assert!(line.is_object(), "{line}");
    for told in [key.id.as_str(), "GET /things/**", "GET", "acme"] {
        assert!(line.to_string().contains(told), "no {told} in {line}");
    }
    let written = gate.written();
    assert_eq!(written.matches(&id).count(), 1, "one line for one request");
    for secret in [key.text.as_str(), "in-the-query"] {
        assert!(!written.contains(secret), "{secret:?} in the log");
    }
}

#[tokio::test]
async fn a_key_pasted_anywhere_is_in_no_log_metric_or_answer() {
    let stage = Stage::set();
    let yaml = "
keys: {formats: [{prefix: mark_, length: 43}]}
log: {level: trace}
routes: {/things/**: any, /public/**: public}
";
    let gate = stage.gate(yaml);
    let key = stage.redis.mint_as(&format!("mark_{}", "k".repeat(43)), json!({"business": "acme"})).text;
    let unknown = format!("mark_{}", "u".repeat(43));
    for key in [&key, &unknown] {
        for headers in [
            vec![format!("Authorization: Bearer {key}")],
            vec![format!("Authorization: Bearer {key}"), format!("X-API-Key: {key}")],
            vec![format!("Authorization: Basic {key}")],
            vec![format!("User-Agent: {key}"), format!("Referer: http://x/{key}")],
        ] {
            let lines: Vec<&[u8]> = headers.iter().map(String::as_bytes).collect();
            for target in
                ["/things/7".to_owned(), format!("/things/{key}"), format!("/public/x?key={key}"), format!("/{key}")]
            {
                let answer = gate.raw("GET", &target, &lines);
                let echoed = answer.status == 200;
                assert!(echoed || !answer.text().contains(key.as_str()), "{}", answer.text());
            }
        }
    }
    // The last line is written: so are those before it.
    let last = gate.raw("GET", "/public/last", &[]);
    gate.logged(last.header("x-request-id").unwrap_or_default());
    let shown = gate.written() + &gate.operators("/metrics").text();
    for key in [key, unknown] {
        assert!(!shown.contains(&key), "a key is shown");
    }
}

#[tokio::test]
async fn operators_are_answered_while_strangers_hold_hundreds_of_connections_and_take_nothing() {
    let (_stage, gate) = yard();
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(takes_nothing(&gate).await);
        if strangers.len() % 50 == 0 {
            for path in ["/livez", "/readyz", "/metrics"] {
                assert_eq!(gate.operators(path).status, 200, "{path} beside {} others", strangers.len());
            }
        }
    }
    // At once, of those that have most: then there is room for who comes.
    until("no more to be kept than there are places", || {
        (strangers.iter().filter(|one| stands(one)).count() <= 200).then_some(())
    });
    // And after a while in any case. What they asked for is many seconds' work for a slow machine.
    within(PATIENCE * 5, "all of them to be let go", || (!strangers.iter().any(stands)).then_some(()));
    assert_eq!(gate.operators("/metrics").status, 200);
}

/// A connection that asks for more than there is room for on the way, and takes nothing of it.
async fn takes_nothing(gate: &Gate) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("there are sockets");
    socket.set_recv_buffer_size(4096).expect("a small buffer is allowed");
    let stream = socket.connect(gate.admin).await.expect("the gate listens").into_std().expect("it is open");
    let requests = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    (&stream).write_all(requests.as_bytes()).expect("so little has room on the way");
    stream
}

/// Whether the other side has not reset it yet.
fn stands(mut stream: &TcpStream) -> bool {
    stream.write_all(b"G").is_ok()
}

fn yard() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    (stage, gate)
}
