//! `outage`: what happens to keys and limits during an outage of the shared store. The gate implements the former, `fallback` the
//! latter.

use std::time::Duration;

/// Keys during an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysOutage {
    /// No key passes.
    Deny,
    /// Keys that the store confirmed within this time pass, as they were confirmed.
    KnownFor(Duration),
}

/// Limits during an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsOutage {
    /// Each process counts for itself; `share` is its part of each limit (1/4 for each of four processes), at least one request
    /// per window.
    Local { share: Option<(u64, u64)> },
    /// Requests pass uncounted.
    Allow,
    /// Requests with a limit are denied.
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
