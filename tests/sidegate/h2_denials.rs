//! A request over HTTP/2 that is answered before its body has come: the client reads the answer first, and its stream is reset
//! after it has had time to (RFC 9113 §8.1). Many clients look at the reset alone where both come together.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    Certificate, Gate, Stage, client,
    frames::{
        Connection, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, WINDOW_UPDATE, frame, request, setting,
    },
    until,
};

const LONG: Duration = Duration::from_secs(15);
const PIECE: usize = 16 * 1024;
/// What a stream may send before the gate takes anything.
const WINDOW: usize = 65_535;

const ROUTES: &str = "
workers: 1
keys: {guessing: 100000/1m}
limits: {few: {by: ip, windows: 1/1h}}
routes:
  /guarded: any
  /admin: admin
  /small: {public: true, max_body: 1KiB}
  /limited: {public: true, limits: [few]}
  /public/**: public
";

/// `listen.limits` with these, in clear text.
fn yard(limits: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(&format!("listen: {{address: '127.0.0.1:0', limits: {{{limits}}}}}{ROUTES}"));
    (stage, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reads_every_denial_of_a_large_body_over_tls() {
    let (stage, made) = (Stage::set(), Certificate::of("gate.example"));
    let (cert, key) = (made.cert_file(), made.key_file());
    let (cert, key) = (cert.display(), key.display());
    let tls = format!("listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{cert}', key: '{key}'}}}}}}");
    let gate = stage.gate(&format!("{tls}{ROUTES}"));
    let weak = stage.redis.mint(json!({"business": "acme", "scopes": ["other"]})).text;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 300_000]).expect("the folder is writable");
    let ask = |path: &str, more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sk", "--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--data-binary"]);
        curl.arg(format!("@{}", body.display())).args(more).arg(format!("https://{}{path}", gate.address));
        client::printed_by(&mut curl, "`apt-get install curl`")
    };
    stage.redis.room(3_600_000, 60_000);
    ask("/limited", &[]);
    let authorization = format!("Authorization: Bearer {weak}");
    let denied: [(&str, &[&str], &str); 4] = [
        ("/guarded", &[], "2 401"),
        ("/admin", &["-H", &authorization], "2 403"),
        ("/limited", &[], "2 429"),
        ("/small", &[], "2 413"),
    ];
    for (path, more, status) in denied {
        for time in 0..20 {
            assert_eq!(ask(path, more), status, "{path}, {time}");
        }
    }
}

#[test]
fn a_denied_body_is_taken_to_its_end_behind_its_answer_and_holds_no_place() {
    let (stage, gate) = yard("in_flight: 1");
    // It is taken for a second, which a busy machine may need for other things.
    let mut sender = (0..5).find_map(|_| taken(&stage, &gate)).expect("it is taken behind its answer");
    sender.connection.send(&frame(DATA, END_STREAM, 1, b""));
    let reset = sender.connection.find(Duration::from_millis(1500), |frame| frame.kind == RST_STREAM);
    assert!(reset.is_none(), "{reset:?}: both sides have ended");
}

/// A body of which a megabyte was taken behind its answer; `None` where it was reset before, once its time had passed.
fn taken(stage: &Stage, gate: &Gate) -> Option<Sender> {
    let mut sender = Sender::begin(gate);
    let began = Instant::now();
    sender.push(3 * PIECE);
    sender.answered();
    // The denied request's place is free while its body still comes.
    let whole = END_HEADERS | END_STREAM;
    sender.connection.send(&frame(HEADERS, whole, 3, &request("GET", "/public/x", &[])));
    let other = sender.find(|frame| frame.kind == HEADERS && frame.stream == 3);
    assert!(other.payload.contains(&0x88), "200: {other:?}");
    assert_eq!(stage.upstream.only().target, "/public/x");
    while sender.sent < 1024 * 1024 {
        if !sender.makes_room() {
            assert!(began.elapsed() >= Duration::from_secs(1), "reset after {} bytes", sender.sent);
            return None;
        }
        sender.push(PIECE);
    }
    Some(sender)
}

#[test]
fn a_denied_body_that_does_not_end_is_reset_without_an_error_and_within_bounds() {
    let (_stage, gate) = yard("");
    let began = Instant::now();
    let mut silent = Sender::begin(&gate);
    silent.answered();
    let reset = silent.connection.find(LONG, |frame| frame.kind == RST_STREAM).expect("it is not waited for");
    assert_eq!(reset.payload, [0; 4], "NO_ERROR");
    assert!(began.elapsed() >= Duration::from_millis(500), "after {:?}", began.elapsed());

    let mut endless = Sender::begin(&gate);
    endless.push(3 * PIECE);
    endless.answered();
    while endless.makes_room() {
        endless.push(PIECE);
    }
    assert_eq!(endless.reset, Some(vec![0; 4]), "NO_ERROR after {} bytes", endless.sent);
    // 16 MiB, and what was on its way.
    assert!(endless.sent <= 17 * 1024 * 1024, "{} bytes", endless.sent);
    until("nothing to be in flight", || (gate.metric("sidegate_requests_in_flight", &[]) < 0.5).then_some(()));
}

#[test]
fn a_client_that_does_not_take_its_answer_is_reset_with_an_error() {
    let (_stage, gate) = yard("body_idle: 1s, stream_idle: 1s");
    // It takes no answer: the window is 0.
    let mut connection = Connection::open(gate.address, &setting(4, 0));
    connection.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/guarded", &[])));
    let reset = connection.find(LONG, |frame| frame.kind == RST_STREAM).expect("it is not waited for");
    assert_ne!(reset.payload, [0; 4], "its answer has not ended");
}

/// A POST of a long body to a route that denies it, which sends as much as it may.
struct Sender {
    connection: Connection,
    /// What the stream and the connection may still take.
    room: [usize; 2],
    sent: usize,
    reset: Option<Vec<u8>>,
}

impl Sender {
    fn begin(gate: &Gate) -> Self {
        let mut connection = Connection::open(gate.address, &[]);
        connection.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/guarded", &[])));
        Self { connection, room: [WINDOW; 2], sent: 0, reset: None }
    }

    /// Sends so much, piece by piece; there must be room for it.
    fn push(&mut self, length: usize) {
        for _ in 0..length / PIECE {
            self.connection.send(&frame(DATA, 0, 1, &[b'x'; PIECE]));
        }
        self.room.iter_mut().for_each(|room| *room -= length);
        self.sent += length;
    }

    /// Waits for the whole answer.
    fn answered(&mut self) {
        self.find(|frame| frame.kind == HEADERS && frame.stream == 1);
        self.find(|frame| frame.kind == DATA && frame.stream == 1 && frame.flags & END_STREAM != 0);
        assert_eq!(self.reset, None, "before the whole answer");
    }

    /// Reads until a frame is like this.
    fn find(&mut self, is_it: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.connection.next(LONG).expect("the gate goes on");
            self.heed(&frame);
            if is_it(&frame) {
                return frame;
            }
        }
    }

    /// Waits until another piece may be sent; says whether that is so, or the stream was reset.
    fn makes_room(&mut self) -> bool {
        while self.reset.is_none() && self.room.iter().any(|room| *room < PIECE) {
            let frame = self.connection.next(LONG).expect("the gate goes on");
            self.heed(&frame);
        }
        self.reset.is_none()
    }

    fn heed(&mut self, frame: &Frame) {
        let place = usize::from(frame.stream == 0);
        match frame.kind {
            WINDOW_UPDATE => {
                let more = <[u8; 4]>::try_from(&frame.payload[..]).expect("a window update has four bytes");
                self.room[place] += usize::try_from(u32::from_be_bytes(more)).expect("31 bits fit");
            }
            RST_STREAM if frame.stream == 1 => self.reset = self.reset.take().or(Some(frame.payload.clone())),
            _ => {}
        }
    }
}
