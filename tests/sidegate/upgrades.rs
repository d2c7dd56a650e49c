//! WebSocket and other upgrades: a handshake is a request like any other, and a tunnel opens only where both sides want one.

use std::{process::Command, time::Duration};

use serde_json::json;

use crate::support::{
    Answer, AnswerTo as _, Certificate, Gate, Key, Port, Stage,
    bytes::{RawUpstream, Wire},
    client::printed_by,
    in_repository, until,
};

const GRANTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const WEBSOCKET: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const CANARY: &str = "GET /guarded HTTP/1.1\r\nHost: a\r\nX-Canary: 1\r\n\r\n";

#[test]
fn an_upgrade_that_the_upstream_grants_becomes_a_tunnel() {
    let yard = Yard::set(GRANTED, "");
    let mut client = yard.ask(WEBSOCKET, "");
    let answer = Answer::parse(client.head().as_bytes());
    let (head, mut upstream) = yard.upstream.next();
    assert_eq!(
        (answer.status, answer.header("upgrade"), answer.header("connection")),
        (101, Some("websocket"), Some("Upgrade"))
    );
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(answer.header("x-request-id").is_some());
    assert_eq!(answer.number("x-ratelimit-remaining"), 99);
    let head = head.to_lowercase();
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", "x-key: "] {
        assert!(head.contains(&format!("\r\n{line}")), "{line} in {head}");
    }
    assert!(!head.contains("authorization") && !head.contains(&yard.key.text.to_lowercase()), "{head}");

    client.send("ping");
    assert_eq!(upstream.until(b"ping"), "ping");
    upstream.send("pong");
    assert_eq!(client.until(b"pong"), "pong");
    assert_eq!(yard.gate.metric("sidegate_requests_in_flight", &[]), 1.0, "it counts while it is open");
    assert_eq!(yard.gate.metric("sidegate_connections", &[]), 1.0);
    client.finish();
    assert_eq!(upstream.rest(), "", "the client's end reaches the upstream");
    upstream.send("late");
    assert_eq!(client.until(b"late"), "late", "which may go on");
    drop(upstream);
    assert_eq!(client.rest(), "");
    yard.nothing_is_open();
    assert_eq!(yard.gate.logged("/guarded")["http.response.status_code"], 101);
}

#[test]
fn what_is_sent_with_the_handshake_waits_for_its_answer() {
    let yard = Yard::set(GRANTED, "");
    let mut client = yard.ask(WEBSOCKET, "early");
    let (head, mut upstream) = yard.upstream.next();
    assert!(head.ends_with("\r\n\r\n") && !head.contains("early"), "{head}");
    assert_eq!(upstream.until(b"early"), "early");
    upstream.send("soon");
    client.head();
    assert_eq!(client.until(b"soon"), "soon");
}

/// Pingora CVE-2026-2833: what follows an upgrade that was not granted was passed on unread.
#[test]
fn without_101_what_follows_is_a_request_of_its_own() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let yard = Yard::set(answer, "");
        let mut client = yard.ask(WEBSOCKET, CANARY);
        let first = client.until(b"ok");
        assert!(
            first.starts_with(&answer[..12]) && !first.to_lowercase().contains("\r\nconnection: upgrade"),
            "{first}"
        );
        let second = client.head();
        assert!(second.starts_with("HTTP/1.1 401 "), "{second}");
        let (head, mut upstream) = yard.upstream.next();
        assert!(head.starts_with("GET /guarded?1 "), "{head}");
        assert_eq!(upstream.within(Duration::from_millis(300)), b"", "after {answer:?}");
        assert!(yard.upstream.is_alone());
    }
}

#[test]
fn a_switch_that_nobody_asked_for_is_no_answer() {
    let other = GRANTED.replace("Upgrade: websocket", "Upgrade: other");
    let two = GRANTED.replace("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: other");
    let none = GRANTED.replace("Upgrade: websocket\r\n", "");
    for (answer, asked) in [(GRANTED, ""), (&other, WEBSOCKET), (&two, WEBSOCKET), (&none, WEBSOCKET)] {
        let yard = Yard::set(answer, "");
        let mut client = yard.ask(asked, CANARY);
        assert!(client.head().starts_with("HTTP/1.1 502 "), "{answer}");
        let (_, mut upstream) = yard.upstream.next();
        assert_eq!(upstream.rest(), "", "closed, with nothing passed on: {answer}");
    }
}

