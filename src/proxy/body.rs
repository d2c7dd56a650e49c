//! What a client gets: the gate's own words, or an upstream's answer as it comes. What it sends itself is `upload`'s.

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Response};
use hyper::body::{Body, Frame, SizeHint};
use thiserror::Error;
use tracing::{debug, warn};

use super::close_reason::CloseReason;
use super::open::{Finish, OpenRequest};
use super::respond;
use super::upstream::failure::{Failure, chain};
use super::upstream::h1;
use crate::observe::metrics::{BrokenBy, Counted};

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

/// Why a client does not get the whole of an answer.
#[derive(Debug, Error)]
pub enum InterruptedBody {
    #[error("the upstream's answer broke off: {0}")]
    Upstream(#[from] Failure),
    /// With what HTTP/2 is told; HTTP/1.1 closes the connection.
    #[error("the stream was ended")]
    Over(#[source] h2::Error),
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

    /// Nothing of it has passed for too long.
    pub fn end_idle(&self) {
        if let Payload::Upstream(request) = &self.payload {
            request.end(CloseReason::Idle);
        }
    }

    /// Whether the gate answers, and no upstream is left that could still read the request.
    pub fn is_the_gates_own(&self) -> bool {
        matches!(self.payload, Payload::Words(_))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = InterruptedBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, InterruptedBody>>> {
        match &mut self.payload {
            Payload::Words(words) if words.is_empty() => Poll::Ready(None),
            Payload::Words(words) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(words))))),
            Payload::Upstream(request) => poll_answer(request, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Words(words) => words.is_empty(),
            Payload::Upstream(request) => {
                request.is_closed() || request.answer().as_ref().is_some_and(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Words(words) => SizeHint::with_exact(words.len() as u64),
            Payload::Upstream(request) => request.answer().as_ref().map_or_else(SizeHint::default, Body::size_hint),
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

/// The next of the answer; once the request is over a status or an error, so that what was cut never looks complete.
fn poll_answer(request: &Rc<OpenRequest>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InterruptedBody>>> {
    let mut answer = request.answer();
    let Some(stream) = answer.as_mut() else { return Poll::Ready(last(request)) };
    match Pin::new(&mut *stream).poll_frame(cx) {
        Poll::Ready(mut frame) => {
            match &mut frame {
                Some(Ok(frame)) => frame.trailers_mut().into_iter().for_each(respond::clean_trailers),
                Some(Err(failure)) => failed(request, failure),
                None => {}
            }
            // A client that reads no more is not asked for its turn: it is looked after before.
            if frame.is_some() && !stream.is_end_stream() {
                request.watch();
            }
            Poll::Ready(frame.map(|frame| frame.map_err(InterruptedBody::from)))
        }
        Poll::Pending => request.poll_over(cx).map(|()| last(request)),
    }
}

/// The last of an answer that is over.
fn last(request: &OpenRequest) -> Option<Result<Frame<Bytes>, InterruptedBody>> {
    match request.close() {
        Finish::Reset => Some(Err(InterruptedBody::Over(h2::Reason::CANCEL.into()))),
        Finish::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
        Finish::Nothing => None,
    }
}

/// The upstream's answer broke off; its log may not know.
fn failed(request: &OpenRequest, failure: &Failure) {
    let (request_id, trace_id) = request.ids();
    let error = chain(failure);
    let by_client = match failure {
        Failure::H1(error) => matches!(error, h1::error::Error::Body(_)),
        // Once an answer has begun, nothing else ends a stream from here.
        Failure::H2(error) => error.is_our_own(),
    };
    if by_client {
        debug!(request_id, trace_id, error, "an answer ended with the request's body");
        return request.broken(BrokenBy::Client);
    }
    let (route, what) = (request.route(), "the upstream's answer broke off");
    match request.is_news_that_it_broke_off() {
        Some(repeated) => warn!(request_id, trace_id, route, error, repeated, "{what}"),
        None => debug!(request_id, trace_id, route, error, "{what}"),
    }
    request.broken(BrokenBy::Upstream);
}
