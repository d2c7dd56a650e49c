//! The way of one request, one screen: head → gate → upstream → answer. `handle` owns what every answer has (an id, limit
//! headers, a log line, metrics); `answer` is the way itself, plain `?` code.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Response, Version};
use hyper::body::Body as _;
use tracing::{debug, warn};

use super::arrival::Arrival;
use super::body::{Payload, ResponseBody};
use super::head::{self, Head, TargetForm};
use super::open::{OpenRequest, OpenRequests};
use super::request_body::RequestBody;
use super::request_id::{RequestIds, X_REQUEST_ID};
use super::request_info::{RequestInfo, Times};
use super::request_record::{RecordSinks, RequestRecord};
use super::settings::Settings;
use super::tunnel::{self, Upgraded};
use super::upload::ForwardedBody;
use super::upstream::ForwardContext;
use super::{ManagementQueue, Upstreams, cors, grpc, respond};
use crate::gate::{Denial, Gate, GateRequest, Trail, path};
use crate::observe::{AccessLog, Counts};
use crate::store::StoreError;

/// One worker's pipeline.
pub struct Service {
    pub gate: Rc<Gate>,
    pub open: Rc<OpenRequests>,
    pub upstreams: Upstreams,
    /// Absent: no key-management API.
    pub management: Option<ManagementQueue>,
    pub settings: Arc<Settings>,
    pub counts: Counts,
    pub access_log: Arc<AccessLog>,
    pub ids: RequestIds,
}

impl Service {
    /// The head is borrowed, as below, since an async function's arguments are moved twice. `upgraded`: where the connection
    /// finds its tunnel; none over HTTP/2.
    pub async fn handle(
        &self,
        head: &mut Parts,
        body: RequestBody,
        arrival: &Arrival,
        upgraded: Option<&Upgraded>,
    ) -> Response<ResponseBody> {
        let times = Times::begin();
        let in_flight = self.counts.metrics.request_in_flight();
        let info = RequestInfo::of(head, &self.ids, arrival.trusted);
        let mut record = RequestRecord::open(&info, times, self.sinks(arrival));
        let RequestRecord { trail, times, .. } = &mut record;
        let (mut response, denial) = match self.answer(head, body, &info, arrival, trail, times).await {
            Ok(response) => (response, None),
            Err(denial) => (self.local_reply(self.denied(&denial, trail, &info), &info), Some(denial)),
        };
        if trail.is_enforced() {
            let (headers, settings) = (response.headers_mut(), self.settings.rate_limit_headers);
            respond::rate_limit_headers(headers, trail, denial.as_ref(), settings, &self.ids.values);
        }
        response.headers_mut().insert(X_REQUEST_ID, self.ids.value(&info.id));
        record.close(denial.as_ref(), response.status().as_u16());
        tunnel::hand_over(response, in_flight, upgraded)
    }

    fn sinks<'a>(&'a self, arrival: &'a Arrival) -> RecordSinks<'a> {
        let formats = &self.gate.policy().credentials.formats;
        let (counts, access_log, open) = (&self.counts, &*self.access_log, &*self.open);
        RecordSinks { counts, access_log, formats, client: &arrival.client, open }
    }

