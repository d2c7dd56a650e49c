//! The exchange beside hyper's client: the same bytes from an upstream, wherever they are split, mean the same to both, or are
//! refused here for a reason that is named.

use std::cell::Cell;
use std::rc::Rc;

use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::{LocalSet, spawn_local, yield_now};

use super::*;

/// How often a task may be passed over before it is taken to wait for what never comes.
const TURNS: usize = 300;

/// Where this one is stricter than hyper, by what it says then.
const STRICTER: [&str; 7] = [
    "the answer is malformed: it has both a Transfer-Encoding and a Content-Length",
    "the answer is malformed: it has a transfer coding besides chunked",
    "the answer is malformed: its Content-Length is no length",
    "the answer is malformed: it has two different Content-Lengths",
    "the answer is malformed: its trailers hold a lone CR or LF",
    "the answer is malformed: its chunks have too many extensions",
    "the answer is malformed: a chunk's size has too many zeros or blanks around it",
];

/// What came of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Waits,
    Failed(String),
    Answered { head: Head, end: End },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    status: u16,
    reason: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Waits,
    Broken(String),
    Whole { body: Vec<u8>, trailers: Vec<(String, Vec<u8>)>, reusable: bool },
}

/// What an upstream says, in which pieces, and whether it closes the connection behind it.
#[derive(Debug, Clone)]
struct Play {
    method: Method,
    said: Vec<u8>,
    splits: Vec<usize>,
    closes: bool,
}

