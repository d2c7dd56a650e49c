//! That a store answers and refuses, as log and readiness say it.
//!
//! Part of `StoreHealth`; that somebody probes until what failed is served again is `probing`'s. Nothing here is on the way of a
//! request that is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::StoreError;
use crate::log_throttle::LogThrottle;

/// One per process.
#[derive(Debug, Default)]
pub struct Refusal {
    probing: AtomicBool,
    // Mirrors `code`, so that the scrape of a store that is well takes no lock.
    stands: AtomicBool,
    code: Mutex<Option<String>>,
    said: LogThrottle,
}

impl Refusal {
    pub fn stands(&self) -> bool {
        self.stands.load(Ordering::Relaxed)
    }

    /// The error's first word, as the server means it for programs (`OOM`): the rest may name users and keys.
    pub fn code(&self) -> Option<String> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A call has failed so. Whether nobody probes yet, so that who failed is to.
    pub(super) fn begin(&self, error: &StoreError) -> bool {
        if let StoreError::Refused(text) = error {
            self.tell(text);
            let code = text.split_ascii_whitespace().next().unwrap_or_default();
            self.set(Some(code.trim_end_matches(':').to_owned()));
        }
        !self.probing.swap(true, Ordering::Relaxed)
    }

    /// What failed is served again, or nobody probes any more.
    pub(super) fn end(&self) {
        self.set(None);
        self.probing.store(false, Ordering::Relaxed);
    }

    fn set(&self, code: Option<String>) {
        self.stands.store(code.is_some(), Ordering::Relaxed);
        *self.code.lock().unwrap_or_else(PoisonError::into_inner) = code;
    }

    /// The server's own words, once a minute and cause.
    fn tell(&self, text: &str) {
        // Redis ends a script's error with where in the script it arose, which is no other cause.
        let cause = text.split(" script: ").next().unwrap_or_default();
        if self.said.is_news(cause, Instant::now()) {
            tracing::warn!(
                error = text,
                "store: it answers and refuses; requests that need it are treated as `store.outage` says"
            );
        }
    }
}
