//! HTTP/2 clients that take nothing, or little: what they leave lying keeps nobody else from being served, and who goes on, however
//! slowly, is served on.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Answer, Gate, Stage,
    bytes::Wire,
    frames::{
        Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, WINDOW_UPDATE, frame, request,
        setting,
    },
    until,
};

const LONG: Duration = Duration::from_secs(30);
/// At once, in the one worker.
const IN_FLIGHT: usize = 50;
/// On each of two connections.
const STREAMS: usize = (IN_FLIGHT + 100) / 2;

/// Whoever pauses is let go of late, as long as there is room.
fn yard(upstream: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let upstream = match upstream {
        "" => String::new(),
        scheme => format!("upstream: '{scheme}://{}'", stage.upstream.address),
    };
    let limits = format!("in_flight: {IN_FLIGHT}, header_read: 1s, body_idle: 10m, stream_idle: 10m");
    let gate = stage.gate(&format!(
        "listen: {{address: '127.0.0.1:0', limits: {{{limits}}}}}\nworkers: 1\n{upstream}\n\
         routes: {{/public: public, /guarded: any}}"
    ));
    (stage, gate)
}

/// Two connections that ask and take nothing but heads; returned once all are answered.
fn take_nothing(gate: &Gate, path: &str) -> [Connection; 2] {
    [1, 2].map(|_| {
        let mut connection = Connection::open(gate.address, &setting(4, 0));
        for stream in (1..).step_by(2).take(STREAMS) {
            connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", path, &[])));
            assert!(connection.find(LONG, |frame| frame.kind == HEADERS).is_some(), "an answer's head needs no window");
        }
        connection
    })
}

fn open(gate: &Gate) -> usize {
    gate.metric("sidegate_requests_in_flight", &[]) as usize
}

#[test]
fn denials_that_nobody_takes_leave_all_room_to_others() {
    let (stage, gate) = yard("");
    let key = format!("Authorization: Bearer {}", stage.redis.mint(json!({"business": "acme"})).text);
    for path in ["/guarded", "/nowhere"] {
        let held = take_nothing(&gate, path);
        for time in 0..10 {
            assert_eq!(gate.raw("GET", "/guarded", &[key.as_bytes()]).status, 200, "{path}, {time}");
        }
        assert_eq!(open(&gate), 2 * STREAMS, "{path}: they are open all the while");
        drop(held);
        until("them to end", || (open(&gate) == 0).then_some(()));
    }
    assert_eq!(gate.metric("sidegate_denials_total", &["reason=\"overloaded\""]), 0.0);
}

#[test]
fn whole_answers_that_nobody_takes_leave_all_room_to_others() {
    for scheme in ["http", "h2c"] {
        let (stage, gate) = yard(scheme);
        stage.upstream.respond_with(200, &[], "a short answer");
        let held = take_nothing(&gate, "/public");
        for time in 0..10 {
            let answer = gate.raw("GET", "/public", &[]);
            assert_eq!((answer.status, answer.text().as_str()), (200, "a short answer"), "{scheme}, {time}");
        }
        assert_eq!(open(&gate), 2 * STREAMS, "{scheme}: they are open all the while");
        assert_eq!(gate.metric("sidegate_denials_total", &["reason=\"overloaded\""]), 0.0);
        drop(held);
    }
}

#[test]
fn a_short_answer_comes_whole_once_its_client_makes_room() {
    let (stage, gate) = yard("http");
    stage.upstream.respond_with(200, &[], "a short answer");
    let [mut connection, _other] = take_nothing(&gate, "/public");
    let last = u32::try_from(2 * STREAMS - 1).expect("a few");
    connection.send(&frame(WINDOW_UPDATE, 0, last, &100_u32.to_be_bytes()));
    let data = connection.find(LONG, |frame| frame.kind == DATA && !frame.payload.is_empty()).expect("the answer");
    assert_eq!((data.stream, &data.payload[..]), (last, &b"a short answer"[..]));
}

