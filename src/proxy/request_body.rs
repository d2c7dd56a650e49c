//! The client's body as it arrives, and what the listener wants to know of an exchange: who waits for whom, and whether
//! anything still moves. Nothing here reads a clock: the listener looks from time to time and compares.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::truncated_body::{self, TruncatedBody};

/// How far one request and its answer have come. The body writes it on its way, the listener reads it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Frames that have passed, in either direction.
    moved: Cell<u32>,
    /// The request body has not ended.
    arriving: Cell<bool>,
    /// The same for the connection that it comes on, turned round.
    heard_out: Arc<AtomicBool>,
    /// The client's next frame is waited for.
    awaited: Cell<bool>,
    /// The answer's head is out.
    answered: Cell<bool>,
    /// The answer's next frame can be taken, and the client does not take it.
    offered: Cell<bool>,
    /// The answer has ended.
    over: Cell<bool>,
    /// Nothing has passed for too long: the gate ends it.
    idle: Cell<bool>,
    /// What nobody wanted of a body.
    unread: RefCell<Option<Incoming>>,
}

/// Whom an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// The store or the upstream, which have deadlines of their own.
    Within,
    /// The client, to go on with its body.
    Body,
    /// The client, to take what it asked for.
    Taking,
    /// Both: the answer has begun, and either side may go on.
    Either,
}

impl Progress {
    /// Tells the connection once all of the request has been read.
    pub fn of(heard_out: Arc<AtomicBool>) -> Self {
        Self { heard_out, ..Self::default() }
    }

    /// A request has come.
    pub fn begin(&self, has_body: bool) {
        self.arriving.set(has_body);
        self.heard_out.store(!has_body, Relaxed);
        for flag in [&self.awaited, &self.answered, &self.offered, &self.over, &self.idle] {
            flag.set(false);
        }
    }

    /// The answer's head is on its way.
    pub fn answered(&self) {
        self.answered.set(true);
    }

    /// Whether the client has been given the answer's head.
    pub fn has_answered(&self) -> bool {
        self.answered.get()
    }

    /// The answer has ended, or nobody waits for it any more. Returns what nobody wanted of the request until then.
    pub fn over(&self) -> Option<Incoming> {
        self.over.set(true);
        self.take_unread()
    }

    /// The answer's body has been asked for its next frame, which it has or not.
    pub fn offered(&self, frame: bool) {
        self.offered.set(frame);
        if frame {
            self.moved();
        }
    }

    /// An answer that has begun is ended because nothing passes.
    pub fn ends_idle(&self) {
        self.idle.set(true);
    }

    pub fn has_ended_idle(&self) -> bool {
        self.idle.get()
    }

    /// Whether all of the request has been read.
    pub fn has_arrived(&self) -> bool {
        !self.arriving.get()
    }

    /// The rest of the request's body, once nobody wants it.
    pub fn take_unread(&self) -> Option<Incoming> {
        self.unread.take()
    }

    /// It was read to its end, for nobody.
    pub fn drained(&self) {
        self.arrived();
    }

    pub fn waits(&self) -> Waits {
        match (self.answered.get(), self.awaited.get()) {
            (true, _) if self.offered.get() => Waits::Taking,
            (true, _) => Waits::Either,
            (false, true) => Waits::Body,
            (false, false) => Waits::Within,
        }
    }

    /// Differs from what it was whenever a frame has passed in between.
    pub fn frames(&self) -> u32 {
        self.moved.get()
    }

    fn arrived(&self) {
        self.arriving.set(false);
        self.heard_out.store(true, Relaxed);
    }

    fn moved(&self) {
        self.moved.set(self.moved.get().wrapping_add(1));
    }
}

/// A request's body.
pub struct RequestBody {
    /// Taken only when this is dropped.
    stream: Option<Incoming>,
    progress: Rc<Progress>,
    /// Whether it comes over HTTP/1.1.
    in_turn: bool,
    /// Whether the listener wants back what nobody read.
    returns: bool,
}

impl RequestBody {
    /// `in_turn`: over HTTP/1.1, where the next request stands behind this body on the same connection.
    pub fn new(stream: Incoming, progress: Rc<Progress>, in_turn: bool) -> Self {
        Self { stream: Some(stream), progress, in_turn, returns: true }
    }

    /// Whether the client's next frame is waited for.
    pub fn is_awaited(&self) -> bool {
        self.progress.awaited.get()
    }

    /// Whether the listener still takes back what is left: before the answer where the next request stands behind it, else
    /// until the answer has ended.
    fn is_taken_back(&self) -> bool {
        let too_late = if self.in_turn { &self.progress.answered } else { &self.progress.over };
        self.returns && !too_late.get()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = TruncatedBody;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TruncatedBody>>> {
        let in_turn = self.in_turn;
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let polled = match in_turn {
            true => Pin::new(&mut *stream).poll_frame(cx).map_err(TruncatedBody::from),
            false => truncated_body::poll_stream(stream, cx),
        };
        // Of a known length; nobody may ask for more than that.
        let is_last = stream.is_end_stream();
        self.progress.awaited.set(polled.is_pending());
        match &polled {
            Poll::Ready(Some(Ok(_))) => {
                self.progress.moved();
                if is_last {
                    self.progress.arrived();
                }
            }
            Poll::Ready(None) => self.progress.arrived(),
            // What broke off cannot be read to its end.
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
        self.progress.awaited.set(false);
        if stream.is_end_stream() {
            self.progress.arrived();
        } else if is_taken_back && !self.progress.has_arrived() {
            self.progress.unread.replace(Some(stream));
        }
        // Nobody takes it back: dropped, it has hyper close the connection, which lingers so that the answer is read, or reset
        // the stream.
    }
}
