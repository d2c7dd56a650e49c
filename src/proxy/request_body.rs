//! The client's body as it arrives, and an exchange's progress for the listener's timeouts: who waits for whom, and whether
//! frames still pass. Nothing here reads a clock: the listener samples the progress from time to time (`listen::watch`).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::truncated_body::{self, TruncatedBody};

/// How far one request and its answer have come: written by the bodies, read by the listener.
#[derive(Debug, Default)]
pub struct Progress {
    /// Frames that have passed, in either direction.
    frames: Cell<u32>,
    /// The request body has not ended.
    body_pending: Cell<bool>,
    /// The opposite, shared with the connection that the request came on.
    request_read: Arc<AtomicBool>,
    /// Somebody waits for the next frame of the request's body.
    awaits_client: Cell<bool>,
    /// The answer's head has been handed to hyper.
    answered: Cell<bool>,
    /// The last poll of the answer's body gave a frame, so that it is the client that must read on.
    frame_ready: Cell<bool>,
    /// The answer has ended.
    ended: Cell<bool>,
    /// The gate ends the answer: nothing has passed for `stream_idle`.
    ended_idle: Cell<bool>,
    /// The rest of a body that was dropped before its end.
    unread: RefCell<Option<Incoming>>,
}

/// What an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// The store or the upstream, which have deadlines of their own.
    Internal,
    /// More of the request's body.
    RequestBody,
    /// The client, to read the answer.
    ClientRead,
    /// Either side: the answer has begun.
    Stream,
}

impl Progress {
    /// `request_read` is set once all of the request has been read.
    pub fn of(request_read: Arc<AtomicBool>) -> Self {
        Self { request_read, ..Self::default() }
    }

    /// Starts over with a new request.
    pub fn begin(&self, has_body: bool) {
        self.body_pending.set(has_body);
        self.request_read.store(!has_body, Relaxed);
        for flag in [&self.awaits_client, &self.answered, &self.frame_ready, &self.ended, &self.ended_idle] {
            flag.set(false);
        }
    }

    /// The answer's head has been handed to hyper.
    pub fn answered(&self) {
        self.answered.set(true);
    }

    /// Whether the client has been given the answer's head.
    pub fn has_answered(&self) -> bool {
        self.answered.get()
    }

    /// The answer has ended, or was abandoned. Returns the unread rest of the request's body.
    pub fn end(&self) -> Option<Incoming> {
        self.ended.set(true);
        self.take_unread()
    }

    /// The answer's body was polled, and gave a frame or not.
    pub fn frame_ready(&self, frame: bool) {
        self.frame_ready.set(frame);
        if frame {
            self.count_frame();
        }
    }

    /// The answer is ended because nothing has passed for `stream_idle`.
    pub fn end_idle(&self) {
        self.ended_idle.set(true);
    }

    pub fn has_ended_idle(&self) -> bool {
        self.ended_idle.get()
    }

    /// Whether all of the request has been read.
    pub fn is_request_read(&self) -> bool {
        !self.body_pending.get()
    }

    /// The rest of a request's body that was dropped before its end.
    pub fn take_unread(&self) -> Option<Incoming> {
        self.unread.take()
    }

    /// That rest was read to its end and discarded.
    pub fn drained(&self) {
        self.request_ended();
    }

    pub fn waits(&self) -> Waits {
        match (self.answered.get(), self.awaits_client.get()) {
            (true, _) if self.frame_ready.get() => Waits::ClientRead,
            (true, _) => Waits::Stream,
            (false, true) => Waits::RequestBody,
            (false, false) => Waits::Internal,
        }
    }

    /// Frames that have passed so far, wrapping: unchanged if none has passed in between.
    pub fn frames(&self) -> u32 {
        self.frames.get()
    }

    fn request_ended(&self) {
        self.body_pending.set(false);
        self.request_read.store(true, Relaxed);
    }

    fn count_frame(&self) {
        self.frames.set(self.frames.get().wrapping_add(1));
    }
}

/// A request's body.
pub struct RequestBody {
    /// `None` only while this is dropped.
    stream: Option<Incoming>,
    progress: Rc<Progress>,
    /// Whether it comes over HTTP/1.1.
    is_h1: bool,
    /// Whether the listener can still read the rest: not of a body that broke off.
    returns: bool,
}

impl RequestBody {
    /// `is_h1`: over HTTP/1.1, where the next request follows this body on the same connection.
    pub fn new(stream: Incoming, progress: Rc<Progress>, is_h1: bool) -> Self {
        Self { stream: Some(stream), progress, is_h1, returns: true }
    }

    /// Whether somebody waits for the client's next frame.
    pub fn is_awaited(&self) -> bool {
        self.progress.awaits_client.get()
    }

    /// Whether the listener still takes back the rest: over HTTP/1.1 until the answer's head, which says whether the connection
    /// is kept; over HTTP/2 until the answer has ended.
    fn is_taken_back(&self) -> bool {
        let too_late = if self.is_h1 { &self.progress.answered } else { &self.progress.ended };
        self.returns && !too_late.get()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = TruncatedBody;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TruncatedBody>>> {
        let is_h1 = self.is_h1;
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let polled = match is_h1 {
            true => Pin::new(&mut *stream).poll_frame(cx).map_err(TruncatedBody::from),
            false => truncated_body::poll_stream(stream, cx),
        };
        // Of a body of known length, whose reader may not poll again behind the last byte.
        let is_last = stream.is_end_stream();
        self.progress.awaits_client.set(polled.is_pending());
        match &polled {
            Poll::Ready(Some(Ok(_))) => {
                self.progress.count_frame();
                if is_last {
                    self.progress.request_ended();
                }
            }
            Poll::Ready(None) => self.progress.request_ended(),
            Poll::Ready(Some(Err(_))) => self.returns = false,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let is_taken_back = self.is_taken_back();
        let Some(stream) = self.stream.take() else { return };
        self.progress.awaits_client.set(false);
        if stream.is_end_stream() {
            self.progress.request_ended();
        } else if is_taken_back && !self.progress.is_request_read() {
            self.progress.unread.replace(Some(stream));
        }
        // Else it is dropped here, and hyper resets the stream, or closes the connection, which lingers so that the answer is
        // read.
    }
}
