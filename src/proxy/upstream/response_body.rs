//! An answer's body as it comes from the upstream. It holds its connection: once it is read to its end the connection returns to
//! the pool; dropped before, the connection is closed.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::pool::Pool;
use super::{h1, h2};
use crate::proxy::connector::Stream;
use crate::proxy::truncated_body;
use crate::proxy::upload::Upload;

pub struct UpstreamBody(Source);

/// Where the body is read from.
enum Source {
    /// Reading the body drives the connection.
    H1 {
        connection: Box<h1::Connection>,
        pool: Rc<Pool>,
    },
    /// The request's body is still being sent, by a task of its own, whether or not the answer is read.
    Driven {
        connection: Rc<RefCell<Box<h1::Connection>>>,
        /// Receives an error of the request's body: an answer to a part of it must not look complete.
        failed: Option<oneshot::Receiver<h1::error::Error>>,
        _released_when_dropped: oneshot::Sender<()>,
    },
    H2 {
        stream: Incoming,
        /// The answer has no body (HEAD, 204, 304); its stream may end later.
        bodiless: bool,
        _held: StreamHold,
    },
    /// Upgraded: no body follows.
    Upgraded(Box<h1::Connection>),
    Ended,
}

/// A stream counts as open until both the answer and the request's body have ended.
enum StreamHold {
    Open {
        _slot: h2::StreamSlot,
    },
    /// The slot is held by a task that stops sending once the answer has ended.
    Sending {
        _released_when_dropped: oneshot::Sender<()>,
    },
}

/// How long a client may go on sending once the answer has ended. To close at once would reset the connection before it has read
/// the answer. Over HTTP/2 the upstream is not sent the rest: what it does not read would use up other requests' window.
const LINGER: Duration = Duration::from_secs(1);

impl UpstreamBody {
    /// `unfinished`: the request's body, where the upstream answered before it had all of it. The connection is not reused then.
    pub fn from_h1(connection: Box<h1::Connection>, pool: &Rc<Pool>, unfinished: Option<Rc<Upload>>) -> Self {
        let source = match unfinished {
            None => Source::H1 { connection, pool: pool.clone() },
            Some(upload) => {
                let connection = Rc::new(RefCell::new(connection));
                let (failed, _released_when_dropped) = drive(connection.clone(), upload);
                Source::Driven { connection, failed: Some(failed), _released_when_dropped }
            }
        };
        let mut response_body = Self(source);
        if response_body.is_end_stream() {
            response_body.end();
        }
        response_body
    }

    pub fn upgraded(connection: Box<h1::Connection>) -> Self {
        Self(Source::Upgraded(connection))
    }

    /// `upload`: the request's body, if it has one.
    pub fn from_h2(stream: Incoming, bodiless: bool, slot: h2::StreamSlot, upload: Option<&Rc<Upload>>) -> Self {
        let held = match upload.filter(|_| slot.is_sending()) {
            None => StreamHold::Open { _slot: slot },
            Some(upload) => StreamHold::Sending { _released_when_dropped: keep_sending(slot, upload.clone()) },
        };
        Self(Source::H2 { stream, bodiless, _held: held })
    }

    /// The body of an answer that has none, whatever the upstream sends.
    pub fn nothing() -> Self {
        Self(Source::Ended)
    }

    pub fn is_upgraded(&self) -> bool {
        matches!(self.0, Source::Upgraded(_))
    }

    /// Whether it was not read to its end. One of known length may be complete before its stream has ended.
    pub fn is_unread(&self) -> bool {
        let bodiless = matches!(self.0, Source::H2 { bodiless: true, .. });
        !bodiless && !self.is_end_stream() && self.size_hint().exact() != Some(0)
    }

    /// An upgraded connection's stream, and the bytes that were read ahead.
    pub fn into_upgraded(self) -> Option<(Stream, Bytes)> {
        match self.0 {
            Source::Upgraded(connection) => Some(connection.into_stream()),
            _ => None,
        }
    }

    /// Returns the connection to the pool.
    fn end(&mut self) {
        if let Source::H1 { connection, pool } = std::mem::replace(&mut self.0, Source::Ended) {
            pool.give_back(connection);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let frame = match &mut self.0 {
            Source::H1 { connection, .. } => connection.poll_frame(cx).map_err(Failure::from),
            Source::Driven { connection, failed, .. } => poll_driven(connection, failed, cx).map_err(Failure::from),
            Source::H2 { stream, .. } => truncated_body::poll_stream(stream, cx).map_err(Failure::from),
            Source::Upgraded(_) | Source::Ended => return Poll::Ready(None),
        };
        match &frame {
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Err(_))) => self.0 = Source::Ended,
            Poll::Ready(Some(Ok(_))) if self.is_end_stream() => self.end(),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::H1 { connection, .. } => connection.is_answered(),
            Source::Driven { connection, .. } => connection.borrow().is_answered(),
            Source::H2 { stream, .. } => stream.is_end_stream(),
            Source::Upgraded(_) | Source::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::H1 { connection, .. } => connection.size_hint(),
            Source::Driven { connection, .. } => connection.borrow().size_hint(),
            Source::H2 { stream, .. } => stream.size_hint(),
            Source::Upgraded(_) | Source::Ended => SizeHint::with_exact(0),
        }
    }
}

fn poll_driven(
    connection: &RefCell<Box<h1::Connection>>,
    failed: &mut Option<oneshot::Receiver<h1::error::Error>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, h1::error::Error>>> {
    if let Some(failure) = failed
        && let Poll::Ready(told) = Pin::new(failure).poll(cx)
    {
        *failed = None;
        if let Ok(error) = told {
            return Poll::Ready(Some(Err(error)));
        }
    }
    connection.borrow_mut().poll_frame(cx)
}

/// Sends the rest of a request, until it ends or until `LINGER` after its answer was dropped.
fn drive(
    connection: Rc<RefCell<Box<h1::Connection>>>,
    upload: Rc<Upload>,
) -> (oneshot::Receiver<h1::error::Error>, oneshot::Sender<()>) {
    let (held, released) = oneshot::channel();
    let (error_sender, failed) = oneshot::channel();
    tokio::task::spawn_local(async move {
        let lingered = async {
            let _ = released.await;
            sleep(LINGER).await;
        };
        let sent = std::future::poll_fn(|cx| connection.borrow_mut().poll_send(cx));
        tokio::select! {
            sent = sent => if let Err(error) = sent {
                // The answer may have been dropped.
                let _ = error_sender.send(error);
            },
            () = lingered => return,
        }
        drop(connection);
        let _ = timeout(LINGER, upload.drain()).await;
    });
    (failed, held)
}

/// Keeps sending the rest of a request until its answer was dropped; what the client sends after that is discarded.
fn keep_sending(slot: h2::StreamSlot, upload: Rc<Upload>) -> oneshot::Sender<()> {
    let (held, released) = oneshot::channel::<()>();
    tokio::task::spawn_local(async move {
        let _ = released.await;
        if slot.is_sending() {
            slot.stop_sending();
            drop(slot);
            let _ = timeout(LINGER, upload.drain()).await;
        }
    });
    held
}
