//! The one prober of a node after a refusal: somebody asks for the like of what failed until it is served again.
//!
//! How to ask is left to `redis/served`. Nothing here is on the way of a request that is answered.

use std::sync::Arc;

use super::StoreError;
use super::health::StoreHealth;

/// Whoever holds this probes a node until what failed is served. There is one at a time for each; with it the node's refusal ends:
/// a prober that went with its worker leaves none behind, and the next refused call says it again.
#[derive(Debug)]
pub struct ProbeGuard {
    health: Arc<StoreHealth>,
    node: String,
}

impl ProbeGuard {
    /// A call has failed so at this node. `None`: somebody probes it already.
    #[must_use]
    pub fn begin(health: &Arc<StoreHealth>, node: &str, error: &StoreError) -> Option<Self> {
        let begins = health.refusal.begin(node, error);
        begins.then(|| Self { health: health.clone(), node: node.to_owned() })
    }
}

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        self.health.refusal.end(&self.node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stands_until_its_one_prober_ends() {
        let health = Arc::new(StoreHealth::new());
        let begin = |text: &str| ProbeGuard::begin(&health, "a", &StoreError::Refused(text.to_owned()));
        let told = || (health.refusal.stands(), health.refusal.code());
        let prober = ProbeGuard::begin(&health, "a", &StoreError::Deadline);
        assert!(prober.is_some());
        assert_eq!(told(), (false, None), "what does not answer refuses nothing");
        assert!(begin("OOM command not allowed").is_none());
        assert!(begin("MISCONF errors writing").is_none());
        assert!(ProbeGuard::begin(&health, "a", &StoreError::Deadline).is_none());
        assert_eq!(told(), (true, Some("MISCONF".to_owned())));
        drop(prober);
        assert_eq!(told(), (false, None));
        assert!(begin("OOM command not allowed").is_some());
    }

    #[test]
    fn each_node_refuses_for_itself() {
        let health = Arc::new(StoreHealth::new());
        let oom = StoreError::Refused("OOM command not allowed".to_owned());
        let told = || (health.is_up(), health.is_good_enough());
        ["a", "b"].iter().for_each(|node| health.connected(node));
        assert_eq!(told(), (true, true));
        let a = ProbeGuard::begin(&health, "a", &oom);
        assert_eq!(told(), (false, true), "what the other counts goes on");
        let b = ProbeGuard::begin(&health, "b", &oom);
        assert!(a.is_some() && b.is_some());
        assert_eq!(told(), (false, false), "nobody counts");
        drop(b);
        assert_eq!(told(), (false, true));
        drop(a);
        assert_eq!(told(), (true, true));
    }
}
