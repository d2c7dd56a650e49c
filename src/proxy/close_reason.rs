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
    /// What a client is answered that has no answer yet.
    pub fn before_an_answer(self) -> Denial {
        match self {
            Self::Denied(denial) => denial,
            Self::TooOld => Denial::TooOld,
            // Nothing falls silent before it has begun to speak.
            Self::Idle => Denial::UpstreamTimeout,
            Self::ShuttingDown => Denial::ShuttingDown,
        }
    }

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
