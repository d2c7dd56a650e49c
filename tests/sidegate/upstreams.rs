//! What upstreams do to a proxy: they fall silent, break off, talk nonsense, answer too early, and close a connection in the
//! moment in which a request comes. What is sent again, and what never is.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::support::{
    Answer, AnswerTo as _, Gate, Stage,
    bytes::{RawUpstream, Wire},
    client,
    scripted::{OK, Scripted},
    until,
    upstream::frames,
};

#[tokio::test]
async fn a_silent_upstream_is_given_up_and_its_connection_closed() {
    let left = Arc::new(AtomicBool::new(false));
    let told = left.clone();
    let upstream = Scripted::play(move |line| {
        line.head();
        line.closes();
        told.store(true, Ordering::SeqCst);
    });
    let (_stage, gate) = before(&upstream, "response_timeout: 300ms");
    assert_eq!(gate.get("/public").answer().await.denial(), (504, "upstream_timeout".to_owned()));
    until("the connection to be closed", || left.load(Ordering::SeqCst).then_some(()));
}

#[tokio::test]
async fn a_body_that_takes_its_time_is_not_what_the_upstream_is_timed_by() {
    let stage = Stage::set();
    let gate = stage.gate(&format!(
        "upstream: {{url: '{}', response_timeout: 2s}}\nroutes: {{/public: public}}",
        stage.upstream.url()
    ));
    let (sender, body) = frames();
    let answer = tokio::spawn(gate.post("/public").body(reqwest::Body::wrap(body)).answer());
    for _ in 0..4 {
        sender.send("slow");
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    drop(sender);
    assert_eq!(answer.await.expect("the request goes through").status, 200);
}

#[tokio::test]
async fn an_answer_that_is_reset_never_looks_complete() {
    let upstream = Scripted::play(|line| {
        // What is left unread makes the kernel reset the connection when it is closed.
        line.head();
        line.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
        let client = client.build().expect("the client's settings are valid");
        let request = client.post(gate.url("/public")).body(vec![b'x'; 100_000]);
        let whole = async { request.send().await?.error_for_status()?.bytes().await };
        assert!(whole.await.is_err(), "a truncated body was taken for a whole one");
    }
    let raw = client::exchange(gate.address, b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!raw.ends_with(b"0\r\n\r\n"), "the last chunk was made up: {raw:?}");
}

#[tokio::test]
async fn what_is_no_answer_is_502_and_the_connection_serves_no_other() {
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    for said in [
        "nonsense\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!".to_owned(),
        "HTTP/1.1 200 OK\r\nBad Name: 1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(2 * 1024 * 1024)),
        format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"),
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_owned(),
    ] {
        let begin = said[..said.len().min(60)].to_owned();
        let upstream = Scripted::play(move |line| {
            while line.head().is_some() {
                line.say(&said);
            }
        });
        let (_stage, gate) = before(&upstream, "idle: 60s");
        for _ in 0..2 {
            let answer = gate.get("/public").answer().await;
            assert_eq!(answer.denial(), (502, "upstream_invalid".to_owned()), "{begin}");
        }
        assert_eq!(connections(&upstream), [1, 2], "{begin}");
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_are_nobodys() {
    let upstream = Scripted::play(|line| {
        while line.head().is_some() {
            line.say(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"));
        }
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    for _ in 0..3 {
        assert_eq!(gate.get("/public").answer().await.text(), "ok");
    }
    assert_eq!(connections(&upstream), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_requests_end_is_relayed_and_the_connection_serves_no_other() {
    let upstream = Scripted::play(|line| {
        if line.head().is_some() {
            line.say(OK);
            line.closes();
        }
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    for number in 1..=2 {
        let (sender, body) = frames();
        let answer = tokio::spawn(gate.post("/public").body(reqwest::Body::wrap(body)).answer());
        sender.send("begun");
        assert_eq!(answer.await.expect("the answer does not wait for the rest").text(), "ok");
        assert_eq!(connections(&upstream).len(), number);
    }
    assert_eq!(connections(&upstream), [1, 2]);
}

#[test]
fn a_client_that_sends_first_and_reads_later_gets_an_early_refusal_whole() {
    const SIZE: usize = 10 * 1024 * 1024;
    let upstream = RawUpstream::that_answers("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig");
    let stage = Stage::set();
    let gate = stage.gate(&format!(
        "listen: {{address: '127.0.0.1:0', limits: {{body_idle: 1h}}}}\nupstream: http://{}\nroutes: {{/public: public}}",
        upstream.address
    ));
    let chunk = format!("Transfer-Encoding: chunked\r\n\r\n{SIZE:x}\r\n");
    for framing in [format!("Content-Length: {SIZE}\r\n\r\n"), chunk] {
        let mut client = Wire::to(gate.address);
        client.send(format!("POST /public HTTP/1.1\r\nHost: a\r\n{framing}"));
        // Nobody takes so much in between; the service keeps the connection, and reads no more.
        client.pour(SIZE);
        let _unread = upstream.next();
        let answer = Answer::parse(client.rest().as_bytes());
        assert_eq!((answer.status, answer.text().as_str()), (413, "big"), "{framing}");
        assert_eq!(answer.header("connection"), Some("close"), "{framing}");
    }
}

#[test]
fn a_short_body_may_still_come_behind_an_early_refusal() {
    const SIZE: usize = 10_000;
    let upstream = Scripted::play(|line| {
        line.head();
        if line.number == 1 {
            line.say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
            line.read(SIZE);
        }
        line.say(OK);
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    let mut client = Wire::to(gate.address);
    client.send(format!("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 401 ") && !head.contains("connection"), "{head}");
    assert_eq!(client.until(b"no"), "no");
    client.pour(SIZE);
    client.send("GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn both_directions_move_on_their_own() {
    // It echoes as it reads; the client reads nothing until everything is sent.
    const SIZE: usize = 4 * 1024 * 1024;
    let upstream = Scripted::play(|line| {
        line.head();
        line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 * 1024));
        line.say(vec![b'e'; 64 * 1024]);
        line.read(SIZE);
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    let mut stream = TcpStream::connect(gate.address).expect("the gate listens");
    let head = format!("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the connection stands");
    stream.write_all(&vec![b'x'; SIZE]).expect("the body is taken though the answer is not read");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer is whole");
    assert_eq!(Answer::parse(&answer).body.len(), 64 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_exchange_with_it() {
    let left = Arc::new(AtomicBool::new(false));
    let told = left.clone();
    let upstream = Scripted::play(move |line| {
        line.head();
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun");
        line.closes();
        told.store(true, Ordering::SeqCst);
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    let mut response = gate.get("/public").send().await.expect("the head comes");
    assert_eq!(response.chunk().await.expect("the body begins").as_deref(), Some(&b"begun"[..]));
    drop(response);
    until("the connection to be closed", || left.load(Ordering::SeqCst).then_some(()));
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again_only_where_that_is_safe() {
    for (method, body, answered) in [
        ("GET", None, true),
        ("HEAD", None, true),
        ("OPTIONS", None, true),
        ("DELETE", None, true),
        ("PUT", None, true),
        ("POST", None, false),
        ("PATCH", None, false),
        ("POST", Some("body"), false),
        ("PUT", Some("body"), false),
    ] {
        let upstream = Scripted::play(|line| {
            line.head();
            line.say(OK);
            if line.number == 1 {
                // It reads the next request, and goes without a word.
                line.head();
            } else {
                line.serve();
            }
        });
        let (_stage, gate) = before(&upstream, "idle: 60s");
        assert_eq!(gate.get("/public").answer().await.status, 200);
        let mut request = gate.request(method, "/public");
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.answer().await;
        assert_eq!(answer.status == 200, answered, "{method} {body:?}: {answer:?}");
        let again = if answered { 2 } else { 1 };
        let seen = upstream.seen().into_iter().skip(1).filter(|(_, seen)| seen == method).count();
        assert_eq!(seen, again, "{method} {body:?} arrived so often");
    }
}

#[tokio::test]
async fn nothing_is_sent_a_third_time() {
    let upstream = Scripted::play(|line| {
        line.head();
        if line.number == 1 {
            line.say(OK);
            line.head();
        }
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    assert_eq!(gate.get("/public").answer().await.status, 200);
    assert_eq!(gate.get("/public").answer().await.denial().0, 502);
    assert_eq!(connections(&upstream), [1, 1, 2]);
    assert_eq!(gate.get("/public").answer().await.denial().0, 502);
    assert_eq!(connections(&upstream), [1, 1, 2, 3], "on a fresh connection it was received");
}

#[tokio::test]
async fn a_request_that_got_a_byte_in_answer_is_not_sent_again() {
    let upstream = Scripted::play(|line| {
        line.head();
        line.say(OK);
        line.head();
        line.say("H");
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    assert_eq!(gate.get("/public").answer().await.status, 200);
    assert_eq!(gate.get("/public").answer().await.denial().0, 502);
    assert_eq!(connections(&upstream), [1, 1]);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_request() {
    let closed = Arc::new(AtomicBool::new(false));
    let told = closed.clone();
    let upstream = Scripted::play(move |line| {
        line.head();
        line.say(OK);
        line.close();
        told.store(true, Ordering::SeqCst);
    });
    let (_stage, gate) = before(&upstream, "idle: 60s");
    for number in 1..=20 {
        let request = gate.post("/public").body("body");
        assert_eq!(request.answer().await.status, 200);
        // The upstream has said its last word; the gate is to have heard it.
        until("the upstream to close", || closed.swap(false, Ordering::SeqCst).then_some(()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(connections(&upstream).len(), number, "each arrived once");
    }
}

#[tokio::test]
async fn an_unused_connection_is_closed_after_its_time() {
    let left = Arc::new(AtomicBool::new(false));
    let told = left.clone();
    let upstream = Scripted::play(move |line| {
        line.serve();
        told.store(true, Ordering::SeqCst);
    });
    let (_stage, gate) = before(&upstream, "idle: 3s");
    for _ in 0..5 {
        assert_eq!(gate.get("/public").answer().await.status, 200);
    }
    assert_eq!(connections(&upstream), [1; 5]);
    until("the connection to be closed", || left.load(Ordering::SeqCst).then_some(()));
    assert_eq!(gate.get("/public").answer().await.status, 200);
}

#[tokio::test]
async fn an_upstream_is_reached_by_name() {
    let stage = Stage::set();
    let port = stage.upstream.address.port();
    let gate = stage.gate(&format!("upstream: http://localhost:{port}\nroutes: {{/public: public}}"));
    assert_eq!(gate.get("/public").answer().await.status, 200);
    let host = stage.upstream.only().header("host").map(str::to_owned);
    assert_eq!(host, Some(gate.address.to_string()), "the host that the client asked for");
    let gone = stage.gate("upstream: http://nobody.invalid\nroutes: {/public: public}");
    assert_eq!(gone.get("/public").answer().await.denial(), (502, "upstream_unreachable".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_size_take_no_memory() {
    const CHUNK: usize = 1024 * 1024;
    const CHUNKS: usize = 256;
    const MAY_GROW: f64 = 32.0 * 1024.0 * 1024.0;
    let upstream = Scripted::play(|line| {
        while let Some(head) = line.head() {
            if head.starts_with("GET") {
                line.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", CHUNK * CHUNKS));
                (0..CHUNKS).for_each(|_| line.say([b'd'; CHUNK]));
            } else {
                // It reads nothing until the gate has had time to take too much.
                std::thread::sleep(Duration::from_millis(500));
                (0..CHUNKS).for_each(|_| assert!(line.read(CHUNK)));
                line.say(OK);
            }
        }
    });
    let (_stage, gate) = before(&upstream, "response_timeout: 60s");
    let resident = || gate.metric("process_resident_memory_bytes", &[]);
    let idle = resident();
    let mut response = gate.get("/public").send().await.expect("the head comes");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (mut read, mut most) = (0, resident());
    while let Some(chunk) = response.chunk().await.expect("the body is whole") {
        if (read + chunk.len()) / (32 * CHUNK) > read / (32 * CHUNK) {
            most = most.max(resident());
        }
        read += chunk.len();
    }
    assert_eq!(read, CHUNK * CHUNKS);
    let (sender, body) = frames();
    let answer = tokio::spawn(gate.post("/public").body(reqwest::Body::wrap(body)).answer());
    static PART: [u8; CHUNK] = [b'u'; CHUNK];
    for _ in 0..CHUNKS {
        sender.send_bytes(Bytes::from_static(&PART));
    }
    drop(sender);
    while !answer.is_finished() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(resident());
    }
    assert_eq!(answer.await.expect("the upload goes through").status, 200);
    assert!(most - idle < MAY_GROW, "from {idle} to {most} bytes");
}

/// A gate before this upstream, with this field of `upstream` besides.
fn before(upstream: &Scripted, field: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let yaml =
        format!("workers: 1\nupstream: {{url: 'http://{}', {field}}}\nroutes: {{/public: public}}", upstream.address);
    let gate = stage.gate(&yaml);
    (stage, gate)
}

/// On which connection each request came.
fn connections(upstream: &Scripted) -> Vec<usize> {
    upstream.seen().into_iter().map(|(connection, _)| connection).collect()
}

#[test]
fn the_operator_is_told_which_upstream_failed_and_whether_it_was_reached() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let socket = folder.path().join("nobody.sock");
    let upstream = Scripted::play(|line| {
        line.head();
        line.say("no HTTP at all\r\n\r\n");
    });
    let stage = Stage::set();
    for (url, told, address) in [
        (format!("unix:{}", socket.display()), "the upstream cannot be reached", format!("unix:{}", socket.display())),
        ("http://127.0.0.1:1".to_owned(), "the upstream cannot be reached", "127.0.0.1:1".to_owned()),
        ("http://nobody.invalid:81".to_owned(), "the upstream cannot be reached", "nobody.invalid:81".to_owned()),
        (format!("http://{}", upstream.address), "the upstream gave no valid answer", upstream.address.to_string()),
    ] {
        let gate = stage.gate(&format!("upstream: '{url}'\nroutes: {{/public: public}}"));
        assert_eq!(gate.raw("GET", "/public", &[]).status, 502, "{url}");
        let said = gate.said(told);
        assert_eq!(said.matches(&address).count(), 1, "{url}: {said}");
    }
}

#[test]
fn an_answer_in_another_transfer_coding_is_none() {
    for coding in ["gzip, chunked", "gzip", "chunked, chunked", "identity"] {
        let upstream = Scripted::play(move |line| {
            line.head();
            line.say(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n2\r\nok\r\n0\r\n\r\n"));
        });
        let (_stage, gate) = before(&upstream, "idle: 60s");
        assert_eq!(gate.raw("GET", "/public", &[]).denial(), (502, "upstream_invalid".to_owned()), "{coding}");
        gate.said("it has a transfer coding besides chunked");
    }
}
