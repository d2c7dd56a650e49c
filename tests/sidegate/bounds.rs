//! How slow a client may be, how much it may keep, and what it is told when there is no room: every wait on a client ends on
//! time, and an early answer is never reset away.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    Answer, AnswerTo as _, Certificate, Gate, Stage, client,
    frames::{self, Connection},
    until,
};

const LONG: Duration = Duration::from_secs(15);

#[test]
fn an_idle_connection_stays_as_long_as_idle_says_and_not_as_header_read_does() {
    let (_stage, gate) = yard("limits: {header_read: 1s, idle: 6s}");
    let mut stream = connect(&gate);
    for pause in [Duration::ZERO, Duration::from_millis(2500)] {
        std::thread::sleep(pause);
        stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
        assert_eq!(one_answer(&mut stream).status, 200, "after {pause:?}");
    }
    let began = Instant::now();
    assert!(ends(&mut stream, LONG), "it is still open");
    assert!(began.elapsed() >= Duration::from_secs(3), "closed after {:?}", began.elapsed());
}

#[test]
fn a_second_head_that_never_ends_is_given_up_however_it_drips() {
    let (_stage, gate) = yard("limits: {header_read: 1s, idle: 1m}");
    let mut stream = connect(&gate);
    stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
    one_answer(&mut stream);
    stream.write_all(b"GET /public HTTP/1.1\r\n").expect("the connection stands");
    let end = Instant::now() + LONG;
    // A byte now and then is no progress.
    while stream.write_all(b"X").is_ok() {
        assert!(Instant::now() < end, "it is still open");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_head_in_pieces_and_requests_behind_one_another_are_served_across_pauses() {
    let (stage, gate) = yard("limits: {header_read: 10s}");
    let mut stream = connect(&gate);
    for piece in ["GET /public HT", "TP/1.1\r\nHost: a", "\r\n\r\nGET /public HTTP/1.1\r\nHo", "st: a\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).expect("the connection stands");
        std::thread::sleep(Duration::from_millis(300));
    }
    one_answer(&mut stream);
    until("both requests to reach the upstream", || (stage.upstream.seen().len() == 2).then_some(()));
}

#[test]
fn a_body_that_stops_frees_its_place() {
    let (stage, gate) = yard("limits: {body_idle: 3s, in_flight: 1}\nworkers: 1");
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut stream = connect(&gate);
        let head = format!("POST /public HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n1\r\na\r\n");
        stream.write_all(head.as_bytes()).expect("the connection stands");
        stage.upstream.until("the body to begin", |seen| !seen.body.is_empty());
        assert_eq!(gate.raw("GET", "/public", &[]).status, 503, "the only place is taken");
        assert!(ends(&mut stream, LONG), "{framing}");
        until("the place to be free", || (gate.raw("GET", "/public", &[]).status == 200).then_some(()));
        stage.upstream.take();
    }
}

#[test]
fn a_body_that_stops_resets_its_stream_and_leaves_the_others() {
    let (stage, gate) = yard("limits: {body_idle: 1s}");
    let mut connection = Connection::open(gate.address, &[]);
    connection.send(&frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::request("POST", "/public", &[])));
    connection.send(&frames::frame(frames::DATA, 0, 1, b"begun"));
    stage.upstream.until("the body to begin", |seen| !seen.body.is_empty());
    let reset = connection.find(LONG, |frame| frame.kind == frames::RST_STREAM && frame.stream == 1);
    assert!(reset.is_some(), "the stream is still open");
    let whole = frames::END_HEADERS | frames::END_STREAM;
    connection.send(&frames::frame(frames::HEADERS, whole, 3, &frames::request("GET", "/public", &[])));
    assert!(connection.find(LONG, |frame| frame.kind == frames::HEADERS && frame.stream == 3).is_some());
}

