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

use super::account::{Account, Books};
use super::arrival::Arrival;
use super::arriving::Arriving;
use super::body::{Outgoing, Payload};
use super::head::{self, Asked, Head};
use super::open::{OpenRequest, OpenRequests};
use super::request_id::{RequestIds, X_REQUEST_ID};
use super::settings::Settings;
use super::told::{Times, Told};
use super::upstream::Passage;
use super::{Desk, Upstreams, cors, respond, upgrade};
use crate::gate::{Denial, Gate, Inquiry, Trail, path};
use crate::observe::{AccessLog, Counts};
use crate::store::StoreError;

/// One worker's pipeline.
pub struct Service {
    pub gate: Rc<Gate>,
    pub open: Rc<OpenRequests>,
    pub upstreams: Upstreams,
    /// Absent: no key API.
    pub desk: Option<Desk>,
    pub settings: Arc<Settings>,
    pub counts: Counts,
    pub access_log: Arc<AccessLog>,
    pub ids: RequestIds,
}

impl Service {
    /// The head is borrowed, as below, since whatever an async function is given moves twice.
    pub async fn handle(&self, head: &mut Parts, body: Arriving, arrival: &Arrival) -> Response<Outgoing> {
        let times = Times::begin();
        let in_flight = self.counts.metrics.request_in_flight();
        let told = Told::of(head, &self.ids, arrival.trusted);
        let mut account = Account::open(&told, times, self.books(arrival));
        let Account { trail, times, .. } = &mut account;
        let (mut response, denial) = match self.answer(head, body, &told, arrival, trail, times).await {
            Ok(response) => (response, None),
            Err(denial) => (self.own(self.words(&denial, trail, &told), &told), Some(denial)),
        };
        let rate_limited = matches!(denial, Some(Denial::RateLimited { .. }));
        if trail.is_enforced() {
            let (headers, settings) = (response.headers_mut(), self.settings.rate_limit_headers);
            respond::rate_limit_headers(headers, trail, rate_limited, settings, &self.ids.values);
        }
        response.headers_mut().insert(X_REQUEST_ID, self.ids.value(&told.id));
        account.close(denial.as_ref(), response.status().as_u16());
        upgrade::hand_over(response, in_flight, &arrival.upgraded)
    }

    fn books<'a>(&'a self, arrival: &'a Arrival) -> Books<'a> {
        let formats = &self.gate.policy().credentials.formats;
        let (counts, access_log, open) = (&self.counts, &*self.access_log, &*self.open);
        Books { counts, access_log, formats, client: &arrival.client, open }
    }

