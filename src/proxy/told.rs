//! What is kept of a request once the rest of it has been forwarded: for its answer, its log line and its metrics.

use std::time::{Duration, Instant};

use http::header::{ORIGIN, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri, Version};

use super::grpc;
use super::request_id::{RequestId, RequestIds};
use crate::observe::Span;

/// What is told of a request after it has been forwarded.
pub struct Told {
    pub id: RequestId,
    pub span: Span,
    pub method: Method,
    /// Taken from the head: what is forwarded is the target that was decided on.
    pub uri: Uri,
    pub version: Version,
    pub user_agent: Option<HeaderValue>,
    pub origin: Option<HeaderValue>,
    pub grpc: bool,
}

/// When the stations of the way were passed, as far as it went.
pub struct Times {
    started: Instant,
    pub decided: Option<Instant>,
    pub answered: Option<Instant>,
}

impl Times {
    pub fn begin() -> Self {
        Self { started: Instant::now(), decided: None, answered: None }
    }

    pub fn took(&self) -> Duration {
        self.answered.map_or_else(|| self.started.elapsed(), |answered| answered - self.started)
    }

    pub fn decided_in(&self) -> Option<Duration> {
        Some(self.decided? - self.started)
    }

    pub fn upstream_took(&self) -> Option<Duration> {
        Some(self.answered? - self.decided?)
    }
}

impl Told {
    pub fn of<B>(request: &mut Request<B>, ids: &RequestIds, trusted: bool) -> Self {
        Self {
            id: ids.of(request.headers(), trusted),
            span: ids.span(request.headers()),
            method: request.method().clone(),
            uri: std::mem::take(request.uri_mut()),
            version: request.version(),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            origin: request.headers().get(ORIGIN).cloned(),
            grpc: grpc::is_called(request.headers(), request.version()),
        }
    }
}
