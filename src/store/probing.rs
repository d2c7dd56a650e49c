//! The one prober after a refusal: somebody asks for the like of what failed until it is served again.
//!
//! How to ask is left to `redis/served`. Nothing here is on the way of a request that is answered.

use std::sync::Arc;

use super::StoreError;
use super::health::StoreHealth;

/// Whoever holds this probes until what failed is served. There is one at a time; with it a refusal ends: a prober that went with
/// its worker leaves none behind, and the next refused call says it again.
#[derive(Debug)]
pub struct Probing(Arc<StoreHealth>);

impl Probing {
    /// A call has failed so. `None`: somebody probes already.
    #[must_use]
    pub fn begin(health: &Arc<StoreHealth>, error: &StoreError) -> Option<Self> {
        health.refusal.begin(error).then(|| Self(health.clone()))
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.refusal.end();
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
