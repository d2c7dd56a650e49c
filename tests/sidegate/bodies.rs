//! Bodies where few expect one, none where some send one, and the trailers that are announced: what passes, framed how.

use bytes::Bytes;

use crate::support::{
    Answer, AnswerTo as _, Gate, Stage,
    client,
    scripted::{OK, Scripted},
    upstream::frames,
};

const METHODS: [&str; 6] = ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "QUERY"];

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

fn before(stage: &Stage, upstream: &str) -> Gate {
    stage.gate(&format!("workers: 1\nupstream: '{upstream}'\nroutes: {{/public: public}}"))
}

/// The one request that came is this one, with its whole body.
fn arrived(stage: &Stage, method: &str, what: &str) {
    let seen = stage.upstream.until(what, |seen| seen.complete);
    assert_eq!((seen.method.as_str(), seen.body.as_slice()), (method, &b"hello"[..]), "{what}");
    stage.upstream.take();
}
