//! Clients that leave before they are answered, and those that stop halfway: each request is counted once and logged once all
//! the same, whatever became of it.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Gate, Key, Stage,
    bytes::{RawUpstream, Wire},
    frames::{self, Connection},
    until,
};

const PATIENCE: Duration = Duration::from_secs(15);

/// How a client goes about it: says so much, and stops or leaves.
type Departure = fn(&Yard, &str);

#[test]
fn a_client_that_leaves_is_counted_once_and_logged_once() {
    let departures: [(&str, Departure); 6] = [
        ("a connection closed", closed),
        ("a connection closed behind a whole body", closed_behind_a_body),
        ("a body that stalls", stalled),
        ("a stream reset", reset),
        ("an HTTP/2 connection closed", closed_with_its_stream),
        ("a stream's body that stalls", stalled_in_frames),
    ];
    for (what, leaves) in departures {
        let yard = Yard::set();
        leaves(&yard, what);
        let line = yard.gate.logged("\"http.response.status_code\":499");
        for (name, value) in [
            ("sidegate.decision", json!("failed")),
            ("sidegate.reason", json!("client_gone")),
            ("sidegate.key_id", json!(yard.key.id)),
            ("sidegate.business", json!("acme")),
            ("sidegate.limit.remaining", json!(4)),
            ("http.route", json!("/slow")),
        ] {
            assert_eq!(line[name], value, "{what}: {name} in {line}");
        }
        yard.is_told_once(what);
    }
}

#[test]
fn a_body_that_breaks_off_is_its_clients_doing_and_one_that_is_malformed_is_a_bad_request() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/slow: public}");
    for (body, status, reason) in [("5\r\nbe", 499, "client_gone"), ("5\r\nbegunXX\r\n", 400, "bad_request")] {
        let mut wire = Wire::to(gate.address);
        wire.send(format!("POST /slow?{reason} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
        wire.finish();
        // A client that only says no more may still read.
        let answer = wire.rest();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let line = gate.logged(&format!("\"sidegate.reason\":\"{reason}\""));
        assert_eq!(line["http.response.status_code"], status, "{line}");
    }
    assert_eq!(gate.metric("sidegate_requests_total", &["route=\"/slow\""]), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_request_is_told_once_though_its_client_leaves_in_its_middle() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/public: public}");
    let body = stage.upstream.stream();
    let mut answer = gate.get("/public").send().await.expect("the head comes");
    body.send("begun");
    assert_eq!(answer.chunk().await.expect("the body begins").as_deref(), Some(&b"begun"[..]));
    drop(answer);
    until("the request to end", || (gate.metric("sidegate_requests_in_flight", &[]) == 0.0).then_some(()));
    assert_eq!(gate.metric("sidegate_requests_total", &[]), 1.0);
    assert_eq!(gate.metric("sidegate_requests_total", &["status=\"200\"", "allowed"]), 1.0);
    assert_eq!(gate.metric("sidegate_denials_total", &[]), 0.0);
}

#[test]
fn series_of_clients_that_leave_are_there_from_the_start_and_a_report_knows_their_lines() {
    let yard = Yard::set();
    let page = yard.gate.operators("/metrics").text();
    for series in [
        "sidegate_requests_total{decision=\"failed\",route=\"/slow\",status=\"499\"} 0",
        "sidegate_denials_total{reason=\"client_gone\",route=\"/slow\"} 0",
    ] {
        assert!(page.contains(series), "no {series}");
    }
    closed(&yard, "a connection closed");
    yard.gate.logged("client_gone");
    let log = yard.gate.written();
    let report = yard.gate.command_reading(&["report", "-"], &log);
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("1  failed") && !report.contains("another release"), "{report}");
    let checked = yard.gate.command_reading(&["check", "--log", "-"], &log);
    assert!(checked.status.success(), "{checked:?}");
}

/// A gate before a service that never answers.
struct Yard {
    stage: Stage,
    upstream: RawUpstream,
    gate: Gate,
    key: Key,
}

