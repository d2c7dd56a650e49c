//! One HTTP/2 connection to a service, shared by the requests of many clients: what one of them does, or leaves undone, costs no
//! other its answer; and what a connection that is no good any more costs.

use std::{iter, time::Duration};

use crate::support::{
    Gate, Stage,
    bytes::Wire,
    frames::{
        ACK, Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, Upstream, block, frame,
        request,
    },
};

const LONG: Duration = Duration::from_secs(15);
const GET: &str = "GET /public HTTP/1.1\r\nHost: a\r\n\r\n";

/// h2 remembers fifty streams that were reset, and bears 1,024 frames for others in a connection's life, unless it is told otherwise.
#[test]
fn clients_that_leave_in_the_middle_of_their_answers_cost_nobody_else_the_connection() {
    const OTHERS: usize = 99;
    let (_stage, upstream, gate) = yard("h2_streams: 100");
    let mut victim = ask(&gate);
    let mut service = upstream.next();
    let kept = asked(&mut service);
    service.send(&frame(HEADERS, END_HEADERS, kept, &answer("200")));
    assert!(victim.head().starts_with("HTTP/1.1 200 "));
    let others: Vec<Wire> = iter::repeat_with(|| ask(&gate)).take(OTHERS).collect();
    for _ in 0..OTHERS {
        asked(&mut service);
    }
    drop(others);
    let left: Vec<u32> = iter::repeat_with(|| {
        service.find(LONG, |frame| frame.kind == RST_STREAM).expect("each stream is given up").stream
    })
    .take(OTHERS)
    .collect();
    // One at a time: while the reset of a stream is still to be sent, h2 knows it.
    for _ in 0..30 {
        for stream in &left {
            service.send(&frame(DATA, 0, *stream, &[b'x'; 256]));
        }
        is_heard(&mut service);
    }
    service.send(&frame(DATA, END_STREAM, kept, b"whole"));
    assert!(victim.until(b"\r\n0\r\n\r\n").contains("whole"));
}

#[test]
fn connections_that_say_goaway_all_at_once_cost_no_request() {
    for method in ["GET", "POST"] {
        let (_stage, upstream, gate) = yard("h2_streams: 2");
        let mut first = ask(&gate);
        let mut one = upstream.next();
        let stream = asked(&mut one);
        let _held = [ask(&gate), ask(&gate)];
        asked(&mut one);
        let mut other = upstream.next();
        asked(&mut other);
        // Room on both.
        one.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &answer("204")));
        assert!(first.head().starts_with("HTTP/1.1 204 "));
        for connection in [&mut one, &mut other] {
            connection.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]));
            is_heard(connection);
        }
        let mut late = Wire::to(gate.address);
        late.send(format!("{method} /public HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut third = upstream.next();
        let stream = asked(&mut third);
        third.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &answer("204")));
        assert!(late.head().starts_with("HTTP/1.1 204 "), "{method}");
    }
}

#[test]
fn a_connection_on_which_nothing_comes_while_a_request_waits_gets_no_other() {
    let (_stage, upstream, gate) = yard("response_timeout: 1s");
    let mut first = ask(&gate);
    let mut frozen = upstream.next();
    asked(&mut frozen);
    assert!(first.head().starts_with("HTTP/1.1 504 "));
    let mut second = ask(&gate);
    let mut service = upstream.next();
    let stream = asked(&mut service);
    service.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &answer("204")));
    assert!(second.head().starts_with("HTTP/1.1 204 "));
}

/// gRPC servers end a connection that brings more than one PING in five minutes without data ("too many pings").
#[test]
fn a_quiet_stream_is_not_asked_after_every_half_minute() {
    let (_stage, upstream, gate) = yard("");
    let mut client = ask(&gate);
    let mut service = upstream.next();
    let stream = asked(&mut service);
    service.send(&frame(HEADERS, END_HEADERS, stream, &answer("200")));
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    let asked = service.find(Duration::from_secs(33), |frame| frame.kind == PING && frame.flags & ACK == 0);
    assert!(asked.is_none(), "{asked:?}");
    service.send(&frame(DATA, END_STREAM, stream, b"whole"));
    assert!(client.until(b"\r\n0\r\n\r\n").contains("whole"));
}

#[test]
fn an_answer_that_has_no_body_ends_with_its_head_whatever_its_stream_brings() {
    for (method, status) in [("GET", "204"), ("GET", "304"), ("HEAD", "200")] {
        for (what, ends) in [("a body", true), ("no end", false)] {
            let (_stage, upstream, gate) = yard("");
            let mut client = Connection::open(gate.address, &[]);
            client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request(method, "/public", &[])));
            let mut service = upstream.next();
            let stream = asked(&mut service);
            service.send(&frame(HEADERS, END_HEADERS, stream, &answer(status)));
            if ends {
                service.send(&frame(DATA, END_STREAM, stream, b"what has no place here"));
            }
            let head = client.find(LONG, |frame| frame.stream == 1).expect("an answer comes");
            assert_eq!((head.kind, head.flags & END_STREAM), (HEADERS, END_STREAM), "{method}, {status}, {what}");
        }
    }
}

fn yard(settings: &str) -> (Stage, Upstream, Gate) {
    let (stage, upstream) = (Stage::set(), Upstream::open());
    let gate = stage.gate(&format!(
        "workers: 1\nupstream: {{url: 'h2c://{}', {settings}}}\nroutes: {{/public: public}}",
        upstream.address
    ));
    (stage, upstream, gate)
}

fn ask(gate: &Gate) -> Wire {
    let mut wire = Wire::to(gate.address);
    wire.send(GET);
    wire
}

/// The stream of the next request that comes.
fn asked(service: &mut Connection) -> u32 {
    service.find(LONG, |frame| frame.kind == HEADERS).expect("a request comes").stream
}

/// Waits until the gate has read all that was sent.
fn is_heard(service: &mut Connection) {
    service.send(&frame(PING, 0, 0, &[7; 8]));
    let answered = service.find(LONG, |frame| frame.kind == PING && frame.flags & ACK != 0);
    assert!(answered.is_some(), "the connection has ended");
}

fn answer(status: &str) -> Vec<u8> {
    block(&[(":status", status)])
}
