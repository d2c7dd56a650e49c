//! Upstreams that speak HTTP/2: how many connections they see, what a refused stream costs, what is left unread,
//! and frames of every size.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};

use crate::support::{
    AnswerTo as _, Gate, Stage,
    bytes::Wire,
    client,
    frames::{Connection, END_HEADERS, END_STREAM, HEADERS, frame, request, setting},
    until,
    upstream::frames,
};

#[tokio::test(flavor = "multi_thread")]
async fn another_connection_is_opened_when_the_streams_of_one_are_used_up() {
    for (allowed_by_it, streams, connections) in [(2, 100, 3), (100, 3, 2), (100, 100, 1)] {
        let mut builder = Builder::new();
        builder.max_concurrent_streams(allowed_by_it);
        let upstream = Upstream::play(builder, |seen, _, mut answer| {
            tokio::spawn(async move {
                // Nobody is answered before all six are there at once.
                while seen.requests() < 6 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                ok(&mut answer);
            });
        });
        let (_stage, gate) = before(&upstream, streams);
        let answers = client::together((0..6).map(|_| gate.get("/public"))).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
        assert_eq!(upstream.seen.connections(), connections, "it allows {allowed_by_it}, the gate uses {streams}");
    }
}

#[tokio::test]
async fn a_connection_that_says_goaway_is_left() {
    let upstream = Upstream::play(Builder::new(), |_, _, mut answer| ok(&mut answer));
    let (_stage, gate) = before(&upstream, 100);
    assert_eq!(gate.get("/public").answer().await.status, 200);
    assert_eq!(gate.get("/public").answer().await.status, 200);
    assert_eq!(upstream.seen.connections(), 1);
    upstream.seen.go_away();
    for method in ["POST", "GET"] {
        assert_eq!(gate.request(method, "/public").answer().await.status, 200, "{method}");
    }
    assert_eq!((upstream.seen.connections(), upstream.seen.requests()), (2, 4));
}

#[tokio::test]
async fn a_refused_stream_is_asked_for_once_more() {
    for method in ["GET", "POST"] {
        let upstream = Upstream::play(Builder::new(), |seen, _, mut answer| {
            if seen.requests() == 1 { answer.send_reset(h2::Reason::REFUSED_STREAM) } else { ok(&mut answer) }
        });
        let (_stage, gate) = before(&upstream, 100);
        assert_eq!(gate.request(method, "/public").answer().await.status, 200, "{method}: it was never looked at");
        assert_eq!(upstream.seen.requests(), 2);
    }
    for (reason, asked) in [(h2::Reason::REFUSED_STREAM, 2), (h2::Reason::INTERNAL_ERROR, 1)] {
        let upstream = Upstream::play(Builder::new(), move |_, _, mut answer| answer.send_reset(reason));
        let (_stage, gate) = before(&upstream, 100);
        assert_eq!(gate.get("/public").answer().await.denial(), (502, "upstream_invalid".to_owned()));
        assert_eq!(upstream.seen.requests(), asked, "{reason}");
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_midway_never_looks_complete() {
    let upstream = Upstream::play(Builder::new(), |_, _, mut answer| {
        let mut body = answer.send_response(http::Response::new(()), false).expect("the stream stands");
        body.send_data(Bytes::from_static(b"begun"), false).expect("the stream stands");
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            body.send_reset(h2::Reason::INTERNAL_ERROR);
        });
    });
    let (_stage, gate) = before(&upstream, 100);
    for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
        let client = client.build().expect("the client's settings are valid");
        let whole = async { client.get(gate.url("/public")).send().await?.bytes().await };
        assert!(whole.await.is_err(), "a truncated body was taken for a whole one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_small_frames_pass_both_ways() {
    static FRAME: [u8; 600] = [b'f'; 600];
    const FRAMES: usize = 10_000;
    let stage = Stage::set();
    let gate = stage.gate(&format!("upstream: h2c://{}\nroutes: {{/public: public}}", stage.upstream.address));
    let client = client::http(&[]).http2_prior_knowledge().build().expect("the client's settings are valid");
    let down = stage.upstream.stream();
    let (up, body) = frames();
    for _ in 0..FRAMES {
        up.send_bytes(Bytes::from_static(&FRAME));
        down.send_bytes(Bytes::from_static(&FRAME));
    }
    drop(up);
    let answer = tokio::spawn(client.post(gate.url("/public")).body(reqwest::Body::wrap(body)).answer());
    let seen = stage.upstream.until("the whole request", |seen| seen.complete);
    assert_eq!(seen.body.len(), FRAMES * FRAME.len());
    // Behind the end of its answer a service gets no more of the request.
    drop(down);
    assert_eq!(answer.await.expect("it is answered").body.len(), FRAMES * FRAME.len());
}

#[test]
fn what_a_client_sends_behind_its_answer_reaches_no_upstream() {
    const LATE: usize = 500_000;
    let (read, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (read.clone(), ended.clone());
    let mut builder = Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let upstream = Upstream::play(builder, move |_, request, mut answer| {
        let mut sends = answer.send_response(http::Response::new(()), false).expect("the stream stands");
        sends.send_data(Bytes::from_static(b"ok"), true).expect("the stream stands");
        let (read, ended) = counts.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                read.fetch_add(data.len(), Ordering::SeqCst);
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
    });
    let (_stage, gate) = before(&upstream, 100);
    let mut client = Wire::to(gate.address);
    client.send("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegun");
    assert!(client.until(b"ok\r\n0\r\n\r\n").starts_with("HTTP/1.1 200 "));
    client.fill(LATE);
    until("the stream to end", || (ended.load(Ordering::SeqCst) == 1).then_some(()));
    let read = read.load(Ordering::SeqCst);
    assert!(read < LATE, "{read} bytes were sent to who has answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_an_upload_got_no_window_gets_no_other() {
    let unread = Arc::new(Mutex::new(Vec::new()));
    let upstream = Upstream::play(Builder::new(), move |_, request, mut answer| {
        let (path, mut body) = (request.uri().path().to_owned(), request.into_body());
        if path == "/stuck" {
            // Neither read nor let go of: the connection's window is never given back, though the service lives.
            return unread.lock().expect("nobody panics").push((body, answer));
        }
        tokio::spawn(async move {
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).expect("it was taken");
            }
            ok(&mut answer);
        });
    });
    let stage = Stage::set();
    let gate = stage.gate(&format!(
        "workers: 1\nupstream: 'h2c://{}'\nroutes: {{/public: public, /stuck: {{public: true, response_timeout: 1s}}}}",
        upstream.address
    ));
    let much = vec![b'x'; 200_000];
    let stuck = gate.post("/stuck").body(much.clone()).answer().await;
    assert_eq!(stuck.denial(), (504, "upstream_timeout".to_owned()));
    assert_eq!(gate.post("/public").body(much).answer().await.status, 200);
    assert_eq!(upstream.seen.connections(), 2);
    gate.said("an upload got no window");
    // One that is late for another reason stays, as long as others are served on its connection.
    let seen = upstream.seen.requests();
    let late = tokio::spawn(gate.post("/stuck").body("little").answer());
    until("it to be asked for", || (upstream.seen.requests() > seen).then_some(()));
    assert_eq!(gate.get("/public").answer().await.status, 200);
    assert_eq!(late.await.expect("it is answered").denial(), (504, "upstream_timeout".to_owned()));
    assert_eq!(gate.get("/public").answer().await.status, 200);
    assert_eq!(upstream.seen.connections(), 2);
}

/// In large frames they would hold the connection's window, in small ones what h2 lets wait of these.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_leave_an_upstreams_connection_to_others() {
    const LENGTH: usize = 64 * 1024;
    for piece in [16 * 1024, 64] {
        let upstream = Upstream::play(Builder::new(), move |_, _, mut answer| {
            let mut body = answer.send_response(http::Response::new(()), false).expect("the stream stands");
            for sent in (0..LENGTH).step_by(piece) {
                let is_last = sent + piece == LENGTH;
                body.send_data(Bytes::from(vec![b'x'; piece]), is_last).expect("the stream stands");
            }
        });
        let (_stage, gate) = before(&upstream, 100);
        let mut unread = Connection::open(gate.address, &setting(4, 0));
        for stream in (1..).step_by(2).take(60) {
            unread.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", "/public", &[])));
            assert!(unread.find(Duration::from_secs(30), |frame| frame.kind == HEADERS).is_some());
        }
        for _ in 0..3 {
            let answer = gate.get("/public").answer().await;
            assert_eq!((answer.status, answer.body.len()), (200, LENGTH), "in pieces of {piece}");
        }
        assert_eq!(upstream.seen.connections(), 1, "in pieces of {piece}");
    }
}