impl Yard {
    fn set() -> Self {
        let stage = Stage::set();
        let upstream = RawUpstream::that_answers("");
        let gate = stage.gate(&format!(
            "listen: {{address: '127.0.0.1:0', limits: {{body_idle: 1s}}}}\nupstream: 'http://{}'\n\
             limits: {{few: {{by: business, windows: 5/1d}}}}\nroutes: {{/slow: {{any: true, limits: [few]}}}}",
            upstream.address
        ));
        let key = stage.redis.mint(json!({"business": "acme"}));
        stage.redis.room(86_400_000, 60_000);
        Self { stage, upstream, gate, key }
    }

    /// One request with the key, of this body, once the service has its head.
    fn asks(&self, lines: &str, body: &str) -> (Wire, Wire) {
        let mut client = Wire::to(self.gate.address);
        client.send(format!("PUT /slow HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n{lines}\r\n{body}", self.key.text));
        (client, self.upstream.next().1)
    }

    fn asks_in_frames(&self, body: Option<&[u8]>) -> (Connection, Wire) {
        let mut client = Connection::open(self.gate.address, &[]);
        let head = frames::request("PUT", "/slow", &[("x-api-key", &self.key.text)]);
        let end = if body.is_none() { frames::END_STREAM } else { 0 };
        client.send(&frames::frame(frames::HEADERS, frames::END_HEADERS | end, 1, &head));
        if let Some(body) = body {
            client.send(&frames::frame(frames::DATA, 0, 1, body));
        }
        (client, self.upstream.next().1)
    }

    fn is_told_once(&self, what: &str) {
        until("the request to end", || (self.gate.metric("sidegate_requests_in_flight", &[]) == 0.0).then_some(()));
        for (labels, count) in [(&[][..], 1.0), (&["status=\"499\"", "decision=\"failed\"", "route=\"/slow\""], 1.0)] {
            assert_eq!(self.gate.metric("sidegate_requests_total", labels), count, "{what}: {labels:?}");
        }
        assert_eq!(self.gate.metric("sidegate_denials_total", &["reason=\"client_gone\""]), 1.0, "{what}");
        assert_eq!(self.gate.metric("sidegate_denials_total", &[]), 1.0, "{what}");
        assert_eq!(self.gate.metric("sidegate_business_requests_total", &["acme", "failed"]), 1.0, "{what}");
        until("its use to be counted", || {
            let usage = self.gate.json(&["keys", "usage", &self.key.id, "--json"]);
            let requests = usage["requests"].as_object().expect("amounts by time");
            (requests.values().filter_map(|amount| amount.as_u64()).sum::<u64>() == 1).then_some(())
        });
        let lines = self.gate.written().lines().filter(|line| line.contains("\"url.path\":\"/slow\"")).count();
        assert_eq!(lines, 1, "{what}");
        assert!(self.stage.upstream.seen().is_empty());
    }
}

fn closed(yard: &Yard, _: &str) {
    let (client, mut upstream) = yard.asks("", "");
    drop(client);
    upstream.rest();
}

fn closed_behind_a_body(yard: &Yard, _: &str) {
    let (client, mut upstream) = yard.asks("Content-Length: 4\r\n", "body");
    upstream.until(b"body");
    drop(client);
    upstream.rest();
}

fn stalled(yard: &Yard, what: &str) {
    let (mut client, mut upstream) = yard.asks("Content-Length: 40\r\n", "begun");
    upstream.until(b"begun");
    assert_eq!(client.rest(), "", "{what}");
}

fn reset(yard: &Yard, _: &str) {
    let (mut client, mut upstream) = yard.asks_in_frames(None);
    client.send(&frames::frame(frames::RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    upstream.rest();
    // The connection stands; the request is told all the same.
    yard.gate.logged("client_gone");
}

fn closed_with_its_stream(yard: &Yard, _: &str) {
    let (client, mut upstream) = yard.asks_in_frames(Some(b"begun"));
    drop(client);
    upstream.rest();
}

fn stalled_in_frames(yard: &Yard, what: &str) {
    let (mut client, _upstream) = yard.asks_in_frames(Some(b"begun"));
    let reset = client.find(PATIENCE, |frame| frame.kind == frames::RST_STREAM && frame.stream == 1);
    assert!(reset.is_some(), "{what}");
}
