//! Writes a request: its head, then the frames of its body as they arrive, each once the one before has been written. Short
//! frames are copied behind the head and written with it; long ones are never copied.

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

/// To copy this much costs less than a vectored write.
const SHORT: usize = 2048;
/// No more frames are taken while this much waits to be written.
const FULL: usize = 16 * 1024;
/// The capacity that an idle connection keeps for its next head.
const KEPT: usize = 4096;

pub struct RequestWriter<B = ForwardedBody> {
    /// The head, chunk sizes and short frames; written up to `sent`.
    front: Vec<u8>,
    sent: usize,
    /// A long frame to write behind `front`, and the end of its chunk.
    data: Bytes,
    tail: &'static [u8],
    /// The rest of the body.
    body: Option<(B, BodyFraming)>,
    /// Something was written that the stream may still buffer.
    unflushed: bool,
    failure: Option<io::Error>,
}

impl<B> Default for RequestWriter<B> {
    fn default() -> Self {
        Self { front: Vec::new(), sent: 0, data: Bytes::new(), tail: b"", body: None, unflushed: false, failure: None }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Clone + Unpin> RequestWriter<B> {
    /// Begins a request. Whether it asks for the connection to be closed after it.
    pub fn begin(&mut self, head: &Parts, added: &Added<'_>, body: &B) -> Result<bool, Error> {
        // A head that cannot be written is not sent in part.
        let written = request::write(&mut self.front, head, added, body);
        let written = written.inspect_err(|_| self.front.clear())?;
        self.body = (written.body != BodyFraming::Nothing).then(|| (body.clone(), written.body));
        Ok(written.close)
    }

    /// All of it has been sent.
    pub fn is_done(&self) -> bool {
        self.is_written() && !self.unflushed && self.body.is_none() && self.failure.is_none()
    }

    /// Why writing failed. The upstream may have answered all the same.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Frees what an idle connection does not need.
    pub fn shrink(&mut self) {
        if self.front.capacity() > KEPT {
            self.front = Vec::new();
        }
    }

    /// Ready when all has been sent, or writing has failed (`take_failure`); an error is one of the request's body.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<Result<(), Error>> {
        if self.failure.is_some() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let waits_for_body = self.has_room() && self.poll_body(cx)?.is_pending();
            let result = if self.is_written() {
                match ready!(self.poll_flush(cx, stream.as_mut())) {
                    Ok(()) if self.body.is_none() => return Poll::Ready(Ok(())),
                    Ok(()) if waits_for_body => return Poll::Pending,
                    flushed => flushed,
                }
            } else {
                ready!(self.poll_write(cx, stream.as_mut()))
            };
            if let Err(error) = result {
                self.failure = Some(error);
                self.body = None;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether another frame can be taken: short ones gather in `front`.
    fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.front.len() < FULL
    }

    fn is_written(&self) -> bool {
        self.front.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Takes the body's next frame.
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
            BodyFraming::Length(left) => subtract(left, data.len(), ends)?,
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

/// Subtracts a frame from the announced length; whether nothing is left. A body that is longer or shorter would change where the
/// next request begins.
fn subtract(left: &mut u64, sent: usize, ends: bool) -> Result<bool, Error> {
    *left = left.checked_sub(sent as u64).ok_or(Error::Unsendable("its body is longer than it said"))?;
    if ends && *left > 0 {
        return Err(Error::Unsendable("its body is shorter than it said"));
    }
    Ok(*left == 0)
}

/// Writes a chunk's size, and returns what follows its data. An empty frame writes none, since a chunk of size 0 ends the body.
fn begin_chunk(front: &mut Vec<u8>, length: usize, ends: bool) -> &'static [u8] {
    if length == 0 {
        return if ends { b"0\r\n\r\n" } else { b"" };
    }
    write!(front, "{length:X}\r\n").expect("a Vec takes whatever is written");
    if ends { b"\r\n0\r\n\r\n" } else { b"\r\n" }
}
