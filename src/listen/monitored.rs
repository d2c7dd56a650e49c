//! The bytes of one connection, watched: whether any passed, whether the client takes what is written, whether it stays for its
//! answer, and how it is let go.
//! Nothing here reads a clock while requests are served; `watch` looks from time to time and compares.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::poll_on_wake::PollOnWake;

/// How long what a client still sends is read and thrown away after the last answer. Closing at once would reset the
/// connection, and with it an answer that the client has not read yet (RFC 9112 §9.6).
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// No more than that, however fast it comes.
pub(super) const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// A head and a body of no more than this are written in one piece, which the system takes for less than a list of pieces
/// (measured: 0.16 of 6.6 µs).
const SHORT: usize = 2048;

/// What has passed, for whoever watches.
#[derive(Debug, Default)]
pub struct Activity {
    reads: AtomicU32,
    writes: AtomicU32,
    /// Bytes that were written since the last read.
    unheard: AtomicU32,
    blocked: AtomicBool,
    /// HTTP/1.1 alone: a request is served.
    busy: AtomicBool,
    /// Whether all of that request has been read. Whoever reads its body says so; said too early, it costs a read and no more.
    pub heard_out: Arc<AtomicBool>,
    /// `reads` when the last request was through.
    reads_before: AtomicU32,
    more_to_come: AtomicBool,
    closing: AtomicBool,
    /// Somebody waits until all that was written has left.
    owing: AtomicBool,
    tunnel: AtomicBool,
}

impl Activity {
    /// A request has come; until it is through, none is served beside it.
    pub fn exchange_began(&self) {
        self.busy.store(true, Relaxed);
    }

    /// It is through; what is read from now on belongs to the next one.
    pub fn exchange_ended(&self) {
        self.busy.store(false, Relaxed);
        self.reads_before.store(self.reads.load(Relaxed), Relaxed);
    }

    pub fn is_busy(&self) -> bool {
        self.busy.load(Relaxed)
    }

    /// Whether the client has said all that it has to say before its answer.
    fn is_awaited(&self) -> bool {
        self.is_busy() && self.heard_out.load(Relaxed)
    }

    /// Whether the next request has begun to come.
    pub fn next_has_begun(&self) -> bool {
        self.reads.load(Relaxed) != self.reads_before.load(Relaxed)
    }

    /// The client has more to send than will be read.
    pub fn more_to_come(&self) {
        self.more_to_come.store(true, Relaxed);
    }

    /// It has sent it after all.
    pub fn all_came(&self) {
        self.more_to_come.store(false, Relaxed);
    }

    /// Whether the last word has been said: what is read from now on is thrown away.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// All that was written is to leave first; whoever serves the connection is woken then.
    pub fn owe(&self) {
        self.owing.store(true, Relaxed);
    }

    pub fn owes(&self) -> bool {
        self.owing.load(Relaxed)
    }

    /// It speaks no HTTP any more: what the client says behind the other side's last word is passed on, not thrown away.
    pub fn becomes_a_tunnel(&self) {
        self.tunnel.store(true, Relaxed);
    }

    /// Whether the client leaves no room for what is to be written.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Relaxed)
    }

    /// Differs from what it was whenever bytes were taken in between.
    pub fn written(&self) -> u32 {
        self.writes.load(Relaxed)
    }

    /// Differs from what it was whenever bytes have come in between.
    pub fn read(&self) -> u32 {
        self.reads.load(Relaxed)
    }

    /// How much was written since the client was last heard.
    pub fn written_unheard(&self) -> u32 {
        self.unheard.load(Relaxed)
    }

    /// Differs from what it was whenever bytes have passed in between.
    pub fn passed(&self) -> u32 {
        self.reads.load(Relaxed).wrapping_add(self.writes.load(Relaxed))
    }
}

/// A connection that tells of its activity.
pub struct MonitoredStream<S> {
    stream: S,
    pub activity: Arc<Activity>,
    /// Read already, and to be read again.
    ahead: Bytes,
    /// Whether the client is still there, while it waits for its answer.
    leaves: PollOnWake,
    linger: Option<Linger>,
}

