//! One request on its connection: whether the listener refuses it, who sent it, and what happens to the unread rest of its body.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HOST};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use super::client_addr;
use super::http1_turns::Http1Turns;
use super::monitored::{LINGER, LINGER_BYTES};
use super::streams::Streams;
use super::tls::Presented;
use super::worker_state::{Context, WorkerState};
use crate::proxy::Arrival;
use crate::proxy::arrival::{Address, Refused};
use crate::proxy::body::{InterruptedBody, ResponseBody};
use crate::proxy::request_body::{Progress, RequestBody};
use crate::proxy::tunnel::Upgraded;

/// An unread body that announces more than this is not drained to keep its HTTP/1.1 connection. One without a length is, within
/// the bounds on lingering.
const DRAIN_BYTES: u64 = 64 * 1024;

/// The connection that a request came on.
#[derive(Clone)]
pub enum Transport {
    /// One request after the other: an unread body stands before the next.
    H1(Rc<Http1Turns>),
    H2(Streams),
}

/// The peer of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: Address,
    pub secure: bool,
    /// With TLS and several certificates.
    pub presented: Option<Presented>,
}

impl Transport {
    /// Called as soon as a head is read.
    pub fn begin<B: Body>(&self, request: &Request<B>) -> ActiveRequest {
        let progress = match self {
            Self::H1(turns) => turns.begin(),
            Self::H2(streams) => {
                let progress = Rc::new(Progress::default());
                streams.open(progress.clone());
                progress
            }
        };
        progress.begin(!request.body().is_end_stream());
        ActiveRequest { progress, transport: self.clone(), forwarded: false, ended: false }
    }

    /// Where to leave the tunnel of an upgrade; none over HTTP/2.
    fn upgraded(&self) -> Option<&Upgraded> {
        match self {
            Self::H1(turns) => Some(&turns.upgraded),
            Self::H2(_) => None,
        }
    }

    /// Has the connection's task woken once all that was written is flushed.
    fn await_flush(&self) {
        if let Self::H1(turns) = self {
            turns.activity.await_flush();
        }
    }

    /// Never over HTTP/2, where the connection's task writes before the stream's runs again, as far as the client reads.
    fn awaits_flush(&self) -> bool {
        matches!(self, Self::H1(turns) if turns.activity.awaits_flush())
    }
}

/// A request from its head to the end of its answer.
pub struct ActiveRequest {
    progress: Rc<Progress>,
    transport: Transport,
    /// The answer comes from an upstream.
    forwarded: bool,
    ended: bool,
}

