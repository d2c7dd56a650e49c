//! Streams of HTTP/2 that are reset with NO_ERROR: behind a whole message that takes nothing from it (RFC 9113 §8.1), before its
//! end it is as broken as with any other code. What is cut must look whole to nobody, whatever the other side speaks.

use std::time::Duration;

use crate::support::{
    Gate, Stage,
    bytes::{RawUpstream, Wire},
    frames::{self, Connection, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, Upstream, frame},
    until,
};

const PATIENCE: Duration = Duration::from_secs(15);
const NO_ERROR: u32 = 0;
const CANCEL: u32 = 8;

type Fields<'a> = &'a [(&'a str, &'a str)];

/// How answers begin, and whether a part of the body has come with that.
const BEGUN: [(Fields<'_>, bool); 4] =
    [(&[], true), (&[("content-length", "10")], true), (&[("trailer", "x-sum")], true), (&[], false)];

#[test]
fn an_answer_that_is_reset_without_an_error_never_looks_whole() {
    for (fields, has_data) in BEGUN {
        for ends in [reset(NO_ERROR), goaway_of_nothing()] {
            for at_once in [true, false] {
                let case = format!("{fields:?} {has_data} {ends:?} {at_once}");
                let yard = Yard::set();
                let mut client = Wire::to(yard.gate.address);
                client.send("GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
                let mut upstream = yard.asked();
                let begun = begun(fields, has_data);
                let mut came = String::new();
                if at_once {
                    upstream.send(&[begun, ends.clone()].concat());
                } else {
                    upstream.send(&begun);
                    came = client.until(if has_data { b"begun" } else { b"\r\n\r\n" });
                    upstream.send(&ends);
                }
                came += &client.rest();
                assert!(came.starts_with("HTTP/1.1 200 ") && came.contains("begun") == has_data, "{case}: {came}");
                assert!(!came.ends_with("0\r\n\r\n"), "{case}: what was cut must not look whole: {came}");
                yard.is_told(&case);
            }
        }
    }
}

#[test]
fn over_http2_it_is_reset_with_an_error() {
    for (fields, has_data) in BEGUN {
        for ends in [reset(NO_ERROR), goaway_of_nothing()] {
            let case = format!("{fields:?} {has_data} {ends:?}");
            let yard = Yard::set();
            let mut client = yard.ask("GET", &[], true);
            yard.asked().send(&[begun(fields, has_data), ends].concat());
            let last = rest(&mut client);
            assert_eq!((last.kind, last.flags & END_STREAM), (RST_STREAM, 0), "{case}: {last:?}");
            assert_ne!(last.payload, NO_ERROR.to_be_bytes(), "{case}");
            yard.is_told(&case);
        }
    }
}

/// As servers do that want no more of an upload; and some do it behind every answer.
#[test]
fn an_answer_that_is_reset_behind_its_end_is_whole() {
    let one = |kind, flags, payload: &[u8]| frame(kind, flags, 1, payload);
    let head = |more: Fields<'_>, flags| one(HEADERS, END_HEADERS | flags, &answer(more));
    let trailers = one(HEADERS, END_HEADERS | END_STREAM, &frames::block(&[("x-sum", "7")]));
    let length = ("content-length", "5");
    for (whole, body) in [
        (vec![head(&[], 0), one(DATA, END_STREAM, b"whole")], "whole"),
        (vec![head(&[length], 0), one(DATA, END_STREAM, b"whole")], "whole"),
        (vec![head(&[], 0), one(DATA, 0, b"whole"), one(DATA, END_STREAM, b"")], "whole"),
        (vec![head(&[], 0), one(DATA, 0, b"whole"), trailers], "whole"),
        (vec![head(&[], END_STREAM)], ""),
        (vec![head(&[("content-length", "0")], END_STREAM)], ""),
        (vec![head(&[], 0), one(DATA, END_STREAM, b"")], ""),
    ] {
        let sent = [whole.concat(), reset(NO_ERROR)].concat();
        // Either the request was whole, or the upstream wants no more of it.
        for uploads in [false, true] {
            let case = format!("{sent:?} {uploads}");
            let yard = Yard::set();
            let mut client = Wire::to(yard.gate.address);
            let (method, rest) = if uploads { ("POST", "Content-Length: 100\r\n\r\npart") } else { ("GET", "\r\n") };
            client.send(format!("{method} /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{rest}"));
            yard.asked().send(&sent);
            let came = client.rest();
            assert!(came.starts_with("HTTP/1.1 200 ") && is_whole(&came, body), "{case}: {came}");
            yard.is_nobodys_fault(&case);

            let yard = Yard::set();
            let mut client = yard.ask(method, if uploads { &[("content-length", "100")] } else { &[] }, !uploads);
            yard.asked().send(&sent);
            let end = client.find(PATIENCE, |frame| {
                frame.stream == 1 && (frame.flags & END_STREAM != 0 || frame.kind == RST_STREAM)
            });
            assert_ne!(end.expect("the stream ends").kind, RST_STREAM, "{case}");
            yard.is_nobodys_fault(&case);
        }
    }
}

#[test]
fn an_answer_without_a_body_is_whole_with_its_head() {
    let empty = frame(DATA, END_STREAM, 1, b"");
    for (method, status, fields) in [
        ("HEAD", "200", &[("content-length", "5")][..]),
        ("HEAD", "200", &[]),
        ("GET", "204", &[]),
        ("GET", "304", &[("content-length", "5")]),
    ] {
        for ends in [empty.clone(), [empty.clone(), reset(NO_ERROR)].concat()] {
            let case = format!("{method} {status} {fields:?} {ends:?}");
            let yard = Yard::set();
            let mut client = Wire::to(yard.gate.address);
            client.send(format!("{method} /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            let block = frames::block(&[&[(":status", status)], fields].concat());
            yard.asked().send(&[frame(HEADERS, END_HEADERS, 1, &block), ends].concat());
            let came = client.rest();
            assert!(came.starts_with(&format!("HTTP/1.1 {status} ")) && came.ends_with("\r\n\r\n"), "{case}: {came}");
            yard.is_nobodys_fault(&case);
        }
    }
}

/// How a client breaks its upload off: with what it says, and with what it says no more.
const LEAVES: [(&str, Option<u32>); 3] = [("NO_ERROR", Some(NO_ERROR)), ("CANCEL", Some(CANCEL)), ("silence", None)];

/// How far its answer is when an upload breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Not,
    Begun,
    Whole,
}

#[test]
fn an_upload_that_is_reset_reaches_no_service_as_a_whole_request() {
    for (answered, answer) in [
        (Answered::Not, ""),
        (Answered::Begun, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"),
        (Answered::Whole, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"),
    ] {
        for fields in [&[][..], &[("content-length", "10")], &[("trailer", "x-sum")]] {
            for (how, code) in LEAVES {
                let case = format!("{how} {fields:?} {answered:?}");
                let stage = Stage::set();
                let upstream = RawUpstream::that_answers(answer);
                let gate = gate(&stage, &format!("http://{}", upstream.address), pings(code));
                let mut client = upload(&gate, fields);
                let (_, mut service) = upstream.next();
                service.until(b"part");
                leave(&mut client, code, answered);
                let came = service.rest();
                assert!(!came.ends_with("0\r\n\r\n"), "{case}: {came}");
                is_gone(&gate, answered, &case);
            }
        }
    }
}

#[test]
fn nor_over_http2() {
    for answered in [Answered::Not, Answered::Begun, Answered::Whole] {
        for fields in [&[][..], &[("content-length", "10")], &[("trailer", "x-sum")]] {
            for (how, code) in LEAVES {
                let case = format!("{how} {fields:?} {answered:?}");
                let stage = Stage::set();
                let upstream = Upstream::open();
                let gate = gate(&stage, &format!("h2c://{}", upstream.address), pings(code));
                let mut client = upload(&gate, fields);
                let mut service = upstream.next();
                service.find(PATIENCE, |frame| frame.kind == DATA).expect("the body begins");
                match answered {
                    Answered::Not => {}
                    Answered::Begun => drop(service.send(&begun(&[], true))),
                    Answered::Whole => drop(service.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &answer(&[])))),
                }
                leave(&mut client, code, answered);
                let last = rest(&mut service);
                assert_eq!((last.kind, last.flags & END_STREAM), (RST_STREAM, 0), "{case}: {last:?}");
                assert_ne!(last.payload, NO_ERROR.to_be_bytes(), "{case}: it would look whole to some");
                is_gone(&gate, answered, &case);
            }
        }
    }
}

/// The gate itself resets the stream whose upload is no body; that its answer then ends is not the service's doing.
#[test]
fn an_upload_that_is_malformed_breaks_its_own_answer() {
    let yard = Yard::set();
    let mut client = Wire::to(yard.gate.address);
    client.send("POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n");
    let mut service = yard.asked();
    service.send(&begun(&[], true));
    client.until(b"begun");
    client.send("no chunk\r\n");
    assert_eq!(rest(&mut service).kind, RST_STREAM);
    assert!(!client.rest().ends_with("0\r\n\r\n"));
    is_gone(&yard.gate, Answered::Begun, "no chunk");
}

/// Nothing but the end of its answer says that it wants no more of an upload.
#[test]
fn an_upload_that_nobody_reads_ends_soon_behind_its_whole_answer() {
    let whole = [frame(HEADERS, END_HEADERS, 1, &answer(&[])), frame(DATA, END_STREAM, 1, b"whole")].concat();
    let bodiless = frame(HEADERS, END_HEADERS | END_STREAM, 1, &answer(&[]));
    for (answered, body) in [(&whole, "whole"), (&bodiless, "")] {
        // Less than the upstream has room for, and more.
        for much in [0, 1 << 20] {
            let yard = Yard::set();
            let mut client = Wire::to(yard.gate.address);
            client.send("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\npart");
            let mut service = yard.asked();
            service.send(answered);
            client.fill(much);
            let came = client.rest();
            assert!(came.starts_with("HTTP/1.1 200 ") && is_whole(&came, body), "{much}: {came}");
            service.find(PATIENCE, |frame| frame.kind == RST_STREAM).expect("the service gets no more");
            yard.is_nobodys_fault(&format!("{much}"));

            let yard = Yard::set();
            let mut client = upload(&yard.gate, &[]);
            // As much as its window lets it.
            (0..much.min(3)).for_each(|_| assert!(client.send(&frame(DATA, 0, 1, &[b'x'; 16 * 1024]))));
            let mut service = yard.asked();
            service.send(answered);
            client.find(PATIENCE, |frame| frame.stream == 1 && frame.flags & END_STREAM != 0).expect("it is whole");
            let reset = client.find(PATIENCE, |frame| frame.kind == RST_STREAM).expect("the client need send no more");
            assert_eq!(reset.payload, NO_ERROR.to_be_bytes(), "what was answered is whole");
            service.find(PATIENCE, |frame| frame.kind == RST_STREAM).expect("the service gets no more");
            yard.is_nobodys_fault(&format!("{much}"));
        }
    }
}

/// A gate before a service that speaks HTTP/2 in the test's own frames.
struct Yard {
    _stage: Stage,
    upstream: Upstream,
    gate: Gate,
}

impl Yard {
    fn set() -> Self {
        let (stage, upstream) = (Stage::set(), Upstream::open());
        let gate = gate(&stage, &format!("h2c://{}", upstream.address), "");
        Self { _stage: stage, upstream, gate }
    }

    /// Asks over HTTP/2.
    fn ask(&self, method: &str, fields: Fields<'_>, ends: bool) -> Connection {
        ask(&self.gate, method, fields, ends)
    }

    /// The service's connection, once it has been asked.
    fn asked(&self) -> Connection {
        let mut connection = self.upstream.next();
        connection.find(PATIENCE, |frame| frame.kind == HEADERS).expect("the request comes");
        connection
    }

    fn is_told(&self, case: &str) {
        until("it to be counted", || (broken(&self.gate, "upstream") == 1.0).then_some(()));
        assert_eq!(broken(&self.gate, ""), 1.0, "{case}");
        let said = self.gate.said("the upstream's answer broke off");
        assert!(said.contains("WARN"), "{case}: {said}");
    }

    fn is_nobodys_fault(&self, case: &str) {
        until("it to end", || (self.gate.metric("sidegate_requests_in_flight", &[]) == 0.0).then_some(()));
        assert_eq!(broken(&self.gate, ""), 0.0, "{case}");
        assert_eq!(self.gate.metric("sidegate_requests_total", &["allowed"]), 1.0, "{case}");
    }
}

fn gate(stage: &Stage, upstream: &str, pings: &str) -> Gate {
    stage.gate(&format!(
        "listen: {{address: '127.0.0.1:0', limits: {{{pings}body_idle: 10m}}}}\nupstream: '{upstream}'\n\
         routes: {{/public: public}}"
    ))
}

/// These clients answer no PING: only who is to be found out by that is asked soon.
fn pings(code: Option<u32>) -> &'static str {
    if code.is_none() { "h2_ping: 1s, h2_ping_answer: 1s, " } else { "" }
}

fn ask(gate: &Gate, method: &str, fields: Fields<'_>, ends: bool) -> Connection {
    let mut client = Connection::open(gate.address, &[]);
    let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
    client.send(&frame(HEADERS, flags, 1, &frames::request(method, "/public", fields)));
    client
}

/// A request whose body has begun.
fn upload(gate: &Gate, fields: Fields<'_>) -> Connection {
    let mut client = ask(gate, "POST", fields, false);
    client.send(&frame(DATA, 0, 1, b"part"));
    client
}

/// Resets the stream, or answers no PING any more; once it has heard what is answered.
fn leave(client: &mut Connection, code: Option<u32>, answered: Answered) {
    let heard = |frame: &Frame| match answered {
        Answered::Not => true,
        Answered::Begun => frame.kind == DATA,
        Answered::Whole => frame.stream == 1 && frame.flags & END_STREAM != 0,
    };
    client.find(PATIENCE, heard).expect("what is answered comes");
    if let Some(code) = code {
        client.send(&reset(code));
    }
}

fn answer(fields: Fields<'_>) -> Vec<u8> {
    frames::block(&[&[(":status", "200")], fields].concat())
}

fn begun(fields: Fields<'_>, has_data: bool) -> Vec<u8> {
    let data = if has_data { frame(DATA, 0, 1, b"begun") } else { Vec::new() };
    [frame(HEADERS, END_HEADERS, 1, &answer(fields)), data].concat()
}

/// Whether an HTTP/1.1 answer has come to the end that its own framing says.
fn is_whole(came: &str, body: &str) -> bool {
    let (head, rest) = came.split_once("\r\n\r\n").expect("the head is whole");
    let chunks = rest.replace("x-sum: 7\r\n", "");
    if head.contains("transfer-encoding: chunked") {
        chunks.ends_with("0\r\n\r\n") && chunks.contains(body)
    } else {
        rest == body && head.contains(&format!("content-length: {}", body.len()))
    }
}

fn reset(code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, 1, &code.to_be_bytes())
}

/// Of a server that says that it has looked at no stream, and means no harm.
fn goaway_of_nothing() -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[0; 8])
}

/// The frame that ends the stream.
fn rest(connection: &mut Connection) -> Frame {
    let ends = |frame: &Frame| frame.stream == 1 && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0);
    connection
        .find(PATIENCE, |frame| matches!(frame.kind, DATA | HEADERS | RST_STREAM) && ends(frame))
        .expect("the stream ends")
}

fn is_gone(gate: &Gate, answered: Answered, case: &str) {
    until("the request to end", || (gate.metric("sidegate_requests_in_flight", &[]) == 0.0).then_some(()));
    let status = if answered == Answered::Not { "status=\"499\"" } else { "status=\"200\"" };
    assert_eq!(gate.metric("sidegate_requests_total", &[status]), 1.0, "{case}");
    assert_eq!(gate.metric("sidegate_requests_total", &[]), 1.0, "{case}");
    let by_client = if answered == Answered::Begun { 1.0 } else { 0.0 };
    assert_eq!((broken(gate, "client"), broken(gate, "")), (by_client, by_client), "{case}");
}

fn broken(gate: &Gate, by: &str) -> f64 {
    let label = format!("by=\"{by}");
    gate.metric("sidegate_answers_broken_total", &[&label])
}
