//! The client's body as it arrives, and what the listener wants to know of an exchange: who waits for whom, and whether
//! anything still moves. Nothing here reads a clock: the listener looks from time to time and compares.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// How far one request and its answer have come. Shared between the body, which may travel to another task, and the listener.
#[derive(Debug, Default)]
pub struct Exchange {
    /// Frames that have passed, in either direction.
    moved: AtomicU32,
    /// The request body has not ended.
    arriving: AtomicBool,
    /// The client's next frame is waited for.
    awaited: AtomicBool,
    /// The answer's head is out.
    answered: AtomicBool,
    /// The answer's next frame can be taken, and the client does not take it.
    offered: AtomicBool,
    /// What nobody wanted of a body.
    unread: Mutex<Option<Incoming>>,
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

impl Exchange {
    /// A request has come.
    pub fn begin(&self, has_body: bool) {
        self.arriving.store(has_body, Relaxed);
        for flag in [&self.awaited, &self.answered, &self.offered] {
            flag.store(false, Relaxed);
        }
    }

    /// The answer's head is on its way.
    pub fn answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// The answer's body has been asked for its next frame, which it has or not.
    pub fn offered(&self, frame: bool) {
        self.offered.store(frame, Relaxed);
        if frame {
            self.moved();
        }
    }

    /// Whether all of the request has been read.
    pub fn has_arrived(&self) -> bool {
        !self.arriving.load(Relaxed)
    }

    /// The rest of the request's body, once nobody wants it.
    pub fn take_unread(&self) -> Option<Incoming> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn waits(&self) -> Waits {
        match (self.answered.load(Relaxed), self.awaited.load(Relaxed)) {
            (true, _) if self.offered.load(Relaxed) => Waits::Taking,
            (true, _) => Waits::Either,
            (false, true) => Waits::Body,
            (false, false) => Waits::Within,
        }
    }

    /// Differs from what it was whenever a frame has passed in between.
    pub fn progress(&self) -> u32 {
        self.moved.load(Relaxed)
    }

    fn moved(&self) {
        self.moved.fetch_add(1, Relaxed);
    }
}

/// A request's body.
pub struct Arriving {
    /// Taken only when this is dropped.
    stream: Option<Incoming>,
    exchange: Arc<Exchange>,
    /// Whether the listener wants back what nobody read: the next request stands behind it on the same connection.
    returns: bool,
}

impl Arriving {
    pub fn new(stream: Incoming, exchange: Arc<Exchange>, returns: bool) -> Self {
        Self { stream: Some(stream), exchange, returns }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let polled = Pin::new(stream).poll_frame(cx);
        self.exchange.awaited.store(polled.is_pending(), Relaxed);
        match &polled {
            Poll::Ready(Some(Ok(_))) => self.exchange.moved(),
            Poll::Ready(None) => self.exchange.arriving.store(false, Relaxed),
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

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        self.exchange.awaited.store(false, Relaxed);
        if stream.is_end_stream() {
            self.exchange.arriving.store(false, Relaxed);
        } else if self.returns && !self.exchange.has_arrived() {
            *self.exchange.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        }
    }
}
