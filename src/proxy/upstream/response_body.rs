//! An answer's body on its way to the client. It holds the connection that it comes from: read to its end, the connection
//! serves again; dropped before, it is closed.

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

/// Where the body comes from, while it does.
enum Source {
    /// Whoever reads the body drives the connection.
    H1 {
        connection: Box<h1::Connection>,
        pool: Rc<Pool>,
    },
    /// Still taking the request's body: a task sends that on whether or not the answer is read.
    Driven {
        connection: Rc<RefCell<Box<h1::Connection>>>,
        /// Told when the request's body fails: what answers a part of it is no whole answer.
        failed: Option<oneshot::Receiver<h1::error::Error>>,
        _released_when_dropped: oneshot::Sender<()>,
    },
    H2 {
        stream: Incoming,
        _held: StreamHold,
    },
    /// Without a body: the connection goes on without HTTP.
    Upgraded(Box<h1::Connection>),
    Ended,
}

/// A stream counts as an open one until the end, of the answer and of the request's body.
enum StreamHold {
    Open {
        _slot: h2::StreamSlot,
    },
    /// By a task that ends the sending with the answer.
    Sending {
        _released_when_dropped: oneshot::Sender<()>,
    },
}

/// How long a client may go on sending when it has its answer. To close at once would reset the answer away. The service that
/// shares its connection with other requests is not sent the rest: what it does not read would take their room.
const LINGER: Duration = Duration::from_secs(1);

impl UpstreamBody {
    /// `unfinished`: the request's body, where the upstream answered before it had the whole of it. Its connection serves no
    /// other after that.
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

    /// `upload`: the request's body, if it has one. `bodiless`: the answer has ended with its head, whatever its stream brings.
    pub fn from_h2(stream: Incoming, bodiless: bool, slot: h2::StreamSlot, upload: Option<&Rc<Upload>>) -> Self {
        let held = match upload.filter(|_| slot.is_sending()) {
            None => StreamHold::Open { _slot: slot },
            Some(upload) => StreamHold::Sending { _released_when_dropped: send_meanwhile(slot, upload.clone()) },
        };
        if bodiless && !stream.is_end_stream() {
            end_meanwhile(stream, held);
            return Self::nothing();
        }
        Self(Source::H2 { stream, _held: held })
    }

    /// Of an answer that has no body, whatever its upstream sends.
    pub fn nothing() -> Self {
        Self(Source::Ended)
    }

    pub fn is_upgraded(&self) -> bool {
        matches!(self.0, Source::Upgraded(_))
    }

    /// Whether something of it is still to come. One of a known length may be complete before its stream says so.
    pub fn is_unread(&self) -> bool {
        !self.is_end_stream() && self.size_hint().exact() != Some(0)
    }

    /// What the connection was upgraded to: its stream, and what of it was read already.
    pub fn into_upgraded(self) -> Option<(Stream, Bytes)> {
        match self.0 {
            Source::Upgraded(connection) => Some(connection.into_stream()),
            _ => None,
        }
    }

    /// The connection has done its part.
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

/// Sends the rest of a request until there is no more, or until its answer has been released and the client has had time to
/// finish.
fn drive(
    connection: Rc<RefCell<Box<h1::Connection>>>,
    upload: Rc<Upload>,
) -> (oneshot::Receiver<h1::error::Error>, oneshot::Sender<()>) {
    let (held, released) = oneshot::channel();
    let (tell, failed) = oneshot::channel();
    tokio::task::spawn_local(async move {
        let lingered = async {
            let _ = released.await;
            sleep(LINGER).await;
        };
        let sent = std::future::poll_fn(|cx| connection.borrow_mut().poll_send(cx));
        tokio::select! {
            sent = sent => if let Err(error) = sent {
                // Nobody may be left who reads.
                let _ = tell.send(error);
            },
            () = lingered => return,
        }
        drop(connection);
        let _ = timeout(LINGER, upload.drain()).await;
    });
    (failed, held)
}

/// Has the rest of a request sent until its answer has ended or is released, and what its client sends after that thrown away.
fn send_meanwhile(slot: h2::StreamSlot, upload: Rc<Upload>) -> oneshot::Sender<()> {
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

/// Lets a stream end behind an answer that has no body: many do with an empty frame. What brings more is reset.
fn end_meanwhile(mut stream: Incoming, held: StreamHold) {
    tokio::task::spawn_local(async move {
        let next = std::future::poll_fn(|cx| truncated_body::poll_stream(&mut stream, cx));
        let _ = timeout(LINGER, next).await;
        drop(held);
    });
}
