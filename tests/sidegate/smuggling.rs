//! Framing that two servers could read differently: a canary request hidden behind it never reaches the upstream.

use std::time::Duration;

use crate::support::{
    Gate, Stage,
    client::{self, provoke},
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
        "Content-Length: 5.0",
        "Content-Length: 5 5",
        "Content-Length: 18446744073709551621",
        "Content-Length: 5\r\n 0",
        "Content-Length : 5",
        "Content-Length: 5\r\nContent-Length: 0x5",
        "Transfer-Encoding: x, chunked",
        "Transfer-Encoding: chunked, x",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding : chunked",
        "X: 1\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\u{c}",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer\u{0}-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
        "Content-Length: 5\r\nTransfer-Encoding : chunked",
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
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "100000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: 1\r\n y\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n\r\n",
    ] {
        let request =
            format!("POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{CANARY}");
        sees_no_canary_in_a_body(&stage, &gate, &request);
    }
}

/// RFC 9112 §6.1: an HTTP/1.0 sender knows no transfer coding, so that whoever reads one may read another message.
#[test]
fn a_transfer_coding_on_http_1_0_hides_no_request() {
    let (stage, gate) = yard();
    for headers in
        ["Transfer-Encoding: chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: identity"]
    {
        let request = format!(
            "POST /public/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n{headers}\r\n\r\n0\r\n\r\n{CANARY}"
        );
        sees_no_canary_in_a_body(&stage, &gate, &request);
    }
}

#[test]
fn a_head_that_can_be_split_elsewhere_hides_no_request() {
    let (stage, gate) = yard();
    for head in [
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX: 1\r\n GET /public/canary HTTP/1.1\r\nX: 2",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX: 1\rX: 2",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX: 1\u{0}",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX",
        "GET /public/x HTTP/1.1\r\nHost: a\r\n: 1",
        "GET /public/x HTTP/1.1\r\nHost: a\r\nX Y: 1",
        "GET /public/x\tHTTP/1.1\r\nHost: a",
        "GET /public/x HTTP/1.2\r\nHost: a",
        "GET /public/x HTTP/2.0\r\nHost: a",
        "GET /public/x\r\nHost: a",
        "GET /public/x y HTTP/1.1\r\nHost: a",
        "GET  /public/x HTTP/1.1\r\nHost: a",
        " GET /public/x HTTP/1.1\r\nHost: a",
        "G\u{0}T /public/x HTTP/1.1\r\nHost: a",
    ] {
        provoke(gate.address, format!("{head}\r\n\r\n{CANARY}").as_bytes());
        assert!(stage.upstream.take().is_empty(), "{head:?} or what stands behind it reached the upstream");
    }
}

#[test]
fn the_unread_body_of_a_denied_request_is_never_a_request() {
    let (stage, gate) = yard();
    for path in ["/guarded", "/nowhere", "/public/../x"] {
        let length = CANARY.len();
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{CANARY}");
        provoke(gate.address, request.as_bytes());
        assert!(stage.upstream.seen().is_empty(), "{path}");
        let chunked = format!("{length:x}\r\n{CANARY}\r\n0\r\n\r\n");
        let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
        provoke(gate.address, request.as_bytes());
        assert!(stage.upstream.seen().is_empty(), "{path}, chunked");
    }
}

#[test]
fn a_client_that_waits_for_leave_to_send_is_denied_without_its_body() {
    let (stage, gate) = yard();
    let request = "POST /guarded HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n";
    let answer = provoke(gate.address, request.as_bytes());
    assert!(answer.starts_with(b"HTTP/1.1 401 "), "{}", answer.escape_ascii());
    assert!(stage.upstream.seen().is_empty());
}

/// Pingora CVE-2026-2833: whatever the client asked to switch to, it is a tunnel only once the upstream has switched.
#[test]
fn an_upstream_that_answers_200_to_an_upgrade_gets_no_tunnel() {
    let (stage, gate) = yard();
    for upgrade in ["websocket", "h2c", "TLS/1.0", "anything"] {
        stage.upstream.respond_with(200, &[], "ok");
        let head = format!("GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n");
        let answer = provoke(gate.address, format!("{head}GET /guarded HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 4"), "{upgrade}: {answer}");
        assert!(stage.upstream.take().iter().all(|seen| seen.target == "/public/x"), "{upgrade}");
    }
}

#[test]
fn an_upgrade_to_cleartext_http2_is_not_passed_on() {
    let (stage, gate) = yard();
    for headers in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        "Connection: Upgrade\r\nUpgrade: H2C, websocket\r\nHTTP2-Settings: AAMAAABk",
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    ] {
        provoke(gate.address, format!("GET /public/x HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n").as_bytes());
        for seen in stage.upstream.take() {
            for name in ["upgrade", "http2-settings", "connection"] {
                let value = seen.header(name).unwrap_or_default();
                assert!(value.is_empty() || value == "keep-alive", "{name}: {value} for {headers}");
            }
        }
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
        provoke(gate.address, request.as_bytes());
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
    provoke(gate.address, request.as_bytes());
    let seen = stage.upstream.take();
    let canaries = seen.iter().filter(|seen| seen.target == "/public/canary").count();
    assert_eq!(canaries, 0, "{request}");
    assert!(seen.iter().all(|seen| !String::from_utf8_lossy(&seen.body).contains("canary")), "{request}");
}
