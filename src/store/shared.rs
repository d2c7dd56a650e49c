//! The state of either store that all workers of a process share.

use std::sync::Arc;
use std::time::Duration;

use super::calls::Calls;
use super::denial_cache::DenialCache;
use super::health::StoreHealth;
use super::usage::ledger::Ledger;

/// The store's state that all workers of a process share.
#[derive(Debug, Clone)]
pub struct Shared {
    pub health: Arc<StoreHealth>,
    pub calls: Arc<Calls>,
    pub denial_cache: Arc<DenialCache>,
    pub ledger: Arc<Ledger>,
}

impl Shared {
    /// `deadline`: how long a probe may take.
    pub fn new(deadline: Duration) -> prometheus::Result<Self> {
        let health = Arc::new(StoreHealth::new().probed_within(deadline));
        let calls = Arc::new(Calls::new()?);
        let ledger = Arc::new(Ledger::new(calls.clone()));
        Ok(Self { health, calls, denial_cache: Arc::default(), ledger })
    }
}
