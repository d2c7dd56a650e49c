//! A connection's life: how slow it may be and how much it may say, and how a gate that is told to end lets go of it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::support::{AnswerTo as _, Gate, Stage, client, until};

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let (_stage, gate) = yard("{header_read: 1s}");
    for begun in [&b""[..], b"GET /public HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(gate.address).expect("the gate listens");
        stream.write_all(begun).expect("the connection stands");
        closes(&mut stream, Duration::from_secs(8), &String::from_utf8_lossy(begun));
    }
}

#[tokio::test]
async fn more_headers_or_bytes_than_allowed_are_refused() {
    let (stage, gate) = yard("{header_bytes: 16KiB, headers: 50}");
    let many: Vec<String> = (0..60).map(|i| format!("X-{i}: 1")).collect();
    let many: Vec<&[u8]> = many.iter().map(String::as_bytes).collect();
    assert_eq!(gate.raw("GET", "/public", &many).status, 431);
    assert_eq!(gate.raw("GET", "/public", &[format!("X-Large: {}", "x".repeat(20_000)).as_bytes()]).status, 431);
    let long = gate.raw("GET", format!("/public?{}", "x".repeat(70_000)), &[]);
    assert!([414, 431].contains(&long.status), "{long:?}");
    assert!(stage.upstream.seen().is_empty());
    assert_eq!(gate.get("/public").answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_gate_finishes_what_it_began_and_exits_with_0() {
    let stage = Stage::set();
    let mut gate = stage.gate("drain: {delay: 1s, deadline: 20s}\nroutes: {/public: public}");
    let body = stage.upstream.stream();
    let client = client::http(&[]).build().expect("the client's settings are valid");
    let mut answer = client.get(gate.url("/public")).send().await.expect("the head comes before the body");
    gate.terminate();
    until("the gate to say that it is leaving", || (gate.operators("/readyz").status == 503).then_some(()));
    body.send("late");
    drop(body);
    assert_eq!(answer.chunk().await.expect("the answer is finished").as_deref(), Some(&b"late"[..]));
    assert_eq!(answer.chunk().await.expect("the answer is finished"), None);
    assert_eq!(gate.ended().code(), Some(0));
}

fn yard(limits: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(&format!(
        "
listen: {{address: '127.0.0.1:0', limits: {limits}}}
routes: {{/public: public}}
"
    ));
    (stage, gate)
}

/// Reads until the gate closes, which must not take longer than this.
fn closes(stream: &mut TcpStream, within: Duration, what: &str) {
    stream.set_read_timeout(Some(within)).expect("a timeout above zero is valid");
    let ended = loop {
        match stream.read(&mut [0; 4096]) {
            Ok(1..) => {}
            ended => break ended,
        }
    };
    // A reset closes as well; a timeout does not.
    let kind = ended.err().map(|error| error.kind());
    assert!(
        !matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "{what:?} is still open after {within:?}"
    );
}
