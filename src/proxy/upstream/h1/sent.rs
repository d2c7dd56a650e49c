//! What an upstream receives, beside what hyper's client would send it: the same bytes, however they are taken.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use http::{HeaderMap, Method, Request};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::{LocalSet, spawn_local, yield_now};

use super::*;
use crate::proxy::upload::BodyError;

/// A body of these frames, which pauses before each that says so.
#[derive(Clone)]
struct Frames {
    frames: Rc<RefCell<VecDeque<(bool, Piece)>>>,
    /// The length that it knows of itself.
    exact: Option<u64>,
    /// It says with its last frame that it was the last.
    tells_its_end: bool,
}

#[derive(Debug, Clone)]
enum Piece {
    Data(usize),
    Trailers,
}

impl Frames {
    fn new(pieces: &[(bool, Piece)], knows_length: bool, tells_its_end: bool) -> Self {
        let lengths = pieces.iter().map(|(_, piece)| if let Piece::Data(length) = piece { *length as u64 } else { 0 });
        let exact = knows_length.then(|| lengths.sum());
        Self { frames: Rc::new(RefCell::new(pieces.iter().cloned().collect())), exact, tells_its_end }
    }
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frames = self.frames.borrow_mut();
        if let Some((pauses, _)) = frames.front_mut()
            && std::mem::take(pauses)
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frames.pop_front().map(|(_, piece)| match piece {
            Piece::Data(length) => Ok(Frame::data((0..length).map(|at| b'a' + (at % 26) as u8).collect())),
            Piece::Trailers => {
                let mut trailers = HeaderMap::new();
                for (name, value) in [("x-sum", "7"), ("x-other", "8"), ("x-sum", "9"), ("host", "a")] {
                    trailers.append(name, http::HeaderValue::from_static(value));
                }
                Ok(Frame::trailers(trailers))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.tells_its_end && self.frames.borrow().is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn request(method: &Method, fields: &[(&'static str, &str)], body: Frames) -> Request<Frames> {
    let mut request = Request::builder().method(method).uri("/a?b=%20c");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(body).expect("the fields are fields")
}

/// What comes out at the other end of a socket, of which little is read at once.
fn received<F: Future<Output = ()> + 'static>(send: impl FnOnce(UnixStream) -> F) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime needs nothing"), async move {
        let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
        spawn_local(send(near));
        let mut all = Vec::new();
        let mut some = [0; 3000];
        while let Ok(read @ 1..) = far.read(&mut some).await {
            all.extend_from_slice(&some[..read]);
            yield_now().await;
        }
        all
    })
}

fn ours(request: Request<Frames>) -> Vec<u8> {
    received(|mut stream| async move {
        let (head, body) = request.into_parts();
        let mut sending = RequestWriter::<Frames>::default();
        if sending.begin(&head, &Vec::new(), &body).is_ok() {
            // An error closes the connection, as it does where it is used.
            let _ = std::future::poll_fn(|cx| sending.poll(cx, Pin::new(&mut stream))).await;
        }
        let _ = stream.shutdown().await;
    })
}

fn hypers(request: Request<Frames>) -> Vec<u8> {
    received(|stream| async move {
        let opened = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.expect("nothing is said to open a connection");
        let sent = request.body().frames.clone();
        let answer = spawn_local(async move { sender.send_request(request).await.map(drop) });
        let driver = spawn_local(async move { connection.await.map_err(drop) });
        // Until it has long been still.
        let (mut still, mut left) = (0, sent.borrow().len());
        while still < 300 && !driver.is_finished() {
            yield_now().await;
            still = if sent.borrow().len() == left { still + 1 } else { 0 };
            left = sent.borrow().len();
        }
        driver.abort();
        answer.abort();
    })
}

#[test]
fn a_head_is_what_hyper_makes_of_it() {
    let all: [&[(&str, &str)]; 6] = [
        &[],
        &[("host", "a"), ("x-a", "1"), ("accept", "*/*"), ("x-a", "2"), ("x-empty", ""), ("connection", "Upgrade")],
        &[("content-length", "0")],
        &[("content-length", "5"), ("host", "a")],
        &[("trailer", "X-Sum, Host"), ("expect", "100-continue")],
        &[("te", "trailers"), ("trailer", "x-sum"), ("trailer", "x-none")],
    ];
    let bodies: [&[Piece]; 4] =
        [&[], &[Piece::Data(5)], &[Piece::Data(2), Piece::Data(3)], &[Piece::Data(5), Piece::Trailers]];
    for fields in all {
        for pieces in bodies {
            for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::OPTIONS] {
                for (knows_length, tells_its_end) in [(true, true), (true, false), (false, true), (false, false)] {
                    let pieces: Vec<_> = pieces.iter().map(|piece| (false, piece.clone())).collect();
                    let make = || request(&method, fields, Frames::new(&pieces, knows_length, tells_its_end));
                    // hyper leaves away what it does not expect; ours passes whatever the method.
                    let unexpected = matches!(method, Method::GET | Method::HEAD) && !knows_length;
                    let empty = pieces.is_empty() && tells_its_end;
                    let hypers_make = || match unexpected && !empty {
                        true => request(&Method::POST, fields, Frames::new(&pieces, knows_length, tells_its_end)),
                        false => make(),
                    };
                    let case = format!("{method} {fields:?} {pieces:?} {knows_length} {tells_its_end}");
                    let ours = ours(make());
                    // A length that is not the body's is not sent.
                    let said = fields.iter().find(|(name, _)| *name == "content-length").map(|(_, length)| *length);
                    let is = if pieces.is_empty() { "0" } else { "5" };
                    if said.is_some_and(|said| said != is) {
                        assert!(!ours.ends_with(b"abcde"), "{case}");
                        continue;
                    }
                    let hypers = String::from_utf8(hypers(hypers_make())).expect("it is text");
                    let hypers = hypers.replacen("POST", method.as_str(), 1);
                    assert_eq!(String::from_utf8_lossy(&ours), hypers, "{case}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_body_is_sent_as_hyper_sends_it_however_it_comes(
        lengths in prop::collection::vec((any::<bool>(), prop_oneof![0..20usize, 2040..2060usize, 0..40_000usize]), 0..8),
        knows_length in any::<bool>(),
        tells_its_end in any::<bool>(),
        trailers in any::<bool>(),
    ) {
        let mut pieces: Vec<_> = lengths.into_iter().map(|(pauses, length)| (pauses, Piece::Data(length))).collect();
        if trailers {
            pieces.push((false, Piece::Trailers));
        }
        let make = || request(&Method::POST, &[("trailer", "x-sum")], Frames::new(&pieces, knows_length, tells_its_end));
        let (ours, hypers) = (ours(make()), hypers(make()));
        prop_assert!(ours == hypers, "{} {}", String::from_utf8_lossy(&ours), String::from_utf8_lossy(&hypers));
    }
}

/// A far side that reads nothing, and frames that are always there.
#[test]
fn what_cannot_be_sent_does_not_gather() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime needs nothing").block_on(async {
        let (mut near, _far) = UnixStream::pair().expect("a pair of sockets");
        let pieces = vec![(false, Piece::Data(2000)); 2000];
        let (head, body) = request(&Method::POST, &[], Frames::new(&pieces, false, false)).into_parts();
        let mut sending = RequestWriter::<Frames>::default();
        sending.begin(&head, &Vec::new(), &body).expect("the head can be sent");
        for _ in 0..2000 {
            let polled = std::future::poll_fn(|cx| Poll::Ready(sending.poll(cx, Pin::new(&mut near)))).await;
            assert!(polled.is_pending());
        }
        // A socket takes some, and what gathers before it is no more than a few.
        let left = body.frames.borrow().len();
        assert!(left > 1500, "{left} of 2,000 are left");
    });
}

#[test]
fn a_length_is_told_once_and_as_a_number() {
    for (fields, is) in [
        (&[("content-length", "5"), ("content-length", "5")][..], "content-length: 5\r\n"),
        (&[("content-length", "005"), ("host", "a")], "host: a\r\ncontent-length: 5\r\n"),
    ] {
        let frames = Frames::new(&[(false, Piece::Data(5))], true, true);
        let sent = String::from_utf8(ours(request(&Method::POST, fields, frames))).expect("it is text");
        assert_eq!(sent, format!("POST /a?b=%20c HTTP/1.1\r\n{is}\r\nabcde"));
    }
}
