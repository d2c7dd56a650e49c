//! Why the gate ends what stays open. `open` ends it and `respond` words it, for clients that can be told.

use crate::gate::Denial;

/// Why the gate ends what is open.
#[derive(Debug)]
pub enum CloseReason {
    /// Its key no longer stands.
    Denied(Denial),
    TooOld,
    /// Nothing passed for too long.
    Idle,
    /// Its worker ends.
    ShuttingDown,
}

impl CloseReason {
    /// As the log names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.reason().name(),
            Self::TooOld => "max_age",
            Self::Idle => "stream_idle",
            Self::ShuttingDown => "shutting_down",
        }
    }
}
