//! What a client gets: the gate's own words, or an upstream's answer as it comes. What it sends itself is `upload`'s.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Response};
use hyper::body::{Body, Frame, SizeHint};

use super::open::{BrokenOff, OpenRequest};
use crate::observe::metrics::Counted;

/// What a client gets, counted as in flight until it ends.
pub struct Outgoing {
    payload: Payload,
    _in_flight: Option<Counted>,
}

/// The gate's own words, or the upstream's answer, which the open request holds as long as it is not over.
pub enum Payload {
    Words(Bytes),
    Upstream(Rc<OpenRequest>),
}

impl Payload {
    /// The gate's own words. To HEAD only how long they are: hyper leaves them away over HTTP/1 alone (RFC 9110 §9.3.2).
    pub fn words(mut answer: Response<Bytes>, method: &Method) -> Response<Self> {
        if *method == Method::HEAD && !answer.body().is_empty() {
            let words = std::mem::take(answer.body_mut());
            answer.headers_mut().insert(CONTENT_LENGTH, words.len().into());
        }
        answer.map(Self::Words)
    }
}

impl Outgoing {
    pub fn new(payload: Payload, in_flight: Counted) -> Self {
        Self { payload, _in_flight: Some(in_flight) }
    }

    /// Of an answer whose connection goes on without HTTP.
    pub fn empty() -> Self {
        Self { payload: Payload::Words(Bytes::new()), _in_flight: None }
    }

    /// The open request, where its client learns why the gate ends it.
    pub fn closes_with_status(&self) -> Option<Weak<OpenRequest>> {
        match &self.payload {
            Payload::Upstream(request) if request.closes_with_status() => Some(Rc::downgrade(request)),
            _ => None,
        }
    }

    /// Whether the gate answers, and no upstream is left that could still read the request.
    pub fn is_the_gates_own(&self) -> bool {
        matches!(self.payload, Payload::Words(_))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.payload {
            Payload::Words(words) if words.is_empty() => Poll::Ready(None),
            Payload::Words(words) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(words))))),
            Payload::Upstream(request) => request.poll_answer(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Words(words) => words.is_empty(),
            Payload::Upstream(request) => request.is_answered(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Words(words) => SizeHint::with_exact(words.len() as u64),
            Payload::Upstream(request) => request.size_hint(),
        }
    }
}

impl Drop for Outgoing {
    /// Whoever was to read it has left, or has read it all.
    fn drop(&mut self) {
        if let Payload::Upstream(request) = &self.payload {
            request.let_go();
        }
    }
}
