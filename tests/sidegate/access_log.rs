//! The access log as its reader sees it: how much of it there is, what a line tells, how it looks on a terminal, and that nobody
//! waits for a reader that sleeps.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{
    AnswerTo as _, Gate, Stage,
    client::{exchange, raw},
    gate::{Lines, on_terminal, sidegate},
    redis::sha256,
    until,
};

#[tokio::test]
async fn of_what_passes_the_configured_share_is_logged_and_of_what_does_not_everything() {
    let stage = Stage::set();
    for (sample, passed) in [("0.25", 10), ("0", 0), ("1", 40)] {
        let gate = stage.gate(&format!(
            "log: {{sample: {sample}}}\nupstreams: {{default: '${{UPSTREAM_URL}}', dead: 'http://127.0.0.1:1'}}\n\
             routes: {{/public: public, /keyed: any, /dead: {{public: true, upstream: dead}}}}"
        ));
        for _ in 0..10 {
            for (path, status) in [("/public", 200), ("/keyed", 401), ("/dead", 502), ("/nowhere", 404)] {
                assert_eq!(gate.get(path).answer().await.status, status);
            }
        }
        for _ in 0..30 {
            assert_eq!(gate.get("/public").answer().await.status, 200);
        }
        gate.logged(gate.get("/last").answer().await.header("x-request-id").expect("every answer has one"));
        let written = gate.written();
        let lines = |path: &str| written.matches(&format!("\"url.path\":\"{path}\"")).count();
        assert_eq!(["/public", "/keyed", "/dead", "/nowhere"].map(lines), [passed, 10, 10, 10], "sample {sample}");
    }
}

#[tokio::test]
async fn a_line_names_what_was_wrong_with_the_store() {
    let mut stage = Stage::set();
    let gate = stage.gate(
        "workers: 1\nstore: {redis: '${REDIS_URL}', deadline: 3s, outage: {keys: deny, limits: deny}}\n\
         limits: {each: {by: key, windows: 1000/1h}}\nroutes: {/things: {any: true, limits: [each]}}",
    );
    let key = stage.redis.mint(json!({"business": "acme"}));
    let line = async |status: u16| {
        let answer = gate.get("/things").bearer_auth(&key.text).answer().await;
        assert_eq!(answer.status, status);
        gate.logged(answer.header("x-request-id").expect("every answer has one"))["sidegate.store_error"].clone()
    };
    assert_eq!(line(200).await, Value::Null);
    stage.redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(line(503).await, "oom");
    stage.redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    stage.redis.ask::<()>(&["ACL", "SETUSER", "default", "-evalsha"]);
    assert_eq!(line(503).await, "noperm");
    stage.redis.ask::<()>(&["ACL", "SETUSER", "default", "+evalsha"]);
    stage.redis.set(&key.document(), "no json");
    assert_eq!(line(503).await, "broken");
    stage.redis.signal("STOP");
    assert_eq!(line(503).await, "deadline");
    stage.redis.signal("CONT");
    stage.redis.stop();
    until("the breaker to open", || {
        gate.raw("GET", "/things", &[format!("X-API-Key: {}", key.text).as_bytes()]);
        (gate.metric("sidegate_store_breaker_open", &[]) > 0.0).then_some(())
    });
    assert_eq!(line(503).await, "breaker_open");
    assert!(gate.written().contains("\"sidegate.store_error\":\"unreachable\""), "before that it was tried");
}

