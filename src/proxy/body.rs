//! The response body that a client gets: a local reply, or an upstream's answer as it streams. Request bodies are in `upload`.

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

/// A response's body; its request counts as in flight until this is dropped.
pub struct ResponseBody {
    payload: Payload,
    _in_flight: Option<Counted>,
}

/// A local reply, made by the gate itself, or the upstream's answer, which the open request holds until the gate ends it.
pub enum Payload {
    Local(Bytes),
    Upstream(Rc<OpenRequest>),
}

/// Why a client does not get the whole of an answer.
#[derive(Debug, Error)]
pub enum InterruptedBody {
    #[error("the upstream's answer broke off: {0}")]
    Upstream(#[from] Failure),
    /// With the reason of the reset over HTTP/2; HTTP/1.1 closes the connection.
    #[error("the stream was ended")]
    Over(#[source] h2::Error),
}

impl Payload {
    /// A local reply. To HEAD only its length: hyper drops the body over HTTP/1 alone (RFC 9110 §9.3.2).
    pub fn local(mut answer: Response<Bytes>, method: &Method) -> Response<Self> {
        if *method == Method::HEAD && !answer.body().is_empty() {
            let body = std::mem::take(answer.body_mut());
            answer.headers_mut().insert(CONTENT_LENGTH, body.len().into());
        }
        answer.map(Self::Local)
    }
}

impl ResponseBody {
    pub fn new(payload: Payload, in_flight: Counted) -> Self {
        Self { payload, _in_flight: Some(in_flight) }
    }

    /// For an upgraded connection; the tunnel counts as in flight instead.
    pub fn empty() -> Self {
        Self { payload: Payload::Local(Bytes::new()), _in_flight: None }
    }

    /// The open request, if its stream can be closed with a gRPC status.
    pub fn closes_with_status(&self) -> Option<Weak<OpenRequest>> {
        match &self.payload {
            Payload::Upstream(request) if request.closes_with_status() => Some(Rc::downgrade(request)),
            _ => None,
        }
    }

    /// Ends an upstream's answer on which nothing has passed for `stream_idle`.
    pub fn end_idle(&self) {
        if let Payload::Upstream(request) = &self.payload {
            request.end(CloseReason::Idle);
        }
    }

    /// Whether it is a local reply: then no upstream is left that could still read the request.
    pub fn is_local(&self) -> bool {
        matches!(self.payload, Payload::Local(_))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = InterruptedBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, InterruptedBody>>> {
        match &mut self.payload {
            Payload::Local(body) if body.is_empty() => Poll::Ready(None),
            Payload::Local(body) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(body))))),
            Payload::Upstream(request) => poll_answer(request, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Local(body) => body.is_empty(),
            Payload::Upstream(request) => {
                request.is_closed() || request.answer().as_ref().is_some_and(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Local(body) => SizeHint::with_exact(body.len() as u64),
            Payload::Upstream(request) => request.answer().as_ref().map_or_else(SizeHint::default, Body::size_hint),
        }
    }
}

impl Drop for ResponseBody {
    /// The client has read all of it, or has gone.
    fn drop(&mut self) {
        if let Payload::Upstream(request) = &self.payload {
            request.release();
        }
    }
}

/// The answer's next frame. Once the gate has ended the request: trailers with a status, or an error, so that a truncated answer
/// never looks complete.
fn poll_answer(request: &Rc<OpenRequest>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InterruptedBody>>> {
    let mut answer = request.answer();
    let Some(stream) = answer.as_mut() else { return Poll::Ready(last_frame(request)) };
    match Pin::new(&mut *stream).poll_frame(cx) {
        Poll::Ready(mut frame) => {
            match &mut frame {
                Some(Ok(frame)) => frame.trailers_mut().into_iter().for_each(respond::clean_trailers),
                Some(Err(failure)) => broke_off(request, failure),
                None => {}
            }
            // Registered before the frame is handed out: a client that stops reading does not poll again.
            if frame.is_some() && !stream.is_end_stream() {
                request.watch();
            }
            Poll::Ready(frame.map(|frame| frame.map_err(InterruptedBody::from)))
        }
        Poll::Pending => request.poll_ended(cx).map(|()| last_frame(request)),
    }
}

/// The last frame of an answer that the gate has ended.
fn last_frame(request: &OpenRequest) -> Option<Result<Frame<Bytes>, InterruptedBody>> {
    match request.close() {
        Finish::Reset => Some(Err(InterruptedBody::Over(h2::Reason::CANCEL.into()))),
        Finish::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
        Finish::Nothing => None,
    }
}

/// Logs and counts an answer that broke off; the upstream itself may not notice.
fn broke_off(request: &OpenRequest, failure: &Failure) {
    let (request_id, trace_id) = request.ids();
    let error = chain(failure);
    let by_client = match failure {
        Failure::H1(error) => matches!(error, h1::error::Error::Body(_)),
        // Once an answer has begun, the gate resets the stream only because the request's body failed.
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
