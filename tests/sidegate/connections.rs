//! A connection's life: how slow it may be and how much it may say, and how a gate that is told to end lets go of it.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    slice,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use crate::support::{
    AnswerTo as _, Certificate, Gate, Stage,
    bytes::Wire,
    client, frames,
    scripted::{OK, Scripted},
    until,
};

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let (_stage, gate) = yard("{header_read: 1s}");
    for begun in [&b""[..], b"GET /public HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(gate.address).expect("the gate listens");
        stream.write_all(begun).expect("the connection stands");
        closes(&mut stream, Duration::from_secs(8), &String::from_utf8_lossy(begun));
    }
}

/// What stays in the socket wakes whoever waits for more of it, again and again.
#[test]
fn the_first_bytes_of_a_connection_are_taken_as_they_come() {
    let (_stage, gate) = yard("{header_read: 10s}");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let h2 = [&preface[..], &frames::frame(frames::SETTINGS, 0, 0, &[])].concat();
    let h1 = b"PUT /public HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    for (whole, answered) in [(h1, &b"HTTP/1.1 200 OK"[..]), (h2, &[0, 0])] {
        for cut in [1, 3] {
            let mut client = Wire::to(gate.address);
            client.send(&whole[..cut]);
            until("the first bytes to be taken", || (unread(&gate, &client) == 0).then_some(()));
            client.send(&whole[cut..]);
            let came = client.within(Duration::from_secs(15));
            assert!(came.starts_with(answered), "{came:?}");
        }
    }
    let stage = Stage::set();
    let gate = stage.gate(
        "listen: {address: '127.0.0.1:0', proxy_protocol: true, trusted_proxies: [127.0.0.0/8]}\nroutes: {/public: public}",
    );
    let mut client = Wire::to(gate.address);
    client.send("PROXY TCP4 192.0.2.1 ");
    until("the first bytes to be taken", || (unread(&gate, &client) == 0).then_some(()));
    client.send("127.0.0.1 1 2\r\nGET /public HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
}

/// How many bytes of this client's the gate has left in its socket, as Linux lists them.
fn unread(gate: &Gate, client: &Wire) -> u32 {
    let port = client.0.local_addr().expect("a connected stream has an address").port();
    let (here, there) = (format!(":{:04X}", gate.address.port()), format!(":{port:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux lists its sockets");
    let mut rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&here) && row[2].ends_with(&there)).expect("the connection stands");
    let (_, received) = row[4].split_once(':').expect("two queues");
    u32::from_str_radix(received, 16).expect("a hexadecimal number")
}

#[tokio::test]
async fn more_headers_or_bytes_than_allowed_are_refused() {
    let (stage, gate) = yard("{header_bytes: 16KiB, headers: 50}");
    let many: Vec<String> = (0..60).map(|i| format!("X-{i}: 1")).collect();
    let many: Vec<&[u8]> = many.iter().map(String::as_bytes).collect();
    assert_eq!(gate.raw("GET", "/public", &many).status, 431);
    assert_eq!(gate.raw("GET", "/public", &[format!("X-Large: {}", "x".repeat(20_000)).as_bytes()]).status, 431);
    let long = gate.raw("GET", format!("/public?{}", "x".repeat(256 * 1024)), &[]);
    assert_eq!(long.status, 431, "longer than any buffer: {long:?}");
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

#[tokio::test]
async fn a_client_that_leaves_before_its_answer_takes_its_request_with_it() {
    let certificate = Certificate::of("one.example");
    let (cert, key) = (certificate.cert_file(), certificate.key_file());
    let tls = format!(", tls: {{certificates: [{{cert: '{}', key: '{}'}}]}}", cert.display(), key.display());
    for (tls, earlier, body) in [("", 0, ""), ("", 2, ""), ("", 2, "a body"), (&*tls, 0, "a body"), (&*tls, 2, "")] {
        let waiting = Arc::new(AtomicUsize::new(0));
        let told = waiting.clone();
        let upstream = Scripted::play(move |line| {
            while line.head().is_some_and(|head| !head.contains("/public?slow ")) {
                line.say(OK);
            }
            line.read(body.len());
            told.fetch_add(1, Ordering::SeqCst);
            line.closes();
            told.fetch_sub(1, Ordering::SeqCst);
        });
        let stage = Stage::set();
        let (url, address) = (upstream.address, "'127.0.0.1:0'");
        let gate = stage.gate(&format!(
            "listen: {{address: {address}{tls}}}\nupstream: {{url: 'http://{url}'}}\nroutes: {{/public: public}}"
        ));
        let mut client: Box<dyn ReadWrite> = {
            let stream = TcpStream::connect(gate.address).expect("the gate listens");
            let name = ServerName::try_from("one.example").expect("a DNS name");
            let config = Arc::new(client::tls(slice::from_ref(&certificate.der), &[]));
            match tls {
                "" => Box::new(stream),
                _ => Box::new(StreamOwned::new(ClientConnection::new(config, name).expect("it is complete"), stream)),
            }
        };
        for _ in 0..earlier {
            client.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\nok") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("the answer is whole");
                answer.extend(byte);
            }
        }
        let head = format!("PUT /public?slow HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        client.write_all(head.as_bytes()).expect("the connection stands");
        client.write_all(body.as_bytes()).expect("the connection stands");
        until("the upstream to have it", || (waiting.load(Ordering::SeqCst) == 1).then_some(()));
        drop(client);
        until("the upstream to be let go", || (waiting.load(Ordering::SeqCst) == 0).then_some(()));
    }
}

trait ReadWrite: Read + Write {}

impl<S: Read + Write> ReadWrite for S {}

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
