//! The request body on its way to the upstream: bounded, and ended with its request. Frames are forwarded as they arrive.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderName;
use hyper::body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::hygiene;
use super::request_body::RequestBody;
use super::truncated_body::TruncatedBody;

/// The request body as it is forwarded. Clones share it; it can be sent again as long as nothing of it was read.
#[derive(Clone, Default)]
pub struct ForwardedBody(Option<Rc<Upload>>);

/// The open request as an upload sees it; a trait, since `open` is built on uploads.
pub trait Cancellation {
    /// Whether the gate has ended the request.
    fn is_cancelled(&self) -> bool;
}

/// A request body that has not ended.
pub struct Upload {
    stream: RefCell<RequestBody>,
    /// Keeps the request open, and thus rechecked, until the body has ended.
    request: Rc<dyn Cancellation>,
    /// Bytes that may still pass.
    left: Cell<Option<u64>>,
    /// Never passed on as a trailer: the identity headers.
    reserved: Arc<[HeaderName]>,
    last_frame: Cell<Option<Instant>>,
    state: Cell<State>,
}

/// How far a body has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    TooLarge,
    /// The client violated the protocol.
    Malformed,
    /// The client disconnected, or the gate has ended the request.
    BrokenOff,
}

#[derive(Debug, Error)]
pub enum BodyError {
    #[error("the request body is larger than this route takes")]
    TooLarge,
    #[error("the client's body broke off: {0}")]
    Client(#[from] TruncatedBody),
    #[error("the stream was ended")]
    Over,
}

impl ForwardedBody {
    pub fn new(
        stream: RequestBody,
        most: Option<u64>,
        reserved: &Arc<[HeaderName]>,
        request: &Rc<impl Cancellation + 'static>,
    ) -> Self {
        if stream.is_end_stream() {
            return Self(None);
        }
        Self(Some(Rc::new(Upload {
            stream: RefCell::new(stream),
            request: request.clone(),
            left: Cell::new(most),
            reserved: reserved.clone(),
            last_frame: Cell::new(None),
            state: Cell::new(State::Open),
        })))
    }

    pub fn upload(&self) -> Option<&Rc<Upload>> {
        self.0.as_ref()
    }

    /// Whether something of it was read already.
    pub fn has_begun(&self) -> bool {
        self.0.as_ref().is_some_and(|upload| upload.last_frame().is_some() || upload.state.get() != State::Open)
    }
}

impl Upload {
    /// When the last frame passed.
    pub fn last_frame(&self) -> Option<Instant> {
        self.last_frame.get()
    }

    pub fn has_ended(&self) -> bool {
        self.state.get() == State::Ended || self.stream.borrow().is_end_stream()
    }

    pub fn is_too_large(&self) -> bool {
        self.state.get() == State::TooLarge
    }

    /// The client violated the protocol.
    pub fn is_malformed(&self) -> bool {
        self.state.get() == State::Malformed
    }

    pub fn is_broken_off(&self) -> bool {
        self.state.get() == State::BrokenOff
    }

    /// Whether somebody waits for the client's next frame.
    pub fn awaits_its_client(&self) -> bool {
        self.stream.borrow().is_awaited()
    }

    /// Reads and discards the rest.
    pub async fn drain(&self) {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| self.poll_frame(cx)).await {}
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.request.is_cancelled() {
            self.state.set(State::BrokenOff);
            return Poll::Ready(Some(Err(BodyError::Over)));
        }
        let mut frame = match ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_frame(cx)) {
            None => {
                self.state.set(State::Ended);
                return Poll::Ready(None);
            }
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.state.set(if error.is_malformed() { State::Malformed } else { State::BrokenOff });
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        self.last_frame.set(Some(Instant::now()));
        if let (Some(left), Some(data)) = (self.left.get(), frame.data_ref()) {
            let Some(left) = left.checked_sub(data.len() as u64) else {
                self.state.set(State::TooLarge);
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            };
            self.left.set(Some(left));
        }
        if let Some(trailers) = frame.trailers_mut() {
            hygiene::clean_trailers(trailers, &self.reserved);
            // The last frame; a writer of trailers does not poll again.
            self.state.set(State::Ended);
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.as_ref().map_or(Poll::Ready(None), |upload| upload.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|upload| upload.stream.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |upload| upload.stream.borrow().size_hint())
    }
}
