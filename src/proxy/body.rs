//! Bodies on their way through: the client's towards the upstream, and whatever goes back. Frames pass as they come.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;

use super::arriving::Arriving;
use crate::observe::metrics::Counted;

/// What a client gets, counted as in flight until it ends.
pub struct Outgoing {
    payload: Payload,
    _in_flight: Counted,
}

/// The gate's own words or the upstream's stream.
pub enum Payload {
    Words(Bytes),
    Upstream(Incoming),
}

impl Outgoing {
    pub fn new(payload: Payload, in_flight: Counted) -> Self {
        Self { payload, _in_flight: in_flight }
    }

    /// Whether the gate answers, and no upstream is left that could still read the request.
    pub fn is_the_gates_own(&self) -> bool {
        matches!(self.payload, Payload::Words(_))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.payload {
            Payload::Words(words) if words.is_empty() => Poll::Ready(None),
            Payload::Words(words) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(words))))),
            Payload::Upstream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Words(words) => words.is_empty(),
            Payload::Upstream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Words(words) => SizeHint::with_exact(words.len() as u64),
            Payload::Upstream(stream) => stream.size_hint(),
        }
    }
}

/// The client's body on its way to the upstream: bounded, its progress visible, its trailers clean.
pub struct Forwarded {
    stream: Arriving,
    progress: Arc<Progress>,
    /// Bytes that may still pass.
    left: Option<u64>,
    /// Never passed on as a trailer: the identity headers.
    reserved: Arc<[HeaderName]>,
}

/// What became of a forwarded body, seen from the outside.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    /// Of the last frame, in milliseconds since `started`.
    last_frame_ms: AtomicU64,
    too_large: AtomicBool,
    broken: AtomicBool,
}

#[derive(Debug, Error)]
pub enum BodyError {
    #[error("the request body is larger than this route takes")]
    TooLarge,
    #[error("the client's body broke off: {0}")]
    Client(#[from] hyper::Error),
}

impl Forwarded {
    pub fn new(stream: Arriving, most: Option<u64>, reserved: Arc<[HeaderName]>) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress {
            started: Instant::now(),
            last_frame_ms: AtomicU64::new(0),
            too_large: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        });
        (Self { stream, progress: progress.clone(), left: most, reserved }, progress)
    }
}

impl Progress {
    /// When the last frame passed, or the body began.
    pub fn last_frame(&self) -> Instant {
        self.started + Duration::from_millis(self.last_frame_ms.load(Ordering::Relaxed))
    }

    pub fn is_too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }

    /// Whether the client, not the upstream, broke the exchange off.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    fn frame_passed(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_frame_ms.store(ms, Ordering::Relaxed);
    }
}

impl Body for Forwarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = match ready!(Pin::new(&mut self.stream).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.progress.broken.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        self.progress.frame_passed();
        if let (Some(left), Some(data)) = (self.left, frame.data_ref()) {
            let Some(left) = left.checked_sub(data.len() as u64) else {
                self.progress.too_large.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            };
            self.left = Some(left);
        }
        if let Some(trailers) = frame.trailers_mut() {
            for name in super::headers::look_alikes(trailers, &self.reserved) {
                trailers.remove(name);
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.size_hint()
    }
}
