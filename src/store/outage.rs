//! `outage`: what keys and limits do while the shared store is away. `fallback` does the latter, the gate knows the former.

use std::time::Duration;

/// What keys do while the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysOutage {
    /// No key passes.
    Deny,
    /// Keys that the store confirmed within this time pass on what was confirmed then.
    KnownFor(Duration),
}

/// What limits do while the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsOutage {
    /// Each process counts for itself; `share` is the part of each limit that it may give (1/4 where four share one),
    /// at least one request a window.
    Local { share: Option<(u64, u64)> },
    /// Nothing is counted and every question passes.
    Allow,
    /// Whatever has a limit is refused.
    Deny,
}

impl LimitsOutage {
    pub const NAMES: [&str; 3] = ["local", "allow", "deny"];

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}
