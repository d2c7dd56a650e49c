//! A stream to an upstream that remembers whether anything came back. Whether a request may be sent again hangs on it: one
//! that got a single byte in answer was received.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

/// Atomic only because a connection must be `Send` to be handed over for an upgrade; all of it stays on one thread.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Ear>);

#[derive(Debug, Default)]
struct Ear {
    anything: AtomicBool,
    first: Notify,
}

impl Heard {
    /// Forgets what came before.
    pub fn listen_anew(&self) {
        self.0.anything.store(false, Ordering::Relaxed);
    }

    pub fn anything(&self) -> bool {
        self.0.anything.load(Ordering::Relaxed)
    }

    /// Waits for the first bytes.
    pub async fn first(&self) {
        self.0.first.notified().await;
    }

    fn bytes(&self) {
        if !self.anything() {
            self.0.anything.store(true, Ordering::Relaxed);
            self.0.first.notify_one();
        }
    }
}

pub struct Listening<S> {
    stream: S,
    heard: Heard,
}

impl<S> Listening<S> {
    pub fn to(stream: S) -> (Self, Heard) {
        let heard = Heard::default();
        (Self { stream, heard: heard.clone() }, heard)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.heard.bytes();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head without a body behind it; the system takes one piece for less than a list of one (measured: 0.25 of 6.6 µs).
        if let [only] = slices {
            return Pin::new(&mut self.stream).poll_write(cx, only);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
