//! Why the gate ends an open request. `open` ends it, `respond` words it for clients that can be sent a status.

use crate::gate::Denial;

/// Why the gate ends an open request.
#[derive(Debug)]
pub enum CloseReason {
    /// Its key was refused when it was rechecked.
    Denied(Denial),
    /// Open for longer than `streams.max_age`.
    TooOld,
    /// No frame passed for `stream_idle`.
    Idle,
    /// Draining has reached its deadline.
    ShuttingDown,
}

impl CloseReason {
    /// The denial for a request that has no answer yet.
    pub fn before_an_answer(self) -> Denial {
        match self {
            Self::Denied(denial) => denial,
            Self::TooOld => Denial::TooOld,
            // Never reached: the idle limit applies only once an answer has begun.
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
