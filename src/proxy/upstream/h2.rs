//! One HTTP/2 connection to an upstream, shared by as many requests as both sides allow, and driven by tasks of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Parts, Scheme};
use http::{Request, Response, Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{TrySendError, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use tracing::warn;

use super::failure::FailedExchange;
use super::first_read::FirstRead;
use crate::proxy::connector::Stream;
use crate::proxy::truncated_body::TruncatedBody;
use crate::proxy::upload::{BodyError, ForwardedBody, Upload};

/// Bounds on the memory that one upstream may make the gate hold; a dead one is detected by PING.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const HEADER_BYTES: u32 = 64 * 1024;
const PING: Duration = Duration::from_secs(30);
const PING_ANSWER: Duration = Duration::from_secs(10);

pub struct Connection {
    sender: http2::SendRequest<SentBody>,
    tasks: Tasks,
    limit: Rc<StreamLimit>,
    scheme: Scheme,
    peer: Option<SocketAddr>,
}

/// How many streams are open, and how many may be.
struct StreamLimit {
    open: Cell<usize>,
    most: Cell<usize>,
    last_used: Cell<Instant>,
    used: Cell<bool>,
    /// An upload got no window for too long; the connection takes no more requests.
    stalled: Cell<bool>,
}

/// One request's stream on a connection.
pub struct Exchange {
    sender: http2::SendRequest<SentBody>,
    tasks: Tasks,
    scheme: Scheme,
    slot: StreamSlot,
}

/// Counts as an open stream until dropped.
pub struct StreamSlot {
    limit: Rc<StreamLimit>,
    sending: BodyTask,
}

/// hyper's executor: spawns tasks on the connection's thread, and records the one that sends a request's body.
#[derive(Clone, Default)]
struct Tasks(Rc<RefCell<Option<BodyTask>>>);

/// The task that sends a body; none where the first frame was all of it.
#[derive(Clone, Default)]
struct BodyTask(Rc<OnceCell<AbortHandle>>);

/// A request's body. hyper polls the first frame itself, and right after spawns a task that sends the rest; that task ends with
/// the body or with a reset, and never where the upstream neither reads nor resets.
struct SentBody {
    body: ForwardedBody,
    tasks: Tasks,
    sending: BodyTask,
    begun: bool,
}

impl Connection {
    /// Ready once the upstream's SETTINGS say how many streams it takes. `streams`: how many are used at most.
    pub async fn open(stream: Stream, scheme: Scheme, streams: usize, peer: Option<SocketAddr>) -> io::Result<Self> {
        let (stream, first_read) = FirstRead::watch(stream);
        let tasks = Tasks::default();
        let handshake = builder(tasks.clone()).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        // Its first frame is its SETTINGS (RFC 9113 §3.4); the task that reads it runs before this one goes on.
        first_read
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection at once"))?;
        let most = move |allowed: usize| allowed.clamp(1, streams);
        let limit = Rc::new(StreamLimit {
            open: Cell::new(0),
            most: Cell::new(most(connection.current_max_send_streams())),
            last_used: Cell::new(Instant::now()),
            used: Cell::new(false),
            stalled: Cell::new(false),
        });
        let driven = limit.clone();
        tokio::task::spawn_local(async move {
            let mut connection = pin!(connection);
            // Polled for every request, so that the next one sees changed SETTINGS.
            let ended = std::future::poll_fn(|cx| {
                driven.most.set(most(connection.current_max_send_streams()));
                connection.as_mut().poll(cx)
            });
            // An error is reported on each open stream.
            let _ = ended.await;
        });
        Ok(Self { sender, tasks, limit, scheme, peer })
    }

    pub fn peer(&self) -> Option<&SocketAddr> {
        self.peer.as_ref()
    }

    /// Closed, or refusing new streams after a GOAWAY, or stalled. Open streams go on.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.limit.stalled.get()
    }

    /// Without a stream for this long.
    pub fn is_idle(&self, idle: Duration) -> bool {
        self.limit.open.get() == 0 && self.limit.last_used.get().elapsed() >= idle
    }

    pub fn stream(&self) -> Option<Exchange> {
        let open = self.limit.open.get();
        if open >= self.limit.most.get() || self.is_closed() {
            return None;
        }
        self.limit.open.set(open + 1);
        let slot = StreamSlot { limit: self.limit.clone(), sending: BodyTask::default() };
        Some(Exchange { sender: self.sender.clone(), tasks: self.tasks.clone(), scheme: self.scheme.clone(), slot })
    }
}

impl Exchange {
    /// To be called when no frame of the body has passed for too long: if it is the upstream that gives no window, the connection
    /// is not used any more, though it may be alive (RFC 9113 §5.2).
    pub fn on_late(&self) -> impl Fn(&Upload) + use<> {
        let (limit, sending) = (self.slot.limit.clone(), self.slot.sending.clone());
        move |upload| {
            if sending.is_under_way() && !upload.awaits_its_client() && !limit.stalled.replace(true) {
                warn!("an upload got no window from an upstream for too long; its connection gets no more requests");
            }
        }
    }

    pub async fn exchange(
        mut self,
        mut request: Request<ForwardedBody>,
    ) -> Result<(Response<Incoming>, StreamSlot), FailedExchange> {
        to_absolute_form(&mut request, &self.scheme);
        let reused = self.slot.limit.used.replace(true);
        let (tasks, sending) = (self.tasks, self.slot.sending.clone());
        match self.sender.try_send_request(request.map(|body| SentBody { body, tasks, sending, begun: false })).await {
            Ok(response) => Ok((response, self.slot)),
            Err(failed) => Err(failed_exchange(failed, reused)),
        }
    }
}

impl StreamSlot {
    /// Whether the request's body is still being sent.
    pub fn is_sending(&self) -> bool {
        self.sending.is_under_way()
    }

    /// Sends no more of it: what is left of the stream is reset.
    pub fn stop_sending(&self) {
        if let Some(task) = self.sending.0.get() {
            task.abort();
        }
    }
}

impl BodyTask {
    fn is_under_way(&self) -> bool {
        self.0.get().is_some_and(|task| !task.is_finished())
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.limit.open.set(self.limit.open.get() - 1);
        self.limit.last_used.set(Instant::now());
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(future).abort_handle();
        if let Some(sending) = self.0.take() {
            // Set once only, since each body has one first frame.
            let _ = sending.0.set(task);
        }
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !std::mem::replace(&mut self.begun, true) {
            self.tasks.0.replace(Some(self.sending.clone()));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for SentBody {
    /// The first frame was all of it: the next task that hyper spawns is not this body's.
    fn drop(&mut self) {
        self.tasks.0.borrow_mut().take_if(|next| Rc::ptr_eq(&next.0, &self.sending.0));
    }
}

fn builder(tasks: Tasks) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true);
    builder
}

fn failed_exchange(mut failed: TrySendError<Request<SentBody>>, reused: bool) -> FailedExchange {
    let unsent = failed.take_message().is_some();
    let error = failed.into_error();
    let reason = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    // h2 gives a peer's GOAWAY as the reason only to streams above the last that the peer processed (RFC 9113 §8.7).
    let refused = reason.is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    });
    // A stream that was reset had been received; where the connection ended without a frame for it, it may not have been.
    let closed_silently = reused && reason.is_none_or(h2::Error::is_io);
    FailedExchange { unsent, refused, closed_silently, error: TruncatedBody::from(error).into() }
}

/// `:scheme` and `:authority` come from the URI; the latter is the Host that was decided on, which it replaces (RFC 9113 §8.3.1).
fn to_absolute_form(request: &mut Request<ForwardedBody>, scheme: &Scheme) {
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let Some(authority) = authority.or_else(|| request.uri().authority().cloned()) else { return };
    let mut parts = Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = Some(authority);
    parts.path_and_query = request.uri().path_and_query().cloned();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
