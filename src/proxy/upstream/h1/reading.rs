//! What comes from an upstream, in one buffer: heads and bodies are split off it without being copied.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::proxy::connector::Stream;

/// What is read at once: as little as this, and twice as much whenever it was filled, up to the most.
const LEAST: usize = 8 * 1024;
const MOST: usize = 128 * 1024;

pub struct Reading {
    /// What was read and not taken yet.
    pub bytes: BytesMut,
    next: usize,
    /// The last read brought less than half of what it could.
    poor: bool,
    /// The buffer has been larger than an idle connection's.
    grown: bool,
    /// Whether anything came since the request began.
    pub received: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), next: LEAST, poor: false, grown: false, received: false }
    }
}

impl Reading {
    /// How much came; nothing when the other side has closed.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut (impl AsyncRead + ?Sized)>,
    ) -> Poll<io::Result<usize>> {
        let room = self.next.min(MOST.saturating_sub(self.bytes.len()));
        if self.bytes.capacity() - self.bytes.len() < room {
            self.bytes.reserve(room);
        }
        let came = ready!(pin!(stream.read_buf(&mut self.bytes)).poll(cx))?;
        self.received |= came > 0;
        self.learn(came);
        Poll::Ready(Ok(came))
    }

    /// Whether nothing has come, and the other side has not closed. Nobody is woken for it later.
    pub fn is_silent(&self, stream: &mut Stream) -> bool {
        let looked = stream.read_now(&mut [0]);
        self.bytes.is_empty() && looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Gives back what an idle connection does not need.
    pub fn rest(&mut self) {
        if self.grown {
            *self = Self::default();
        }
    }

    /// Large bodies come in large pieces; one poor read among many changes nothing.
    fn learn(&mut self, came: usize) {
        if came >= self.next {
            self.next = (self.next * 2).min(MOST);
            (self.poor, self.grown) = (false, true);
        } else if came >= self.next / 2 {
            self.poor = false;
        } else if std::mem::replace(&mut self.poor, true) {
            self.next = (self.next / 2).max(LEAST);
            self.poor = false;
        }
    }
}