#[tokio::test]
async fn a_line_tells_where_the_time_went_and_which_limit_was_nearest() {
    let stage = Stage::set();
    let gate = stage.gate(
        "limits: {wide: {by: key, windows: 1000/1h}, per-business: {by: business, windows: [5/1h, 100/1d]}}\n\
         routes: {/things: {any: true, limits: [wide, per-business]}, /public: public}",
    );
    let key = stage.redis.mint(json!({"business": "acme"}));
    let line = async |path: &str| {
        let answer = gate.get(path).bearer_auth(&key.text).answer().await;
        gate.logged(answer.header("x-request-id").expect("every answer has one"))
    };
    stage.redis.room(3_600_000, 30_000);
    let things = line("/things").await;
    let milliseconds = |line: &Value, name: &str| line[name].as_f64().unwrap_or_else(|| panic!("no {name} in {line}"));
    let [whole, gate_took, store, upstream] = [
        "sidegate.duration_ms",
        "sidegate.gate.duration_ms",
        "sidegate.store.duration_ms",
        "sidegate.upstream.duration_ms",
    ]
    .map(|name| milliseconds(&things, name));
    // Each is cut to whole microseconds.
    assert!(store <= gate_took + 0.001 && gate_took + upstream <= whole + 0.002, "{things}");
    for (name, told) in [
        ("sidegate.limit", json!("per-business-1h")),
        ("sidegate.limit.remaining", json!(4)),
        ("sidegate.key_id", json!(key.id)),
        ("sidegate.business", json!("acme")),
        ("sidegate.decision", json!("allowed")),
        ("http.route", json!("/things")),
        ("http.request.method", json!("GET")),
        ("http.response.status_code", json!(200)),
        ("client.address", json!("127.0.0.1")),
    ] {
        assert_eq!(things[name], told, "{name} in {things}");
    }
    // What was not asked took no time, and no limit was near.
    let public = line("/public").await;
    milliseconds(&public, "sidegate.upstream.duration_ms");
    for name in ["sidegate.store.duration_ms", "sidegate.limit", "sidegate.key_id", "sidegate.reason"] {
        assert_eq!(public[name], Value::Null, "{name} in {public}");
    }
    let nowhere = line("/nowhere").await;
    assert_eq!((&nowhere["sidegate.reason"], &nowhere["http.route"]), (&json!("route_not_found"), &json!("none")));
    assert_eq!(nowhere["sidegate.upstream.duration_ms"], Value::Null, "{nowhere}");
}

#[tokio::test]
async fn the_line_of_a_denial_has_what_support_asks_for() {
    let stage = Stage::set();
    let denied = "limits: {per-key: {by: key, windows: [20/1s, 2/1h]}}\nscopes: {implies: {admin: [b]}}\n\
        routes: {/things: {any: true, limits: [per-key]}, /all: {scopes: [a, b, c]}, /one: {any_scope: [c, d]}}";
    for (mode, statuses) in [("enforce", [429, 403, 403, 401]), ("observe", [200; 4])] {
        let gate = stage.gate(&format!("mode: {mode}\n{denied}"));
        let key = stage.redis.mint(json!({"business": mode, "scopes": ["a", "admin"]}));
        let line = async |path: &str, key: &str, status: u16| {
            let answer = gate.get(path).bearer_auth(key).answer().await;
            assert_eq!(answer.status, status, "{mode} {path}: {answer:?}");
            let retry_after = answer.header("retry-after").map(|_| answer.number("retry-after"));
            let line = gate.logged(answer.header("x-request-id").expect("every answer has one"));
            assert_eq!(line["sidegate.retry_after"], json!(retry_after), "{line}");
            line
        };
        let told = |line: &Value| {
            ["reason", "limit.window", "missing_scope", "key_digest"]
                .map(|name| line[format!("sidegate.{name}")].clone())
        };
        let nothing = || json!(null);
        stage.redis.room(3_600_000, 30_000);
        for _ in 0..2 {
            assert_eq!(told(&line("/things", &key.text, 200).await), [nothing(), nothing(), nothing(), nothing()]);
        }
        let [limited, all, one, unknown] = statuses;
        let limited = line("/things", &key.text, limited).await;
        assert_eq!(told(&limited), [json!("rate_limited"), json!("2/1h"), nothing(), nothing()], "{limited}");
        let all = line("/all", &key.text, all).await;
        assert_eq!(told(&all), [json!("insufficient_scope"), nothing(), json!("c"), nothing()], "{all}");
        let one = line("/one", &key.text, one).await;
        assert_eq!(told(&one), [json!("insufficient_scope"), nothing(), json!("c d"), nothing()], "{one}");
        let unknown = line("/things", "sg_never_minted", unknown).await;
        let digest = json!(&sha256("sg_never_minted")[..8]);
        assert_eq!(told(&unknown), [json!("unknown_key"), nothing(), nothing(), digest], "{unknown}");
    }
}