/// What is still to come holds its upstream's connection, so it needs its place; but only as long as nobody else does.
#[test]
fn clients_that_take_nothing_of_long_answers_are_ended_where_others_need_the_room() {
    let (stage, gate) = yard("http");
    stage.upstream.respond_with(200, &[], vec![b'x'; 1024 * 1024]);
    let mut held = take_nothing(&gate, "/public");
    for _ in 0..3 {
        until("there to be room", || (gate.raw("GET", "/public", &[]).status == 200).then_some(()));
    }
    let reset = held[0].find(LONG, |frame| frame.kind == RST_STREAM).expect("it made room");
    assert_ne!(reset.payload, [0; 4], "its answer has not ended");
}

/// As over HTTP/1.1, where each byte that is taken counts: 32 KB/s here, where a pause may take 2 s.
#[test]
fn a_client_that_takes_a_little_at_a_time_pauses_never() {
    const FIRST: u32 = 256 * 1024;
    const THEN: u32 = 16 * 1024;
    let (_stage, gate) = before_a_long_answer("body_idle: 2s");
    let mut client = Connection::open(gate.address, &setting(4, FIRST));
    client.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 24).to_be_bytes()));
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/public", &[])));
    take(&mut client, FIRST);
    for _ in 0..14 {
        std::thread::sleep(Duration::from_millis(500));
        client.send(&frame(WINDOW_UPDATE, 0, 1, &THEN.to_be_bytes()));
        take(&mut client, THEN);
    }
}

/// The question whether it lives stands behind what it has not taken yet.
#[test]
fn a_client_that_pauses_in_taking_its_answer_is_not_ended_for_a_ping() {
    let (_stage, gate) = before_a_long_answer("h2_ping: 1s, h2_ping_answer: 1s, body_idle: 1m");
    let mut client = Connection::open(gate.address, &[]);
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/public", &[])));
    take(&mut client, 65_535);
    assert!(client.find(LONG, |frame| frame.kind == PING).is_some(), "it is asked");
    assert!(client.next(Duration::from_secs(6)).is_none(), "nothing comes, not even a GOAWAY");
    for stream in [0, 1] {
        client.send(&frame(WINDOW_UPDATE, 0, stream, &10_000_u32.to_be_bytes()));
    }
    take(&mut client, 10_000);
}

fn before_a_long_answer(limits: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    stage.upstream.respond_with(200, &[], vec![b'x'; 4 * 1024 * 1024]);
    let gate =
        stage.gate(&format!("listen: {{address: '127.0.0.1:0', limits: {{{limits}}}}}\nroutes: {{/public: public}}"));
    (stage, gate)
}

/// Takes so many bytes of an answer's body.
fn take(client: &mut Connection, wanted: u32) {
    let mut taken = 0;
    while taken < wanted as usize {
        let frame = client.find(LONG, |frame| [DATA, RST_STREAM, GOAWAY].contains(&frame.kind));
        let frame = frame.expect("the connection stands");
        assert_eq!(frame.kind, DATA, "{frame:?}");
        taken += frame.payload.len();
    }
}

#[test]
fn a_chunked_body_is_denied_before_it_comes_and_its_connection_serves_on() {
    let (_stage, gate) = yard("");
    let long = format!("{:x}\r\n{}\r\n0\r\n\r\n", 1024 * 1024, "x".repeat(1024 * 1024));
    for body in ["5\r\nhello\r\n0\r\n\r\n", long.as_str()] {
        until("a body to come in time", || {
            let mut wire = Wire::to(gate.address);
            wire.send("POST /guarded HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            let head = wire.head();
            assert!(head.starts_with("HTTP/1.1 401 ") && !head.to_lowercase().contains("connection: close"), "{head}");
            wire.send(format!("{body}GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            // More than a second may have passed, on a machine that does other things.
            wire.rest().contains("HTTP/1.1 404 ").then_some(())
        });
    }
}

#[test]
fn a_chunked_body_that_does_not_end_ends_its_connection_behind_the_answer() {
    let (stage, gate) = yard("");
    for body in [String::new(), "5\r\nhel".to_owned(), format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000))] {
        let mut wire = Wire::to(gate.address);
        wire.send(format!("POST /guarded HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        let answer = Answer::parse(wire.rest().as_bytes());
        assert_eq!(answer.denial(), (401, "missing_key".to_owned()), "{} bytes", body.len());
    }
    until("nothing to be in flight", || (open(&gate) == 0).then_some(()));
    assert!(stage.upstream.seen().is_empty());
}