#[test]
fn what_is_no_upgrade_is_forwarded_without_one() {
    for asked in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
        "Connection: keep-alive\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n",
        "Connection: Upgrade\r\n",
    ] {
        let yard = Yard::set("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "");
        let mut client = yard.ask(asked, "abc");
        assert!(client.until(b"ok").starts_with("HTTP/1.1 200 "), "{asked}");
        let head = yard.upstream.next().0.to_lowercase();
        assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{asked}{head}");
    }
}

#[test]
fn a_handshake_is_authenticated_and_counted_like_any_request() {
    let yard = Yard::set(GRANTED, "");
    let handshake = |path: &str, key: &str| {
        let mut client = Wire::to(yard.gate.address);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{key}{WEBSOCKET}\r\n"));
        let head = client.head();
        (Answer::parse(head.as_bytes()), client)
    };
    let key = format!("Authorization: Bearer {}\r\n", yard.key.text);
    assert_eq!(handshake("/guarded", "").0.status, 401);
    assert_eq!(handshake("/nowhere", &key).0.status, 404);
    assert!(yard.upstream.is_alone());
    yard.stage.redis.room(3_600_000, 20_000);
    let (first, _open) = handshake("/once", &key);
    assert_eq!((first.status, first.number("x-ratelimit-remaining")), (101, 0));
    let (second, _closed) = handshake("/once", &key);
    assert_eq!(second.status, 429, "one is open, and one was paid for");
}

#[test]
fn a_tunnel_ends_when_its_key_no_longer_stands() {
    let yard = Yard::set(GRANTED, "streams: {recheck: 200ms}");
    let mut client = yard.ask(WEBSOCKET, "");
    client.head();
    let (_, mut upstream) = yard.upstream.next();
    assert_eq!(client.within(Duration::from_millis(900)), b"", "as long as it stands it stays open");
    client.send("still");
    assert_eq!(upstream.until(b"still"), "still");
    yard.stage.redis.rewrite(&yard.key, json!({"revoked_at": "2026-03-23T14:30:00Z"}));
    assert_eq!((client.rest(), upstream.rest()), (String::new(), String::new()));
    yard.nothing_is_open();
    yard.gate.said("a stream was ended");
    let ended = yard.gate.written().lines().filter(|line| line.contains("a stream was ended")).count();
    assert_eq!(ended, 1);
}

#[test]
fn a_tunnel_has_a_greatest_age_on_public_routes_too() {
    let yard = Yard::set(GRANTED, "streams: {recheck: 100ms, max_age: 3s}");
    let mut client = Wire::to(yard.gate.address);
    client.send(format!("GET /public HTTP/1.1\r\nHost: a\r\n{WEBSOCKET}\r\n"));
    client.head();
    let (_, mut upstream) = yard.upstream.next();
    client.send("hello");
    assert_eq!(upstream.until(b"hello"), "hello");
    assert_eq!((client.rest(), upstream.rest()), (String::new(), String::new()));
}

#[test]
fn a_tunnel_on_which_nothing_passes_ends_and_one_that_moves_does_not() {
    let yard = Yard::set(GRANTED, "listen: {address: '127.0.0.1:0', limits: {stream_idle: 3s, body_idle: 1h}}");
    let mut client = yard.ask(WEBSOCKET, "");
    client.head();
    let (_, mut upstream) = yard.upstream.next();
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(800));
        client.send("on");
        assert_eq!(upstream.until(b"on"), "on");
    }
    assert_eq!((client.rest(), upstream.rest()), (String::new(), String::new()));
    yard.nothing_is_open();
}

