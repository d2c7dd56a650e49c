//! What the scenes with marked keys are set on: a gate that logs at trace level, and everything it says, kept and searched.

use std::{net::TcpListener, process::Output};

use serde_json::{Value, json};
use sidegate::policy::Reason;
use uuid::Uuid;

use crate::support::{
    Answer, Gate, Key, Stage,
    client::exchange,
    gate::text,
    h2::{self, Field},
    upstream,
};

/// The id of the key that `SECTIONS` deny.
pub const DENIED: &str = "0b5ea7b1-6d5c-4f57-9a8c-2d1f3c4b5a69";

pub const SECTIONS: &str = "
keys: {formats: [{prefix: mark_, length: 43}, {prefix: theirs_, reject: Not here}]}
log: {level: trace}
drain: {delay: 0s, deadline: 1s}
business: {from: [{query: business}, {header: X-Business-Id}]}
plans: {pro: {}}
limits: {tight: {by: key, windows: 1/1d}}
cors: {origins: ['https://app.example'], preflight: forward}
management: {path: /v1/keys, session: '${SESSION_URL}', roles: [admin], max_active_keys: 2}
deny: {keys: ['0b5ea7b1-6d5c-4f57-9a8c-2d1f3c4b5a69']}
routes:
  /things/**: any
  /public/**: public
  /guarded: admin
  GET /read: any
  /tight: {any: true, limits: [tight]}
  /small: {any: true, max_body: 10}
  /dead: {any: true, upstream: dead}
  /silent: {any: true, upstream: silent, response_timeout: 100ms}
  /invalid: {any: true, upstream: invalid}
";

/// A gate at trace level, keys whose every piece is looked for, and what was said to those who sent them.
pub struct Scene {
    pub stage: Stage,
    pub gate: Gate,
    pub upstreams: String,
    marks: Vec<String>,
    pub said: String,
    _silent: TcpListener,
}

impl Scene {
    pub fn set(more: &str) -> Self {
        let stage = Stage::set();
        // It accepts, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let upstreams = format!(
            "upstreams: {{default: '${{UPSTREAM_URL}}', dead: 'http://127.0.0.1:1', silent: 'http://{}', invalid: 'http://{}'}}\n",
            silent.local_addr().expect("a bound listener has an address"),
            upstream::that_says(b"no HTTP at all\r\n\r\n"),
        );
        for (business, document) in [
            ("acme", json!({"plan": "pro"})),
            ("poor", json!({})),
            ("bad", json!({"plan": "pro", "status": "suspended"})),
        ] {
            stage.redis.set_business(business, document);
        }
        let gate = stage.gate(&format!("{more}\n{upstreams}{SECTIONS}"));
        Self { stage, gate, upstreams, marks: Vec::new(), said: String::new(), _silent: silent }
    }

    /// Looks like a key, and is none.
    pub fn mark(&mut self) -> String {
        let random = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        self.marks.push(random[..43].to_owned());
        format!("mark_{}", &random[..43])
    }

    pub fn mint(&mut self, document: Value) -> String {
        self.mint_whole(document).text
    }

    pub fn mint_whole(&mut self, document: Value) -> Key {
        let text = self.mark();
        self.stage.redis.mint_as(&text, document)
    }

    /// A key that the gate made itself: what it may show once, it may show nowhere else.
    pub fn marks(&mut self, key: &str) {
        self.marks.push(key.strip_prefix("mark_").expect("keys are made in the first format").to_owned());
    }

    /// One request with this key, which is answered for this reason.
    pub fn asks(&mut self, reason: &str, key: &str, request: &str, lines: &str) {
        let head = format!("{request} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{lines}");
        self.is_answered(status_of(reason), reason, &head, "");
    }

    /// One request, which is answered with this status, for this reason.
    pub fn is_answered(&mut self, status: u16, reason: &str, head: &str, body: &str) -> Answer {
        let answer = self.sends_with(head, body);
        self.is_logged(&answer, status, reason);
        answer
    }

    /// An answer of this status, whose line in the access log names this reason, or none.
    pub fn is_logged(&self, answer: &Answer, status: u16, reason: &str) {
        let logged = self.line_of(answer);
        let named = logged["sidegate.reason"].as_str().unwrap_or_default();
        assert_eq!((answer.status, named), (status, reason), "{logged}");
    }

    /// One request with this key, which would have been denied for this reason, and passes; the service gets no key by it.
    pub fn passes(&mut self, reason: &str, key: &str, request: &str, lines: &str) {
        self.passes_with(reason, key, request, lines, "");
    }

    pub fn passes_with(&mut self, reason: &str, key: &str, request: &str, lines: &str, body: &str) {
        self.stage.upstream.take();
        let head = format!("{request} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{lines}");
        let answer = self.sends_with(&head, body);
        self.is_logged(&answer, 200, reason);
        assert_eq!(self.line_of(&answer)["sidegate.decision"], "observed");
        let seen = self.stage.upstream.only();
        assert_eq!(seen.all("x-sidegate-would-deny"), [reason], "{request}: {seen:#?}");
        self.is_silent_in(&format!("{seen:?}"));
    }

    fn line_of(&self, answer: &Answer) -> Value {
        self.gate.logged(answer.header("x-request-id").expect("every answer has one"))
    }

    pub fn sends(&mut self, head: &str) -> Answer {
        self.sends_with(head, "")
    }

    pub fn sends_with(&mut self, head: &str, body: &str) -> Answer {
        let close = if head.to_lowercase().contains("connection:") { "" } else { "Connection: close\r\n" };
        let answer = exchange(self.gate.address, format!("{head}{close}\r\n{body}").as_bytes());
        self.hears(&answer)
    }

    /// The service of these tests echoes what it was sent, and a key that was just made is told; the gate's other words are
    /// looked at.
    pub fn hears(&mut self, answer: &[u8]) -> Answer {
        if ![&b"HTTP/1.1 200 "[..], b"HTTP/1.1 201 "].iter().any(|told| answer.starts_with(told)) {
            self.said.push_str(&text(answer));
        }
        if answer.is_empty() {
            return Answer { status: 0, headers: http::HeaderMap::new(), body: Vec::new() };
        }
        Answer::parse(answer)
    }

    /// HTTP/2: as gRPC, with trailers, as the authority, in a path, in a name.
    pub fn sends_in_frames(&mut self, key: &str) {
        let path = format!("/things/{key}");
        let field = key.as_bytes();
        let grpc: [Field<'_>; 2] = [(b"content-type", b"application/grpc"), (b"te", b"trailers")];
        for more in
            [&grpc[..], &[(b"user-agent", field), (b"cookie", field)], &[(field, field)], &[(b"x-api-key", field)]]
        {
            let fields: [Field<'_>; 5] = [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.as_bytes()),
                (b":authority", field),
                (b"x-api-key", field),
            ];
            h2::exchange(self.gate.address, &[&fields, more].concat(), b"body", Some(&[(b"x-trailer", field)]));
        }
    }

    /// Whether the command ended well.
    pub fn runs(&mut self, arguments: &[&str], input: &str) -> bool {
        let Output { stdout, stderr, status } = self.gate.command_reading(arguments, input);
        self.said.push_str(&(text(&stdout) + &text(&stderr)));
        status.success()
    }

    /// A key as an argument is in the shell's history already; it is not repeated to a log that keeps what commands say.
    pub fn refuses(&mut self, arguments: &[&str]) {
        let Output { stdout, stderr, status } = self.gate.command(arguments);
        assert!(!status.success(), "{arguments:?}");
        self.said.push_str(&(text(&stdout) + &text(&stderr)));
    }

    /// Of all that was said and written, nothing is a key's; and its access log names each of these reasons.
    pub fn shows_nothing(&mut self, met: &[&str]) {
        let metrics = self.gate.operators("/metrics").text();
        self.gate.terminate();
        let written = self.gate.written_to_the_end();
        for reason in met {
            let field = format!("\"sidegate.reason\":\"{reason}\"");
            assert!(written.contains(&field), "no {field} was met");
        }
        let shown = written + &metrics + &self.said;
        assert!(shown.len() > 1000, "{shown}");
        self.is_silent_in(&shown);
    }

    /// Sixteen characters in a row of a key's secret part would do to know it from others.
    fn is_silent_in(&self, shown: &str) {
        for mark in &self.marks {
            for part in mark.as_bytes().windows(16) {
                let part = std::str::from_utf8(part).expect("it is ASCII");
                let place = shown.find(part).map(|at| around(shown, at));
                assert_eq!(place, None, "a part of a key is shown");
            }
        }
    }
}

/// What the table of reasons says; 200 where there is none.
pub fn status_of(reason: &str) -> u16 {
    Reason::ALL.iter().find(|row| row.name() == reason).map_or(200, |row| row.status())
}

fn around(text: &str, at: usize) -> String {
    let start = (0..=at.saturating_sub(200)).rev().find(|start| text.is_char_boundary(*start)).unwrap_or_default();
    text[start..].chars().take(400).collect()
}
