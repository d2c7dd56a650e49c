//! Answers that do not come to their end: what came of them reaches the client before it is cut off, and somebody is told whose
//! doing it was.

use std::time::Duration;

use crate::support::{
    Gate, Stage,
    bytes::{RawUpstream, Wire},
    frames::{self, Connection, Frame},
    until,
};

const PATIENCE: Duration = Duration::from_secs(15);

/// What a service sends in one piece, and then closes.
const BROKEN: [&str; 3] = [
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\nno chunk\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n0\r\nX Y: 1\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun",
];

#[test]
fn what_came_of_an_answer_that_breaks_off_reaches_its_client_first() {
    for answer in BROKEN {
        let (_stage, upstream, gate) = yard(answer);
        let mut client = Wire::to(gate.address);
        client.send("GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
        drop(upstream.next());
        let came = client.rest();
        assert!(came.starts_with("HTTP/1.1 200 ") && came.contains("begun"), "{answer}: {came}");
        assert!(!came.ends_with("0\r\n\r\n"), "{answer}: what was cut must not look whole: {came}");
        is_told(&gate, "upstream");
        let said = gate.said("the upstream's answer broke off");
        let id = came.split("x-request-id: ").nth(1).expect("every answer has one").lines().next().unwrap_or_default();
        assert!(said.contains(id) && said.contains("WARN"), "{said}");
    }
}

#[test]
fn over_http2_the_stream_is_reset_behind_what_came() {
    for answer in BROKEN {
        let (_stage, upstream, gate) = yard(answer);
        let mut client = ask(&gate);
        drop(upstream.next());
        let of_the_stream = |frame: &Frame| frame.stream == 1 && frame.kind != frames::WINDOW_UPDATE;
        let mut next = || client.find(PATIENCE, of_the_stream).expect("the stream goes on");
        assert_eq!(next().kind, frames::HEADERS, "{answer}");
        let data = next();
        assert_eq!((data.kind, &*data.payload), (frames::DATA, &b"begun"[..]), "{answer}");
        assert_eq!(next().kind, frames::RST_STREAM, "{answer}");
        is_told(&gate, "upstream");
    }
}

#[test]
fn a_client_that_leaves_or_takes_nothing_breaks_its_own_answer() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\nbegun";
    let (_stage, upstream, gate) = yard(begun);
    let mut client = Wire::to(gate.address);
    client.send("GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until(b"begun");
    drop(client);
    is_told(&gate, "client");
    drop(upstream.next());

    let mut client = ask(&gate);
    client.find(PATIENCE, |frame| frame.kind == frames::DATA).expect("the body begins");
    client.send(&frames::frame(frames::RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    until("the answer to be let go", || (broken(&gate, "client") == 2.0).then_some(()));

    let mut slow = Wire::to(gate.address);
    drop(upstream.next());
    slow.send("GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.next().1.fill(100_000_000);
    until("the answer to be given up", || (broken(&gate, "client") == 3.0).then_some(()));
    assert_eq!(broken(&gate, ""), 3.0);
}

#[test]
fn a_stream_that_the_gate_ends_is_counted_as_the_gates_doing() {
    let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n";
    let (_stage, upstream, gate) = yard_with(begun, "streams: {max_age: 1s}");
    let mut client = Wire::to(gate.address);
    client.send("GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
    let _open = upstream.next();
    assert!(client.rest().contains("begun"));
    is_told(&gate, "gate");
}

#[test]
fn an_answer_that_falls_silent_is_ended_by_the_gate_which_says_so() {
    for http2 in [false, true] {
        let stage = Stage::set();
        let begun = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n";
        let upstream = RawUpstream::that_answers(begun);
        let gate = stage.gate(&format!(
            "listen: {{address: '127.0.0.1:0', limits: {{stream_idle: 1s}}}}\nupstream: 'http://{}'\n\
             routes: {{/public: public}}",
            upstream.address
        ));
        if http2 {
            let mut client = ask(&gate);
            let _open = upstream.next();
            client.find(PATIENCE, |frame| frame.kind == frames::RST_STREAM).expect("it is broken off");
        } else {
            let mut client = Wire::to(gate.address);
            client.send("GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
            let _open = upstream.next();
            assert!(client.rest().contains("data: 1"));
        }
        is_told(&gate, "gate");
        assert!(gate.said("a stream was ended").contains("stream_idle"), "HTTP/2: {http2}");
    }
}

#[test]
fn an_answer_that_is_whole_is_nobodys_fault() {
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", "HTTP/1.0 200 OK\r\n\r\nwhole"),
    ] {
        let (_stage, upstream, gate) = yard(answer);
        for series in ["upstream", "client", "gate"] {
            let page = gate.operators("/metrics").text();
            assert!(page.contains(&format!("sidegate_answers_broken_total{{by=\"{series}\"}} 0")), "no {series}");
        }
        let mut client = Wire::to(gate.address);
        client.send(format!("{method} /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        drop(upstream.next());
        assert!(client.rest().starts_with("HTTP/1.1 "), "{method} {answer}");
        until("it to end", || (gate.metric("sidegate_requests_in_flight", &[]) == 0.0).then_some(()));
        assert_eq!(broken(&gate, ""), 0.0, "{method} {answer}");
    }
}

fn yard(answer: &str) -> (Stage, RawUpstream, Gate) {
    yard_with(answer, "")
}

fn yard_with(answer: &str, more: &str) -> (Stage, RawUpstream, Gate) {
    let stage = Stage::set();
    let upstream = RawUpstream::that_answers(answer);
    let gate = stage.gate(&format!(
        "listen: {{address: '127.0.0.1:0', limits: {{body_idle: 1s}}}}\nupstream: 'http://{}'\n\
         routes: {{/public: public}}\n{more}",
        upstream.address
    ));
    (stage, upstream, gate)
}

fn ask(gate: &Gate) -> Connection {
    let mut client = Connection::open(gate.address, &[]);
    let whole = frames::END_HEADERS | frames::END_STREAM;
    client.send(&frames::frame(frames::HEADERS, whole, 1, &frames::request("GET", "/public", &[])));
    client
}

fn is_told(gate: &Gate, by: &str) {
    until("it to be counted", || (broken(gate, by) == 1.0).then_some(()));
    assert_eq!(broken(gate, ""), 1.0, "{by}");
}

fn broken(gate: &Gate, by: &str) -> f64 {
    let label = format!("by=\"{by}");
    gate.metric("sidegate_answers_broken_total", &[&label])
}