struct Linger {
    end: Pin<Box<Sleep>>,
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> MonitoredStream<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, activity: Arc::default(), ahead: Bytes::new(), leaves: PollOnWake::default(), linger: None }
    }

    /// These bytes come first when it is read again.
    pub fn put_back(&mut self, bytes: Bytes) {
        // A connection that is parked leaves nothing between what it gives back: the allocator could not put it together again.
        self.leaves = PollOnWake::default();
        self.ahead = if self.ahead.is_empty() { bytes } else { [bytes, self.ahead.split_off(0)].concat().into() };
    }

    /// An error once a client has left that waited for its answer. hyper would look for that by itself, but reads for it into
    /// a new buffer of 8 KiB a request, since the former one holds the request's head. What comes instead of an end is put back.
    fn stays(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.activity.is_awaited() || !self.ahead.is_empty() {
            return Ok(());
        }
        let mut first = [0];
        let mut buffer = ReadBuf::new(&mut first);
        let stream = Pin::new(&mut self.stream);
        match self.leaves.poll(cx, |cx| stream.poll_read(cx, &mut buffer)) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Ready(Ok(())) => {
                self.ahead = Bytes::copy_from_slice(buffer.filled());
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = [0; 8192];
        loop {
            let mut buffer = ReadBuf::new(&mut room);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
            let length = buffer.filled().len();
            match read {
                Poll::Ready(Ok(())) if length > 0 => {
                    self.activity.more_to_come();
                    let linger = self.linger.get_or_insert_with(Linger::begin);
                    linger.left = linger.left.saturating_sub(length);
                    if linger.left == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                // A client that has sent nothing that was not read loses nothing.
                Poll::Pending if !self.activity.more_to_come.load(Relaxed) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        self.linger.get_or_insert_with(Linger::begin).end.as_mut().poll(cx).map(Ok)
    }
}

impl Linger {
    fn begin() -> Self {
        Self { end: Box::pin(sleep(LINGER)), left: LINGER_BYTES }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MonitoredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let had = buffer.filled().len();
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            // Split off, so that nothing is held of what has been read.
            buffer.put_slice(&self.ahead.split_to(length));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        // The stream wakes only who asked last.
        self.leaves.raise();
        if buffer.filled().len() == had {
            return polled;
        }
        self.activity.reads.fetch_add(1, Relaxed);
        self.activity.unheard.store(0, Relaxed);
        // An error will be met again.
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> MonitoredStream<S> {
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.blocked.store(polled.is_pending(), Relaxed);
        self.activity.writes.fetch_add(u32::from(polled.is_ready()), Relaxed);
        if let Poll::Ready(Ok(length)) = &polled {
            // One task writes and reads; whoever looks beside it may be late.
            let unheard = self.activity.unheard.load(Relaxed);
            let length = u32::try_from(*length).unwrap_or(u32::MAX);
            self.activity.unheard.store(unheard.saturating_add(length), Relaxed);
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MonitoredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length <= SHORT {
            let mut joined = [0; SHORT];
            let mut rest = &mut joined[..];
            slices.iter().for_each(|slice| rest.put_slice(slice));
            return self.poll_write(cx, &joined[..length]);
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        // TLS takes bytes into its own buffer; whether the client takes them shows here.
        self.activity.blocked.store(polled.is_pending(), Relaxed);
        if polled.is_ready() && self.activity.owes() {
            self.activity.owing.store(false, Relaxed);
            cx.waker().wake_by_ref();
        }
        // hyper flushes whenever it is polled.
        self.stays(cx)?;
        polled
    }

    /// Says that nothing more will be written, then reads what the client still sends, within bounds.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.tunnel.load(Relaxed) {
            return Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        self.activity.closing.store(true, Relaxed);
        if self.activity.next_has_begun() {
            // A head that was refused before its end.
            self.activity.more_to_come();
        }
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_linger(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_put_back_is_read_first() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = MonitoredStream::new(server);
        server.put_back(Bytes::from_static(b"abc"));
        client.write_all(b"def").await.expect("the other end is open");
        let mut read = [0; 2];
        server.read_exact(&mut read).await.expect("there is more");
        assert_eq!(&read, b"ab");
        let mut rest = [0; 4];
        server.read_exact(&mut rest).await.expect("there is more");
        assert_eq!(&rest, b"cdef");
    }

    #[tokio::test]
    async fn pieces_arrive_in_their_order_however_long_they_are() {
        for length in [0, 10, SHORT - 4, SHORT - 3, 3 * SHORT] {
            let (mut client, server) = tokio::io::duplex(4 * SHORT);
            let mut server = MonitoredStream::new(server);
            let sent = [&b"head"[..], &vec![b'b'; length]].concat();
            let slices = [&sent[..1], &sent[1..4], &sent[4..]].map(io::IoSlice::new);
            let write = std::future::poll_fn(|cx| Pin::new(&mut server).poll_write_vectored(cx, &slices));
            let written = write.await.expect("the other end is open");
            let mut read = vec![0; written];
            client.read_exact(&mut read).await.expect("there is as much");
            assert_eq!(read, sent);
        }
    }

    #[tokio::test]
    async fn a_connection_with_nothing_unread_closes_at_once_and_another_waits_for_its_client() {
        let (client, server) = tokio::io::duplex(64);
        let mut at_once = MonitoredStream::new(server);
        at_once.shutdown().await.expect("nothing fails");
        assert!(at_once.linger.is_none());
        drop(client);

        let (_client, server) = tokio::io::duplex(64);
        let mut server = MonitoredStream::new(server);
        server.activity.more_to_come();
        let began = std::time::Instant::now();
        server.shutdown().await.expect("nothing fails");
        assert!(began.elapsed() >= LINGER);
    }
}
