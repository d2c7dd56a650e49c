//! What access logs tell afterwards: what enforcement would have refused, and what the routes do not cover.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{
    Stage,
    gate::{on_config, sidegate, text},
};

/// A gate's line of the log.
fn line(second: u32, what: &str, route: &str, decision: &str, more: &Value) -> String {
    let (method, path) = what.split_once(' ').expect("a method and a path");
    let mut line = json!({
        "timestamp": format!("2026-03-23T14:{:02}:{:02}.000Z", second / 60, second % 60),
        "http.request.method": method, "url.path": path, "http.route": route, "http.response.status_code": 200,
        "client.address": "192.0.2.1", "sidegate.request_id": "r", "sidegate.decision": decision,
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        line[name] = value.clone();
    }
    format!("{line}\n")
}

/// A log of a gate that observes: 10 allowed, 6 without a key from 3 clients, 3 without a route, 2 beyond a scope.
fn observed() -> String {
    let mut log = String::new();
    (0..10).for_each(|i| {
        log += &line(i, "GET /v1/contacts", "GET /v1/contacts", "allowed", &json!({"sidegate.key_id": "k1"}))
    });
    (10..16).for_each(|i| {
        let client = format!("192.0.2.{}", i % 3);
        let more = json!({"client.address": client, "sidegate.reason": "missing_key"});
        log += &line(i, "GET /v1/contacts", "GET /v1/contacts", "observed", &more);
    });
    (16..19).for_each(|i| {
        log += &line(i, &format!("POST /old/{i}"), "none", "observed", &json!({"sidegate.reason": "route_not_found"}));
    });
    (19..21).for_each(|i| {
        let more = json!({"sidegate.key_id": "k2", "sidegate.reason": "insufficient_scope"});
        log += &line(i, "DELETE /v1/contacts", "/v1/contacts", "observed", &more);
    });
    log + "{\"level\":\"INFO\",\"message\":\"listening\"}\nnot a line\n"
}

/// What the command prints with this on standard input.
fn told(arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("access.log");
    std::fs::write(&file, input).expect("the folder is writable");
    let log = std::fs::File::open(&file).expect("it was just written");
    let output = sidegate(arguments, &[]).stdin(log).output().expect("the binary was built");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn report(arguments: &[&str], input: &str) -> Value {
    let (code, said) = told(&[&["report", "--json"], arguments].concat(), input);
    assert_eq!(code, Some(0), "{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn a_report_says_what_enforcement_would_have_refused() {
    let told = report(&[], &observed());
    assert_eq!((&told["requests"], &told["foreign_lines"]), (&json!(21), &json!(2)));
    assert_eq!(json!([told["allowed"], told["observed"], told["denied"], told["failed"]]), json!([10, 11, 0, 0]));
    assert_eq!((&told["from"], &told["to"]), (&json!("2026-03-23T14:00:00Z"), &json!("2026-03-23T14:00:20Z")));
    assert_eq!(
        told["routes"]["rows"][0],
        json!({
            "route": "GET /v1/contacts", "observed": 6, "denied": 0, "clients": 3, "more_clients": false,
            "first": "2026-03-23T14:00:10Z", "last": "2026-03-23T14:00:15Z", "example": "GET /v1/contacts",
        })
    );
    assert_eq!(told["keys"]["rows"][0]["key_id"], "k2");
    assert_eq!(told["without_key"]["total"], 3);
    let reasons: Vec<_> =
        told["reasons"]["rows"].as_array().expect("a list").iter().map(|row| &row["reason"]).collect();
    assert_eq!(reasons, ["missing_key", "route_not_found", "insufficient_scope"]);
    assert_eq!(told["next"][1]["places"]["rows"][0]["place"], "POST /old/{…}");
    assert!(told["next"][0]["advice"].as_str().is_some_and(|advice| advice.contains("keys create")));
    assert_eq!(report(&["--top", "1"], &observed())["reasons"]["rows"].as_array().map(Vec::len), Some(1));
    let some = report(&["--since", "2026-03-23T14:00:16Z", "--until", "2026-03-23T16:00:19+02:00"], &observed());
    assert_eq!((&some["requests"], &some["outside"]), (&json!(3), &json!(18)));
    assert_eq!(report(&["--since", "1h"], &observed())["requests"], 0);
}

#[test]
fn a_report_says_why_requests_failed() {
    let mut log = observed();
    (30..33).for_each(|i| {
        let more = json!({"sidegate.reason": "upstream_unreachable", "client.address": format!("192.0.2.{i}")});
        log += &line(i, "GET /v1/contacts", "GET /v1/contacts", "failed", &more);
    });
    let told = report(&[], &log);
    assert_eq!((&told["failed"], &told["failures"]["total"]), (&json!(3), &json!(1)));
    let row = &told["failures"]["rows"][0];
    assert_eq!(json!([row["reason"], row["failed"], row["clients"]]), json!(["upstream_unreachable", 3, 3]));
    let mut refused = told["reasons"]["rows"].as_array().into_iter().flatten();
    assert!(refused.all(|row| row["reason"] != "upstream_unreachable"), "a failure is no refusal: {told}");
    let next = told["next"].as_array().into_iter().flatten().find(|next| next["reason"] == "upstream_unreachable");
    assert!(
        next.is_some_and(|next| next["advice"].as_str().is_some_and(|advice| advice.contains("the service failed")))
    );
    let (_, said) = self::told(&["report"], &log);
    assert!(said.contains("Failed, by reason") && said.contains("upstream_unreachable: the service failed"), "{said}");
}

#[test]
fn a_report_is_for_people_and_shows_nobodys_escapes() {
    let hostile = line(
        21,
        "GET /x\u{1b}[2J",
        "none",
        "denied",
        &json!({"sidegate.reason": "bad\u{1b}]0;path", "client.address": "\u{7}"}),
    );
    let (code, said) = told(&["report"], &(observed() + &hostile));
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "22 requests, 2026-03-23T14:00:00Z to 2026-03-23T14:00:21Z",
        "11  observed let pass; enforcement refuses them",
        "By route",
        "Without a known key, by address",
        "missing_key: give these callers keys",
        "  GET /v1/contacts: 6 requests from 3 clients",
        "  POST /old/{…}: 3 requests from 1 client",
        "2 lines that sidegate's access log did not write",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert!(!said.contains(['\u{1b}', '\u{7}']), "{said:?}");
    assert_eq!(told(&["report", "--since", "yesterday"], "").0, Some(2));
    assert_eq!(told(&["report", "/nowhere.log"], "").0, Some(1));
}

/// A log of a gate that enforces: a key of acme that was allowed four times and refused twice by its limit, another of acme that
/// was revoked, and one of nobody's business.
fn disputed() -> String {
    let of = |key: &str, more: Value| {
        let mut members = json!({"sidegate.key_id": key, "user_agent.original": "curl/8"});
        members.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
        members
    };
    let mut log = String::new();
    (0..4).for_each(|i| {
        let more =
            json!({"sidegate.business": "acme", "sidegate.limit": "per-key-1m", "sidegate.limit.remaining": 3 - i});
        log += &line(i, "GET /v1/contacts", "GET /v1/contacts", "allowed", &of("k1", more));
    });
    for (second, id) in [(4, "r-4"), (65, "r-65")] {
        let more = json!({
            "sidegate.business": "acme", "sidegate.limit": "per-key-1m", "sidegate.limit.remaining": 0,
            "sidegate.reason": "rate_limited", "http.response.status_code": 429, "sidegate.request_id": id,
            "client.address": "192.0.2.7", "sidegate.duration_ms": 1.5, "sidegate.store.duration_ms": 0.5,
        });
        log += &line(second, "GET /v1/contacts", "GET /v1/contacts", "denied", &of("k1", more));
    }
    let more = json!({"sidegate.business": "acme", "sidegate.reason": "revoked_key"});
    log += &line(66, "GET /v1/contacts", "GET /v1/contacts", "denied", &of("k2", more));
    log + &line(67, "GET /v1/contacts", "GET /v1/contacts", "allowed", &of("k3", json!({})))
}

#[test]
fn a_report_names_the_keys_limits_and_addresses_of_refusals() {
    let (_, said) = told(&["report"], &(observed() + &disputed()));
    for part in [
        "  from key k1 of acme, limit per-key-1m: 2 requests",
        "  from key k2 of acme: 1 request",
        "  from 192.0.2.1: 2 requests",
        "give them a new one (`sidegate keys create`)",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert!(!said.contains("keys rotate"), "a revoked key cannot be rotated:\n{said}");
    let next = &report(&[], &disputed())["next"][0];
    let caller = &next["callers"]["rows"][0];
    assert_eq!((&next["reason"], &caller["denied"]), (&json!("rate_limited"), &json!(2)));
    assert_eq!(caller["caller"], "key k1 of acme, limit per-key-1m");
}

#[test]
fn a_report_tells_of_one_key_or_business_what_it_was_allowed_and_refused() {
    let of_key = report(&["--key", "k1"], &disputed());
    assert_eq!(json!([of_key["requests"], of_key["allowed"], of_key["refused"]]), json!([6, 4, 2]));
    assert_eq!(
        of_key["minutes"]["rows"],
        json!([
            {"minute": "2026-03-23T14:00:00Z", "allowed": 4, "refused": 1, "failed": 0},
            {"minute": "2026-03-23T14:01:00Z", "allowed": 0, "refused": 1, "failed": 0},
        ])
    );
    assert_eq!(of_key["days"]["rows"][0]["day"], "2026-03-23");
    assert_eq!(of_key["limits"]["rows"], json!([{"limit": "per-key-1m", "allowed": 0, "refused": 2, "failed": 0}]));
    assert_eq!(of_key["clients"]["rows"][0], json!({"client": "192.0.2.7", "allowed": 0, "refused": 2, "failed": 0}));
    assert_eq!((&of_key["agents"]["rows"][0]["agent"], &of_key["keys"]["total"]), (&json!("curl/8"), &json!(1)));
    let of_business = report(&["--business", "acme"], &disputed());
    assert_eq!((&of_business["requests"], &of_business["keys"]["total"]), (&json!(7), &json!(2)));
    assert_eq!(report(&["--key", "k2", "--business", "acme"], &disputed())["refused"], 1);
    assert_eq!(report(&["--key", "k1", "--since", "2026-03-23T14:01:00Z"], &disputed())["requests"], 1);
    assert_eq!(report(&["--key", "nobody"], &disputed())["requests"], 0);

    let (code, said) = told(&["report", "--key", "k1"], &disputed());
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "key k1: 6 requests",
        "4  allowed",
        "By minute",
        "By limit that refused",
        "rate_limited",
        "By address",
        "By agent",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    let whole_key = format!("sg_{}", "a".repeat(43));
    let (code, said) = told(&["report", "--key", &whole_key], &disputed());
    assert!(code == Some(2) && said.contains("looks like a whole key") && !said.contains(&whole_key), "{said}");
}

#[test]
fn one_request_is_reported_by_its_id() {
    let (code, said) = told(&["report", "--request-id", "r-65"], &disputed());
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "GET /v1/contacts from 192.0.2.7 at 2026-03-23T14:01:05Z",
        "429, refused: rate_limited",
        "raise the limit",
        "key       k1",
        "business  acme",
        "per-key-1m, of which 0 is left",
        "1.5 ms, of them 0.5 ms of the store",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert_eq!(report(&["--request-id", "r-4"], &disputed())["reason"], "rate_limited");
    let (code, said) = told(&["report", "--request-id", "r-9"], &disputed());
    assert!(code == Some(1) && said.contains("no line has this request id"), "{said}");
}

#[test]
fn a_report_of_a_sample_says_that_it_is_one() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("gate.yaml");
    let yaml = "listen: 127.0.0.1:0\nupstream: http://h\nstore: redis://h\nlog: {sample: 0.1}\nroutes: {/a: any}\n";
    std::fs::write(&file, yaml).expect("the folder is writable");
    let (_, said) = told(&["report", "--config", file.to_str().expect("it is UTF-8")], &observed());
    assert!(said.contains("of allowed requests a share of 0.1 stands in it"), "{said}");
}

#[test]
fn a_gates_own_log_is_reported() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {GET /things/**: any, /public: public}");
    for (path, status) in [("/things/1", 401), ("/nowhere/12345", 404), ("/public", 200), ("/nowhere/678910", 404)] {
        assert_eq!(gate.raw("GET", path, &[]).status, status);
    }
    gate.logged("/nowhere/678910");
    let log = gate.written();
    let told = report(&[], &log);
    assert_eq!(json!([told["allowed"], told["denied"]]), json!([1, 3]), "{log}");
    assert_eq!(told["next"][0]["places"]["rows"][0]["place"], "GET /nowhere/{…}");
    assert_eq!(told["next"][0]["places"]["rows"][0]["denied"], 2);

    let checked = gate.command_reading(&["check", "--log", "-"], &log);
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(text(&checked.stdout), "GET /nowhere/{…} is not covered (404): 2 requests, such as /nowhere/12345\n");
}

const ROUTES: &str = "
listen: 127.0.0.1:0
upstream: http://127.0.0.1:3000
store: redis://127.0.0.1:6379/0
base_path: /api
cors: {origins: ['https://app.example.com'], preflight: forward}
management: {path: /v1/keys, session: 'http://127.0.0.1:3000/session', roles: [admin]}
routes:
  GET /v1/calls/{id}: any
  POST /v1/calls: any
  /v1/stale: any
";

#[test]
fn a_log_of_another_server_is_checked_against_the_routes() {
    let mut log = String::new();
    for (request, status, times) in [
        ("GET /api/v1/calls/7?x=1 HTTP/1.1", 200, 3),
        ("HEAD http://h/api/v1/calls/7 HTTP/1.1", 200, 1),
        ("OPTIONS /api/v1/calls HTTP/1.1", 204, 1),
        ("POST /api/v1/keys HTTP/1.1", 201, 1),
        ("DELETE /api/v1/calls/4bf92f35-77b3-4da6-a3ce-929d0e0e4736 HTTP/1.1", 204, 2),
        ("GET /api/v1/users/10293/photo HTTP/1.1", 200, 4),
        ("GET /api/v1/users/88/photo HTTP/1.1", 200, 4),
        ("GET /api//v1/calls/7 HTTP/1.1", 301, 1),
        ("GET /wp-login.php HTTP/1.1", 404, 9),
        ("-", 400, 1),
    ] {
        for _ in 0..times {
            let _ = writeln!(log, r#"192.0.2.1 - ana [23/Mar/2026:14:30:00 +0000] "{request}" {status} 12 "-" "curl""#);
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("access.log");
    std::fs::write(&file, &log).expect("the folder is writable");
    let file = file.to_str().expect("its name is UTF-8");
    let output = on_config(ROUTES, &["check", "--log", file], &[]);
    let (said, aside) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}{aside}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "GET /api/v1/users/{…}/photo is not covered (404): 8 requests, such as /api/v1/users/10293/photo",
            "DELETE /api/v1/calls/{…} is not covered (405): 2 requests, such as /api/v1/calls/4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
            "GET /api//v1/calls/{…} is refused with 400: 1 request, such as /api//v1/calls/7",
            "route `POST /v1/calls` is not in the log",
            "route `/v1/stale` is not in the log",
        ]
    );
    assert!(
        aside.contains("left out: 9 requests to paths that no route covers, answered 404 before as well"),
        "{aside}"
    );
    assert!(aside.contains("left out: 1 line that no access log has"), "{aside}");
}

/// A log holds whatever its clients have sent: paths that differ beyond what is kept of them are one kind of path.
#[test]
fn of_a_long_path_its_beginning_is_kept() {
    let log: String = ["x", "y"]
        .map(|end| format!("192.0.2.1 - - [x] \"GET {}/{end} HTTP/1.1\" 200 1\n", "/abcdefgh".repeat(1000)))
        .concat();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("access.log");
    std::fs::write(&file, &log).expect("the folder is writable");
    let output = on_config(ROUTES, &["check", "--log", file.to_str().expect("its name is UTF-8")], &[]);
    let said = text(&output.stdout);
    let first = said.lines().next().unwrap_or_default();
    assert_eq!(first.len(), "GET  is not covered (404): 2 requests".len() + 200, "{first}");
    assert!(first.ends_with("/a is not covered (404): 2 requests"), "{first}");
}

#[test]
fn a_log_that_the_routes_cover_agrees_and_what_is_none_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let check = |text: &str| {
        let file = folder.path().join("access.log");
        std::fs::write(&file, text).expect("the folder is writable");
        let yaml = "listen: 127.0.0.1:0\nupstream: http://h\nstore: redis://h\nroutes: {/a: any}\n";
        on_config(yaml, &["check", "--log", file.to_str().expect("its name is UTF-8")], &[])
    };
    let output = check(r#"::1 - - [x] "GET /a HTTP/1.1" 200 1"#);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(text(&output.stdout).ends_with("and the routes agree.\n"));
    let output = check("nothing\nof\nthe kind");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("holds no line of an access log"), "{}", text(&output.stderr));
    let both = on_config("", &["check", "--log", "a", "--openapi", "b"], &[]);
    assert_eq!(both.status.code(), Some(2), "one of them at a time");
}
