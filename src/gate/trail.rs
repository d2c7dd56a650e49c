//! What the gate has found out about a request: for the headers of its answer, its log line, its metrics.
//!
//! Filled during the decision, so that after a denial it holds what was known until then.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use smallvec::SmallVec;

use crate::keys::Digest;
use crate::limit::{Window, WindowNow};
use crate::policy::{Limit, Mode, Reason, Route};
use crate::store::record::KeyDocument;

#[derive(Debug, Default)]
pub struct Trail {
    pub route: Option<Arc<Route>>,
    /// The owner of the key, if its document was found, whether or not it is valid.
    pub caller: Option<Rc<Caller>>,
    /// The windows that this request was counted in, once the store has answered.
    pub limits: LimitsNow,
    /// How long the store's answers were waited for; absent where it was not asked.
    pub store_took: Option<Duration>,
    /// When it last answered; absent where it was not asked.
    pub store_answered: Option<Instant>,
    /// The store's clock when it answered (milliseconds since the Unix epoch); absent where it was not asked.
    pub store_ms: Option<u64>,
    /// Why it would have been denied, in observe mode.
    pub observed: Option<Reason>,
    /// What is to be told of a denial besides its reason; of what passes there is none.
    pub evidence: Option<Box<Evidence>>,
    /// The key was judged during an outage, by what was last confirmed (`known_for`).
    pub known_for: bool,
    /// The key was not looked up, since its address has sent too many unknown ones.
    pub guess_slowed: bool,
}

/// What support needs to answer whoever was denied.
#[derive(Debug)]
pub enum Evidence {
    /// The key that the store does not know.
    UnknownKey(Digest),
    /// What the key lacks, separated by spaces: of a route that takes one of several scopes, all of them.
    MissingScope(String),
}

#[derive(Debug, Default)]
pub struct Caller {
    pub key: Arc<KeyDocument>,
    /// The business that the request names with an unscoped key, and that its user owns.
    pub named: Option<String>,
    pub plan: Option<String>,
    pub identity_headers: IdentityHeaders,
}

impl Caller {
    /// Whether the two hold the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.key, &other.key) && self.named == other.named && self.plan == other.plan
    }

    /// The business that the request is about: the key's own, or the one that it names.
    pub fn business(&self) -> Option<&str> {
        self.key.business.as_deref().or(self.named.as_deref())
    }
}

/// A cache of a caller's identity header values, each made once. Keyed by a number that `proxy::headers` gives; a linked list,
/// since there are few values per caller, and many callers.
#[derive(Debug, Default)]
pub struct IdentityHeaders(OnceCell<Box<CachedValue>>);

#[derive(Debug)]
struct CachedValue {
    number: usize,
    /// Absent: the header is omitted.
    value: Option<HeaderValue>,
    others: IdentityHeaders,
}

impl IdentityHeaders {
    pub fn value(&self, number: usize, make: impl FnOnce() -> Option<HeaderValue>) -> Option<&HeaderValue> {
        match self.0.get() {
            Some(cached) if cached.number == number => cached.value.as_ref(),
            Some(cached) => cached.others.value(number, make),
            None => {
                let write = || Box::new(CachedValue { number, value: make(), others: Self::default() });
                self.0.get_or_init(write).value.as_ref()
            }
        }
    }
}

/// Most requests are counted in one.
pub type LimitsNow = SmallVec<[LimitNow; 1]>;

/// One window of one limit after this request.
#[derive(Debug, Clone)]
pub struct LimitNow {
    pub limit: Arc<Limit>,
    /// Whether the limit has several windows, so that its policy name includes the window.
    pub one_of_several: bool,
    pub window: Window,
    pub now: WindowNow,
    /// The store's clock (milliseconds since the Unix epoch).
    pub now_ms: u64,
    /// Whether it denies this request.
    pub over: bool,
}

impl LimitNow {
    /// `per-key`, or `per-key-1s` where the limit has several windows.
    pub fn policy_name(&self) -> Cow<'_, str> {
        if self.one_of_several {
            format!("{}-{}", self.limit.name, crate::clock::short_duration(self.window.duration_ms)).into()
        } else {
            self.limit.name.as_str().into()
        }
    }

    /// Whole seconds until the window resets, rounded up.
    pub fn reset_in_seconds(&self) -> u64 {
        self.now.reset_ms.saturating_sub(self.now_ms).div_ceil(1000)
    }

    /// The `t` of `RateLimit`, in whole seconds: where the window denies the request, until it would pass, so that `Retry-After`
    /// never names an earlier time (draft-ietf-httpapi-ratelimit-headers); else until the window resets.
    pub fn effective_in_seconds(&self) -> u64 {
        let wait_ms = self.now.wait_ms.filter(|_| self.over);
        wait_ms.map_or_else(|| self.reset_in_seconds(), |ms| ms.div_ceil(1000).max(1))
    }
}

impl Trail {
    /// Adds the time that one store call took.
    pub fn waited(&mut self, took: Duration) {
        *self.store_took.get_or_insert_default() += took;
    }

    /// The window that the `X-RateLimit-*` headers describe: the one with the longest wait where there is one, else the one
    /// with the least remaining (of equal ones the latest reset). Observed limits are not shown to clients.
    pub fn binding(&self, denied: bool) -> Option<&LimitNow> {
        if denied {
            return self.enforced().max_by_key(|l| l.now.wait_ms.unwrap_or(u64::MAX));
        }
        self.enforced().min_by_key(|l| (l.now.remaining, std::cmp::Reverse(l.now.reset_ms)))
    }

    /// Whether the route is enforced: on observed ones clients get no rate-limit headers.
    pub fn is_enforced(&self) -> bool {
        self.route.as_ref().is_none_or(|route| route.mode == Mode::Enforce)
    }

    /// The windows of enforced limits.
    pub fn enforced(&self) -> impl Iterator<Item = &LimitNow> {
        self.limits.iter().filter(|now| now.limit.mode == Mode::Enforce)
    }

    /// The windows that deny the request.
    pub fn over(&self) -> impl Iterator<Item = &LimitNow> {
        self.limits.iter().filter(|now| now.over)
    }
}
