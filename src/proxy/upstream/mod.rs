//! The services behind the gate, each with its connections. Only a `Permit` gets a request forwarded.
//!
//! `pool` keeps connections, `h1` and `h2` exchange a request for an answer on one, `response_body` passes the answer's body on,
//! `failure` says why there is none. Everything here belongs to one worker's thread.

pub mod failure;
mod first_read;
pub mod h1;
pub mod h2;
pub mod pool;
pub mod response_body;
mod shared_timer;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HOST, TE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::Body as _;

use super::arrival::Arrival;
use super::connector::{Connector, ConnectorError};
use super::grpc;
use super::headers::{self, Added, Forwarding};
use super::request_id::RequestId;
use super::request_info::Times;
use super::settings::{Protocol, Target, Upstream};
use super::upgrade::{self, Wanted};
use super::upload::{ForwardedBody, Upload};
use crate::gate::{Denial, Permit};
use crate::observe::Span;
use crate::policy::Policy;

use self::failure::{FailedExchange, Failure, chain};
use self::pool::{Pool, PooledConnection};
use self::response_body::UpstreamBody;
use self::shared_timer::SharedTimer;

/// One worker's way to the upstreams, by `UpstreamId`.
pub struct Upstreams {
    upstreams: Vec<Destination>,
    /// Headers that the gate alone may set, for whichever upstream (`headers::reserved`).
    reserved: Arc<[HeaderName]>,
}

struct Destination {
    settings: Upstream,
    /// The gate's own fields that they set themselves.
    overridden: Vec<HeaderName>,
    pool: Rc<Pool>,
    /// Its own host and port: the `Host` where the client named none (HTTP/1.0).
    name: HeaderValue,
    /// Whether its name replaces the client's `Host`.
    sets_host: bool,
}

/// What forwarding needs besides the request's head and body.
pub struct ForwardContext<'a> {
    pub permit: &'a Permit,
    pub policy: &'a Policy,
    /// The client's request target.
    pub uri: &'a Uri,
    pub arrival: &'a Arrival,
    pub request_id: &'a RequestId,
    pub span: &'a Span,
    /// Whether this is a gRPC call.
    pub grpc: bool,
    pub times: &'a Times,
    pub long_wait: &'a LongWait,
    /// How long a client's own deadline is honoured at most.
    pub longest: Duration,
}

/// A wait for an answer that is so long that the key must be rechecked meanwhile. Few are; for the others this costs nothing,
/// since the timer that bounds the wait fires for this, too.
pub struct LongWait {
    from: Instant,
    begun: Cell<bool>,
}

/// How long to wait for an answer's head.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// From the last frame of the request's body.
    response: Duration,
    /// Not enforced before the request's body has ended: a gRPC service may answer only then.
    only_after_body: bool,
}

/// Connectors for all upstreams, made once for all workers.
pub fn connectors(settings: &[Upstream]) -> Result<Vec<Connector>, ConnectorError> {
    settings.iter().map(Connector::new).collect()
}

impl Upstreams {
    /// Must be made on the thread that uses it. `connectors`: made from the same settings.
    pub fn new(settings: &[Upstream], connectors: &[Connector]) -> Self {
        let upstreams =
            settings.iter().zip(connectors).map(|(settings, connector)| Destination::new(settings, connector));
        Self { upstreams: upstreams.collect(), reserved: headers::reserved(settings).into() }
    }

    /// After a reload: an upstream whose settings are unchanged keeps its pool; a replaced pool ends with the last request on it.
    pub fn keeping(mut self, former: &Self) -> Self {
        for new in &mut self.upstreams {
            if let Some(same) = former.upstreams.iter().find(|former| former.settings == new.settings) {
                new.pool = same.pool.clone();
            }
        }
        self
    }

    /// Fields that no client's trailers may hold either.
    pub fn reserved(&self) -> &Arc<[HeaderName]> {
        &self.reserved
    }

