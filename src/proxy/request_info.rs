//! What is kept of a request after its head has been forwarded: for its answer, its log line and its metrics.

use std::cell::Cell;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, ORIGIN, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Method, Uri, Version};

use super::grpc;
use super::request_id::{RequestId, RequestIds};
use crate::observe::Span;

/// What the answer, the log line and the metrics need of a request.
pub struct RequestInfo {
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

/// When each step of a request was done, as far as it got. Each step reads the clock once, and what needs the time in between
/// uses the last step's: reading it costs as much as a hundred instructions.
pub struct Times {
    pub arrived: Instant,
    decided: Cell<Option<Instant>>,
    answered: Cell<Option<Instant>>,
}

impl Times {
    pub fn begin() -> Self {
        Self { arrived: Instant::now(), decided: Cell::default(), answered: Cell::default() }
    }

    /// The gate has decided: at the time of the store's last answer, where it was asked.
    pub fn decided(&self, store_answered: Option<Instant>) {
        self.decided.set(Some(store_answered.unwrap_or_else(Instant::now)));
    }

    /// The upstream's answer has arrived, or has failed.
    pub fn answered(&self) -> Instant {
        let now = Instant::now();
        self.answered.set(Some(now));
        now
    }

    /// The time of the last step.
    pub fn latest(&self) -> Instant {
        self.answered.get().or(self.decided.get()).unwrap_or(self.arrived)
    }

    /// When the answer to the client was ready.
    pub fn ended(&self) -> Instant {
        self.answered.get().unwrap_or_else(Instant::now)
    }

    pub fn decided_in(&self) -> Option<Duration> {
        Some(self.decided.get()? - self.arrived)
    }

    pub fn upstream_took(&self) -> Option<Duration> {
        Some(self.answered.get()? - self.decided.get()?)
    }
}

impl RequestInfo {
    pub fn of(head: &mut Parts, ids: &RequestIds, trusted: bool) -> Self {
        let (mut user_agent, mut origin, mut content_type) = (None, None, None);
        // One pass over the fields costs less than three lookups.
        for (name, value) in &head.headers {
            let first = match *name {
                USER_AGENT => &mut user_agent,
                ORIGIN => &mut origin,
                CONTENT_TYPE => &mut content_type,
                _ => continue,
            };
            first.get_or_insert(value);
        }
        Self {
            id: ids.of(&head.headers, trusted),
            span: ids.span(&head.headers),
            method: head.method.clone(),
            uri: std::mem::take(&mut head.uri),
            version: head.version,
            user_agent: user_agent.cloned(),
            origin: origin.cloned(),
            grpc: grpc::is_call(&head.method, head.version) && content_type.is_some_and(grpc::is_grpc_type),
        }
    }
}
