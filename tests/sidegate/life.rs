//! A gate's end under load, and what it tells systemd on the way.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::task::JoinSet;

use crate::support::{
    AnswerTo as _, Gate, PATIENCE, Stage, client,
    gate::{Lines, on_config, text},
    until, whole,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_terminated_under_load_fails_no_request() {
    let stage = Stage::set();
    stage.upstream.respond_with(200, &[], "ok");
    let mut gate = stage.gate("drain: {delay: 5s, deadline: 20s}\nroutes: {/public: public}");
    let load = Load::start(&gate);
    load.more(300);
    gate.terminate();
    until("the gate to say that it is leaving", || (gate.operators("/readyz").status == 503).then_some(()));
    let served = load.answered.load(Ordering::Relaxed);
    load.more(50);
    // Now those who route requests have learned of it: they open no connection any more, and use those that they have.
    load.told.store(true, Ordering::Relaxed);
    assert_eq!(gate.ended().code(), Some(0));
    let answered = load.answered.clone();
    assert_eq!(load.end().await, 0, "requests that failed, of those after {served}");
    until("a line for every answer", || {
        let lines = gate.written().matches("\"/public\",").count();
        (lines >= answered.load(Ordering::Relaxed)).then_some(())
    });
}

/// Nobody is told first: who is about to ask on a connection that is open gets an answer, which ends the connection.
#[test]
fn without_a_delay_an_open_connection_still_gets_its_next_answer() {
    let stage = Stage::set();
    stage.upstream.respond_with(200, &[], "ok");
    let mut gate = stage.gate("drain: {delay: 0s, deadline: 20s}\nroutes: {/public: public}");
    let (address, asked) = (gate.address, Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("the gate listens");
        loop {
            match ask(&mut stream) {
                Some(After::Keep) => count.fetch_add(1, Ordering::Relaxed),
                last => return last,
            };
            thread::sleep(Duration::from_millis(2));
        }
    });
    until("answers", || (asked.load(Ordering::Relaxed) > 20).then_some(()));
    gate.terminate();
    assert_eq!(client.join().expect("the client does not panic"), Some(After::Close));
    assert_eq!(gate.ended().code(), Some(0));
}

/// The first GOAWAY closes no stream, so that one which is on its way is served; the second says how far (RFC 9113 §6.8).
#[test]
fn http_2_is_ended_in_two_steps() {
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const SETTINGS: u8 = 4;
    let stage = Stage::set();
    let mut gate = stage.gate("drain: {delay: 0s, deadline: 20s}\nroutes: {/public: public}");
    let mut stream = TcpStream::connect(gate.address).expect("the gate listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero is valid");
    let frame = |kind: u8, ack: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("the test's frames are short");
        [&[0, 0, length, kind, ack, 0, 0, 0, 0], payload].concat()
    };
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("the connection stands");
    stream.write_all(&frame(SETTINGS, 0, &[])).expect("the connection stands");
    let mut last_streams = Vec::new();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).expect("a frame comes whole");
        match (head[3], head[4]) {
            (SETTINGS, 0) => {
                stream.write_all(&frame(SETTINGS, 1, &[])).expect("the connection stands");
                gate.terminate();
            }
            (PING, 0) => stream.write_all(&frame(PING, 1, &payload)).expect("the connection stands"),
            (GOAWAY, _) => {
                last_streams.push(u32::from_be_bytes(payload[..4].try_into().expect("these are four")));
            }
            _ => {}
        }
    }
    assert_eq!(last_streams, [0x7fff_ffff, 0]);
    assert_eq!(gate.ended().code(), Some(0));
}