    /// Forwards a permitted request; its body is streamed, and so is the answer's.
    pub async fn forward(
        &self,
        head: &mut Parts,
        body: &ForwardedBody,
        context: &ForwardContext<'_>,
    ) -> Result<Response<UpstreamBody>, Denial> {
        let ForwardContext { permit, policy, uri, arrival, request_id, span, .. } = *context;
        // The configuration resolves every id that a route or a format names.
        let unknown = || Denial::UpstreamUnreachable("no such upstream".to_owned());
        let service = self.upstreams.get(permit.upstream().0).ok_or_else(unknown)?;
        if let (Some(most), Some(length)) = (permit.max_body(), body.size_hint().exact())
            && length > most
        {
            return Err(Denial::BodyTooLarge);
        }
        let forwarding = Forwarding {
            permit,
            policy,
            upstream: &service.settings,
            overridden: &service.overridden,
            reserved: &self.reserved,
            arrival,
            version: head.version,
            // HTTP/1.1 has trailers only behind a chunked body.
            may_have_trailers: body.size_hint().exact().is_none(),
            request_id,
            span,
        };
        let wanted = Wanted::of(head.version, &head.headers, &mut head.extensions);
        let added = headers::forward(&mut head.headers, &forwarding);
        if let Some(wanted) = &wanted {
            wanted.ask(&mut head.headers);
        }
        // `headers::forward` adds `TE: trailers` first, if the client sent it; over HTTP/2 trailers can always be sent.
        let takes_trailers = head.version == Version::HTTP_2 || added.first().is_some_and(|(name, _)| **name == TE);
        head.uri = forwarded_target(uri, permit.target())?;
        head.version = Version::HTTP_11;
        if service.sets_host || head.headers.get(HOST).is_none_or(HeaderValue::is_empty) {
            head.headers.insert(HOST, service.name.clone());
        }
        let configured = permit.route().response_timeout.unwrap_or(service.settings.response_timeout);
        let timeouts = Timeouts::new(configured, context, &head.headers);
        let mut response = service.send(head, &added, body, timeouts, context).await?;
        let is_upgraded = response.body().is_upgraded();
        upgrade::grant(wanted, &mut response, is_upgraded)?;
        without_content(&mut response);
        headers::backward(response.headers_mut(), takes_trailers);
        Ok(response)
    }
}

impl Timeouts {
    /// A gRPC call may be one long stream; its client's `grpc-timeout` extends the configured time.
    fn new(configured: Duration, context: &ForwardContext<'_>, headers: &HeaderMap) -> Self {
        let theirs = if context.grpc { grpc::timeout(headers) } else { None };
        let response = theirs.map_or(configured, |theirs| theirs.min(context.longest).max(configured));
        Self { response, only_after_body: context.grpc }
    }
}

impl LongWait {
    pub fn from(from: Instant) -> Self {
        Self { from, begun: Cell::new(false) }
    }

    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Whether it begins now that the timer has fired for this deadline.
    fn begins(&self, deadline: Instant) -> bool {
        !self.has_begun() && self.from <= deadline && !self.begun.replace(true)
    }

    /// When the timer is to fire for a wait until this deadline.
    fn or_until(&self, deadline: Instant) -> Instant {
        if self.has_begun() { deadline } else { deadline.min(self.from) }
    }
}

impl Destination {
    fn new(settings: &Upstream, connector: &Connector) -> Self {
        // A plain service beside the gate gets the client's Host, as without a gate. One that is reached by name over TLS or
        // HTTP/2 gets its own name, as its certificate and `:authority` require.
        let (name, plain) = match &settings.target {
            Target::Unix(_) => ("localhost".to_owned(), true),
            Target::Tcp { host, port, protocol } => {
                let usual = if *protocol == Protocol::Https { 443 } else { 80 };
                let name = if *port == usual { host.clone() } else { format!("{host}:{port}") };
                (name, *protocol == Protocol::Http)
            }
        };
        let sets_host = !plain && !settings.headers.iter().any(|(name, _)| name == HOST);
        // The configuration took it from an authority, which is visible ASCII.
        let name = HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("localhost"));
        let pool = Rc::new(Pool::new(settings, connector.clone()));
        Self { settings: settings.clone(), overridden: headers::overridden(settings), pool, name, sets_host }
    }

    /// Sends the request, and once more on another connection where it cannot have been processed, or is idempotent.
    async fn send(
        &self,
        head: &mut Parts,
        added: &Added<'_>,
        body: &ForwardedBody,
        timeouts: Timeouts,
        context: &ForwardContext<'_>,
    ) -> Result<Response<UpstreamBody>, Denial> {
        let first = match self.attempt(head, added, body, false, timeouts, context).await? {
            Ok(response) => return Ok(response),
            Err(unanswered) => unanswered,
        };
        if !first.may_be_sent_again(&head.method, body) {
            return Err(self.failed(&first.error, body.upload()));
        }
        let (request_id, trace_id) = (context.request_id.as_str(), context.span.trace_id());
        tracing::debug!(request_id, trace_id, error = chain(&first.error), "the request is sent again");
        let second = Box::pin(self.attempt(head, added, body, true, timeouts, context)).await?;
        second.map_err(|unanswered| self.failed(&unanswered.error, body.upload()))
    }

    /// One exchange. `fresh`: not on a reused HTTP/1.1 connection.
    async fn attempt(
        &self,
        head: &mut Parts,
        added: &Added<'_>,
        body: &ForwardedBody,
        fresh: bool,
        timeouts: Timeouts,
        context: &ForwardContext<'_>,
    ) -> Result<Result<Response<UpstreamBody>, FailedExchange>, Denial> {
        let (upload, times, wait) = (body.upload(), context.times, context.long_wait);
        let kept = if fresh { None } else { self.pool.take_idle(times.latest()) };
        let (connection, now) = match kept {
            Some(connection) => (PooledConnection::H1(connection), times.latest()),
            None => {
                let unreachable = |error: String| Denial::UpstreamUnreachable(self.describe(&error));
                (self.pool.checkout(fresh).await.map_err(unreachable)?, Instant::now())
            }
        };
        match connection {
            PooledConnection::H1(mut connection) => {
                let mut shared_timer = std::mem::take(&mut connection.shared_timer);
                let answered = {
                    let exchange = pin!(connection.exchange(head, added, body));
                    await_head(timeouts, wait, upload, now, &mut shared_timer, |_| (), exchange).await?
                };
                connection.shared_timer = shared_timer;
                connection.last_read = Some(times.answered());
                Ok(answered.map(|response| {
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        return response.map(|()| UpstreamBody::upgraded(connection));
                    }
                    let unfinished = upload.filter(|upload| connection.is_sending() || !upload.has_ended()).cloned();
                    response.map(|()| UpstreamBody::from_h1(connection, &self.pool, unfinished))
                }))
            }
            PooledConnection::H2(stream) => {
                let mut request = Request::from_parts(head.clone(), body.clone());
                request.headers_mut().extend(headers::fields(added));
                let on_late = stream.on_late();
                let exchange = pin!(Box::pin(stream.exchange(request)));
                let answered =
                    await_head(timeouts, wait, upload, now, &mut SharedTimer::default(), on_late, exchange).await?;
                times.answered();
                Ok(answered.map(|(response, place)| {
                    let bodiless = h1::framing::is_bodiless(&head.method, response.status());
                    response.map(|stream| UpstreamBody::from_h2(stream, bodiless, place, upload))
                }))
            }
        }
    }

    /// The error, with the upstream's address before it.
    fn describe(&self, error: &str) -> String {
        let target = self.settings.target.to_string();
        if error.starts_with(&target) { error.to_owned() } else { format!("{target}: {error}") }
    }

    fn failed(&self, error: &Failure, upload: Option<&Rc<Upload>>) -> Denial {
        if upload.is_some_and(|upload| upload.is_too_large()) {
            return Denial::BodyTooLarge;
        }
        if upload.is_some_and(|upload| upload.is_malformed()) {
            return Denial::BadRequest("The request body is malformed".into());
        }
        if upload.is_some_and(|upload| upload.is_broken_off()) {
            return Denial::ClientGone;
        }
        Denial::UpstreamInvalid(self.describe(&chain(error)))
    }
}

