//! What became known of a request on its way through the gate: for the headers of its answer, its log line, its metrics.
//!
//! Filled as the questions are answered, so that a denial at any of them still leaves what was known before.

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
    /// The key whose document was found, whether or not it stands.
    pub caller: Option<Rc<Caller>>,
    /// The windows that this request was counted in, once the store has answered.
    pub limits: LimitsNow,
    /// How long the store's answers were waited for; absent where it was not asked.
    pub store_took: Option<Duration>,
    /// When it last answered; absent where it was not asked.
    pub store_answered: Option<Instant>,
    /// The store's clock when it answered (milliseconds since the Unix epoch); absent where it was not asked.
    pub store_ms: Option<u64>,
    /// Why it would have been denied, where denials are only observed.
    pub observed: Option<Reason>,
    /// What is to be told of a denial besides its reason; of what passes there is none.
    pub evidence: Option<Box<Evidence>>,
    /// The store was away, and the key was judged by what was last confirmed of it.
    pub known_for: bool,
    /// Unknown keys keep coming from its address, so that its key was not looked up.
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
    /// Whether the two are one, as far as is known of them.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.key, &other.key) && self.named == other.named && self.plan == other.plan
    }

    /// The business that the request is about: the key's own, or the one that it names.
    pub fn business(&self) -> Option<&str> {
        self.key.business.as_deref().or(self.named.as_deref())
    }
}

/// What services are told of a caller, as headers' values by the teller's numbers for them: each made once, since most
/// callers come again. A chain as long as what is told, which is little, while callers are many.
#[derive(Debug, Default)]
pub struct IdentityHeaders(OnceCell<Box<Written>>);

#[derive(Debug)]
struct Written {
    number: usize,
    /// Absent: there is nothing to tell.
    value: Option<HeaderValue>,
    others: IdentityHeaders,
}

impl IdentityHeaders {
    pub fn value(&self, number: usize, make: impl FnOnce() -> Option<HeaderValue>) -> Option<&HeaderValue> {
        match self.0.get() {
            Some(written) if written.number == number => written.value.as_ref(),
            Some(written) => written.others.value(number, make),
            None => {
                let write = || Box::new(Written { number, value: make(), others: Self::default() });
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
    /// Whether the limit has several windows, so that the window belongs to its name.
    pub one_of_several: bool,
    pub window: Window,
    pub now: WindowNow,
    /// The store's clock (milliseconds since the Unix epoch).
    pub now_ms: u64,
    /// Whether it had no room for this request.
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

    /// Whole seconds that a client is asked to wait for: where the window had no room, until this request passes, so that `Retry-After`
    /// never names an earlier time (draft-ietf-httpapi-ratelimit-headers); else until it resets.
    pub fn effective_in_seconds(&self) -> u64 {
        let wait_ms = self.now.wait_ms.filter(|_| self.over);
        wait_ms.map_or_else(|| self.reset_in_seconds(), |ms| ms.div_ceil(1000).max(1))
    }
}

impl Trail {
    /// One more answer of the store was waited for.
    pub fn waited(&mut self, took: Duration) {
        *self.store_took.get_or_insert_default() += took;
    }

    /// The window that the `X-RateLimit-*` headers describe: the one with the longest wait where there is one, else the one
    /// with the least remaining (of equal ones the latest reset). A limit that only observes is not the client's to see.
    pub fn binding(&self, denied: bool) -> Option<&LimitNow> {
        if denied {
            return self.enforced().max_by_key(|l| l.now.wait_ms.unwrap_or(u64::MAX));
        }
        self.enforced().min_by_key(|l| (l.now.remaining, std::cmp::Reverse(l.now.reset_ms)))
    }

    /// Whether the route that was found is enforced: on others clients see nothing of a gate.
    pub fn is_enforced(&self) -> bool {
        self.route.as_ref().is_none_or(|route| route.mode == Mode::Enforce)
    }

    /// The windows that clients are told of.
    pub fn enforced(&self) -> impl Iterator<Item = &LimitNow> {
        self.limits.iter().filter(|now| now.limit.mode == Mode::Enforce)
    }

    /// The windows that had no room for the request.
    pub fn over(&self) -> impl Iterator<Item = &LimitNow> {
        self.limits.iter().filter(|now| now.over)
    }
}