    /// The way of one request.
    async fn answer(
        &self,
        head: &mut Parts,
        body: Arriving,
        told: &Told,
        arrival: &Arrival,
        trail: &mut Trail,
        times: &Times,
    ) -> Result<Response<Payload>, Denial> {
        if let Some(refused) = arrival.refused {
            return Err(refused.into());
        }
        let Head { asked, oversize } = head::check(head, &told.uri, &self.settings, || self.allow(told.uri.path()))?;
        let within_bounds = || oversize.map_or(Ok(()), |oversize| Err(Denial::from(oversize)));
        if asked == Asked::Server {
            within_bounds()?;
            return Ok(self.own(respond::server_options(), told));
        }
        if let Some((desk, path)) = self.desk.as_ref().and_then(|desk| Some((desk, desk.path(told.uri.path())?))) {
            within_bounds()?;
            // Boxed, here and below: what few requests do takes no room in the others' futures.
            let answer = Box::pin(desk.ask(head, body, &path, arrival, told, trail)).await?;
            return Ok(Payload::words(answer, &told.method));
        }
        let inquiry = Inquiry {
            method: &told.method,
            path: told.uri.path(),
            query: told.uri.query(),
            headers: &head.headers,
            client: arrival.client.ip(),
            length: body.size_hint().exact(),
            oversize,
            arrived: times.arrived,
        };
        let permit = self.gate.decide(&inquiry, trail).await;
        times.decided(trail.store_answered);
        let permit = permit?;
        if let Some(denial) = permit.observed() {
            self.tell_of_store(denial, told);
        }

        let open = self.open.begin(permit, &told.id, &told.span, times.latest());
        let response = self.forward(open, head, body, told, arrival, times).await;
        if response.is_err() {
            times.answered();
        }
        let mut response = response?;
        cors::on_forwarded(self.settings.cors.as_ref(), response.headers_mut());
        // Each side of a proxy speaks its own version (RFC 9110 §2.5).
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// Which methods this path takes.
    fn allow(&self, raw: &str) -> String {
        let desk = self.desk.as_ref().filter(|desk| desk.path(raw).is_some());
        path::allow(raw, desk.map_or(&self.gate.policy().routes, Desk::routes))
    }

    /// Sends on what was permitted, as long as its key stands.
    async fn forward(
        &self,
        open: Rc<OpenRequest>,
        head: &mut Parts,
        body: Arriving,
        told: &Told,
        arrival: &Arrival,
        times: &Times,
    ) -> Result<Response<Payload>, Denial> {
        let passage = Passage {
            permit: open.permit(),
            policy: self.gate.policy(),
            asked: &told.uri,
            arrival,
            request_id: &told.id,
            span: &told.span,
            grpc: told.grpc,
            open: &open,
            times,
        };
        // The wait for an answer alone is bounded; a body that is still to come is not.
        let has_body = !body.is_end_stream();
        let response = {
            let forwarded = pin!(self.upstreams.forward(head, body, &passage));
            if has_body { open.unless_over(forwarded).await? } else { forwarded.await? }
        };
        Ok(response.map(|answer| {
            open.hold(answer);
            Payload::Upstream(open)
        }))
    }

    /// The gate's own answer, which browsers may read. What is said of keys is for no other origin's scripts.
    fn own(&self, mut words: Response<bytes::Bytes>, told: &Told) -> Response<Payload> {
        if self.desk.as_ref().is_none_or(|desk| desk.path(told.uri.path()).is_none()) {
            cors::on_own(self.settings.cors.as_ref(), told.origin.as_ref(), words.headers_mut());
        }
        Payload::words(words, &told.method)
    }

    fn words(&self, denial: &Denial, trail: &Trail, told: &Told) -> Response<bytes::Bytes> {
        // What failed behind the gate is the operator's to know, not the client's.
        self.tell_of_store(denial, told);
        let (request_id, trace_id) = (told.id.as_str(), told.span.trace_id());
        match denial {
            Denial::UpstreamUnreachable(error) => warn!(request_id, trace_id, error, "the upstream cannot be reached"),
            Denial::UpstreamInvalid(error) => {
                warn!(request_id, trace_id, error, "the upstream gave no valid answer");
            }
            _ => {}
        }
        let policy = self.gate.policy();
        let mut words = respond::denied(denial, trail, request_id, told.grpc, policy, self.settings.rate_limit_headers);
        if told.version < Version::HTTP_2 && matches!(denial.reason().status(), 400 | 499) {
            // What follows on the connection could be the rest of what was malformed, or broke off (request smuggling).
            words.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        words
    }

    /// What is wrong with the store is the operator's to know, not the client's. An outage has words and metrics of its own;
    /// what cannot be read is nobody's but this document's, and is said once a minute.
    fn tell_of_store(&self, denial: &Denial, told: &Told) {
        let Denial::StoreUnavailable(error) = denial else { return };
        let (request_id, trace_id) = (told.id.as_str(), told.span.trace_id());
        let StoreError::Broken(what) = error else {
            debug!(request_id, trace_id, %error, "the store gave no answer");
            return;
        };
        let metrics = &self.counts.metrics;
        metrics.document_unreadable();
        if metrics.said.is_news(what, Instant::now()) {
            warn!(request_id, trace_id, error = %what, "the store holds what cannot be read; requests that need it are refused");
        }
    }
}