impl Play {
    fn request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        request
    }

    /// Plays the upstream's part; tells when it has said all.
    async fn upstream(self, mut stream: UnixStream, done: Rc<Cell<bool>>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).await.is_err() {
                return done.set(true);
            }
            head.push(byte[0]);
        }
        let mut said = &self.said[..];
        let mut before = 0;
        for split in self.splits.iter().copied().filter(|split| *split < self.said.len()) {
            let (piece, rest) = said.split_at(split - before);
            (said, before) = (rest, split);
            if stream.write_all(piece).await.is_err() {
                break;
            }
            yield_now().await;
            yield_now().await;
        }
        let _ = stream.write_all(said).await;
        if self.closes {
            drop(stream);
            return done.set(true);
        }
        done.set(true);
        // Read on, so that nothing is reset as long as somebody may look.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    fn run<F: Future<Output = Outcome> + 'static>(&self, client: impl FnOnce(UnixStream) -> F) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime needs nothing");
        let (play, done) = (self.clone(), Rc::new(Cell::new(false)));
        LocalSet::new().block_on(&runtime, async move {
            let (near, far) = UnixStream::pair().expect("a pair of sockets");
            spawn_local(play.upstream(far, done.clone()));
            let outcome = Rc::new(Cell::new(None));
            let (told, client) = (outcome.clone(), client(near));
            let task = spawn_local(async move { told.set(Some(client.await)) });
            let mut turns = 0;
            while turns < TURNS && !task.is_finished() {
                yield_now().await;
                turns += usize::from(done.get());
            }
            outcome.take().unwrap_or(Outcome::Waits)
        })
    }

    fn ours(&self) -> Outcome {
        let request = self.request(());
        self.run(|stream| async move {
            let mut connection = Connection::open(Stream::Unix(stream), None);
            let (mut head, ()) = request.into_parts();
            let response = match connection.exchange(&mut head, &Vec::new(), &ForwardedBody::default()).await {
                Ok(response) => response,
                Err(unanswered) => return Outcome::Failed(unanswered.error.to_string()),
            };
            let head = Head::of(&response);
            let (mut body, mut trailers) = (Vec::new(), Vec::new());
            let end = loop {
                let frame = within_turns(std::future::poll_fn(|cx| connection.poll_frame(cx))).await;
                match frame {
                    None => break End::Waits,
                    Some(None) => {
                        all_is_said().await;
                        let reusable = connection.into_idle().is_some_and(|mut connection| connection.is_ready());
                        break End::Whole { body, trailers, reusable };
                    }
                    Some(Some(Err(error))) => break End::Broken(error.to_string()),
                    Some(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => body.extend_from_slice(&data),
                        Err(frame) => trailers = lines(&frame.into_trailers().unwrap_or_default()),
                    },
                }
            };
            Outcome::Answered { head, end }
        })
    }

    fn hypers(&self) -> Outcome {
        let request = self.request(Empty::<Bytes>::new());
        self.run(|stream| async move {
            let mut builder = http1::Builder::new();
            builder.max_header_size(fields::HEAD_BYTES).max_buf_size(128 * 1024);
            let opened = builder.handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = opened.expect("nothing is said to open a connection");
            spawn_local(async move { connection.with_upgrades().await.map_err(drop) });
            let mut response = match sender.send_request(request).await {
                Ok(response) => response,
                Err(error) => return Outcome::Failed(error.to_string()),
            };
            // Ours tells a length once, and keeps to itself what becomes of the connection.
            let _ = framing::content_length(response.headers_mut());
            let mut head = Head::of(&response);
            head.headers.retain(|(name, value)| name != "connection" || !is_of_the_connection_alone(value));
            let mut stream = response.into_body();
            let (mut body, mut trailers) = (Vec::new(), Vec::new());
            let end = loop {
                match within_turns(stream.frame()).await {
                    None => break End::Waits,
                    Some(None) => {
                        all_is_said().await;
                        break End::Whole { body, trailers, reusable: sender.is_ready() };
                    }
                    Some(Some(Err(error))) => break End::Broken(error.to_string()),
                    Some(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => body.extend_from_slice(&data),
                        Err(frame) => {
                            trailers = lines(&frame.into_trailers().unwrap_or_default());
                            // Ours keeps to itself what speaks of the connection.
                            trailers.retain(|(name, _)| name != "connection" && name != "transfer-encoding");
                        }
                    },
                }
            };
            Outcome::Answered { head, end }
        })
    }

    /// Both say the same, or ours names why it is stricter.
    fn compare(&self) -> Result<(), String> {
        let (ours, hypers) = (self.ours(), self.hypers());
        let told = match &ours {
            Outcome::Failed(error) | Outcome::Answered { end: End::Broken(error), .. } => Some(error.as_str()),
            _ => None,
        };
        if told.is_some_and(|error| STRICTER.contains(&error)) || self.alike(&ours, &hypers) {
            return Ok(());
        }
        Err(format!("{:?} {:?}\n ours: {ours:?}\nhyper: {hypers:?}", self, String::from_utf8_lossy(&self.said)))
    }

    fn alike(&self, ours: &Outcome, hypers: &Outcome) -> bool {
        match (ours, hypers) {
            (Outcome::Failed(_), Outcome::Failed(_)) => true,
            (Outcome::Answered { head: ours, end }, Outcome::Answered { head: hypers, end: other }) => {
                let ends_alike = match (end, other) {
                    (End::Broken(_), End::Broken(_)) => true,
                    // Who sees the end of the stream first is chance; a `Connection` that is not text may say `close`; and who
                    // announces a body behind a 204 may send it.
                    (
                        End::Whole { body, trailers, reusable },
                        End::Whole { body: same, trailers: equal, reusable: theirs },
                    ) => {
                        let kept_alike = self.closes
                            || reusable == theirs
                            || (!reusable && (ours.says_connection_unread() || ours.status == 204));
                        body == same && trailers == equal && kept_alike
                    }
                    (end, other) => end == other,
                };
                ours == hypers && ends_alike
            }
            (ours, hypers) => ours == hypers,
        }
    }
}

impl Head {
    fn of<B>(response: &Response<B>) -> Self {
        let reason = response.extensions().get::<hyper::ext::ReasonPhrase>();
        Self {
            status: response.status().as_u16(),
            reason: reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned()),
            headers: lines(response.headers()),
        }
    }
}

