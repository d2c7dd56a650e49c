//! An answer's body on its way to the client. It holds the connection that it comes from: read to its end, the connection
//! serves again; dropped before, it is closed.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::pool::Pool;
use super::{h1, h2};
use crate::proxy::upload::Upload;

pub struct Relayed {
    stream: Incoming,
    source: Source,
}

/// Where the stream comes from, while it does.
enum Source {
    /// Whoever reads the body drives the connection.
    H1 {
        connection: h1::Connection,
        pool: Rc<Pool>,
    },
    /// Still taking the request's body: a task moves it on whether or not the answer is read.
    Driven {
        _released_when_dropped: oneshot::Sender<()>,
    },
    /// Held until the end, since it counts as an open stream.
    H2 {
        _place: h2::Place,
    },
    Ended,
}

/// How long a client may go on sending when it has its answer. To close at once would reset the answer away.
const LINGER: Duration = Duration::from_secs(1);

impl Relayed {
    /// `unfinished`: the request's body, where the upstream answered before it had the whole of it. Its connection serves no
    /// other after that.
    pub fn from_h1(
        stream: Incoming,
        connection: h1::Connection,
        pool: &Rc<Pool>,
        unfinished: Option<Rc<Upload>>,
    ) -> Self {
        let source = match unfinished {
            None => Source::H1 { connection, pool: pool.clone() },
            Some(upload) => Source::Driven { _released_when_dropped: drive(connection, upload) },
        };
        let mut relayed = Self { stream, source };
        if relayed.stream.is_end_stream() {
            relayed.end();
        }
        relayed
    }

    /// An answer without a body, whose connection goes on without HTTP: it is driven until it has been handed over.
    pub fn upgraded(stream: Incoming, connection: h1::Connection) -> Self {
        tokio::task::spawn_local(connection.into_driver());
        Self { stream, source: Source::Ended }
    }

    pub fn from_h2(stream: Incoming, place: h2::Place) -> Self {
        Self { stream, source: Source::H2 { _place: place } }
    }

    /// The connection has done its part.
    fn end(&mut self) {
        if let Source::H1 { connection, pool } = std::mem::replace(&mut self.source, Source::Ended) {
            pool.give_back(connection);
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Source::H1 { connection, .. } = &mut self.source else {
            return Pin::new(&mut self.stream).poll_frame(cx);
        };
        // Only the connection fills the stream, and only when it is polled here: the stream has nobody to wake.
        let mut frame = Pin::new(&mut self.stream).poll_frame(&mut h1::nobody());
        if frame.is_pending() {
            let _ = connection.poll(cx);
            frame = Pin::new(&mut self.stream).poll_frame(&mut h1::nobody());
        }
        frame
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = self.poll_stream(cx);
        match &frame {
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Err(_))) => self.source = Source::Ended,
            Poll::Ready(Some(Ok(_))) if self.stream.is_end_stream() => self.end(),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.size_hint()
    }
}

/// Moves a connection on until it ends, or until its answer has been released and the client has had time to finish.
fn drive(connection: h1::Connection, upload: Rc<Upload>) -> oneshot::Sender<()> {
    let (held, released) = oneshot::channel();
    tokio::task::spawn_local(async move {
        let lingered = async {
            let _ = released.await;
            sleep(LINGER).await;
        };
        tokio::select! { () = connection.into_driver() => {}, () = lingered => return }
        let _ = timeout(LINGER, upload.drain()).await;
    });
    held
}
