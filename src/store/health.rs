//! Whether the store answers, as readiness and `sidegate_store_up` tell it. One per process, shared by all workers.

use std::sync::atomic::{AtomicBool, Ordering};

/// Down until the first success; then down from any lost connection or failed call until a script call succeeds again.
#[derive(Debug, Default)]
pub struct StoreHealth {
    up: AtomicBool,
    eviction_warned: AtomicBool,
}

impl StoreHealth {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// A script call has succeeded.
    pub fn answered(&self) {
        // Written only on a change: this is on the way of every call, and the workers share the line.
        if !self.is_up() {
            self.up.store(true, Ordering::Relaxed);
        }
    }

    /// A call has failed, or a connection was lost.
    pub fn failed(&self) {
        self.up.store(false, Ordering::Relaxed);
    }

    /// Whether nobody has warned yet that the store may evict what it should keep.
    pub(super) fn first_eviction_warning(&self) -> bool {
        !self.eviction_warned.swap(true, Ordering::Relaxed)
    }
}
