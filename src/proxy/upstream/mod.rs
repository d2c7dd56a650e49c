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
    /// Every header that the gate alone may set, whichever the upstream: no client's copy passes, on public routes neither.
    reserved: Arc<[HeaderName]>,
}

struct Destination {
    settings: Upstream,
    /// Which of the gate's own fields they say otherwise.
    overridden: Vec<HeaderName>,
    pool: Rc<Pool>,
    /// Its own name, which is asked for where the client named no host (HTTP/1.0).
    name: HeaderValue,
    /// Whether it is asked for whatever the client named.
    asked_by_name: bool,
}

/// What is to be known of a request besides itself.
pub struct ForwardContext<'a> {
    pub permit: &'a Permit,
    pub policy: &'a Policy,
    /// What was asked for, as it came.
    pub asked: &'a Uri,
    pub arrival: &'a Arrival,
    pub request_id: &'a RequestId,
    pub span: &'a Span,
    /// Whether this is a gRPC call.
    pub grpc: bool,
    pub times: &'a Times,
    pub long_wait: &'a LongWait,
    /// How long a client's own deadline is heeded at most.
    pub longest: Duration,
}

/// A wait for an answer that is so long that the request's key is asked about again meanwhile. Few are, and nothing is done for
/// the others: the timer that bounds the wait rings for this, too.
pub struct LongWait {
    from: Instant,
    begun: Cell<bool>,
}

/// How long an answer's head is waited for: so long from the last frame of the request's body.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    time: Duration,
    /// Not counted while the request goes on: a gRPC service may say nothing before it has heard all.
    only_after_body: bool,
}

/// How each upstream is reached, read once for all workers.
pub fn connectors(settings: &[Upstream]) -> Result<Vec<Connector>, ConnectorError> {
    settings.iter().map(Connector::new).collect()
}

impl Upstreams {
    /// Belongs to the thread that it is made on. `connectors`: of these very settings.
    pub fn new(settings: &[Upstream], connectors: &[Connector]) -> Self {
        let upstreams =
            settings.iter().zip(connectors).map(|(settings, connector)| Destination::new(settings, connector));
        Self { upstreams: upstreams.collect(), reserved: headers::reserved(settings).into() }
    }

    /// After a reload: one whose settings are as they were goes on with its connections; what the others replace ends with the
    /// last request on it.
    pub fn keeping(mut self, former: &Self) -> Self {
        for new in &mut self.upstreams {
            if let Some(same) = former.upstreams.iter().find(|former| former.settings == new.settings) {
                new.pool = same.pool.clone();
            }
        }
        self
    }

    /// Which trailers never pass.
    pub fn reserved(&self) -> &Arc<[HeaderName]> {
        &self.reserved
    }

    /// Forwards what was permitted; the request's target is taken from `asked` where that is what was decided on. The body
    /// streams; the answer is the upstream's head with its body still to come.
    pub async fn forward(
        &self,
        head: &mut Parts,
        body: &ForwardedBody,
        context: &ForwardContext<'_>,
    ) -> Result<Response<UpstreamBody>, Denial> {
        let ForwardContext { permit, policy, asked, arrival, request_id, span, .. } = *context;
        // The configuration resolves every id that a route or a format names.
        let unknown = || Denial::UpstreamUnreachable("no such upstream".to_owned());
        let service = self.upstreams.get(permit.upstream().0).ok_or_else(unknown)?;
        if let (Some(most), Some(length)) = (permit.most_of_a_body(), body.size_hint().exact())
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
            // HTTP/1.1 has them behind chunks alone.
            trails: body.size_hint().exact().is_none(),
            request_id,
            span,
        };
        let wanted = Wanted::of(head.version, &head.headers, &mut head.extensions);
        let added = headers::forward(&mut head.headers, &forwarding);
        if let Some(wanted) = &wanted {
            wanted.ask(&mut head.headers);
        }
        // Where they are taken they are the first that is said; over HTTP/2 they always are.
        let takes_trailers = head.version == Version::HTTP_2 || added.first().is_some_and(|(name, _)| **name == TE);
        head.uri = aim(asked, permit.target())?;
        head.version = Version::HTTP_11;
        if service.asked_by_name || head.headers.get(HOST).is_none_or(HeaderValue::is_empty) {
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
    /// A gRPC client says itself how long it waits for a call that may be one long stream.
    fn new(configured: Duration, context: &ForwardContext<'_>, headers: &HeaderMap) -> Self {
        let theirs = if context.grpc { grpc::timeout(headers) } else { None };
        let time = theirs.map_or(configured, |theirs| theirs.min(context.longest).max(configured));
        Self { time, only_after_body: context.grpc }
    }
}

impl LongWait {
    pub fn from(from: Instant) -> Self {
        Self { from, begun: Cell::new(false) }
    }

