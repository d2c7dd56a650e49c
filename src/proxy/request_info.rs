//! What is kept of a request once the rest of it has been forwarded: for its answer, its log line and its metrics.

use std::cell::Cell;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, ORIGIN, USER_AGENT};
use http::request::Parts;
use http::{HeaderValue, Method, Uri, Version};

use super::grpc;
use super::request_id::{RequestId, RequestIds};
use crate::observe::Span;

/// What is told of a request after it has been forwarded.
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

/// When the stations of the way were passed, as far as it went. Each looks at the clock once, and whoever needs the time in
/// between takes theirs: a look costs as much as a hundred instructions.
pub struct Times {
    pub arrived: Instant,
    decided: Cell<Option<Instant>>,
    answered: Cell<Option<Instant>>,
}

impl Times {
    pub fn begin() -> Self {
        Self { arrived: Instant::now(), decided: Cell::default(), answered: Cell::default() }
    }

    /// The gate has decided: by what the store said last, where it was asked.
    pub fn decided(&self, store_answered: Option<Instant>) {
        self.decided.set(Some(store_answered.unwrap_or_else(Instant::now)));
    }

    /// The upstream's answer has come, or will not.
    pub fn answered(&self) -> Instant {
        let now = Instant::now();
        self.answered.set(Some(now));
        now
    }

    /// As it was when somebody last looked.
    pub fn latest(&self) -> Instant {
        self.answered.get().or(self.decided.get()).unwrap_or(self.arrived)
    }

    /// When there was something to say to the client.
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
        // One walk along what is there costs less than to look each of them up.
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
            grpc: grpc::is_call(&head.method, head.version) && content_type.is_some_and(grpc::is_spoken),
        }
    }
}