#[test]
fn during_the_delay_connections_are_taken_and_answers_end_them() {
    let stage = Stage::set();
    stage.upstream.respond_with(200, &[], "ok");
    let mut gate = stage.gate("drain: {delay: 6s, deadline: 20s}\nroutes: {/public: public}");
    let mut kept = TcpStream::connect(gate.address).expect("the gate listens");
    assert_eq!(ask(&mut kept), Some(After::Keep));
    gate.terminate();
    until("the gate to say that it is leaving", || (gate.operators("/readyz").status == 503).then_some(()));
    until("an answer that ends its connection", || (ask(&mut kept)? == After::Close).then_some(()));
    let mut new = TcpStream::connect(gate.address).expect("the gate listens during the delay");
    assert_eq!(ask(&mut new), Some(After::Close));
    assert_eq!(gate.operators("/livez").status, 200);
    assert_eq!(gate.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_now() {
    let stage = Stage::set();
    for signal in ["TERM", "INT"] {
        let mut gate = stage.gate("drain: {delay: 10m, deadline: 10m}\nroutes: {/public: public}");
        // An answer that never ends, so that nothing but the second signal ends the gate.
        let body = stage.upstream.stream();
        let answer = client::http(&[]).build().expect("the client's settings are valid").get(gate.url("/public"));
        let _answer = answer.send().await.expect("the head comes before the body");
        gate.terminate();
        until("the gate to say that it is leaving", || (gate.operators("/readyz").status == 503).then_some(()));
        gate.signal(signal);
        assert_eq!(gate.ended().code(), Some(0), "{signal}");
        drop(body);
    }
}

/// As a pod's preStop asks for it: the drain runs its course, the process stays, and SIGTERM finds nothing left to wait for.
#[test]
fn a_drain_that_is_asked_for_ends_with_the_signal_that_follows() {
    let stage = Stage::set();
    stage.upstream.respond_with(200, &[], "ok");
    let mut gate = stage.gate("drain: {delay: 100ms, deadline: 10m}\nroutes: {/public: public}");
    let here = drain(&gate);
    assert_eq!(here.status.code(), Some(0), "{}", text(&here.stderr));
    until("the gate to close its listener", || TcpStream::connect(gate.address).is_err().then_some(()));
    assert_eq!(gate.operators("/livez").status, 200);
    assert_eq!(gate.operators("/readyz").text(), "leaving\n");
    assert_eq!(drain(&gate).status.code(), Some(0), "asked twice it is the same drain");
    gate.terminate();
    assert_eq!(gate.ended().code(), Some(0));
    assert!(!gate.written().contains("second time"), "{}", gate.written());
    assert_eq!(drain(&gate).status.code(), Some(1), "nobody listens any more");
}

/// SIGTERM comes at once where the service ends at once: it must not cut off what the drain waits for.
#[tokio::test(flavor = "multi_thread")]
async fn the_signal_after_a_drain_waits_for_what_is_open_and_the_next_does_not() {
    let stage = Stage::set();
    let mut gate = stage.gate("drain: {delay: 0s, deadline: 10m}\nroutes: {/public: public}");
    let body = stage.upstream.stream();
    let answer = client::http(&[]).build().expect("the client's settings are valid").get(gate.url("/public"));
    let answer = answer.send().await.expect("the head comes before the body");
    assert_eq!(drain(&gate).status.code(), Some(0));
    until("the gate to close its listener", || TcpStream::connect(gate.address).is_err().then_some(()));
    gate.terminate();
    body.send("all of it");
    drop(body);
    assert_eq!(answer.text().await.ok().as_deref(), Some("all of it"));
    assert_eq!(gate.ended().code(), Some(0));
    assert!(!gate.written().contains("second time"), "{}", gate.written());
}

#[test]
fn a_drain_is_asked_for_by_a_command_alone() {
    let stage = Stage::set();
    let gate = stage.gate("probes: 127.0.0.1:0\nroutes: {/public: public}");
    assert_eq!(client::raw(gate.admin, "GET", "/drain", &[]).status, 405);
    assert_eq!(client::raw(gate.admin, "POST", "/drain", &[b"Origin: http://127.0.0.1:9900"]).status, 403);
    assert_eq!(client::raw(gate.address, "POST", "/drain", &[]).status, 404);
    let line: serde_json::Value = serde_json::from_str(&gate.said("probes listening")).expect("the log is JSON");
    let probes = line["address"].as_str().and_then(|text| text.parse().ok()).expect("the line names the address");
    assert_eq!(client::raw(probes, "POST", "/drain", &[]).status, 405);
    assert_eq!(gate.operators("/readyz").status, 200);
}

/// `sidegate drain` with the gate's configuration, whose operators' port is the one that it was given.
fn drain(gate: &Gate) -> std::process::Output {
    let yaml = format!(
        "admin: {}\nlisten: 127.0.0.1:0\nupstream: http://127.0.0.1:1\nstore: file:k\nroutes: {{/a: any}}\n",
        gate.admin
    );
    on_config(&yaml, &["drain"], &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_what_does_not_end() {
    let stage = Stage::set();
    let mut gate = stage.gate("drain: {delay: 0s, deadline: 1s}\nroutes: {/public: public}");
    let body = stage.upstream.stream();
    let answer = client::http(&[]).build().expect("the client's settings are valid").get(gate.url("/public"));
    let _answer = answer.send().await.expect("the head comes before the body");
    gate.terminate();
    assert_eq!(gate.ended().code(), Some(0));
    gate.said("deadline has passed");
    drop(body);
}

#[tokio::test]
async fn systemd_is_told_of_the_start_of_reloads_of_health_and_of_the_end() {
    let stage = Stage::set();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket can be made in the folder");
    let mut environment = stage.environment();
    environment.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
    environment.push(("WATCHDOG_USEC".to_owned(), "200000".to_owned()));
    let yaml = "drain: {delay: 0s}\nroutes: {/public: public}";
    let mut gate = Gate::start(&whole(yaml), environment).ready();
    let told = told(socket);
    let heard = |what: &'static str| told.find(what, |line| (line == what).then_some(()));
    heard("READY=1");
    until("the watchdog to be fed again and again", || {
        (told.all().lines().filter(|line| *line == "WATCHDOG=1").count() > 3).then_some(())
    });
    gate.reload(yaml);
    until("the reload", || {
        let all = told.all();
        let (_, after) = all.split_once("RELOADING=1\nMONOTONIC_USEC=")?;
        after.contains("READY=1").then_some(())
    });
    assert_eq!(gate.get("/public").answer().await.status, 200);
    gate.terminate();
    heard("STOPPING=1");
    assert_eq!(gate.ended().code(), Some(0));
}

/// What comes in at the socket, line by line.
fn told(socket: UnixDatagram) -> Lines {
    struct Datagrams(UnixDatagram);
    impl std::io::Read for Datagrams {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.recv(buffer)
        }
    }
    Lines::of(Datagrams(socket))
}

/// What an answer says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Keep,
    Close,
}

/// One request on this connection; nothing where it is not answered whole and with 200.
fn ask(stream: &mut TcpStream) -> Option<After> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n").ok()?;
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\nok") {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        read.extend_from_slice(&buffer[..length]);
    }
    let head = String::from_utf8_lossy(&read).to_lowercase();
    let closes = head.contains("\r\nconnection: close\r\n");
    head.starts_with("http/1.1 200 ").then_some(if closes { After::Close } else { After::Keep })
}