    pub fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Whether it begins now that the timer has rung for this deadline.
    fn begins(&self, deadline: Instant) -> bool {
        !self.has_begun() && self.from <= deadline && !self.begun.replace(true)
    }

    /// When the timer is to ring for a wait until this deadline.
    fn or_until(&self, deadline: Instant) -> Instant {
        if self.has_begun() { deadline } else { deadline.min(self.from) }
    }
}

impl Destination {
    fn new(settings: &Upstream, connector: &Connector) -> Self {
        // A plain service beside the gate sees the host that the client asked for, as before. One that is reached by name over
        // TLS or HTTP/2 is asked under that name, since its certificate and `:authority` say it.
        let (name, plain) = match &settings.target {
            Target::Unix(_) => ("localhost".to_owned(), true),
            Target::Tcp { host, port, protocol } => {
                let usual = if *protocol == Protocol::Https { 443 } else { 80 };
                let name = if *port == usual { host.clone() } else { format!("{host}:{port}") };
                (name, *protocol == Protocol::Http)
            }
        };
        let asked_by_name = !plain && !settings.headers.iter().any(|(name, _)| name == HOST);
        // The configuration took it from an authority, which is visible ASCII.
        let name = HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("localhost"));
        let pool = Rc::new(Pool::new(settings, connector.clone()));
        Self { settings: settings.clone(), overridden: headers::overridden(settings), pool, name, asked_by_name }
    }

    /// Sends the request, and once more on another connection where it cannot have been acted upon, or may be twice.
    async fn send(
        &self,
        head: &mut Parts,
        added: &Added<'_>,
        body: &ForwardedBody,
        timeouts: Timeouts,
        context: &ForwardContext<'_>,
    ) -> Result<Response<UpstreamBody>, Denial> {
        let mut unanswered = match self.attempt(head, added, body, false, timeouts, context).await? {
            Ok(response) => return Ok(response),
            Err(unanswered) => unanswered,
        };
        // What could not even be sent has found a connection that has ended: each of those that are open may have.
        let (mut sent, mut unsent) = (0, 0);
        let ended = self.pool.shared();
        loop {
            let again = if unanswered.unsent { &mut unsent } else { &mut sent };
            let most = if unanswered.unsent { ended } else { 0 };
            if *again > most || !unanswered.may_be_sent_again(&head.method, body) {
                return Err(self.failed(&unanswered.error, body.upload()));
            }
            *again += 1;
            let (request_id, trace_id) = (context.request_id.as_str(), context.span.trace_id());
            tracing::debug!(request_id, trace_id, error = chain(&unanswered.error), "the request is sent again");
            unanswered = match Box::pin(self.attempt(head, added, body, true, timeouts, context)).await? {
                Ok(response) => return Ok(response),
                Err(unanswered) => unanswered,
            };
        }
    }

