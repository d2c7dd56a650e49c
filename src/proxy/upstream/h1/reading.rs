//! The read buffer of a connection: heads and bodies are split off it without being copied.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::proxy::connector::Stream;

/// The size of a read: from the smallest, doubled whenever a read fills it, up to the largest.
const SMALLEST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 128 * 1024;

pub struct ReadBuffer {
    /// Read and not taken yet.
    pub bytes: BytesMut,
    next_size: usize,
    /// The last read filled less than half of its size.
    was_short: bool,
    /// The buffer has been larger than the smallest.
    grown: bool,
    /// Whether anything was received since the request began.
    pub received: bool,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), next_size: SMALLEST_READ, was_short: false, grown: false, received: false }
    }
}

impl ReadBuffer {
    /// Reads once; gives the length, 0 when the upstream has closed.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut (impl AsyncRead + ?Sized)>,
    ) -> Poll<io::Result<usize>> {
        let size = self.next_size.min(LARGEST_READ.saturating_sub(self.bytes.len()));
        if self.bytes.capacity() - self.bytes.len() < size {
            self.bytes.reserve(size);
        }
        let length = ready!(pin!(stream.read_buf(&mut self.bytes)).poll(cx))?;
        self.received |= length > 0;
        self.adapt(length);
        Poll::Ready(Ok(length))
    }

    /// Whether nothing was received, and the upstream has not closed. Registers no waker.
    pub fn is_silent(&self, stream: &mut Stream) -> bool {
        let looked = stream.read_now(&mut [0]);
        self.bytes.is_empty() && looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Frees what an idle connection does not need.
    pub fn shrink(&mut self) {
        if self.grown {
            *self = Self::default();
        }
    }

    /// Adapts the size of reads: large bodies are read in large pieces. It shrinks only after two short reads in a row.
    fn adapt(&mut self, length: usize) {
        if length >= self.next_size {
            self.next_size = (self.next_size * 2).min(LARGEST_READ);
            (self.was_short, self.grown) = (false, true);
        } else if length >= self.next_size / 2 {
            self.was_short = false;
        } else if std::mem::replace(&mut self.was_short, true) {
            self.next_size = (self.next_size / 2).max(SMALLEST_READ);
            self.was_short = false;
        }
    }
}