    /// The way of one request, plain `?` code.
    async fn answer(
        &self,
        head: &mut Parts,
        body: RequestBody,
        info: &RequestInfo,
        arrival: &Arrival,
        trail: &mut Trail,
        times: &Times,
    ) -> Result<Response<Payload>, Denial> {
        if let Some(refused) = arrival.refused {
            return Err(refused.into());
        }
        let Head { form, oversize } = head::check(head, &info.uri, &self.settings, || self.allow(info.uri.path()))?;
        let within_bounds = || oversize.map_or(Ok(()), |oversize| Err(Denial::from(oversize)));
        if form == TargetForm::Server {
            within_bounds()?;
            return Ok(self.local_reply(respond::server_options(), info));
        }
        if let Some((queue, path)) =
            self.management.as_ref().and_then(|queue| Some((queue, queue.path(info.uri.path())?)))
        {
            within_bounds()?;
            // Boxed, here and below: what few requests do must not enlarge every request's future.
            let answer = Box::pin(queue.ask(head, body, &path, arrival, info, trail)).await?;
            return Ok(Payload::local(answer, &info.method));
        }
        let request = GateRequest {
            method: &info.method,
            path: info.uri.path(),
            query: info.uri.query(),
            headers: &head.headers,
            client: arrival.client.ip(),
            length: body.size_hint().exact(),
            oversize,
            arrived: times.arrived,
        };
        let permit = self.gate.decide(&request, trail).await;
        times.decided(trail.store_answered);
        let permit = permit?;
        if let Some(denial) = permit.observed() {
            self.log_store_error(denial, info);
        }

        let open = self.open.begin(permit, &info.id, &info.span, times.latest());
        let response = self.forward(open, head, body, info, arrival, times).await;
        if response.is_err() {
            times.answered();
        }
        let mut response = response?;
        cors::on_forwarded(self.settings.cors.as_ref(), response.headers_mut());
        // Each side of a proxy speaks its own version (RFC 9110 §2.5).
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// The methods that this path accepts, for an `Allow`.
    fn allow(&self, raw: &str) -> String {
        let queue = self.management.as_ref().filter(|queue| queue.path(raw).is_some());
        path::allow(raw, queue.map_or(&self.gate.policy().routes, ManagementQueue::routes))
    }

    /// Forwards a permitted request, unless the gate ends it before there is an answer.
    async fn forward(
        &self,
        open: Rc<OpenRequest>,
        head: &mut Parts,
        body: RequestBody,
        info: &RequestInfo,
        arrival: &Arrival,
        times: &Times,
    ) -> Result<Response<Payload>, Denial> {
        let context = ForwardContext {
            permit: open.permit(),
            policy: self.gate.policy(),
            uri: &info.uri,
            arrival,
            request_id: &info.id,
            span: &info.span,
            grpc: info.grpc,
            times,
            long_wait: &open.long_wait(),
            longest: self.open.longest(),
        };
        let body = ForwardedBody::new(body, open.permit().max_body(), self.upstreams.reserved(), &open);
        let response = {
            let forwarded = pin!(self.upstreams.forward(head, &body, &context));
            open.unless_ended(forwarded, context.long_wait).await?
        };
        let is_grpc = info.grpc && info.version == Version::HTTP_2 && grpc::is_answer(response.headers());
        Ok(response.map(|answer| {
            open.hold(answer, is_grpc);
            Payload::Upstream(open)
        }))
    }

    /// A local reply, with CORS headers; not those of the key-management API, which are for no other origin's scripts.
    fn local_reply(&self, mut reply: Response<bytes::Bytes>, info: &RequestInfo) -> Response<Payload> {
        if self.management.as_ref().is_none_or(|queue| queue.path(info.uri.path()).is_none()) {
            cors::on_local_reply(self.settings.cors.as_ref(), info.origin.as_ref(), reply.headers_mut());
        }
        Payload::local(reply, &info.method)
    }

    fn denied(&self, denial: &Denial, trail: &Trail, info: &RequestInfo) -> Response<bytes::Bytes> {
        // What failed behind the gate goes to the log, not to the client.
        self.log_store_error(denial, info);
        match denial {
            Denial::UpstreamUnreachable(error) => {
                self.log_upstream_error("the upstream cannot be reached", error, info)
            }
            Denial::UpstreamInvalid(error) => self.log_upstream_error("the upstream gave no valid answer", error, info),
            _ => {}
        }
        let policy = self.gate.policy();
        let request_id = info.id.as_str();
        let mut reply = respond::denied(denial, trail, request_id, info.grpc, policy, self.settings.rate_limit_headers);
        if info.version < Version::HTTP_2 && matches!(denial.reason().status(), 400 | 499) {
            // The next bytes could be the rest of what was malformed, or broke off (request smuggling).
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    /// Once a minute for each upstream, since one that is away fails every request; the access log has the reason of each.
    fn log_upstream_error(&self, what: &str, error: &str, info: &RequestInfo) {
        let (request_id, trace_id) = (info.id.as_str(), info.span.trace_id());
        // The error begins with the upstream.
        let upstream = error.split(": ").next().unwrap_or_default();
        match self.counts.metrics.throttle.news(&format!("{what}: {upstream}"), Instant::now()) {
            Some(repeated) => warn!(request_id, trace_id, error, repeated, "{what}"),
            None => debug!(request_id, trace_id, error, "{what}"),
        }
    }

    /// A store's error goes to the log, not to the client. An outage is logged and counted by the store itself; a document that
    /// cannot be read is noticed only here, and logged once a minute.
    fn log_store_error(&self, denial: &Denial, info: &RequestInfo) {
        let Denial::StoreUnavailable(error) = denial else { return };
        let (request_id, trace_id) = (info.id.as_str(), info.span.trace_id());
        let StoreError::Broken(what) = error else {
            debug!(request_id, trace_id, %error, "the store gave no answer");
            return;
        };
        let metrics = &self.counts.metrics;
        metrics.document_unreadable();
        if metrics.throttle.is_news(what, Instant::now()) {
            warn!(request_id, trace_id, error = %what, "the store holds what cannot be read; requests that need it are refused");
        }
    }
}
