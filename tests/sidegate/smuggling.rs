//! Framing that two servers could read differently: a canary request hidden behind it never reaches the upstream.

use std::time::Duration;

use crate::support::{
    Gate, Stage,
    client::{self, exchange},
};

const CANARY: &str = "GET /public/canary HTTP/1.1\r\nHost: a\r\nX-Canary: 1\r\n\r\n";

#[test]
fn a_body_with_two_lengths_hides_no_request() {
    let (stage, gate) = yard();
    let chunked_end = "0\r\n\r\n";
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 60",
        "Content-Length: 5, 60",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 1_0",
        "Content-Length: ",
        "Content-Length: -0",
        "Transfer-Encoding: x, chunked",
        "Transfer-Encoding: chunked, x",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding : chunked",
        "X: 1\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
    ] {
        let request = format!("POST /public/x HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{chunked_end}{CANARY}");
        sees_no_canary_in_a_body(&stage, &gate, &request);
    }
}

#[test]
fn a_chunk_whose_size_can_be_misread_hides_no_request() {
    let (stage, gate) = yard();
    for chunks in [
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "1_0\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
    ] {
        let request =
            format!("POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{CANARY}");
        sees_no_canary_in_a_body(&stage, &gate, &request);
    }
}

#[test]
fn the_unread_body_of_a_denied_request_is_never_a_request() {
    let (stage, gate) = yard();
    for path in ["/guarded", "/nowhere", "/public/../x"] {
        let length = CANARY.len();
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{CANARY}");
        exchange(gate.address, request.as_bytes());
        assert!(stage.upstream.seen().is_empty(), "{path}");
    }
}

#[test]
fn a_request_behind_an_upgrade_that_was_not_granted_stays_a_request() {
    let (stage, gate) = yard();
    let inner = "GET /guarded HTTP/1.1\r\nHost: a\r\n\r\n";
    for upgrade in ["websocket", "h2c"] {
        let request = format!(
            "GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{inner}"
        );
        exchange(gate.address, request.as_bytes());
        assert!(stage.upstream.take().iter().all(|seen| seen.target == "/public/x"), "{upgrade}");
    }
}

#[tokio::test]
async fn http2_that_names_two_hosts_is_refused() {
    let (stage, gate) = yard();
    let client = client::http(&[]).http2_prior_knowledge().timeout(Duration::from_secs(5)).build();
    let client = client.expect("the client's settings are valid");
    let answered = client.get(gate.url("/public/x")).header("host", "other.example").send().await;
    // Refused by an answer or by resetting the stream.
    assert!(answered.is_err() || answered.is_ok_and(|answer| [400, 421].contains(&answer.status().as_u16())));
    assert!(stage.upstream.seen().is_empty());
}

fn yard() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/public/**: public, /guarded: any}");
    (stage, gate)
}

/// Whatever is made of the first request, the canary may be served only when it was read as a request of its own right
/// behind a first that the upstream read the same way: whole, and with nothing of the canary in its body.
fn sees_no_canary_in_a_body(stage: &Stage, gate: &Gate, request: &str) {
    exchange(gate.address, request.as_bytes());
    let seen = stage.upstream.take();
    let canaries = seen.iter().filter(|seen| seen.target == "/public/canary").count();
    assert_eq!(canaries, 0, "{request}");
    assert!(seen.iter().all(|seen| !String::from_utf8_lossy(&seen.body).contains("canary")), "{request}");
}
