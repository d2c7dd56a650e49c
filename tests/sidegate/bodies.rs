//! Bodies where few expect one, none where some send one, and the trailers that are announced: what passes, framed how.

use std::time::Duration;

use bytes::Bytes;

use crate::support::{
    Answer, AnswerTo as _, Gate, Stage,
    bytes::{RawUpstream, Wire},
    client,
    scripted::{OK, Scripted},
    upstream::frames,
};

const METHODS: [&str; 6] = ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "QUERY"];

/// `body_idle` bounds the pause; the service waits no less than the gate.
#[test]
fn a_clients_pause_within_its_body_is_no_lateness_of_the_service() {
    let stage = Stage::set();
    for scheme in ["http", "h2c"] {
        let gate = stage.gate(&format!(
            "upstream: {{url: '{scheme}://{}', response_timeout: 1s}}\nroutes: {{/public: public}}",
            stage.upstream.address
        ));
        let mut wire = Wire::to(gate.address);
        wire.send("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello");
        std::thread::sleep(Duration::from_millis(2500));
        wire.send("world");
        let answer = Answer::parse(wire.rest().as_bytes());
        assert_eq!(answer.status, 200, "{scheme}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_passes_whatever_the_method_and_however_it_is_framed() {
    let stage = Stage::set();
    stage.upstream.respond_with(200, &[], "");
    for scheme in ["http", "h2c"] {
        let gate = before(&stage, &format!("{scheme}://{}", stage.upstream.address));
        let http2 = client::http(&[]).http2_prior_knowledge().build().expect("the client's settings are valid");
        for method in METHODS {
            let what = format!("{method} to {scheme}");
            for framed in
                ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"]
            {
                let request = format!("{method} /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framed}");
                let answer = Answer::parse(&client::exchange(gate.address, request.as_bytes()));
                assert_eq!(answer.status, 200, "{what}: {framed}");
                arrived(&stage, method, &format!("{what}: {framed}"));
            }
            let (sender, body) = frames();
            sender.send_bytes(Bytes::from_static(b"hello"));
            drop(sender);
            let request = http2.request(method.parse().expect("a method"), gate.url("/public"));
            assert_eq!(request.body(reqwest::Body::wrap(body)).answer().await.status, 200, "{what}");
            arrived(&stage, method, &format!("{what} over HTTP/2"));
        }
    }
}

#[tokio::test]
async fn what_has_no_body_is_framed_by_nothing() {
    let stage = Stage::set();
    let upstream = Scripted::play(|line| {
        while let Some(head) = line.head() {
            let framed = ["content-length", "transfer-encoding"].iter().any(|name| head.to_lowercase().contains(name));
            line.say(if framed { "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" } else { OK });
        }
    });
    let gate = before(&stage, &format!("http://{}", upstream.address));
    let http2 = client::http(&[]).http2_prior_knowledge().build().expect("the client's settings are valid");
    for method in METHODS {
        assert_eq!(gate.raw(method, "/public", &[]).status, 200, "{method}");
    }
    // A client of its own accord tells the others that they have none.
    for method in ["GET", "HEAD", "DELETE"] {
        let request = http2.request(method.parse().expect("a method"), gate.url("/public"));
        assert_eq!(request.answer().await.status, 200, "{method} over HTTP/2");
    }
}

/// RFC 9110 §15.3.6: a 205 has no content.
#[tokio::test]
async fn what_stands_behind_a_205_is_nobodys() {
    let stage = Stage::set();
    for framed in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "\r\nhello"]
    {
        let upstream = Scripted::play(move |line| {
            if line.number == 1 {
                line.head();
                line.say(format!("HTTP/1.1 205 Reset Content\r\nX-Kept: 1\r\n{framed}"));
            } else {
                line.serve();
            }
        });
        let gate = before(&stage, &format!("http://{}", upstream.address));
        let raw = client::exchange(
            gate.address,
            b"GET /public HTTP/1.1\r\nHost: a\r\n\r\nGET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
        let both = String::from_utf8_lossy(&raw);
        let (first, second) = both.split_once("\r\n\r\n").expect("two answers");
        assert!(first.starts_with("HTTP/1.1 205 ") && first.contains("x-kept: 1"), "{framed}: {both}");
        assert!(first.contains("content-length: 0") && !first.contains("transfer-encoding"), "{framed}: {both}");
        assert!(second.starts_with("HTTP/1.1 200 "), "{framed}: {both}");
    }
    stage.upstream.respond_with(205, &[("x-kept", "1")], "hello");
    let gate = before(&stage, &format!("h2c://{}", stage.upstream.address));
    for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
        let client = client.build().expect("the client's settings are valid");
        let answer = client.get(gate.url("/public")).answer().await;
        assert_eq!((answer.status, answer.text().as_str(), answer.header("x-kept")), (205, "", Some("1")));
        assert!(answer.header("content-length").is_none_or(|length| length == "0"), "{answer:?}");
    }
}

#[test]
fn trailers_are_announced_to_the_upstream_only_where_they_follow() {
    let stage = Stage::set();
    // It answers once on each connection.
    let upstream = RawUpstream::that_answers("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let gate = before(&stage, &format!("http://{}", upstream.address));
    let ask = |framed: &str| {
        let head = "POST /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTrailer: X-Sum, Content-Length,X-More\r\n";
        let answer = Answer::parse(&client::exchange(gate.address, format!("{head}{framed}").as_bytes()));
        assert_eq!(answer.status, 200, "{framed}");
        upstream.next()
    };
    for framed in ["Content-Length: 5\r\n\r\nhello", "Content-Length: 0\r\n\r\n", "\r\n"] {
        let (head, _) = ask(framed);
        assert!(!head.to_lowercase().contains("trailer"), "{head}");
    }
    let (head, mut rest) = ask("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n");
    assert_eq!(head.to_lowercase().matches("\r\ntrailer: x-sum, ").count(), 1, "{head}");
    assert_eq!(rest.until(b"\r\n\r\n"), "5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n");
}

#[test]
fn trailers_are_announced_to_the_client_only_where_they_follow() {
    let stage = Stage::set();
    let upstream = Scripted::play(|line| {
        while line.head().is_some() {
            line.say("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n");
        }
    });
    let gate = before(&stage, &format!("http://{}", upstream.address));
    for (asks, told) in [(&b"X-Other: 1"[..], false), (b"TE: gzip", false), (b"TE: trailers", true)] {
        let answer = gate.raw("GET", "/public", &[asks]);
        let sent = answer.text().ends_with("0\r\nx-sum: 5\r\n\r\n");
        assert_eq!((answer.header("trailer").is_some(), sent), (told, told), "{}: {answer:?}", asks.escape_ascii());
    }
}

fn before(stage: &Stage, upstream: &str) -> Gate {
    stage.gate(&format!("workers: 1\nupstream: '{upstream}'\nroutes: {{/public: public}}"))
}

/// The one request that came is this one, with its whole body.
fn arrived(stage: &Stage, method: &str, what: &str) {
    let seen = stage.upstream.until(what, |seen| seen.complete);
    assert_eq!((seen.method.as_str(), seen.body.as_slice()), (method, &b"hello"[..]), "{what}");
    stage.upstream.take();
}
