//! The way of one request, one screen: head → gate → upstream → answer. `handle` owns what every answer has (an id, limit
//! headers, a log line, metrics); `answer` is the way itself, plain `?` code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use tracing::{debug, warn};

use super::arrival::Arrival;
use super::arriving::Arriving;
use super::body::{Outgoing, Payload};
use super::head::{self, Asked};
use super::headers::{self, X_REQUEST_ID};
use super::request_id::{RequestId, RequestIds};
use super::settings::Settings;
use super::{Desk, Upstreams, respond};
use crate::gate::{Denial, Gate, Inquiry, Trail};
use crate::observe::{AccessLog, Finished, Metrics};

/// One worker's pipeline.
pub struct Service {
    pub gate: Gate,
    pub upstreams: Upstreams,
    /// Absent: no key API.
    pub desk: Option<Desk>,
    pub settings: Arc<Settings>,
    pub metrics: Arc<Metrics>,
    pub access_log: Arc<AccessLog>,
    pub ids: RequestIds,
}

/// What is told of a request after it has been forwarded.
struct Told {
    id: RequestId,
    method: Method,
    /// Taken from the head: what is forwarded is the target that was decided on.
    uri: Uri,
    version: Version,
    user_agent: Option<HeaderValue>,
    grpc: bool,
}

/// When the stations of the way were passed, as far as it went.
struct Times {
    started: Instant,
    decided: Option<Instant>,
    answered: Option<Instant>,
}

impl Service {
    pub async fn handle(&self, mut request: Request<Arriving>, arrival: Arrival) -> Response<Outgoing> {
        let mut times = Times { started: Instant::now(), decided: None, answered: None };
        let in_flight = self.metrics.request_in_flight();
        let told = Told::of(&mut request, &self.ids, arrival.trusted);
        let mut trail = Trail::default();
        let (mut response, denial) = match self.answer(request, &told, &arrival, &mut trail, &mut times).await {
            Ok(response) => (response, None),
            Err(denial) => (self.words(&denial, &trail, &told).map(Payload::Words), Some(denial)),
        };
        let rate_limited = matches!(denial, Some(Denial::RateLimited { .. }));
        respond::rate_limit_headers(response.headers_mut(), &trail, rate_limited, self.settings.rate_limit_headers);
        response.headers_mut().insert(X_REQUEST_ID, told.id.value());
        let finished = Finished {
            method: &told.method,
            path: told.uri.path(),
            client: arrival.client.as_str(),
            user_agent: told.user_agent.as_ref().and_then(|agent| agent.to_str().ok()),
            request_id: told.id.as_str(),
            trail: &trail,
            denial: denial.as_ref(),
            status: response.status().as_u16(),
            took: times.took(),
            decided_in: times.decided_in(),
            upstream_took: times.upstream_took(),
        };
        self.metrics.count(&finished);
        self.access_log.write(&finished, &self.gate.policy().credentials.formats);
        response.map(|payload| Outgoing::new(payload, in_flight))
    }

    /// The way of one request.
    async fn answer(
        &self,
        mut request: Request<Arriving>,
        told: &Told,
        arrival: &Arrival,
        trail: &mut Trail,
        times: &mut Times,
    ) -> Result<Response<Payload>, Denial> {
        if let Some(refused) = arrival.refused {
            return Err(refused.into());
        }
        if let Asked::Server = head::check(&mut request, &told.uri, &self.settings)? {
            return Ok(respond::server_options().map(Payload::Words));
        }
        if let Some((desk, path)) = self.desk.as_ref().and_then(|desk| Some((desk, desk.path(told.uri.path())?))) {
            let answer = desk.ask(request, &path, told.uri.query(), arrival, &told.id, trail).await?;
            return Ok(answer.map(Payload::Words));
        }
        let inquiry = Inquiry {
            method: &told.method,
            path: told.uri.path(),
            query: told.uri.query(),
            headers: request.headers(),
            client: arrival.client.ip(),
        };
        let decided = self.gate.decide(&inquiry, trail).await;
        times.decided = Some(Instant::now());
        let permit = decided?;

        let response = self.upstreams.forward(&permit, self.gate.policy(), request, &told.uri, arrival, &told.id).await;
        times.answered = Some(Instant::now());
        let mut response = response?;
        headers::backward(response.headers_mut());
        // Each side of a proxy speaks its own version (RFC 9110 §2.5).
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(Payload::Upstream))
    }

    fn words(&self, denial: &Denial, trail: &Trail, told: &Told) -> Response<bytes::Bytes> {
        // What failed behind the gate is the operator's to know, not the client's.
        match denial {
            Denial::StoreUnavailable(error) => {
                debug!(request_id = told.id.as_str(), %error, "the store gave no answer")
            }
            Denial::UpstreamUnreachable(error) | Denial::UpstreamInvalid(error) => {
                warn!(request_id = told.id.as_str(), error, "the upstream gave no valid answer");
            }
            _ => {}
        }
        let policy = self.gate.policy();
        let mut words =
            respond::denied(denial, trail, told.id.as_str(), told.grpc, policy, self.settings.rate_limit_headers);
        if told.version < Version::HTTP_2 && denial.reason().status() == 400 {
            // What follows on the connection could be the rest of what was malformed (request smuggling).
            words.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        words
    }
}

impl Times {
    fn took(&self) -> Duration {
        self.answered.map_or_else(|| self.started.elapsed(), |answered| answered - self.started)
    }

    fn decided_in(&self) -> Option<Duration> {
        Some(self.decided? - self.started)
    }

    fn upstream_took(&self) -> Option<Duration> {
        Some(self.answered? - self.decided?)
    }
}

impl Told {
    fn of<B>(request: &mut Request<B>, ids: &RequestIds, trusted: bool) -> Self {
        Self {
            id: ids.of(request.headers(), trusted),
            method: request.method().clone(),
            uri: std::mem::take(request.uri_mut()),
            version: request.version(),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            grpc: is_grpc(request),
        }
    }
}

/// `application/grpc`, `application/grpc+proto`, …: a client that reads status and message from trailers alone.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let Some(kind) = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else { return false };
    kind.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
        && request.version() != Version::HTTP_10
}