/// Clients that keep their connections, over HTTP/1.1 and HTTP/2.
struct Load {
    h1: Vec<JoinHandle<()>>,
    h2: JoinSet<()>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    told: Arc<AtomicBool>,
}

impl Load {
    fn start(gate: &Gate) -> Self {
        let (answered, failed, told) = (Arc::default(), Arc::default(), Arc::default());
        let mut load = Self { h1: Vec::new(), h2: JoinSet::new(), answered, failed, told };
        for _ in 0..6 {
            let (address, counts) = (gate.address, load.counts());
            load.h1.push(thread::spawn(move || counts.over_h1(address)));
        }
        for _ in 0..4 {
            let (url, counts) = (gate.url("/public"), load.counts());
            load.h2.spawn(async move { counts.over_h2(&url).await });
        }
        load
    }

    fn counts(&self) -> Counts {
        Counts { answered: self.answered.clone(), failed: self.failed.clone(), told: self.told.clone() }
    }

    /// Waits for so many more answers.
    fn more(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        until("answers", || (self.answered.load(Ordering::Relaxed) >= before + count).then_some(()));
    }

    /// How many failed.
    async fn end(mut self) -> usize {
        self.h1.drain(..).for_each(|client| client.join().expect("no client panics"));
        while self.h2.join_next().await.is_some() {}
        self.failed.load(Ordering::Relaxed)
    }
}

/// What became of requests. Who cannot connect any more has sent none.
struct Counts {
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    told: Arc<AtomicBool>,
}

impl Counts {
    fn over_h1(self, address: std::net::SocketAddr) {
        while !self.told.load(Ordering::Relaxed) {
            let Ok(mut stream) = TcpStream::connect(address) else { return };
            loop {
                match ask(&mut stream) {
                    Some(after) => {
                        self.answered.fetch_add(1, Ordering::Relaxed);
                        if after == After::Close {
                            break;
                        }
                    }
                    None => {
                        self.failed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    async fn over_h2(self, url: &str) {
        let client = client::http(&[]).http2_prior_knowledge().build().expect("the client's settings are valid");
        loop {
            let answered = async { client.get(url).send().await?.error_for_status()?.text().await };
            match answered.await {
                Ok(_) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if error.is_connect() => return,
                Err(error) => {
                    eprintln!("failed: {error:?}");
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}
