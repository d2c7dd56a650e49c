//! A marked key down every way that a request or a command can take, at trace level: it shows in no log, no metric and no answer
//! of the gate's own. (`telemetry` sends one to every place of a request; here every outcome is reached.)

mod key_api;
mod observed;
mod scene;

use std::{collections::BTreeSet, io::Write as _};

use rustls::pki_types::ServerName;
use serde_json::json;
use sidegate::policy::Reason;

use self::scene::{DENIED, SECTIONS, Scene, status_of};
use crate::support::{
    Certificate,
    bytes::Wire,
    client::{self, exchange},
    until,
};

const OUTCOMES: &[&str] = &[
    "missing_key",
    "unknown_key",
    "revoked_key",
    "expired_key",
    "denied_key",
    "plan_required",
    "business_suspended",
    "denied_address",
    "insufficient_scope",
    "malformed_key",
    "foreign_format",
    "business_forbidden",
    "bad_request",
    "ambiguous_key",
    "bad_path",
    "route_not_found",
    "method_not_allowed",
    "rate_limited",
    "body_too_large",
    "uri_too_long",
    "headers_too_large",
    "client_gone",
    "upstream_unreachable",
    "upstream_timeout",
    "upstream_invalid",
    "store_unavailable",
];

const NO_ROOM: &[&str] = &["overloaded", "shutting_down"];

const TOO_OLD: &[&str] = &["max_age"];

const OVER_TLS: &[&str] = &["misdirected"];

/// Each scene asserts that its own log names what is listed for it.
#[test]
fn every_reason_there_is_was_met_with_a_key() {
    let met: BTreeSet<&str> =
        [OUTCOMES, NO_ROOM, TOO_OLD, OVER_TLS, key_api::OUTCOMES, key_api::FULL, observed::OUTCOMES]
            .into_iter()
            .flatten()
            .copied()
            .collect();
    let all: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(met, all);
}

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
        ("denied_key", Some(json!({"business": "acme", "id": DENIED}))),
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
    let mut leaves = Wire::to(scene.gate.address);
    leaves.send(format!("POST /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {good}\r\nContent-Length: 99\r\n\r\n{good}"));
    leaves.finish();
    let answer = scene.hears(leaves.rest().as_bytes());
    scene.is_logged(&answer, 499, "client_gone");
    scene.asks("upstream_unreachable", &good, "GET /dead", "");
    scene.asks("upstream_timeout", &good, "GET /silent", "");
    scene.asks("upstream_invalid", &good, "GET /invalid", "");
    // Where it stands in a place that is no credential's.
    for (target, line) in
        [(format!("/things/x?k={good}"), String::new()), ("/things/x".to_owned(), format!("Cookie: k={good}\r\n"))]
    {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{line}");
        scene.is_answered(401, "missing_key", &head, "");
    }
    scene.asks("uri_too_long", &good, &format!("GET /things/{}", good.repeat(200)), "");
    scene.asks("headers_too_large", &good, "GET /things/x", &format!("X-Long: {}\r\n", good.repeat(1000)));
    // Some are refused before there is a request.
    let long = good.repeat(2000);
    for (target, line, status) in [(&*long, "", 414), ("x", &*long, 431)] {
        let head = format!("GET /things/{target} HTTP/1.1\r\nHost: a\r\nX-API-Key: {good}\r\nX-Long: {line}\r\n");
        assert_eq!(scene.sends(&head).status, status);
    }
    scene.stage.redis.kill();
    scene.asks("store_unavailable", &good, "GET /things/x", "");
    let unseen = scene.mark();
    scene.asks("store_unavailable", &unseen, "GET /things/x", "");
    scene.shows_nothing(OUTCOMES);
}

#[test]
fn a_gate_that_has_no_room_shows_no_key() {
    let mut scene = Scene::set("listen: {address: '127.0.0.1:0', limits: {in_flight: 1}}\nworkers: 1");
    let good = scene.mint(json!({"business": "acme"}));
    scene.stage.upstream.fall_silent();
    let mut held = Wire::to(scene.gate.address);
    held.send(format!("GET /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {good}\r\n\r\n"));
    until("it to be in flight", || (scene.stage.upstream.seen().len() == 1).then_some(()));
    for key in [good, scene.mark()] {
        scene.asks("overloaded", &key, &format!("GET /things/{key}"), "");
    }
    // What it holds is cut off when the gate ends.
    scene.shows_nothing(NO_ROOM);
}

#[test]
fn what_waits_for_too_long_shows_no_key() {
    let mut scene = Scene::set("streams: {max_age: 300ms}");
    let good = scene.mint(json!({"business": "acme"}));
    scene.stage.upstream.fall_silent();
    scene.asks("max_age", &good, "GET /things/x", "");
    scene.shows_nothing(TOO_OLD);
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
    scene.shows_nothing(&[]);
}

#[tokio::test]
async fn who_guesses_keys_or_sends_one_as_the_servers_name_shows_none() {
    let certificates = ["gate.example", "other.example"].map(Certificate::of);
    let [one, two] = certificates
        .each_ref()
        .map(|made| format!("{{cert: '{}', key: '{}'}}", made.cert_file().display(), made.key_file().display()));
    let mut scene = Scene::set(&format!("listen: {{address: '127.0.0.1:0', tls: {{certificates: [{one}, {two}]}}}}"));
    let good = scene.mint(json!({"business": "acme"}));
    for (name, host, reason) in [
        ("gate.example".to_owned(), &*good, Some("")),
        ("gate.example".to_owned(), "other.example", Some("misdirected")),
        // The client itself refuses the certificate for another name.
        (format!("{good}.example"), &*good, None),
    ] {
        let name = ServerName::try_from(name).expect("a DNS name may hold an underscore here");
        let config = client::tls(std::slice::from_ref(&certificates[0].der), &[b"http/1.1"]);
        let mut connection = rustls::ClientConnection::new(config.into(), name).expect("the configuration is complete");
        let mut stream = std::net::TcpStream::connect(scene.gate.address).expect("the gate listens");
        let mut stream = rustls::Stream::new(&mut connection, &mut stream);
        let request =
            format!("GET /things/x HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {good}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        let answer = scene.hears(&answer);
        match reason {
            Some(reason) => scene.is_logged(&answer, status_of(reason), reason),
            None => assert_eq!(answer.status, 0),
        }
    }
    // Bytes that are no TLS.
    exchange(scene.gate.address, good.as_bytes());
    scene.shows_nothing(OVER_TLS);

    let mut scene = Scene::set("");
    let slowed = SECTIONS.replace("keys: {", "keys: {guessing: 3/1h, ");
    scene.gate.reload(&format!("{}{slowed}", scene.upstreams));
    scene.stage.redis.room(3_600_000, 20_000);
    for _ in 0..6 {
        let guess = scene.mark();
        scene.sends(&format!("GET /things/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {guess}\r\n"));
    }
    assert!(scene.said.contains("rate_limited"), "{}", scene.said);
    scene.shows_nothing(&["rate_limited"]);
}