impl Head {
    fn says_connection_unread(&self) -> bool {
        self.headers.iter().any(|(name, value)| name == "connection" && !value.is_ascii())
    }
}

/// Whether a line of `Connection` names no other field.
fn is_of_the_connection_alone(value: &[u8]) -> bool {
    let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    options.all(|option| [&b"close"[..], b"keep-alive"].iter().any(|own| own.eq_ignore_ascii_case(option)))
}

/// Whatever the upstream says behind an answer has come.
async fn all_is_said() {
    for _ in 0..30 {
        yield_now().await;
    }
}

/// `None`: it waits for what never comes.
async fn within_turns<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    for _ in 0..TURNS / 2 {
        if let Poll::Ready(done) = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return Some(done);
        }
        yield_now().await;
    }
    None
}

fn lines(headers: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// What is near a bound, below it and above.
fn large() -> Vec<Vec<u8>> {
    let fields = |count: usize| (0..count).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    let field = |length: usize| format!("X: {}\r\n", "x".repeat(length));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0";
    let mut said = Vec::new();
    for size in [50_000, 65_400, 66_000, 200_000] {
        said.push(format!("HTTP/1.1 200 OK\r\n{}Content-Length: 5\r\n\r\nhello", field(size)));
        said.push(format!("{chunked}\r\n{}\r\n", field(size)));
        said.push(format!("{chunked}\r\n{}", field(size)));
        said.push(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{}", "x".repeat(size)));
        said.push(format!("{chunked};{}\r\n\r\n", "x".repeat(size / 4)));
    }
    for count in [50, 98, 99, 100, 101, 150] {
        said.push(format!("HTTP/1.1 200 OK\r\n{}Content-Length: 5\r\n\r\nhello", fields(count)));
        said.push(format!("{chunked}\r\n{}\r\n", fields(count)));
    }
    said.into_iter().map(String::into_bytes).collect()
}

/// What upstreams say, well and badly.
fn corpus() -> Vec<Vec<u8>> {
    let heads = [
        "",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 18446744073709551615\r\n",
        "Content-Length: 18446744073709551613\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 10\r\n",
        "Content-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: CHUNKED\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: \r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n",
        "Connection: close\r\nContent-Length: 5\r\n",
        "Connection: keep-alive, Close\r\nContent-Length: 5\r\n",
        "Connection: x\r\nConnection: close\r\nContent-Length: 5\r\n",
        "Connection: keep-alive\r\nContent-Length: 5\r\n",
        "Connection: \u{fc}, keep-alive\r\nContent-Length: 5\r\n",
        "Name : 1\r\nContent-Length: 5\r\n",
        " Name: 1\r\nContent-Length: 5\r\n",
        "A: 1\r\n 2\r\nContent-Length: 5\r\n",
        "A: \0\r\nContent-Length: 5\r\n",
        "A\0: 1\r\nContent-Length: 5\r\n",
        "A: 1\nContent-Length: 5\r\n",
        "A: 1\rContent-Length: 5\r\n",
        "A: \u{7f}\r\nContent-Length: 5\r\n",
        "A:\r\nContent-Length: 5\r\n",
        "A:\t 1 \t\r\nContent-Length: 5\r\n",
        ": 1\r\nContent-Length: 5\r\n",
        "A\r\nContent-Length: 5\r\n",
        "A: \u{fc}\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 5\r\n",
        "Upgrade: x\r\nConnection: upgrade\r\n",
    ];
    let bodies = [
        "",
        "hello",
        "hello, world",
        "5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\nmore",
        "5 \t;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n",
        "0005\r\nhello\r\n000\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Sum: 7\r\nY: 8\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        "5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: 1\n\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: 1\rY: 2\r\n\r\n",
        "10000000000000000\r\nhello",
        "FFFFFFFFFFFFFFFF\r\nhello",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "0\r\n\r\n",
        "0\r\nbad\r\n\r\n",
        "5\r\nhel",
    ];
    let firsts = [
        "HTTP/1.1 200 OK",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 204 No Content",
        "HTTP/1.1 304 Not Modified",
        "HTTP/1.1 404 Gone fishing",
        "HTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 200",
        "HTTP/1.1 200 ",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 1000 OK",
        "HTTP/1.1  200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 200 \u{fc}",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 999 Own",
        "ICY 200 OK",
    ];
    let mut said = Vec::new();
    // Each head with each body, and each first line with a few of both.
    for head in heads {
        said.extend(bodies.iter().map(|body| format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}")));
    }
    for first in firsts {
        for (head, body) in
            [(heads[0], bodies[1]), (heads[1], bodies[1]), (heads[17], bodies[7]), (heads[33], bodies[1])]
        {
            said.push(format!("{first}\r\n{head}\r\n{body}"));
        }
    }
    said.push("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello".to_owned());
    said.push(String::new());
    // Each obs-text byte as it stands on the wire: one byte.
    said.iter().map(|said| said.chars().map(|c| c as u8).collect()).collect()
}

#[test]
fn what_an_upstream_says_means_what_it_means_to_hyper() {
    let mut wrong = Vec::new();
    for said in corpus().into_iter().chain(large()) {
        for (method, closes) in [(Method::GET, true), (Method::GET, false), (Method::HEAD, false)] {
            let play = Play { method, said: said.clone(), splits: Vec::new(), closes };
            wrong.extend(play.compare().err());
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn spoilt_or_split_an_answer_means_what_it_means_to_hyper(
        from in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<prop::sample::Index>()), 0..4),
        splits in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        closes in any::<bool>(),
    ) {
        const PIECES: [&[u8]; 14] =
            [b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"0", b"1", b"f", b";", b",", b"\xff", b"chunked", b"\r\n\r\n"];
        let corpus = corpus();
        let mut said = from.get(&corpus).clone();
        for (at, how, piece) in changes {
            let (at, piece) = (at.index(said.len() + 1), piece.get(&PIECES).iter().copied());
            let end = said.len().min(at + 1);
            match how {
                0 => drop(said.drain(at..end)),
                1 => drop(said.splice(at..end, piece)),
                _ => drop(said.splice(at..at, piece)),
            }
        }
        let mut splits: Vec<usize> = splits.iter().map(|split| split.index(said.len() + 1)).collect();
        splits.sort_unstable();
        let play = Play { method: Method::GET, said, splits, closes };
        prop_assert_eq!(play.compare(), Ok(()));
    }
}

/// One chunk after the other, however each size is written.
#[test]
fn a_long_body_may_pad_each_of_its_chunks() {
    let said =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "00000001  \r\nx\r\n".repeat(4000));
    let play = Play { method: Method::GET, said: said.into_bytes(), splits: Vec::new(), closes: false };
    assert_eq!(play.compare(), Ok(()));
    let Outcome::Answered { end: End::Whole { body, .. }, .. } = play.ours() else { panic!("it is whole") };
    assert_eq!(body.len(), 4000);
}

#[test]
fn interim_answers_come_to_an_end() {
    for (count, fails) in [(30, false), (40, true)] {
        let said = format!("{}HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count));
        let play = Play { method: Method::GET, said: said.into_bytes(), splits: vec![60], closes: false };
        assert_eq!(matches!(play.ours(), Outcome::Failed(_)), fails, "{count}");
    }
}

/// Each look costs a task a part of its turn; with none left, everything would look silent.
#[tokio::test]
async fn what_was_closed_is_seen_however_many_were_looked_at_before() {
    for _ in 0..300 {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        drop(far);
        near.readable().await.expect("the end can be read");
        let mut connection = Connection::open(Stream::Unix(near), None);
        assert!((0..300).all(|_| !connection.is_ready()));
    }
}
