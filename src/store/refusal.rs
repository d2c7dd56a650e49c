//! That a store answers and refuses, as log and readiness say it, and that somebody probes until what failed is served again.
//!
//! Part of `StoreHealth`; how to probe is left to `redis/served`. Nothing here is on the way of a request that is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::StoreError;
use super::health::StoreHealth;
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

/// Whoever holds this probes until what failed is served. There is one at a time; with it a refusal ends: a prober that went with
/// its worker leaves none behind, and the next refused call says it again.
#[derive(Debug)]
pub struct Probing(Arc<StoreHealth>);

impl Refusal {
    pub fn stands(&self) -> bool {
        self.stands.load(Ordering::Relaxed)
    }

    /// The error's first word, as the server means it for programs (`OOM`): the rest may name users and keys.
    pub fn code(&self) -> Option<String> {
        self.code.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

impl Probing {
    /// A call has failed so. `None`: somebody probes already.
    #[must_use]
    pub fn begin(health: &Arc<StoreHealth>, error: &StoreError) -> Option<Self> {
        let refusal = &health.refusal;
        if let StoreError::Refused(text) = error {
            refusal.tell(text);
            let code = text.split_ascii_whitespace().next().unwrap_or_default();
            refusal.set(Some(code.trim_end_matches(':').to_owned()));
        }
        (!refusal.probing.swap(true, Ordering::Relaxed)).then(|| Self(health.clone()))
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.refusal.set(None);
        self.0.refusal.probing.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stands_until_its_one_prober_ends() {
        let health = Arc::new(StoreHealth::new());
        let begin = |text: &str| Probing::begin(&health, &StoreError::Refused(text.to_owned()));
        let told = || (health.refusal.stands(), health.refusal.code());
        let prober = Probing::begin(&health, &StoreError::Deadline);
        assert!(prober.is_some());
        assert_eq!(told(), (false, None), "what does not answer refuses nothing");
        assert!(begin("OOM command not allowed").is_none());
        assert!(begin("MISCONF errors writing").is_none());
        assert_eq!(told(), (true, Some("MISCONF".to_owned())));
        drop(prober);
        assert_eq!(told(), (false, None));
        assert!(begin("OOM command not allowed").is_some());
    }
}
