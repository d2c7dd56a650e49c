//! A request on its way out: its head, then its body as it comes, each frame once the one before has been taken. What is short
//! goes out in one piece with what stands before it; what is not is never copied.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::request::Parts;
use hyper::body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::error::Error;
use super::request::{self, BodyFraming};
use crate::proxy::headers::Added;
use crate::proxy::upload::{BodyError, ForwardedBody};

/// To copy this much costs less than to hand the system a list of pieces.
const SHORT: usize = 2048;
/// No more frames are taken while so much waits to be written.
const FULL: usize = 16 * 1024;
/// What an idle connection keeps to write its next head into.
const KEPT: usize = 4096;

pub struct RequestWriter<B = ForwardedBody> {
    /// The head, and what is written around the frames of the body; sent up to `sent`.
    front: Vec<u8>,
    sent: usize,
    /// The frame behind it, and what ends that.
    data: Bytes,
    tail: &'static [u8],
    /// The rest of the body.
    body: Option<(B, BodyFraming)>,
    /// Something was written that may still be held back.
    unflushed: bool,
    failure: Option<io::Error>,
}

impl<B> Default for RequestWriter<B> {
    fn default() -> Self {
        Self { front: Vec::new(), sent: 0, data: Bytes::new(), tail: b"", body: None, unflushed: false, failure: None }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Clone + Unpin> RequestWriter<B> {
    /// The next request. Whether it asks for the connection to be closed after it.
    pub fn begin(&mut self, head: &Parts, added: &Added<'_>, body: &B) -> Result<bool, Error> {
        // Nothing of a head that cannot be written is ever sent.
        let written = request::write(&mut self.front, head, added, body);
        let written = written.inspect_err(|_| self.front.clear())?;
        self.body = (written.body != BodyFraming::Nothing).then(|| (body.clone(), written.body));
        Ok(written.closes)
    }

    /// All of it has been sent.
    pub fn is_done(&self) -> bool {
        self.is_written() && !self.unflushed && self.body.is_none() && self.failure.is_none()
    }

    /// Why no more could be sent. An answer may have come all the same.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Gives back what an idle connection does not need.
    pub fn rest(&mut self) {
        if self.front.capacity() > KEPT {
            self.front = Vec::new();
        }
    }

    /// Ready when all has been sent, or nothing more can be; an error is the body's own.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<Result<(), Error>> {
        if self.failure.is_some() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let waits = self.has_room() && self.poll_body(cx)?.is_pending();
            let moved = if self.is_written() {
                match ready!(self.poll_flush(cx, stream.as_mut())) {
                    Ok(()) if self.body.is_none() => return Poll::Ready(Ok(())),
                    Ok(()) if waits => return Poll::Pending,
                    flushed => flushed,
                }
            } else {
                ready!(self.poll_write(cx, stream.as_mut()))
            };
            if let Err(error) = moved {
                self.failure = Some(error);
                self.body = None;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// For another frame: short ones gather in `front`.
    fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.front.len() < FULL
    }

    fn is_written(&self) -> bool {
        self.front.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Takes the body's next frame in.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some((body, outgoing)) = &mut self.body else { return Poll::Ready(Ok(())) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose().map_err(Error::Body)?;
        let ends = frame.is_none() || body.is_end_stream();
        let mut data = Bytes::new();
        let ends = match frame.map(Frame::into_data) {
            Some(Ok(frame)) => {
                data = frame;
                ends
            }
            // Nothing comes behind trailers.
            Some(Err(frame)) => {
                if let (Ok(trailers), BodyFraming::Chunked(announced)) = (frame.into_trailers(), &*outgoing) {
                    request::write_trailers(&mut self.front, &trailers, announced);
                    self.body = None;
                    return Poll::Ready(Ok(()));
                }
                true
            }
            None => true,
        };
        let ended = match outgoing {
            BodyFraming::Nothing => true,
            BodyFraming::Length(owed) => owe_less(owed, data.len(), ends)?,
            BodyFraming::Chunked(_) => {
                self.tail = begin_chunk(&mut self.front, data.len(), ends);
                ends
            }
        };
        if ended {
            self.body = None;
        }
        self.put(data);
        Poll::Ready(Ok(()))
    }

    fn put(&mut self, data: Bytes) {
        if data.len() > SHORT {
            self.data = data;
        } else {
            self.front.extend_from_slice(&data);
            self.front.extend_from_slice(std::mem::take(&mut self.tail));
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        let front = &self.front[self.sent..];
        let written = if self.data.is_empty() && self.tail.is_empty() {
            ready!(stream.poll_write(cx, front))?
        } else {
            let pieces = [IoSlice::new(front), IoSlice::new(&self.data), IoSlice::new(self.tail)];
            let first = usize::from(front.is_empty());
            ready!(stream.poll_write_vectored(cx, &pieces[first..]))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.advance(written);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let of_front = written.min(self.front.len() - self.sent);
        self.sent += of_front;
        if self.sent == self.front.len() {
            self.front.clear();
            self.sent = 0;
        }
        let of_data = (written - of_front).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[written - of_front - of_data..];
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether that was all of a body whose length was told. One that is longer or shorter would change where the next request
/// begins.
fn owe_less(owed: &mut u64, sent: usize, ends: bool) -> Result<bool, Error> {
    *owed = owed.checked_sub(sent as u64).ok_or(Error::Unsendable("its body is longer than it said"))?;
    if ends && *owed > 0 {
        return Err(Error::Unsendable("its body is shorter than it said"));
    }
    Ok(*owed == 0)
}

/// What stands before a chunk; gives what stands behind it. An empty one would end the body.
fn begin_chunk(front: &mut Vec<u8>, length: usize, ends: bool) -> &'static [u8] {
    if length == 0 {
        return if ends { b"0\r\n\r\n" } else { b"" };
    }
    write!(front, "{length:X}\r\n").expect("a Vec takes whatever is written");
    if ends { b"\r\n0\r\n\r\n" } else { b"\r\n" }
}