impl ActiveRequest {
    /// Over HTTP/1.1 an answer is ready before the request's body has ended: drains the body, or closes the connection.
    fn drain_or_close(&self, response: &mut Response<ResponseBody>, may_stay: bool, is_long: bool) {
        let unread = self.progress.take_unread();
        // A service that refuses a long body before its end will hardly read it: its client need not send it.
        let is_refused = is_long && refuses(response.status());
        let is_abandoned = unread.is_some() || is_refused || response.body().is_local();
        let kept = may_stay && unread.is_some_and(|unread| self.drain(unread));
        if is_abandoned && !kept {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Has the rest of a body read and discarded, so that the connection can be kept; whether that is to be expected. The answer
    /// is not held back meanwhile: a client may wait for it before it sends the rest.
    fn drain(&self, unread: Incoming) -> bool {
        let Transport::H1(turns) = &self.transport else { return false };
        if unread.size_hint().lower() > DRAIN_BYTES {
            return false;
        }
        let (progress, activity) = (self.progress.clone(), turns.activity.clone());
        tokio::task::spawn_local(async move {
            // Dropped before its end, the body has hyper close the connection, which lingers so that the answer is read.
            if drain(unread).await {
                progress.drained();
                activity.clear_unread();
            }
        });
        true
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        match &self.transport {
            Transport::H1(turns) => turns.end(&self.progress),
            Transport::H2(streams) => {
                if !self.progress.has_answered() {
                    streams.cancelled();
                } else if self.ended && self.forwarded {
                    streams.served();
                }
                // Dropped at once, the body would reset the stream right behind the answer, and many clients then report only the
                // reset. It is drained for a while instead, like a lingering HTTP/1.1 connection.
                if let Some(unread) = self.progress.end().filter(|_| self.ended) {
                    tokio::task::spawn_local(drain(unread));
                }
            }
        }
    }
}

/// Serves a request that `Transport::begin` has begun. What needs no await is done before the future is made, since an async
/// function moves its arguments twice. The future is boxed, so that an idle connection holds no memory for it.
pub fn answer(
    worker: &Rc<WorkerState>,
    request: Request<Incoming>,
    peer: &Peer,
    mut active: ActiveRequest,
) -> Pin<Box<impl Future<Output = Result<Response<MonitoredBody>, Infallible>> + use<>>> {
    let (worker, context) = (worker.clone(), worker.now());
    // A request that is refused as overloaded does not count as in flight.
    let slot = (!worker.is_full()).then(|| InFlight::take(&worker.in_flight));
    let arrival = arrival(&context, &request, peer, &active.transport, slot.is_some());
    let returns = matches!(active.transport, Transport::H1(_));
    // What follows matters only where a body may be left unread.
    let has_body = returns && !active.progress.is_request_read();
    // A client that sent `Expect: 100-continue` gets the final answer instead, and may not send the body (RFC 9110 §10.1.1).
    let may_stay = has_body && !request.headers().contains_key(EXPECT) && !worker.is_leaving() && !is_last(&request);
    let is_long = has_body && request.body().size_hint().upper().is_none_or(|length| length > DRAIN_BYTES);
    let (mut head, stream) = request.into_parts();
    let body = RequestBody::new(stream, active.progress.clone(), returns);
    Box::pin(async move {
        let mut response = context.service.handle(&mut head, body, &arrival, active.transport.upgraded()).await;
        if returns && !active.progress.is_request_read() {
            active.drain_or_close(&mut response, may_stay, is_long);
        }
        if returns {
            worker.end_connection_when_leaving(&mut response);
        }
        if let (Transport::H2(streams), Some(open)) = (&active.transport, response.body().closes_with_status()) {
            streams.closes_with_status(&active.progress, open);
        }
        active.progress.answered();
        active.forwarded = !response.body().is_local();
        // A local reply is complete, and must not hold a slot until its client has read it.
        let slot = slot.filter(|_| active.forwarded);
        Ok(response.map(|body| MonitoredBody { body, active, error: None, slot }))
    })
}

fn arrival<B>(context: &Context, request: &Request<B>, peer: &Peer, transport: &Transport, has_room: bool) -> Arrival {
    let proxies = &context.settings.trusted_proxies;
    let Peer { address, secure, .. } = peer;
    let trusted = client_addr::is_trusted(address.ip(), proxies);
    let client = match trusted {
        true => client_addr::of(address.ip(), request.headers(), proxies).into(),
        false => address.clone(),
    };
    let refused = refused(request, peer, transport, has_room);
    Arrival { peer: address.clone(), client, trusted, secure: *secure, refused }
}

fn refused<B>(request: &Request<B>, peer: &Peer, transport: &Transport, has_room: bool) -> Option<Refused> {
    if !has_room {
        Some(Refused::Overloaded)
    } else if matches!(transport, Transport::H2(_)) && request.headers().values().any(is_padded) {
        Some(Refused::PaddedValue)
    } else if peer.presented.as_ref().is_some_and(|presented| presented.is_misdirected(host(request))) {
        Some(Refused::Misdirected)
    } else {
        None
    }
}

fn refuses(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Whether the client asks for the connection to be closed after this request.
fn is_last<B>(request: &Request<B>) -> bool {
    let options = request.headers().get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    request.version() < Version::HTTP_11
        || options.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// The request's host without its port; `proxy::head` checks its syntax.
fn host<B>(request: &Request<B>) -> &str {
    let named = request.uri().authority().map(Authority::as_str);
    let host = named.or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok())).unwrap_or_default();
    host.split(':').next().unwrap_or_default()
}

fn is_padded(value: &HeaderValue) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    blank(value.as_bytes().first()) || blank(value.as_bytes().last())
}

/// Reads and discards the rest of a body; whether it ended within the bounds.
async fn drain(mut unread: Incoming) -> bool {
    let read = async {
        let mut left = LINGER_BYTES;
        loop {
            match unread.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    let Some(less) = left.checked_sub(length) else { return false };
                    left = less;
                    // Not left to the next poll: hyper reports the end only once it reads the next head.
                    if unread.is_end_stream() {
                        return true;
                    }
                }
            }
        }
    };
    timeout(LINGER, read).await.unwrap_or(false)
}

/// One of the requests in flight, until dropped.
pub struct InFlight(Rc<Cell<usize>>);

impl InFlight {
    pub fn take(in_flight: &Rc<Cell<usize>>) -> Self {
        in_flight.set(in_flight.get() + 1);
        Self(in_flight.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A response's body that records its progress, so that `watch` sees whether the client reads it.
pub struct MonitoredBody {
    body: ResponseBody,
    active: ActiveRequest,
    /// The body's error, held back until all before it is flushed.
    error: Option<InterruptedBody>,
    /// Until the last frame: from then on only the client is waited for, and nothing behind the gate is held.
    slot: Option<InFlight>,
}

impl Body for MonitoredBody {
    type Data = Bytes;
    type Error = InterruptedBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, InterruptedBody>>> {
        if self.error.is_some() {
            return if self.active.transport.awaits_flush() {
                Poll::Pending
            } else {
                Poll::Ready(self.error.take().map(Err))
            };
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.active.progress.frame_ready(matches!(polled, Poll::Ready(Some(Ok(_)))));
        if polled.is_ready() && self.body.is_end_stream() {
            self.slot = None;
        }
        // An upstream's error does not count as a stream that the client cancelled.
        self.active.ended |= matches!(polled, Poll::Ready(None | Some(Err(_))));
        if let Poll::Ready(Some(Err(error))) = polled {
            // hyper drops with a failed body what it has not written yet, the answer's head too: so it fails one poll later.
            self.error = Some(error);
            self.active.transport.await_flush();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for MonitoredBody {
    fn drop(&mut self) {
        self.active.ended |= self.body.is_end_stream();
        if self.active.progress.has_ended_idle() {
            self.body.end_idle();
        }
    }
}
