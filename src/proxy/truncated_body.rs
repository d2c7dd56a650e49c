//! Why a body that comes through hyper ends too early, on either side of the gate.
//!
//! A stream of HTTP/2 ends with END_STREAM alone. hyper ends its body as well when the stream, or its connection, is reset with
//! NO_ERROR, since a server may do that behind a whole answer (RFC 9113 §8.1), so that what was cut would pass for whole. h2
//! keeps in mind through a reset whether END_STREAM had come before; only where a connection fails it may forget, and a body
//! whose end had come is cut then.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming};
use thiserror::Error;

/// Why a body broke off. Over HTTP/2 what follows from it is told with the same reason, or as INTERNAL_ERROR.
#[derive(Debug, Error)]
pub enum TruncatedBody {
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error("its stream was reset, with no error, before it had ended")]
    Reset,
}

impl TruncatedBody {
    /// Whether that is what was written, rather than that its writer left.
    pub fn is_malformed(&self) -> bool {
        // hyper's own reader of HTTP/1.1 says so of chunks that are none, and h2 of streams that it gives up itself.
        let in_chunks = self.source_as::<io::Error>().map(io::Error::kind);
        let in_frames = self.source_as::<h2::Error>();
        matches!(in_chunks, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
            || in_frames.is_some_and(h2::Error::is_library)
    }

    /// Whether its stream was reset from here.
    pub fn is_our_own(&self) -> bool {
        self.source_as::<h2::Error>().is_some_and(|error| error.is_reset() && !error.is_remote() && !error.is_library())
    }

    fn source_as<E: Error + 'static>(&self) -> Option<&E> {
        let Self::Broken(error) = self else { return None };
        error.source()?.downcast_ref()
    }
}

/// The next of a body that comes over HTTP/2.
pub fn poll_stream(stream: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TruncatedBody>>> {
    match Pin::new(&mut *stream).poll_frame(cx) {
        Poll::Ready(None) if !stream.is_end_stream() => Poll::Ready(Some(Err(TruncatedBody::Reset))),
        polled => polled.map_err(TruncatedBody::from),
    }
}
