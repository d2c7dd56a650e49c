//! A marked key down every way that a request or a command can take, at trace level: it shows in no log, no metric and no answer
//! of the gate's own. (`telemetry` sends one to every place of a request; here every outcome is reached.)

use std::{io::Write as _, net::TcpListener, process::Output};

use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Answer, Certificate, Gate, Stage,
    client::{self, exchange},
    gate::text,
    h2::{self, Field},
    upstream,
};

const SECTIONS: &str = "
keys: {formats: [{prefix: mark_, length: 43}, {prefix: theirs_, reject: Not here}]}
log: {level: trace}
drain: {delay: 0s, deadline: 1s}
business: {from: [{query: business}, {header: X-Business-Id}]}
plans: {pro: {}}
limits: {tight: {by: key, windows: 1/1d}}
cors: {origins: ['https://app.example'], preflight: forward}
management: {path: /v1/keys, session: '${SESSION_URL}', roles: [admin]}
routes:
  /things/**: any
  /public/**: public
  /guarded: admin
  /tight: {any: true, limits: [tight]}
  /small: {any: true, max_body: 10}
  /dead: {any: true, upstream: dead}
  /silent: {any: true, upstream: silent, response_timeout: 100ms}
  /invalid: {any: true, upstream: invalid}
";

#[tokio::test]
async fn no_outcome_of_a_request_shows_its_key() {
    let mut scene = Scene::set("listen: {address: '127.0.0.1:0', trusted_proxies: [127.0.0.0/8]}");
    let business = |id: &str| json!({"business": id});
    let good = scene.mint(business("acme"));
    for (reason, document) in [
        ("unknown_key", None),
        ("revoked_key", Some(json!({"business": "acme", "revoked_at": "2026-01-01T00:00:00Z"}))),
        ("expired_key", Some(json!({"business": "acme", "expires_at": "2026-01-01T00:00:00Z"}))),
        ("plan_required", Some(business("poor"))),
        ("business_suspended", Some(business("bad"))),
        ("denied_address", Some(json!({"business": "acme", "allow_addresses": ["192.0.2.1"]}))),
    ] {
        let key = match document {
            Some(document) => scene.mint(document),
            None => scene.mark(),
        };
        scene.asks(reason, &key, "GET /things/x", "");
    }
    let narrow = scene.mint(json!({"business": "acme", "scopes": ["little"]}));
    scene.asks("insufficient_scope", &narrow, "GET /guarded", "");
    scene.asks("malformed_key", &(good.clone() + "x"), "GET /things/x", "");
    scene.asks("foreign_format", &format!("theirs_{}", &good[5..]), "GET /things/x", "");
    scene.asks("business_forbidden", &good, &format!("GET /things/x?business={good}"), "");
    scene.asks("bad_request", &good, "GET /things/x?business=a", &format!("X-Business-Id: {good}\r\n"));
    scene.asks("ambiguous_key", &good, "GET /things/x", &format!("Authorization: Bearer {good}\r\n"));
    scene.asks("bad_path", &good, &format!("GET /things/%zz{good}"), "");
    scene.asks("route_not_found", &good, &format!("GET /{good}"), "");
    scene.asks("method_not_allowed", &good, "TRACE /things/x", "");
    scene.asks("", &good, "GET /tight", "");
    scene.asks("rate_limited", &good, "GET /tight", "");
    scene.asks("body_too_large", &good, "POST /small", "Content-Length: 48\r\n");
    scene.asks("upstream_unreachable", &good, "GET /dead", "");
    scene.asks("upstream_timeout", &good, "GET /silent", "");
    scene.asks("upstream_invalid", &good, "GET /invalid", "");
    // Some are refused before there is a request.
    scene.sends(&format!("GET /things/{} HTTP/1.1\r\nHost: a\r\nX-API-Key: {good}\r\n", good.repeat(2000)));
    scene
        .sends(&format!("GET /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {good}\r\nX-Long: {}\r\n", good.repeat(1000)));
    scene.stage.redis.kill();
    scene.asks("store_unavailable", &good, "GET /things/x", "");
    let unseen = scene.mark();
    scene.asks("store_unavailable", &unseen, "GET /things/x", "");
    scene.shows_nothing();
}

#[tokio::test]
async fn no_place_in_a_request_shows_a_key() {
    let mut scene = Scene::set("listen: {address: '127.0.0.1:0', trusted_proxies: [127.0.0.0/8]}");
    let good = scene.mint(json!({"business": "acme"}));
    let unknown = scene.mark();
    for key in [&good, &unknown] {
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        for target in [
            format!("/things/{}", encoded(key)),
            format!("/things/%6Dark%5f{}", &key[5..]),
            format!("/things/{}%{:02X}{}", &key[..12], key.as_bytes()[12], &key[13..]),
            format!("/public/{}", encoded(&encoded(key))),
            format!("/nowhere/{}", encoded(key)),
            format!("/things/x?k={}&{}={key}", encoded(key), encoded(key)),
            format!("/things/x;{key}"),
            format!("/things/{key}/{key}"),
        ] {
            scene.sends(&format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n"));
        }
        for lines in [
            format!("User-Agent: {key}\r\nReferer: https://x/{key}"),
            format!("X-Request-Id: {key}\r\nX-Forwarded-For: {key}, 192.0.2.1\r\nForwarded: for={key}"),
            format!("X-Forwarded-Host: {key}\r\nX-Forwarded-Proto: {key}\r\nX-Real-IP: {key}"),
            format!("traceparent: 00-{key}\r\ntracestate: a={key}\r\nbaggage: k={key}"),
            format!(
                "Connection: upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {key}"
            ),
            format!("Upgrade: {key}\r\nConnection: upgrade, close, {key}"),
            format!("Content-Type: application/grpc\r\nTE: trailers\r\ngrpc-metadata: {key}"),
            format!("Origin: https://{key}\r\nCookie: session={key}"),
            format!("Expect: {key}"),
        ] {
            for path in ["/things/x", "/public/x", "/guarded", "/nowhere", "/v1/keys"] {
                scene.sends(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{lines}\r\n"));
            }
        }
        for path in ["/things/x", "/nowhere"] {
            let asks = format!("Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: {key}");
            scene.sends(&format!("OPTIONS {path} HTTP/1.1\r\nHost: a\r\nOrigin: https://{key}\r\n{asks}\r\n"));
        }
        let chunked = format!("Trailer: {key}\r\nTransfer-Encoding: chunked");
        let body = format!("30\r\n{key}\r\n0\r\n{key}: {key}\r\n\r\n");
        for path in ["/things/x", "/guarded"] {
            scene.sends_with(&format!("POST {path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{chunked}\r\n"), &body);
        }
        scene.sends_in_frames(key);
    }
    scene.shows_nothing();
}

#[tokio::test]
async fn who_guesses_keys_or_sends_one_as_the_servers_name_shows_none() {
    let certificate = Certificate::of("gate.example");
    let tls = format!(
        "listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{}', key: '{}'}}}}}}",
        certificate.cert_file().display(),
        certificate.key_file().display()
    );
    let mut scene = Scene::set(&tls);
    let good = scene.mint(json!({"business": "acme"}));
    for name in ["gate.example".to_owned(), format!("{good}.example")] {
        let name = ServerName::try_from(name).expect("a DNS name may hold an underscore here");
        let config = client::tls(std::slice::from_ref(&certificate.der), &[b"http/1.1"]);
        let mut connection = rustls::ClientConnection::new(config.into(), name).expect("the configuration is complete");
        let mut stream = std::net::TcpStream::connect(scene.gate.address).expect("the gate listens");
        let mut stream = rustls::Stream::new(&mut connection, &mut stream);
        let request =
            format!("GET /things/x HTTP/1.1\r\nHost: {good}\r\nX-API-Key: {good}\r\nConnection: close\r\n\r\n");
        // The client itself refuses the certificate for another name.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        scene.hears(&answer);
    }
    // Bytes that are no TLS.
    exchange(scene.gate.address, good.as_bytes());
    scene.shows_nothing();

    let mut scene = Scene::set("");
    let slowed = SECTIONS.replace("keys: {", "keys: {guessing: 3/1h, ");
    scene.gate.reload(&format!("{}{slowed}", scene.upstreams));
    for _ in 0..6 {
        let guess = scene.mark();
        scene.sends(&format!("GET /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {guess}\r\n"));
    }
    assert!(scene.said.contains("rate_limited"), "{}", scene.said);
    scene.shows_nothing();
}

#[tokio::test]
async fn neither_the_key_api_nor_a_command_shows_a_key_that_it_was_given() {
    let mut scene = Scene::set("");
    let good = scene.mint(json!({"business": "acme"}));
    scene.stage.upstream.sign_in("sid=ada", json!({"user": "u", "businesses": [{"id": "acme", "role": "admin"}]}));
    let unknown = scene.mark();
    for key in [&good, &unknown] {
        for cookie in ["sid=ada".to_owned(), format!("sid={key}")] {
            let shown = format!("Host: a\r\nCookie: {cookie}\r\nAuthorization: Bearer {key}\r\nX-API-Key: {key}\r\n");
            for request in ["GET /v1/keys", "DELETE /v1/keys", "PUT /v1/keys"] {
                scene.sends(&format!("{request}?id={key}&business_id={key} HTTP/1.1\r\n{shown}"));
            }
            for request in ["GET", "DELETE", "PATCH"] {
                scene.sends(&format!("{request} /v1/keys/{key} HTTP/1.1\r\n{shown}"));
            }
            for body in
                [format!("{{\"{key}\": 1}}"), format!("{{\"name\": \"n\", \"scopes\": [\"{key}\"]}}"), key.clone()]
            {
                let length = body.len();
                let head = format!("{shown}Content-Type: application/json\r\nContent-Length: {length}\r\n");
                for request in ["POST /v1/keys", "POST /v1/keys/x/rotate", "PATCH /v1/keys/x"] {
                    scene.sends_with(&format!("{request} HTTP/1.1\r\n{head}"), &body);
                }
            }
        }
        for arguments in [
            &["keys", "verify"][..],
            &["keys", "verify", "--json"],
            &["explain", "GET /things/x"],
            &["explain", "--json", "GET /guarded"],
            &["keys", "show", "-"],
            &["keys", "usage", "-"],
            &["keys", "revoke", "-"],
        ] {
            scene.runs(arguments, &format!("{key}\n"));
        }
        for command in ["show", "usage", "revoke"] {
            scene.refuses(&["keys", command, key]);
        }
        scene.runs(&["keys", "import", "-"], &format!("{{\"sha256\": \"{key}\"}}\n"));
    }
    scene.stage.redis.kill();
    scene.runs(&["keys", "verify"], &good);
    scene.shows_nothing();
}

/// A gate at trace level, keys whose every piece is looked for, and what was said to those who sent them.
struct Scene {
    stage: Stage,
    gate: Gate,
    upstreams: String,
    marks: Vec<String>,
    said: String,
    _silent: TcpListener,
}

impl Scene {
    fn set(more: &str) -> Self {
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
    fn mark(&mut self) -> String {
        let random = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        self.marks.push(random[..43].to_owned());
        format!("mark_{}", &random[..43])
    }

    fn mint(&mut self, document: Value) -> String {
        let text = self.mark();
        self.stage.redis.mint_as(&text, document).text
    }

    /// One request with this key, which is answered for this reason.
    fn asks(&mut self, reason: &str, key: &str, request: &str, lines: &str) {
        let answer = self.sends(&format!("{request} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n{lines}"));
        let id = answer.header("x-request-id").expect("every answer has one");
        let logged = self.gate.logged(id);
        assert_eq!(logged["sidegate.reason"].as_str().unwrap_or_default(), reason, "{request}: {logged}");
    }

    fn sends(&mut self, head: &str) -> Answer {
        self.sends_with(head, "")
    }

    fn sends_with(&mut self, head: &str, body: &str) -> Answer {
        let close = if head.to_lowercase().contains("connection:") { "" } else { "Connection: close\r\n" };
        let answer = exchange(self.gate.address, format!("{head}{close}\r\n{body}").as_bytes());
        self.hears(&answer)
    }

    /// The service of these tests echoes what it was sent; the gate's own words are looked at.
    fn hears(&mut self, answer: &[u8]) -> Answer {
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            self.said.push_str(&text(answer));
        }
        if answer.is_empty() {
            return Answer { status: 0, headers: http::HeaderMap::new(), body: Vec::new() };
        }
        Answer::parse(answer)
    }

    /// HTTP/2: as gRPC, with trailers, as the authority, in a path, in a name.
    fn sends_in_frames(&mut self, key: &str) {
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

    fn runs(&mut self, arguments: &[&str], input: &str) {
        let Output { stdout, stderr, .. } = self.gate.command_reading(arguments, input);
        self.said.push_str(&(text(&stdout) + &text(&stderr)));
    }

    /// A key as an argument is in the shell's history already; it is not repeated to a log that keeps what commands say.
    fn refuses(&mut self, arguments: &[&str]) {
        let Output { stdout, stderr, status } = self.gate.command(arguments);
        assert!(!status.success(), "{arguments:?}");
        self.said.push_str(&(text(&stdout) + &text(&stderr)));
    }

    /// Sixteen characters in a row of a key's secret part would do to know it from others.
    fn shows_nothing(&mut self) {
        let metrics = self.gate.operators("/metrics").text();
        self.gate.terminate();
        let shown = self.gate.written_to_the_end() + &metrics + &self.said;
        assert!(shown.len() > 1000, "{shown}");
        for mark in &self.marks {
            for part in mark.as_bytes().windows(16) {
                let part = std::str::from_utf8(part).expect("it is ASCII");
                let place = shown.find(part).map(|at| around(&shown, at));
                assert_eq!(place, None, "a part of a key is shown");
            }
        }
    }
}

fn around(text: &str, at: usize) -> String {
    let start = (0..=at.saturating_sub(200)).rev().find(|start| text.is_char_boundary(*start)).unwrap_or_default();
    text[start..].chars().take(400).collect()
}
