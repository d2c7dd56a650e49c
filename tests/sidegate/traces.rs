//! Traces (W3C Trace Context): what the client names goes on, with a span of the gate's own, to the upstream and into the log.

use serde_json::Value;

use crate::support::{
    Answer, Gate, Stage, bytes::RawUpstream, bytes::Wire, gate::text, h2, h2::Field, upstream::Recorded,
};

const YAML: &str = "
upstream: {url: '${UPSTREAM_URL}', headers: {X-Gate-Secret: passed}}
cors: {origins: ['https://app.example.com'], preflight: forward}
routes: {/public/**: public, /guarded: any, /call.Service/**: public}
";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn a_trace_goes_on_to_the_upstream_and_into_the_log_with_a_span_of_the_gates_own() {
    let yard = Yard::set();
    for (flags, passed) in [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03")] {
        let parent = format!("{}{flags}", &PARENT[..53]);
        let (seen, line) = yard.ask(&[&format!("Traceparent: {parent}"), "TraceState: rojo=1, congo=2"]);
        let told = parts(&seen);
        assert_eq!((&*told[0], &*told[1], &*told[3]), ("00", TRACE, passed));
        assert_ne!(told[2], "00f067aa0ba902b7", "the upstream's caller is the gate");
        assert_eq!(seen.all("tracestate"), ["rojo=1, congo=2"]);
        assert_eq!(
            (&line["trace_id"], &line["span_id"], &line["trace_flags"]),
            (&told[1].as_str().into(), &told[2].as_str().into(), &passed.into())
        );
        assert_eq!(line["sidegate.parent_span_id"], "00f067aa0ba902b7");
    }
    let first = parts(&yard.ask(&[&format!("Traceparent: {PARENT}")]).0);
    let second = parts(&yard.ask(&[&format!("Traceparent: {PARENT}")]).0);
    assert_ne!(first[2], second[2], "each request has its own span");
}

#[test]
fn without_a_trace_one_begins() {
    let yard = Yard::set();
    let mut traces = Vec::new();
    for state in [&["Tracestate: rojo=1"][..], &[]] {
        let (seen, line) = yard.ask(state);
        let told = parts(&seen);
        assert_eq!((told[1].len(), told[2].len(), &*told[3]), (32, 16, "01"), "{told:?}");
        assert_eq!(seen.header("tracestate"), None, "it belongs to a trace that did not come");
        assert_eq!((&line["trace_id"], &line["sidegate.parent_span_id"]), (&told[1].as_str().into(), &Value::Null));
        traces.push(told[1].clone());
    }
    assert_ne!(traces[0], traces[1]);
}

#[test]
fn a_malformed_trace_counts_as_absent() {
    let yard = Yard::set();
    let wrong = [
        PARENT.replace("00-4b", "ff-4b"),
        PARENT.replace(TRACE, &"0".repeat(32)),
        PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
        PARENT.to_uppercase(),
        format!("{PARENT}-more"),
        PARENT[..54].to_owned(),
        format!("{PARENT}, {PARENT}"),
    ];
    for wrong in wrong {
        let (seen, line) = yard.ask(&[&format!("Traceparent: {wrong}"), "Tracestate: rojo=1"]);
        let told = parts(&seen);
        assert!(told[1] != TRACE && told[1].len() == 32, "{wrong}: {told:?}");
        assert_eq!((seen.header("tracestate"), &line["trace_id"]), (None, &told[1].as_str().into()), "{wrong}");
    }
    let twice = [&*format!("Traceparent: {PARENT}"), &*format!("Traceparent: {PARENT}")];
    assert_ne!(parts(&yard.ask(&twice).0)[1], TRACE, "two of them name no trace");
    let later = PARENT.replace("00-4b", "cc-4b") + "-what-comes-later";
    assert_eq!(
        parts(&yard.ask(&[&format!("Traceparent: {later}")]).0)[..2],
        ["00", TRACE],
        "a later version is read as far as it is known"
    );
}

#[test]
fn a_state_of_several_lines_becomes_one_and_a_malformed_one_takes_no_trace_with_it() {
    let yard = Yard::set();
    let parent = format!("Traceparent: {PARENT}");
    let state = |lines: &[&str]| {
        let (seen, _) = yard.ask(&[&[&*parent], lines].concat());
        assert_eq!(parts(&seen)[1], TRACE);
        seen.all("tracestate").join(" | ")
    };
    assert_eq!(state(&["Tracestate: a=1,b=2", "X: 1", "Tracestate: c=3"]), "a=1,b=2,c=3");
    let many = |count: usize| (0..count).map(|i| format!("k{i}=1")).collect::<Vec<_>>();
    assert_eq!(state(&[&format!("Tracestate: {}", many(32).join(","))]), many(32).join(","));
    for wrong in [&*many(33).join(","), "A=1", "a", "a=1;b=2,=", ""] {
        assert_eq!(state(&[&format!("Tracestate: {wrong}")]), "", "{wrong}");
    }
}

#[test]
fn whatever_becomes_of_a_request_its_line_says_its_trace() {
    let yard = Yard::set();
    let parent = format!("Traceparent: {PARENT}");
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("DELETE", "/guarded", 401),
        ("GET", "/public/..%2fx", 400),
        ("TRACE", "/public/x", 405),
        ("OPTIONS", "/public/x", 200),
    ] {
        let answer = yard.gate.raw(method, path, &[parent.as_bytes()]);
        assert_eq!(answer.status, status, "{method} {path}");
        let line = yard.line(&answer);
        assert_eq!((&line["trace_id"], line["span_id"].as_str().map(str::len)), (&TRACE.into(), Some(16)), "{line}");
        assert_eq!(answer.header("traceparent"), None, "it is said to the upstream alone");
        assert!(!answer.text().contains(TRACE) || status == 200, "error bodies are as they were");
    }
    let preflight: [&[u8]; 3] =
        [b"Origin: https://app.example.com", b"Access-Control-Request-Method: GET", parent.as_bytes()];
    yard.gate.raw("OPTIONS", "/guarded", &preflight);
    let seen = yard.stage.upstream.seen().pop().expect("it is forwarded");
    assert_eq!((&*seen.target, &*parts(&seen)[1]), ("/guarded", TRACE));
    let fields: [Field<'_>; 6] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/call.Service/Unary"),
        (b":authority", b"a"),
        (b"content-type", b"application/grpc"),
        (b"traceparent", PARENT.as_bytes()),
    ];
    let before = yard.stage.upstream.seen().len();
    h2::exchange(yard.gate.address, &fields, b"", Some(&[(b"traceparent", PARENT.as_bytes()), (b"x-last", b"1")]));
    let seen = yard.stage.upstream.seen().split_off(before).pop().expect("a gRPC call is forwarded");
    assert_eq!(parts(&seen)[1], TRACE);
    assert!(seen.trailers.iter().all(|(name, _)| name != "traceparent"), "no trailer speaks for the head: {seen:?}");
}

#[test]
fn an_upgrade_belongs_to_its_trace() {
    let upstream = RawUpstream::that_answers(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let stage = Stage::set();
    let gate = stage.gate(&format!("upstream: http://{}\nroutes: {{/public: public}}", upstream.address));
    let mut client = Wire::to(gate.address);
    client.send(format!(
        "GET /public HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTraceparent: {PARENT}\r\n\r\n"
    ));
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    let (head, _upstream) = upstream.next();
    assert!(head.to_lowercase().contains(&format!("\r\ntraceparent: 00-{TRACE}-")), "{head}");
    assert_eq!(gate.logged(TRACE)["http.response.status_code"], 101);
}

#[test]
fn what_the_log_says_of_a_failure_names_the_trace() {
    let stage = Stage::set();
    let gate = stage.gate("upstream: http://127.0.0.1:1\nroutes: {/public: public}");
    assert_eq!(gate.raw("GET", "/public", &[format!("Traceparent: {PARENT}").as_bytes()]).status, 502);
    assert!(gate.said("the upstream cannot be reached").contains(TRACE));
}

#[test]
fn an_explanation_shows_the_trace_that_would_go_on() {
    let yard = Yard::set();
    let output = yard.gate.command(&["explain", "/public/x", "--header", &format!("Traceparent: {PARENT}")]);
    let said = text(&output.stdout);
    assert!(said.contains(&format!("traceparent: 00-{TRACE}-")), "{said}");
}

/// Version, trace, span and flags, as the upstream was told.
fn parts(seen: &Recorded) -> Vec<String> {
    let told = seen.all("traceparent");
    assert_eq!(told.len(), 1, "{seen:?}");
    told[0].split('-').map(str::to_owned).collect()
}

struct Yard {
    stage: Stage,
    gate: Gate,
}

impl Yard {
    fn set() -> Self {
        let stage = Stage::set();
        let gate = stage.gate(YAML);
        Self { stage, gate }
    }

    /// One request with these headers: what the upstream saw of it, and its line in the log.
    fn ask(&self, headers: &[&str]) -> (Recorded, Value) {
        let lines: Vec<&[u8]> = headers.iter().map(|line| line.as_bytes()).collect();
        let answer = self.gate.raw("GET", "/public/x", &lines);
        assert_eq!(answer.status, 200);
        (self.stage.upstream.seen().pop().expect("it was forwarded"), self.line(&answer))
    }

    fn line(&self, answer: &Answer) -> Value {
        self.gate.logged(answer.header("x-request-id").expect("every answer has one"))
    }
}