/// An upstream that does with each stream what the test says.
struct Upstream {
    address: SocketAddr,
    seen: Seen,
}

#[derive(Clone, Default)]
struct Seen(Arc<Counts>);

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// Connections up to this number say GOAWAY.
    leaving: AtomicUsize,
    left: AtomicUsize,
}

type Request = http::Request<h2::RecvStream>;

impl Upstream {
    fn play(builder: Builder, play: impl Fn(Seen, Request, SendResponse<Bytes>) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a TCP listener can be non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let seen = Seen::default();
        let told = seen.clone();
        // Detached: it waits for connections until the test program ends.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime needs no privilege").block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("the listener is non-blocking");
                while let Ok((stream, _)) = listener.accept().await {
                    let number = told.0.connections.fetch_add(1, Ordering::SeqCst) + 1;
                    let connection = builder.handshake(stream).await.expect("the gate speaks HTTP/2");
                    tokio::spawn(serve(number, connection, told.clone(), play.clone()));
                }
            });
        });
        Self { address, seen }
    }
}

impl Seen {
    fn connections(&self) -> usize {
        self.0.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// Has every connection that is open now say GOAWAY, and waits until it is said.
    fn go_away(&self) {
        self.0.leaving.store(self.connections(), Ordering::SeqCst);
        until("the connection to say GOAWAY", || (self.0.left.load(Ordering::SeqCst) > 0).then_some(()));
    }
}

async fn serve(
    number: usize,
    mut connection: h2::server::Connection<tokio::net::TcpStream, Bytes>,
    seen: Seen,
    play: impl Fn(Seen, Request, SendResponse<Bytes>),
) {
    let mut left = false;
    loop {
        match tokio::time::timeout(Duration::from_millis(20), connection.accept()).await {
            Ok(Some(Ok((request, answer)))) => {
                seen.0.requests.fetch_add(1, Ordering::SeqCst);
                play(seen.clone(), request, answer);
            }
            Ok(_) => {
                seen.0.left.fetch_add(usize::from(left), Ordering::SeqCst);
                return;
            }
            Err(_) if number <= seen.0.leaving.load(Ordering::SeqCst) => {
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                left = true;
            }
            Err(_) => {}
        }
    }
}

fn ok(answer: &mut SendResponse<Bytes>) {
    answer.send_response(http::Response::new(()), true).expect("the stream stands");
}

fn before(upstream: &Upstream, streams: usize) -> (Stage, Gate) {
    let stage = Stage::set();
    let yaml = format!(
        "workers: 1\nupstream: {{url: 'h2c://{}', h2_streams: {streams}}}\nroutes: {{/public: public}}",
        upstream.address
    );
    let gate = stage.gate(&yaml);
    (stage, gate)
}
