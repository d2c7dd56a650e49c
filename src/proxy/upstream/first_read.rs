//! A stream to an upstream that signals its first read, which on an HTTP/2 connection brings the upstream's SETTINGS, and counts its
//! reads: a connection that stays silent while a request waits in vain takes no more requests.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

pub struct FirstRead<S> {
    stream: S,
    first: Option<oneshot::Sender<()>>,
    heard: Heard,
}

/// Differs from what it was whenever something was read in between.
#[derive(Debug, Clone, Default)]
pub struct Heard(Rc<Cell<u32>>);

impl Heard {
    pub fn so_far(&self) -> u32 {
        self.0.get()
    }
}

impl<S> FirstRead<S> {
    /// The stream, a signal for its first bytes, and how often it was heard.
    pub fn watch(stream: S) -> (Self, oneshot::Receiver<()>, Heard) {
        let (first, first_read) = oneshot::channel();
        let heard = Heard::default();
        (Self { stream, first: Some(first), heard: heard.clone() }, first_read, heard)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstRead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.heard.0.set(self.heard.so_far().wrapping_add(1));
            if let Some(first) = self.first.take() {
                // Nobody may be waiting any more.
                let _ = first.send(());
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstRead<S> {
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