#[test]
fn a_side_that_has_said_its_last_word_is_not_kept_waiting_for_the_other() {
    let yard = Yard::set(GRANTED, "listen: {address: '127.0.0.1:0', limits: {body_idle: 3s}}");
    for client_ends in [true, false] {
        let mut client = yard.ask(WEBSOCKET, "");
        client.head();
        let (_, mut upstream) = yard.upstream.next();
        let (first, other) = if client_ends { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
        other.send("early");
        assert_eq!(first.until(b"early"), "early");
        first.finish();
        assert_eq!(other.rest(), "");
        other.send("late");
        assert_eq!(first.until(b"late"), "late", "what comes behind the other side's end is passed on");
        // It stays and says nothing.
        assert_eq!(first.rest(), "", "it is still open");
        yard.nothing_is_open();
    }
}

#[test]
fn a_tunnel_is_a_request_in_flight_until_it_ends() {
    let limits = "workers: 1\nlisten: {address: '127.0.0.1:0', limits: {in_flight: 1}}";
    let yard = Yard::set(GRANTED, limits);
    let mut client = yard.ask(WEBSOCKET, "");
    client.head();
    let (_, upstream) = yard.upstream.next();
    until("the only place to be taken", || (yard.gate.raw("GET", "/nowhere", &[]).status == 503).then_some(()));
    drop((client, upstream));
    until("the place to be free", || (yard.gate.raw("GET", "/nowhere", &[]).status == 404).then_some(()));
}

#[test]
fn a_slow_side_slows_the_other_and_no_memory() {
    const MUCH: usize = 256 << 20;
    let yard = Yard::set(GRANTED, "");
    let mut client = yard.ask(WEBSOCKET, "");
    client.head();
    let (_, mut upstream) = yard.upstream.next();
    let before = yard.gate.metric("process_resident_memory_bytes", &[]);
    assert!(client.fill(MUCH) < MUCH, "nobody reads it");
    assert!(upstream.fill(MUCH) < MUCH, "nobody reads it");
    let grown = yard.gate.metric("process_resident_memory_bytes", &[]) - before;
    assert!(grown < f64::from(8 << 20), "{grown} bytes more");
}

#[test]
fn an_open_tunnel_holds_up_the_end_until_the_deadline() {
    let mut yard = Yard::set(GRANTED, "drain: {delay: 0s, deadline: 6s}");
    let mut client = yard.ask(WEBSOCKET, "");
    client.head();
    let (_, mut upstream) = yard.upstream.next();
    yard.gate.terminate();
    until("the gate to accept nothing new", || std::net::TcpStream::connect(yard.gate.address).is_err().then_some(()));
    client.send("still");
    assert_eq!(upstream.until(b"still"), "still");
    assert_eq!((client.rest(), upstream.rest()), (String::new(), String::new()));
    assert_eq!(yard.gate.ended().code(), Some(0));
}

#[tokio::test]
async fn an_upstream_that_speaks_http2_is_asked_without_the_upgrade() {
    let stage = Stage::set();
    let gate = stage.gate(&format!("upstream: h2c://{}\nroutes: {{/public: public}}", stage.upstream.address));
    let request = gate.get("/public").header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(request.answer().await.status, 200);
    assert_eq!(stage.upstream.only().header("upgrade"), None);
}

#[test]
fn python_websockets_talk_through_the_gate_in_clear_and_over_tls() {
    let stage = Stage::set();
    let key = stage.redis.mint(json!({"business": "acme"})).text;
    let certificate = Certificate::of("one.example");
    let (cert, key_file) = (certificate.cert_file(), certificate.key_file());
    let tls = format!(", tls: {{certificates: {{cert: '{}', key: '{}'}}}}", cert.display(), key_file.display());
    for (scheme, tls) in [("ws", ""), ("wss", tls.as_str())] {
        let port = Port::reserve();
        let gate = stage.gate(&format!(
            "listen: {{address: '127.0.0.1:0'{tls}}}\nupstream: http://{}\nroutes: {{/chat: any}}",
            port.address()
        ));
        let mut python = Command::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/clients/python/bin/python"));
        python.arg(in_repository("tests/sidegate/clients/websocket.py"));
        python.args([&port.number.to_string(), &format!("{scheme}://{}/chat", gate.address), &key]).arg(&cert);
        let printed = printed_by(&mut python, "run scripts/test once, which installs it");
        assert_eq!(printed.trim(), "denied 401, echoed, closed 4000", "{scheme}");
    }
}

struct Yard {
    stage: Stage,
    upstream: RawUpstream,
    gate: Gate,
    key: Key,
}

impl Yard {
    fn set(answer: &str, yaml: &str) -> Self {
        let stage = Stage::set();
        let upstream = RawUpstream::that_answers(answer);
        let gate = stage.gate(&format!(
            "
upstream: {{url: 'http://{}', identity: {{X-Key: '{{key_id}}'}}}}
limits: {{per-key: {{by: key, windows: 100/1h}}, one: {{by: key, windows: 1/1h}}}}
defaults: {{limits: [per-key]}}
routes:
  /guarded: any
  /once: {{any: true, limits: [one]}}
  /public: public
{yaml}
",
            upstream.address
        ));
        let key = stage.redis.mint(json!({"business": "acme"}));
        Self { stage, upstream, gate, key }
    }

    /// Asks for `/guarded?1` with the key, these lines, and this behind them.
    fn ask(&self, lines: &str, behind: &str) -> Wire {
        let mut client = Wire::to(self.gate.address);
        let key = &self.key.text;
        client
            .send(format!("GET /guarded?1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n{lines}\r\n{behind}"));
        client
    }

    fn nothing_is_open(&self) {
        for name in ["sidegate_requests_in_flight", "sidegate_connections"] {
            until(name, || (self.gate.metric(name, &[]) == 0.0).then_some(()));
        }
    }
}
