//! Why a body that is read through hyper ends too early, on either side of the gate.
//!
//! An HTTP/2 stream ends with END_STREAM alone. hyper ends its body as well when the stream, or its connection, is reset with
//! NO_ERROR, since a server may do that behind a whole answer (RFC 9113 §8.1), so that a truncated body would pass for complete.
//! Through a reset h2 remembers whether END_STREAM was received; only where a connection fails it may forget, and then a body
//! that was complete counts as truncated.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming};
use thiserror::Error;

/// Why a body broke off. Over HTTP/2 the other side's stream is reset with the same reason, or with INTERNAL_ERROR.
#[derive(Debug, Error)]
pub enum TruncatedBody {
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error("its stream was reset, with no error, before it had ended")]
    Reset,
}

impl TruncatedBody {
    /// Whether the sender violated the protocol, rather than disconnected.
    pub fn is_malformed(&self) -> bool {
        // hyper's HTTP/1.1 decoder gives these kinds for invalid chunks; h2 calls an error of its own detection one of the
        // library.
        let in_chunks = self.source_as::<io::Error>().map(io::Error::kind);
        let in_frames = self.source_as::<h2::Error>();
        matches!(in_chunks, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
            || in_frames.is_some_and(h2::Error::is_library)
    }

    /// Whether the gate itself reset the stream.
    pub fn is_our_own(&self) -> bool {
        self.source_as::<h2::Error>().is_some_and(|error| error.is_reset() && !error.is_remote() && !error.is_library())
    }

    fn source_as<E: Error + 'static>(&self) -> Option<&E> {
        let Self::Broken(error) = self else { return None };
        error.source()?.downcast_ref()
    }
}

/// The next frame of an HTTP/2 body.
pub fn poll_stream(stream: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TruncatedBody>>> {
    match Pin::new(&mut *stream).poll_frame(cx) {
        Poll::Ready(None) if !stream.is_end_stream() => Poll::Ready(Some(Err(TruncatedBody::Reset))),
        polled => polled.map_err(TruncatedBody::from),
    }
}
