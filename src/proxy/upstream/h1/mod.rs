//! One HTTP/1.1 connection to an upstream, and the exchanges on it. It has no task of its own: whoever waits for the answer, or
//! for more of its body, drives it, so that a request wakes nobody else and an abandoned exchange closes its connection by being
//! dropped.
//!
//! `request` and `sending` bring a request out, `reading` and `answer` its answer's head in; `framing` and `chunked` know where
//! the answer's body ends.

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
use self::reading::Reading;
use self::sending::RequestWriter;
use super::failure::FailedExchange;
use super::shared_timer::SharedTimer;
use crate::proxy::connector::Stream;
use crate::proxy::headers::Added;
use crate::proxy::upload::ForwardedBody;

/// Boxed where it is kept, since it moves from the pool to an answer and back.
pub struct Connection {
    stream: Stream,
    /// None on a unix socket.
    peer: Option<SocketAddr>,
    reading: Reading,
    sending: RequestWriter,
    /// Of the answer that is being read.
    framing: Framing,
    /// It may serve another request once both sides have ended this one.
    keeps: bool,
    reused: bool,
    /// For how long an answer is waited for.
    pub shared_timer: SharedTimer,
    /// When the last of an answer came, where somebody has looked at the clock since.
    pub heard_at: Option<Instant>,
}

impl Connection {
    pub fn open(stream: Stream, peer: Option<SocketAddr>) -> Box<Self> {
        Box::new(Self {
            stream,
            peer,
            reading: Reading::default(),
            sending: RequestWriter::default(),
            framing: Framing::Ended,
            keeps: true,
            reused: false,
            shared_timer: SharedTimer::default(),
            heard_at: None,
        })
    }

    pub fn peer(&self) -> Option<&SocketAddr> {
        self.peer.as_ref()
    }

    /// Whether it can take a request, as far as can be known: the other side has neither closed it nor said anything unasked.
    pub fn is_ready(&mut self) -> bool {
        self.reading.is_silent(&mut self.stream)
    }

    /// Sends a request, and waits for the head of its answer. The rest of the body may still have to be sent then. As soon as
    /// anything is answered, `head` has lost its fields: nothing is sent again that was heard, and the answer's take their room.
    pub async fn exchange(
        &mut self,
        head: &mut Parts,
        added: &Added<'_>,
        body: &ForwardedBody,
    ) -> Result<Response<()>, FailedExchange> {
        let reused = std::mem::replace(&mut self.reused, true);
        // One that has served before was looked at when it was taken.
        if !reused && !self.is_ready() {
            return Err(FailedExchange::unsent(Error::Closed("the request was sent")));
        }
        self.reading.received = false;
        self.keeps = true;
        let mut awaited = HeadSearch::default();
        let answered = match self.sending.begin(head, added, body) {
            Ok(closes) => {
                self.keeps = !closes;
                std::future::poll_fn(|cx| self.poll_answer(cx, head, &mut awaited)).await
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

    /// Sends more of the request. Ready when there is no more, or no more can be sent.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.sending.poll(cx, Pin::new(&mut self.stream))
    }

    /// The next of the answer's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            if let Some(frame) = self.framing.take(&mut self.reading.bytes)? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.framing.is_ended() {
                return Poll::Ready(None);
            }
            self.heard_at = None;
            if ready!(self.reading.poll(cx, Pin::new(&mut self.stream))).map_err(Error::Io)? == 0 {
                self.keeps = false;
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

    /// As it waits for its next request, if it can serve one: both sides have ended this one and want another, and nothing was
    /// said beyond the answer.
    pub fn rested(mut self: Box<Self>) -> Option<Box<Self>> {
        if !self.keeps || self.is_sending() || !self.is_answered() || !self.reading.bytes.is_empty() {
            return None;
        }
        self.reading.rest();
        self.sending.rest();
        Some(self)
    }

    /// Without HTTP from here on: the stream, and what of it was read already.
    pub fn into_stream(self) -> (Stream, Bytes) {
        (self.stream, self.reading.bytes.freeze())
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Parts,
        awaited: &mut HeadSearch,
    ) -> Poll<Result<Response<()>, Error>> {
        // What could not be sent may have been answered before: too large a body, for one.
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        let answered = ready!(self.poll_head(cx, head, awaited));
        Poll::Ready(answered.map_err(|error| self.sending.take_failure().map_or(error, Error::Io)))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Parts,
        awaited: &mut HeadSearch,
    ) -> Poll<Result<Response<()>, Error>> {
        loop {
            let taken = answer::take(&mut self.reading.bytes, awaited, &head.method, &mut head.headers)?;
            if let Some(Answer { response, framing, keeps }) = taken {
                self.framing = framing;
                self.keeps &= keeps;
                return Poll::Ready(Ok(response));
            }
            if ready!(self.reading.poll(cx, Pin::new(&mut self.stream))).map_err(Error::Io)? == 0 {
                return Poll::Ready(Err(Error::Closed("the answer's head was whole")));
            }
        }
    }
}
