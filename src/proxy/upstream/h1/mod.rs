//! One HTTP/1.1 connection to an upstream, and the exchanges on it. It has no task of its own: the task that waits for the
//! answer, or for more of its body, drives it, so that a request wakes no other task and an abandoned exchange closes its
//! connection by being dropped.
//!
//! `request` and `sending` write a request, `reading` and `answer` read its answer's head; `framing` and `chunked` decode the
//! body.

pub mod answer;
mod chunked;
pub mod error;
mod fields;
pub mod framing;
mod reading;
mod request;
mod sending;
#[cfg(test)]
mod sent;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use hyper::body::{Frame, SizeHint};

use self::answer::{Answer, HeadSearch};
use self::error::Error;
use self::framing::Framing;
use self::reading::ReadBuffer;
use self::sending::RequestWriter;
use super::failure::FailedExchange;
use super::shared_timer::SharedTimer;
use crate::proxy::connector::Stream;
use crate::proxy::headers::Added;
use crate::proxy::upload::ForwardedBody;

/// Kept in a `Box`, since it moves from the pool to an answer and back.
pub struct Connection {
    stream: Stream,
    /// None on a unix socket.
    peer: Option<SocketAddr>,
    reading: ReadBuffer,
    sending: RequestWriter,
    /// Of the answer that is being read.
    framing: Framing,
    /// It may be reused once both sides have ended this exchange.
    keep_alive: bool,
    reused: bool,
    /// Bounds the wait for an answer.
    pub shared_timer: SharedTimer,
    /// When an answer's head was read; `None` if more was read since.
    pub last_read: Option<Instant>,
}

impl Connection {
    pub fn open(stream: Stream, peer: Option<SocketAddr>) -> Box<Self> {
        Box::new(Self {
            stream,
            peer,
            reading: ReadBuffer::default(),
            sending: RequestWriter::default(),
            framing: Framing::Ended,
            keep_alive: true,
            reused: false,
            shared_timer: SharedTimer::default(),
            last_read: None,
        })
    }

    pub fn peer(&self) -> Option<&SocketAddr> {
        self.peer.as_ref()
    }

    /// Whether it can take a request, as far as can be known: the upstream has neither closed it nor sent anything unasked.
    pub fn is_ready(&mut self) -> bool {
        self.reading.is_silent(&mut self.stream)
    }

    /// Sends a request, and waits for the head of its answer; the rest of the request's body may still have to be sent then. Once
    /// a head was read, `head` has lost its fields, whose map the answer reuses: such a request is never sent again.
    pub async fn exchange(
        &mut self,
        head: &mut Parts,
        added: &Added<'_>,
        body: &ForwardedBody,
    ) -> Result<Response<()>, FailedExchange> {
        let reused = std::mem::replace(&mut self.reused, true);
        // A reused one was checked when it was taken from the pool.
        if !reused && !self.is_ready() {
            return Err(FailedExchange::unsent(Error::Closed("the request was sent")));
        }
        self.reading.received = false;
        self.keep_alive = true;
        let mut search = HeadSearch::default();
        let answered = match self.sending.begin(head, added, body) {
            Ok(close) => {
                self.keep_alive = !close;
                std::future::poll_fn(|cx| self.poll_answer(cx, head, &mut search)).await
            }
            Err(error) => Err(error),
        };
        let closed_silently = reused && !self.reading.received;
        answered.map_err(|error| FailedExchange { unsent: false, refused: false, closed_silently, error: error.into() })
    }

    /// Whether something of the request is still to be sent.
    pub fn is_sending(&self) -> bool {
        !self.sending.is_done()
    }

    /// Sends more of the request. Ready when all is sent, or nothing more can be.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.sending.poll(cx, Pin::new(&mut self.stream))
    }

    /// The next frame of the answer's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            if let Some(frame) = self.framing.take(&mut self.reading.bytes)? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.framing.is_ended() {
                return Poll::Ready(None);
            }
            self.last_read = None;
            if ready!(self.reading.poll(cx, Pin::new(&mut self.stream))).map_err(Error::Io)? == 0 {
                self.keep_alive = false;
                self.framing.close()?;
            }
        }
    }

    /// Whether the answer has been read to its end.
    pub fn is_answered(&self) -> bool {
        self.framing.is_ended()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.framing.size_hint()
    }

    /// The connection as the pool keeps it, if it can be reused: both sides have ended this exchange, neither wants to close, and
    /// nothing was received beyond the answer.
    pub fn into_idle(mut self: Box<Self>) -> Option<Box<Self>> {
        if !self.keep_alive || self.is_sending() || !self.is_answered() || !self.reading.bytes.is_empty() {
            return None;
        }
        self.reading.shrink();
        self.sending.shrink();
        Some(self)
    }

    /// For an upgrade: the stream, and the bytes that were read ahead.
    pub fn into_stream(self) -> (Stream, Bytes) {
        (self.stream, self.reading.bytes.freeze())
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Parts,
        search: &mut HeadSearch,
    ) -> Poll<Result<Response<()>, Error>> {
        // When writing fails this is ready without an error: the upstream may have answered before, to too large a body for one.
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        let answered = ready!(self.poll_head(cx, head, search));
        Poll::Ready(answered.map_err(|error| self.sending.take_failure().map_or(error, Error::Io)))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Parts,
        search: &mut HeadSearch,
    ) -> Poll<Result<Response<()>, Error>> {
        loop {
            let taken = answer::take(&mut self.reading.bytes, search, &head.method, &mut head.headers)?;
            if let Some(Answer { response, framing, keep_alive }) = taken {
                self.framing = framing;
                self.keep_alive &= keep_alive;
                return Poll::Ready(Ok(response));
            }
            if ready!(self.reading.poll(cx, Pin::new(&mut self.stream))).map_err(Error::Io)? == 0 {
                return Poll::Ready(Err(Error::Closed("the answer's head was whole")));
            }
        }
    }
}