#[test]
fn a_client_that_does_not_take_its_answer_is_let_go() {
    let (stage, gate) = yard("limits: {body_idle: 1s}");
    stage.upstream.respond_with(200, &[], vec![b'x'; 32 * 1024 * 1024]);
    let mut stream = connect(&gate);
    stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
    stage.upstream.until("the request", |seen| seen.complete);
    nothing_in_flight(&gate);

    let mut connection = Connection::open(gate.address, &frames::setting(4, 0));
    let whole = frames::END_HEADERS | frames::END_STREAM;
    connection.send(&frames::frame(frames::HEADERS, whole, 1, &frames::request("GET", "/public", &[])));
    assert!(connection.find(LONG, |frame| frame.kind == frames::HEADERS).is_some());
    assert!(connection.find(LONG, |frame| frame.kind == frames::RST_STREAM).is_some(), "window 0 holds it for ever");
    nothing_in_flight(&gate);
}

#[test]
fn an_answer_that_goes_silent_ends_and_one_that_goes_on_does_not() {
    let (stage, gate) = yard("limits: {stream_idle: 3s, body_idle: 1s}");
    let body = stage.upstream.stream();
    let mut stream = connect(&gate);
    stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
    for _ in 0..8 {
        body.send("on");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(gate.metric("sidegate_requests_in_flight", &[]) > 0.0, "a stream that moves was cut");
    assert!(ends(&mut stream, LONG), "a silent stream is still open");
}

#[test]
fn a_silent_http2_connection_is_asked_whether_it_lives_and_closed_if_it_does_not_answer() {
    let (_stage, gate) = yard("limits: {h2_ping: 1s, h2_ping_answer: 3s, idle: 5m}");
    let is_question = |frame: &frames::Frame| frame.kind == frames::PING && frame.flags & frames::ACK == 0;
    let [mut silent, mut alive] = [1, 2].map(|_| Connection::open(gate.address, &[]));
    for _ in 0..3 {
        let asked = alive.find(LONG, is_question).expect("it is asked");
        alive.send(&frames::frame(frames::PING, frames::ACK, 0, &asked.payload));
    }
    assert!(silent.find(LONG, is_question).is_some());
    assert!(silent.closes(LONG), "one that does not answer is still open");
    assert!(alive.find(LONG, is_question).is_some(), "one that answers stays");
}

#[test]
fn an_http2_connection_without_streams_ends_with_goaway() {
    let (_stage, gate) = yard("limits: {idle: 1s, header_read: 30s, body_idle: 1s}");
    let mut connection = Connection::open(gate.address, &[]);
    let whole = frames::END_HEADERS | frames::END_STREAM;
    connection.send(&frames::frame(frames::HEADERS, whole, 1, &frames::request("GET", "/public", &[])));
    let goaway = connection.find(LONG, |frame| frame.kind == frames::GOAWAY).expect("it is told to go away");
    assert_eq!(goaway.payload[4..8], [0; 4], "no error");
    // This client never confirms it.
    assert!(connection.closes(LONG));
}

/// Pingora CVE-2025-4366: what is left of a denied request's body must not be read as a request; and its client must be able
/// to read why it was denied.
#[test]
fn a_large_request_that_is_denied_early_gets_its_whole_answer_every_time() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
keys: {guessing: 100000/1m}
limits: {few: {by: ip, windows: 1/1h}}
routes:
  /guarded: any
  /small: {public: true, max_body: 1KiB}
  /limited: {public: true, limits: [few]}
  /public/**: public
",
    );
    stage.redis.room(3_600_000, 60_000);
    gate.raw("GET", "/limited", &[]);
    stage.upstream.take();
    let canary = b"GET /public/canary HTTP/1.1\r\nHost: a\r\n\r\n";
    for (path, status) in [("/guarded", 401), ("/small", 413), ("/limited", 429), ("/nowhere", 404)] {
        for chunked in [false, true] {
            let mut sent = body_of(path, 1024 * 1024, chunked);
            // Behind a body that does not say how long it is the connection serves on, where that ends soon.
            let closes = (!chunked).then_some("close");
            sent.extend_from_slice(if chunked { &[] } else { &canary[..] });
            for _ in 0..5 {
                let answer = Answer::parse(&read_whole(&gate, &sent));
                assert_eq!(answer.status, status, "{path}");
                assert_eq!(answer.header("connection"), closes, "{path}");
                assert_eq!(answer.number("content-length") as usize, answer.body.len(), "{path}");
            }
        }
    }
    assert!(stage.upstream.take().iter().all(|seen| seen.target != "/public/canary"));
}

#[test]
fn a_small_request_that_is_denied_early_keeps_its_connection() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/guarded: any, /public: public}");
    for chunked in [false, true] {
        let mut stream = connect(&gate);
        stream.write_all(&body_of("/guarded", 10_000, chunked)).expect("the connection stands");
        let denied = one_answer(&mut stream);
        assert_eq!((denied.status, denied.header("connection")), (401, None));
        stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
        assert_eq!(one_answer(&mut stream).status, 200);
    }
}

/// A connection that is being closed is not parked and taken up again.
#[test]
fn nothing_is_served_behind_a_connection_that_was_closed() {
    let (stage, gate) = yard("limits: {}");
    let mut stream = connect(&gate);
    let request = b"GET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(&[&request[..], b"GET /public/1 HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).expect("it stands");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(800) {
        let _ = stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(ends(&mut stream, LONG));
    assert_eq!(stage.upstream.seen().len(), 1);
}

#[test]
fn a_denied_body_that_does_not_come_is_not_waited_for() {
    let stage = Stage::set();
    let gate = stage.gate("listen: {address: '127.0.0.1:0', limits: {body_idle: 1h}}\nroutes: {/guarded: any}");
    // One that is short may still come behind its answer, and the connection serves on.
    for (more, closes) in
        [("", None), ("Expect: 100-continue\r\n", Some("close")), ("Connection: close\r\n", Some("close"))]
    {
        let mut stream = connect(&gate);
        let head = format!("POST /guarded HTTP/1.1\r\nHost: a\r\n{more}Content-Length: 1000\r\n\r\n");
        let began = Instant::now();
        stream.write_all(head.as_bytes()).expect("the connection stands");
        let answer = one_answer(&mut stream);
        // Not 100: its body is never asked for.
        assert_eq!((answer.status, answer.header("connection")), (401, closes), "{more:?}");
        assert!(ends(&mut stream, LONG));
        // It is waited for behind the answer, where it is waited for.
        assert!(closes.is_some() || began.elapsed() >= Duration::from_secs(1), "{more:?}");
    }
}

#[test]
fn a_denied_body_that_comes_behind_its_answer_is_no_request_and_its_connection_serves_on() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/guarded: any, /public: public}");
    let canary = b"GET /public?canary HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut stream = connect(&gate);
    for _ in 0..3 {
        let head = format!("POST /guarded HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", canary.len());
        stream.write_all(head.as_bytes()).expect("the connection stands");
        assert_eq!(one_answer(&mut stream).status, 401);
        stream.write_all(canary).expect("the connection stands");
        stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
        assert_eq!(one_answer(&mut stream).status, 200);
        assert_eq!(stage.upstream.only().target, "/public");
        stage.upstream.take();
    }
}

#[test]
fn a_head_behind_a_denied_body_that_came_late_has_no_more_time_than_any_other() {
    let stage = Stage::set();
    let limits = "{header_read: 1s, idle: 1h, body_idle: 1h}";
    let gate = stage.gate(&format!("listen: {{address: '127.0.0.1:0', limits: {limits}}}\nroutes: {{/guarded: any}}"));
    let mut stream = connect(&gate);
    stream.write_all(b"POST /guarded HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n").expect("the connection stands");
    assert_eq!(one_answer(&mut stream).status, 401);
    stream.write_all(b"late").expect("the connection stands");
    stream.write_all(b"GET /gua").expect("the connection stands");
    assert!(ends(&mut stream, LONG));
}

#[test]
fn connections_past_the_bound_are_told_so_and_those_within_are_served() {
    let (_stage, gate) = yard("limits: {connections: 3}");
    let held: Vec<TcpStream> = (0..3).map(|_| connect(&gate)).collect();
    until("the three to be counted", || (gate.metric("sidegate_connections", &[]) >= 3.0).then_some(()));
    for _ in 0..20 {
        let refused = gate.raw("GET", "/public", &[]);
        assert_eq!((refused.status, refused.number("retry-after")), (503, 1));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&refused.body).expect("JSON")["code"], "overloaded");
    }
    drop(held);
    until("there to be room again", || (gate.raw("GET", "/public", &[]).status == 200).then_some(()));
}

#[tokio::test]
async fn requests_past_the_bound_are_refused_as_overloaded() {
    let (stage, gate) = yard("limits: {in_flight: 2}\nworkers: 1");
    stage.upstream.fall_silent();
    let held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = connect(&gate);
            stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
            stream
        })
        .collect();
    until("both to be in flight", || (stage.upstream.seen().len() == 2).then_some(()));
    let refused = gate.get("/public").answer().await;
    assert_eq!(
        (refused.status, refused.number("retry-after"), refused.json()["code"].as_str()),
        (503, 1, Some("overloaded"))
    );
    drop(held);
    stage.upstream.echo();
    until("there to be room again", || (gate.raw("GET", "/public", &[]).status == 200).then_some(()));
}

/// As many wait as the system lets wait (`net.core.somaxconn`), so that a burst meets no gate that seems gone.
#[test]
fn a_burst_of_connections_waits_to_be_accepted() {
    let (_stage, gate) = yard("limits: {}");
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux has it");
    let burst = most.trim().parse().map_or(0, |most: usize| most.min(300));
    gate.signal("STOP");
    let wait = |_| TcpStream::connect_timeout(&gate.address, LONG).expect("there is room to wait");
    let waiting: Vec<TcpStream> = (0..burst).map(wait).collect();
    gate.signal("CONT");
    let mut last = waiting.last().expect("some may wait");
    last.set_read_timeout(Some(LONG)).expect("a timeout above zero is valid");
    last.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
    assert!(last.read(&mut [0; 1024]).is_ok_and(|length| length > 0), "it is served");
}

#[test]
fn a_gate_whose_descriptors_are_used_up_recovers() {
    let (_stage, gate) = yard("limits: {connections: 10000, header_read: 1h, idle: 1h}");
    let pid = gate.pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a child's descriptors can be listed").count();
    let limit = format!("--nofile={0}:{0}", open + 20);
    client::printed_by(Command::new("prlimit").args(["--pid", &pid, &limit]), "prlimit belongs to util-linux");
    let held: Vec<TcpStream> = (0..60).map(|_| connect(&gate)).collect();
    until("it to say so", || gate.written().contains("no connection can be accepted for now").then_some(()));
    drop(held);
    until("it to serve again", || (gate.raw("GET", "/public", &[]).status == 200).then_some(()));
    assert!(gate.metric("sidegate_accept_errors_total", &[]) >= 1.0);
}

#[test]
fn where_descriptors_are_few_clients_are_refused_and_the_others_served() {
    let yaml = "listen: {address: '127.0.0.1:0', limits: {connections: 10000, header_read: 1h, idle: 1h}}\nworkers: 1\n\
                routes: {/public: public}";
    let stage = Stage::set();
    let gate = stage.gate(yaml);
    let pid = gate.pid().to_string();
    client::printed_by(Command::new("prlimit").args(["--pid", &pid, "--nofile=140:140"]), "it belongs to util-linux");
    // From here on it counts with that.
    gate.reload(yaml);
    let mut held = Vec::new();
    until("one to be refused", || {
        let mut one = connect(&gate);
        one.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
        let answer = one_answer(&mut one);
        held.push(one);
        (answer.status == 503).then_some(())
    });
    assert!((10..70).contains(&held.len()), "{}", held.len());
    assert!(gate.metric("sidegate_connections_refused_total", &[]) >= 1.0);
    assert_eq!(gate.operators("/livez").status, 200);
    held[0].write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").expect("the connection stands");
    assert_eq!(one_answer(&mut held[0]).status, 200);
    assert_eq!(gate.metric("sidegate_accept_errors_total", &[]), 0.0);
    assert_eq!(gate.reloads("failure"), 0);
}

#[test]
fn the_soft_limit_on_open_files_is_raised_to_the_hard_one() {
    let (_stage, gate) = yard("limits: {connections: 100}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gate.pid())).expect("a child's limits can be read");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("Linux lists it");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
}

#[test]
fn a_client_that_connects_by_tls_and_stays_silent_is_closed() {
    let (stage, certificate) = (Stage::set(), Certificate::of("a.example"));
    let (cert, key) = (certificate.cert_file(), certificate.key_file());
    let gate = stage.gate(&format!(
        "listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: {}, key: {}}}}}, limits: {{handshake: 1s}}}}\n\
         routes: {{/public: public}}",
        cert.display(),
        key.display()
    ));
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00"] {
        let mut stream = connect(&gate);
        stream.write_all(begun).expect("the connection stands");
        assert!(ends(&mut stream, LONG));
    }
}

fn yard(listen: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let (listen, more) = listen.split_once('\n').unwrap_or((listen, ""));
    let gate =
        stage.gate(&format!("listen: {{address: '127.0.0.1:0', {listen}}}\n{more}\nroutes: {{/public: public}}"));
    (stage, gate)
}

fn connect(gate: &Gate) -> TcpStream {
    let stream = TcpStream::connect(gate.address).expect("the gate listens");
    stream.set_read_timeout(Some(LONG)).expect("a timeout above zero is valid");
    stream
}

/// Reads one answer with a length.
fn one_answer(stream: &mut TcpStream) -> Answer {
    let mut read = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let length = stream.read(&mut buffer).expect("an answer comes");
        assert!(length > 0, "closed after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&buffer[..length]);
        if read.windows(4).any(|four| four == b"\r\n\r\n") {
            let answer = Answer::parse(&read);
            if answer.body.len() as u64 >= answer.number("content-length") {
                return answer;
            }
        }
    }
}

/// Whether the gate closes in time, cleanly or not.
fn ends(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).expect("a timeout above zero is valid");
    loop {
        match stream.read(&mut [0; 65536]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// Sends everything, stops sending, and reads to the end, as a simple client does; a reset on the way fails the test.
fn read_whole(gate: &Gate, sent: &[u8]) -> Vec<u8> {
    let mut stream = connect(gate);
    stream.write_all(sent).expect("all of the request is taken");
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer is not reset away");
    answer
}

fn body_of(path: &str, length: usize, chunked: bool) -> Vec<u8> {
    let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") };
    let mut bytes = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").into_bytes();
    if chunked {
        bytes.extend_from_slice(format!("{length:x}\r\n").as_bytes());
    }
    bytes.resize(bytes.len() + length, b'x');
    if chunked {
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
    }
    bytes
}

fn nothing_in_flight(gate: &Gate) {
    until("nothing to be in flight", || (gate.metric("sidegate_requests_in_flight", &[]) < 0.5).then_some(()));
}

#[test]
fn connections_that_fail_before_a_request_are_counted_and_warned_of_once() {
    let (stage, certificate) = (Stage::set(), Certificate::of("a.example"));
    let (cert, key) = (certificate.cert_file(), certificate.key_file());
    let tls = format!(", tls: {{certificates: {{cert: {}, key: {}}}}}", cert.display(), key.display());
    for (listen, why, sent) in [
        (&*tls, "tls", &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..]),
        (", proxy_protocol: true, trusted_proxies: [127.0.0.0/8]", "proxy", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("", "head", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        ("", "head", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n"),
    ] {
        let gate = stage.gate(&format!("listen: {{address: '127.0.0.1:0'{listen}}}\nroutes: {{/public: public}}"));
        let counted = |why: &str| gate.metric("sidegate_connections_failed_total", &[&format!("why=\"{why}\"")]);
        let page = gate.operators("/metrics").text();
        assert!(page.contains(&format!("sidegate_connections_failed_total{{why=\"{why}\"}} 0")), "{why}");
        // Only to see whether somebody listens.
        drop(connect(&gate));
        for _ in 0..3 {
            let mut stream = connect(&gate);
            stream.write_all(sent).expect("the connection stands");
            assert!(ends(&mut stream, LONG), "{why}");
        }
        until("all to be counted", || (counted(why) == 3.0).then_some(()));
        assert_eq!(gate.metric("sidegate_connections_failed_total", &[]), 3.0, "{why}");
        let said = gate.said("a connection failed before its request");
        assert!(said.contains("127.0.0.1") && said.contains(why), "{said}");
        assert_eq!(gate.written().matches("a connection failed before its request").count(), 1, "{why}");
    }
}
