//! Ensures a single prober per node after a refusal, which repeats the kind of call that failed until it succeeds.
//!
//! `redis/probe` makes the calls. Nothing here is on the path of a request that is answered.

use std::sync::Arc;

use super::StoreError;
use super::health::StoreHealth;

/// Held by the prober of a node, of which there is one at a time. Dropping it ends the node's refusal, also if the prober ended
/// with its worker: the next refused call records it again.
#[derive(Debug)]
pub struct ProbeGuard {
    health: Arc<StoreHealth>,
    node: String,
}

impl ProbeGuard {
    /// Records a failed call at this node. `None`: it is being probed already.
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
