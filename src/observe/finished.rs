//! A finished request for metrics and logs: its response head is known, or its client has gone.

use std::time::{Duration, Instant};

use http::Method;

use super::Span;
use crate::gate::trail::Evidence;
use crate::gate::{Denial, LimitNow, Trail};
use crate::policy::Reason;

#[derive(Debug)]
pub struct Finished<'a> {
    pub method: &'a Method,
    /// As received, without the query.
    pub path: &'a str,
    /// Its address; only digits, dots and colons.
    pub client: &'a str,
    pub user_agent: Option<&'a str>,
    /// Only hexadecimal digits and hyphens.
    pub request_id: &'a [u8],
    pub span: &'a Span,
    pub trail: &'a Trail,
    pub denial: Option<&'a Denial>,
    pub status: u16,
    /// When the response head was ready.
    pub ended: Instant,
    /// Until then.
    pub took: Duration,
    /// Until the gate had decided.
    pub decided_in: Option<Duration>,
    /// From the forwarded head to the upstream's.
    pub upstream_took: Option<Duration>,
}

/// The `decision` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    Denied,
    /// It would have been denied, in observe mode.
    Observed,
    /// The store or the upstream failed, or the client disconnected before there was an answer.
    Failed,
}

impl Decision {
    pub const ALL: [Self; 4] = [Self::Allowed, Self::Denied, Self::Observed, Self::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Observed => "observed",
            Self::Failed => "failed",
        }
    }
}

impl Finished<'_> {
    pub fn decision(&self) -> Decision {
        match self.denial {
            None if self.trail.observed.is_some() => Decision::Observed,
            None => Decision::Allowed,
            Some(denial) if denial.is_failure() => Decision::Failed,
            Some(_) => Decision::Denied,
        }
    }

    /// Why it was denied, or would have been.
    pub fn reason(&self) -> Option<Reason> {
        self.denial.map(Denial::reason).or(self.trail.observed)
    }

    /// The store's error, if it is the reason.
    pub fn store_error(&self) -> Option<&'static str> {
        match self.denial {
            Some(Denial::StoreUnavailable(error)) => Some(error.cause()),
            _ => None,
        }
    }

    /// The route's pattern as configured, or `none`.
    pub fn route(&self) -> &str {
        self.trail.route.as_ref().map_or("none", |route| &route.pattern)
    }

    pub fn key_id(&self) -> Option<&str> {
        Some(self.trail.caller.as_ref()?.key.id.as_str())
    }

    /// The window that denies for the longest time; where none does, the one that the answer's limit headers describe.
    pub fn binding(&self) -> Option<&LimitNow> {
        let over = self.trail.over().max_by_key(|now| now.now.wait_ms.unwrap_or(u64::MAX));
        over.or_else(|| self.trail.binding(false))
    }

    /// The window that had no room for it, as it is configured (`20/1s`).
    pub fn refused_by(&self) -> Option<String> {
        if self.reason() != Some(Reason::RateLimited) {
            return None;
        }
        self.binding().map(|binding| binding.window.to_string())
    }

    /// After how many seconds its client was told to come again.
    pub fn retry_after(&self) -> Option<u64> {
        match self.denial {
            Some(Denial::RateLimited { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }

    /// What its key lacks.
    pub fn missing_scope(&self) -> Option<&str> {
        match self.trail.evidence.as_deref() {
            Some(Evidence::MissingScope(scopes)) => Some(scopes),
            Some(Evidence::UnknownKey(_)) | None => None,
        }
    }

    /// How the digest of a key begins that the store does not know: enough to compare with, too little to search for.
    pub fn unknown_key(&self) -> Option<String> {
        match self.trail.evidence.as_deref() {
            Some(Evidence::UnknownKey(digest)) => Some(digest.beginning()),
            Some(Evidence::MissingScope(_)) | None => None,
        }
    }

    pub fn business(&self) -> Option<&str> {
        self.trail.caller.as_ref()?.business()
    }
}
