//! Logs and metrics under hostile input: one request is one JSON line, no key is shown, no stranger makes a series.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{
    AnswerTo as _, Gate, Stage,
    client::exchange,
    h2::{self, Field},
};

const YAML: &str = "
keys: {formats: [{prefix: mark_, length: 43}]}
log: {level: trace}
routes: {/things/**: any, /public/**: public, /guarded: admin}
";

/// Log injection (CWE-117): line ends, escapes and quotes of a client stay within one document.
#[tokio::test]
async fn whatever_stands_in_path_agent_or_host_is_one_json_line() {
    let (_stage, gate) = yard();
    let nasty: [&[u8]; 8] =
        [b"\"", b"\\", b"\"}\\n{\"a\":\"b", b"\x1b[31m", b"\xc2\x85", b"\xe2\x80\xa8", b"\xff\xfe", b"%0d%0a{\"x\":1}"];
    let mut asked = 0;
    for text in nasty {
        for (target, headers) in [
            ([b"/public/x", text].concat(), vec![]),
            (b"/public/x".to_vec(), vec![[b"User-Agent: ", text].concat()]),
            (b"/public/x".to_vec(), vec![[b"X-Request-Id: ", text].concat(), [b"Referer: ", text].concat()]),
        ] {
            let lines: Vec<u8> = headers.into_iter().flat_map(|line| [line, b"\r\n".to_vec()].concat()).collect();
            let head = [b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"].concat();
            let request = [head, lines, b"\r\n".to_vec()].concat();
            asked += usize::from(
                exchange(gate.address, &request).windows(13).any(|w| w.eq_ignore_ascii_case(b"x-request-id:")),
            );
        }
    }
    for value in [&b"a\r\n{\"x\":1}"[..], b"a\x1b[31m", b"a\"b"] {
        let fields: [Field<'_>; 5] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/public/x"),
            (b":authority", b"a"),
            (b"user-agent", value),
        ];
        h2::exchange(gate.address, &fields, b"", None);
    }
    settle(&gate);
    let written = gate.written();
    let lines: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
        .collect();
    assert!(lines.iter().filter(|line| line.get("url.path").is_some()).count() >= asked);
    assert!(lines.iter().all(|line| line.get("x").is_none() && line.get("a").is_none()));
    assert!(!written.contains(['\u{1b}', '\r']), "a control character is not escaped");
}

#[tokio::test]
async fn ten_thousand_strangers_make_no_series() {
    let (_stage, gate) = yard();
    let series = || -> BTreeSet<String> {
        let page = gate.operators("/metrics").text();
        page.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
            .collect()
    };
    let request = |i: usize| {
        let method = ["GET", "POST", "BREW", "PROPFIND", "X"][i % 5];
        let path = ["/random", "/things/random", "/public/random", "/guarded", "/things"][i / 5 % 5];
        let key = ["X-API-Key: mark_", "Authorization: Bearer ", "Authorization: Basic ", "X-Other: "][i / 25 % 4];
        let own = if i.is_multiple_of(7) { i.to_string() } else { String::new() };
        format!("{method}{own} {path}{i}?a={i} HTTP/1.1\r\nHost: h{i}\r\nUser-Agent: {i}\r\n{key}{i}\r\n\r\n")
    };
    // Each kind once, so that what the first of a kind makes is there.
    (0..700).for_each(|i| drop(pipelined(&gate, &[request(i)])));
    let before = series();
    let requests: Vec<String> = (700..10_700).map(request).collect();
    requests.chunks(20).for_each(|some| drop(pipelined(&gate, some)));
    let grown: Vec<String> = series().difference(&before).cloned().collect();
    assert_eq!(grown, Vec::<String>::new());
}

/// Of 150 businesses a hundred have series of their own. A key that belongs to no business may name any: what it names and does
/// not own is a stranger's text, however the request ends.
#[tokio::test]
async fn businesses_have_series_up_to_a_hundred_and_strangers_cannot_name_any() {
    let stage = Stage::set();
    let gate = stage.gate(
        "limits: {l: {by: business, windows: 9/1h}}\nbusiness: {from: [{query: b}]}\nkeys: {guessing: 100000/1m}\n\
         routes: {/a: {any: true, limits: [l]}, /b: any}",
    );
    let stranger = |document: Value| {
        let mut whole = json!({"business": null, "user": "u_1"});
        whole.as_object_mut().expect("an object").extend(document.as_object().cloned().expect("an object"));
        stage.redis.mint(whole).text
    };
    let strangers = [
        stranger(json!({})),
        stranger(json!({"revoked_at": "2026-01-01T00:00:00Z"})),
        stranger(json!({"expires_at": "2026-01-01T00:00:00Z"})),
        stranger(json!({"allow_addresses": ["192.0.2.1"]})),
    ];
    for i in 0..60 {
        for path in ["/a", "/b"] {
            let key = &strangers[i % strangers.len()];
            let answer = gate.get(&format!("{path}?b=mine-{i}")).bearer_auth(key).answer().await;
            assert_eq!(answer.status, [403, 401, 401, 403][i % strangers.len()], "{}", answer.text());
        }
    }
    stage.redis.own("u_1", "owned");
    assert_eq!(gate.get("/a?b=owned").bearer_auth(&strangers[0]).answer().await.status, 200);
    for i in 0..150 {
        let key = stage.redis.mint(json!({"business": format!("b{i}")})).text;
        assert_eq!(gate.get("/a").bearer_auth(&key).answer().await.status, 200);
    }
    let page = gate.operators("/metrics").text();
    assert!(!page.contains("mine-"), "a name that a client made up is a label");
    for (name, each) in [("sidegate_business_requests_total{", 4), ("sidegate_limit_used_ratio{", 1)] {
        let series: Vec<&str> = page.lines().filter(|line| line.starts_with(name)).collect();
        assert_eq!(series.len(), 101 * each, "{name}: {series:#?}");
    }
    let others = [r#"business="other""#, r#"decision="allowed""#];
    assert!((gate.metric("sidegate_business_requests_total", &others) - 51.0).abs() < f64::EPSILON);
    assert!((gate.metric("sidegate_business_requests_total", &[r#"business="owned""#]) - 1.0).abs() < f64::EPSILON);
}

/// What is counted from an event on has no rate until the second: so everything that can be known is there with 0.
#[tokio::test]
async fn every_series_that_can_be_known_is_there_from_the_start() {
    let (_stage, gate) = yard();
    let page = gate.operators("/metrics").text();
    let series = |start: &str| page.lines().filter(|line| line.starts_with(start)).count();
    for (start, least) in [
        (r#"sidegate_requests_total{decision="allowed",route="/guarded",status="200"} 0"#, 1),
        (r#"sidegate_requests_total{decision="denied",route="/guarded",status="403"} 0"#, 1),
        (r#"sidegate_requests_total{decision="failed",route="/guarded",status="503"} 0"#, 1),
        (r#"sidegate_requests_total{decision="denied",route="none",status="404"} 0"#, 1),
        (r#"sidegate_denials_total{reason="rate_limited",route="/things/**"} 0"#, 1),
        (r#"sidegate_business_requests_total{business="other",decision="denied"} 0"#, 1),
        (r#"sidegate_limit_fallbacks_total{outage="local"} 0"#, 1),
        (r#"sidegate_store_calls_total{op="decide""#, 6),
        ("sidegate_connections_refused_total 0", 1),
        ("sidegate_config_last_reload_successful 1", 1),
        (r#"sidegate_log_lines_dropped_total{log="access"} 0"#, 1),
        (r#"sidegate_log_lines_dropped_total{log="process"} 0"#, 1),
        ("sidegate_accept_errors_total 0", 1),
    ] {
        assert!(series(start) >= least, "no {start} in\n{page}");
    }
}

/// At trace level, through every door that a request has, good and unknown, whole and broken.
#[tokio::test]
async fn a_marked_key_is_shown_nowhere() {
    let (stage, gate) = yard();
    let good = stage.redis.mint_as(&format!("mark_{}", "k".repeat(43)), json!({"business": "acme"})).text;
    let unknown = format!("mark_{}", "u".repeat(43));
    let mut said = String::new();
    for key in [&good, &unknown] {
        let doors = [
            format!("GET /things/{key} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}"),
            format!("GET /nowhere/{key} HTTP/1.1\r\nHost: a"),
            format!("GET /public/..%2f{key} HTTP/1.1\r\nHost: a"),
            format!("GET /things/x?key={key} HTTP/1.1\r\nHost: a"),
            format!("{key} /things/x HTTP/1.1\r\nHost: a"),
            format!("GET /things/x HTTP/1.1\r\nHost: {key}"),
            format!("GET /things/x HTTP/1.1\r\nHost: {key}@a"),
            format!("GET http://{key}/things/x HTTP/1.1\r\nHost: a"),
            format!("GET /things/x HTTP/1.1\r\nHost: a\r\n{key}: 1"),
            format!("GET /things/x HTTP/1.1\r\nHost: a\r\n{key}"),
            format!("GET /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nX-API-Key: {key}"),
            format!("GET /things/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}, Bearer {key}"),
            format!("GET /things/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer  {key}"),
            format!("GET /things/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}x"),
            format!("GET /things/x HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {key}"),
            format!("GET /things/x HTTP/1.1\r\nHost: a\r\nCookie: k={key}\r\nUser-Agent: {key}\r\nReferer: {key}"),
            format!("GET /guarded HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nX-Request-Id: {key}"),
            format!(
                "GET /things/x HTTP/1.1\r\nHost: a\r\nTraceparent: 00-{key}-00f067aa0ba902b7-01\r\nTracestate: a={key}"
            ),
            format!("POST /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nTransfer-Encoding: {key}"),
            format!("POST /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: {key}"),
            format!("TRACE /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}"),
            format!("CONNECT {key}:443 HTTP/1.1\r\nHost: a"),
        ];
        for door in doors {
            let answer = exchange(gate.address, format!("{door}\r\nConnection: close\r\n\r\n").as_bytes());
            // The upstream of these tests echoes what it was sent; the gate's own words must not.
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                said.push_str(&String::from_utf8_lossy(&answer));
            }
        }
        let fields: [Field<'_>; 5] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/things/x"),
            (b":authority", key.as_bytes()),
            (b"x-api-key", key.as_bytes()),
        ];
        h2::exchange(gate.address, &fields, b"", None);
    }
    settle(&gate);
    let shown = gate.written() + &gate.operators("/metrics").text() + &said;
    for key in [good, unknown] {
        let place = shown.find(&key).map(|at| shown[at.saturating_sub(200)..].chars().take(300).collect::<String>());
        assert_eq!(place, None, "a key is shown");
    }
}

/// The line of a last request is written: so are those before it.
fn settle(gate: &Gate) {
    let last = gate.raw("GET", "/public/last", &[]);
    gate.logged(last.header("x-request-id").unwrap_or_default());
}

fn pipelined(gate: &Gate, requests: &[String]) -> Vec<u8> {
    let last = "GET /public/end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    exchange(gate.address, (requests.concat() + last).as_bytes())
}

fn yard() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    (stage, gate)
}