    /// One exchange. `fresh`: on no connection that has served before.
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
                let unreachable = |error: String| Denial::UpstreamUnreachable(self.told(&error));
                (self.pool.checkout(fresh).await.map_err(unreachable)?, Instant::now())
            }
        };
        match connection {
            PooledConnection::H1(mut connection) => {
                let mut shared_timer = std::mem::take(&mut connection.shared_timer);
                let answered = {
                    let exchange = pin!(connection.exchange(head, added, body));
                    within(timeouts, wait, upload, now, &mut shared_timer, |_| (), exchange).await?
                };
                connection.shared_timer = shared_timer;
                connection.heard_at = Some(times.answered());
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
                let (late, timed_out) = (stream.when_late(), stream.when_timed_out());
                let exchange = pin!(Box::pin(stream.exchange(request)));
                let answered = within(timeouts, wait, upload, now, &mut SharedTimer::default(), late, exchange).await;
                let answered = answered.inspect_err(|_| timed_out())?;
                times.answered();
                Ok(answered.map(|(response, place)| {
                    let bodiless = h1::framing::is_bodiless(&head.method, response.status());
                    response.map(|stream| UpstreamBody::from_h2(stream, bodiless, place, upload))
                }))
            }
        }
    }

    /// What failed, and which upstream's it was.
    fn told(&self, error: &str) -> String {
        let target = self.settings.target.to_string();
        if error.starts_with(&target) { error.to_owned() } else { format!("{target}: {error}") }
    }

    fn failed(&self, error: &Failure, upload: Option<&Rc<Upload>>) -> Denial {
        if upload.is_some_and(|upload| upload.is_too_large()) {
            return Denial::BodyTooLarge;
        }
        if upload.is_some_and(|upload| upload.is_broken()) {
            return Denial::BadRequest("The request body is malformed".into());
        }
        if upload.is_some_and(|upload| upload.is_broken_off()) {
            return Denial::ClientGone;
        }
        Denial::UpstreamInvalid(self.told(&chain(error)))
    }
}

/// The target byte for byte as it was decided on, in origin form; what was asked for is not parsed again.
fn aim(asked: &Uri, target: &str) -> Result<Uri, Denial> {
    if let Some(kept) = asked.path_and_query().filter(|asked| asked.as_str() == target) {
        return Ok(kept.clone().into());
    }
    let invalid = |_| Denial::BadRequest("The query holds a character that must be percent-encoded".into());
    let made = PathAndQuery::try_from(target).map_err(invalid)?;
    if made.as_str() != target {
        return Err(Denial::BadRequest("The request's target cannot be forwarded as it is".into()));
    }
    Ok(made.into())
}

/// A 204 has no length (RFC 9110 §8.6), and a 205 none but 0, nor content: what was sent as such ends with its connection or
/// stream (§15.3.6).
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

/// Waits for the head: from now, or from the last frame of the request body that was forwarded, and not while the client's next
/// frame is waited for. `late`: when that is too long ago.
async fn within<T>(
    Timeouts { time, only_after_body }: Timeouts,
    wait: &LongWait,
    upload: Option<&Rc<Upload>>,
    now: Instant,
    shared_timer: &mut SharedTimer,
    late: impl Fn(&Upload),
    mut answer: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Denial> {
    let mut deadline = now + time;
    poll_fn(|cx| {
        if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(answered));
        }
        loop {
            ready!(shared_timer.poll(cx, wait.or_until(deadline)));
            if wait.begins(deadline) {
                continue;
            }
            let extended = upload.and_then(|upload| upload.last_frame()).map(|last| last + time);
            if let Some(later) = extended.filter(|later| *later > deadline) {
                deadline = later;
                continue;
            }
            // Its client pauses, which is bounded for itself.
            if upload.is_some_and(|upload| upload.awaits_its_client()) {
                deadline = Instant::now() + time;
                continue;
            }
            upload.into_iter().for_each(|upload| late(upload));
            if !only_after_body || upload.is_none_or(|upload| upload.has_ended()) {
                return Poll::Ready(Err(Denial::UpstreamTimeout));
            }
            deadline = Instant::now() + time;
        }
    })
    .await
}