/// The target byte for byte as it was decided on, in origin form; parsed only if it differs from the client's.
fn forwarded_target(uri: &Uri, target: &str) -> Result<Uri, Denial> {
    if let Some(kept) = uri.path_and_query().filter(|uri| uri.as_str() == target) {
        return Ok(kept.clone().into());
    }
    let invalid = |_| Denial::BadRequest("The query holds a character that must be percent-encoded".into());
    let made = PathAndQuery::try_from(target).map_err(invalid)?;
    if made.as_str() != target {
        return Err(Denial::BadRequest("The request's target cannot be forwarded as it is".into()));
    }
    Ok(made.into())
}

/// A 204 has no length (RFC 9110 §8.6), and a 205 none but 0, nor content (§15.3.6): a body that was sent all the same is dropped
/// with its connection or stream.
fn without_content(response: &mut Response<UpstreamBody>) {
    let is_reset = response.status() == StatusCode::RESET_CONTENT;
    let says_otherwise = || response.headers().get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if response.status() == StatusCode::NO_CONTENT || (is_reset && says_otherwise()) {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    if is_reset && !response.body().is_end_stream() {
        *response.body_mut() = UpstreamBody::nothing();
    }
}

/// Waits for the head, bounded from `now` or from the last forwarded frame of the request's body. `on_late` is called when that
/// has passed.
async fn await_head<T>(
    Timeouts { response, only_after_body }: Timeouts,
    wait: &LongWait,
    upload: Option<&Rc<Upload>>,
    now: Instant,
    shared_timer: &mut SharedTimer,
    on_late: impl Fn(&Upload),
    mut answer: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Denial> {
    let mut deadline = now + response;
    poll_fn(|cx| {
        if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(answered));
        }
        loop {
            ready!(shared_timer.poll(cx, wait.or_until(deadline)));
            if wait.begins(deadline) {
                continue;
            }
            let extended = upload.and_then(|upload| upload.last_frame()).map(|last| last + response);
            if let Some(later) = extended.filter(|later| *later > deadline) {
                deadline = later;
                continue;
            }
            upload.into_iter().for_each(|upload| on_late(upload));
            if !only_after_body || upload.is_none_or(|upload| upload.has_ended()) {
                return Poll::Ready(Err(Denial::UpstreamTimeout));
            }
            deadline = Instant::now() + response;
        }
    })
    .await
}