/// A pipe that is full, and a queue behind it: from then on lines are lost, and counted, and nothing else happens.
#[tokio::test]
async fn a_reader_that_sleeps_holds_no_request_up_and_what_is_lost_is_counted() {
    let stage = Stage::set();
    let mut gate = Gate::unheard(&crate::support::whole("routes: {/public: public}"), stage.environment()).ready();
    let asked = fill(&gate);
    gate.hear();
    until("every line to be written or counted as lost", || {
        let written = gate.written();
        let lines = written.lines().filter(|line| line.contains("url.path")).count();
        (lines + dropped(&gate) == asked).then_some(())
    });
    for line in gate.written().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    }
    let before = dropped(&gate);
    gate.logged(raw(gate.address, "GET", "/afterwards", &[]).header("x-request-id").expect("every answer has one"));
    assert_eq!(dropped(&gate), before);
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let stage = Stage::set();
    let yaml = crate::support::whole("drain: {delay: 0s}\nroutes: {/public: public}");
    let mut gate = Gate::unheard(&yaml, stage.environment()).ready();
    fill(&gate);
    gate.terminate();
    assert!(gate.ended().success());
}

#[tokio::test]
async fn on_a_terminal_a_request_is_a_line_of_text() {
    let stage = Stage::set();
    let terminal = Terminal::start(&stage, "drain: {delay: 0s}\nroutes: {/public: public}");
    let answer = raw(terminal.address, "GET", "/nowhere", &[]);
    assert_eq!(answer.status, 404);
    let line = terminal.written.find("/no", |line| line.contains("GET /no").then(|| line.trim_end().to_owned()));
    let id = answer.header("x-request-id").expect("every answer has one");
    assert!(line.contains(" GET /nowhere 404 route_not_found "), "{line:?}");
    assert!(line.contains(" client=127.0.0.1 ") && line.contains(&format!(" id={id}")), "{line:?}");
    assert!(!line.contains(|c: char| c.is_ascii_control()), "{line:?}");
}

/// Asks until lines are lost; how often. Every request is answered.
fn fill(gate: &Gate) -> usize {
    const AT_ONCE: usize = 1000;
    let request = "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = "GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let pipelined = request.repeat(AT_ONCE - 1) + last;
    let mut asked = 0;
    until("lines to be lost", || {
        let answers = exchange(gate.address, pipelined.as_bytes());
        assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 404 ").count(), AT_ONCE);
        asked += AT_ONCE;
        (dropped(gate) > 0).then_some(asked)
    })
}

fn dropped(gate: &Gate) -> usize {
    gate.metric("sidegate_log_lines_dropped_total", &[r#"log="access""#]) as usize
}

/// A gate whose standard output and error are a terminal.
struct Terminal {
    script: Child,
    gate: String,
    address: std::net::SocketAddr,
    written: Lines,
    _folder: tempfile::TempDir,
}

impl Terminal {
    fn start(stage: &Stage, yaml: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::write(folder.path().join("sidegate.yaml"), crate::support::whole(yaml))
            .expect("the folder is writable");
        // The shell tells its id and becomes the gate.
        let gate = sidegate(&[], &stage.environment());
        let shell = format!("echo pid=$$.; exec '{}' run --config sidegate.yaml", gate.get_program().display());
        let mut script = on_terminal(&shell, &gate)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("script: {error}; install it with `apt-get install bsdutils`"));
        let written = Lines::of(script.stdout.take().expect("it is piped"));
        let between = |line: &str, start: &str, end: &[char]| {
            Some(line.split_once(start)?.1.split(end).next().unwrap_or_default().to_owned())
        };
        let gate = written.find("pid=", |line| between(line, "pid=", &['.']));
        let port = written.find("listening", |line| {
            let of_clients = line.contains("listening") && !line.contains("operators");
            between(line, "127.0.0.1:", &[' ', '\u{1b}', '\r']).filter(|_| of_clients)
        });
        let port = port.parse().unwrap_or_else(|_| panic!("{port:?} is no port"));
        Self { script, gate, address: ([127, 0, 0, 1], port).into(), written, _folder: folder }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that goes away is a hangup, at which a gate reloads: it is told to end.
        let _ = Command::new("kill").args(["-TERM", &self.gate]).status();
        let _ = self.script.wait();
    }
}
