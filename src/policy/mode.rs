//! Whether denials are enforced, or only observed.

/// What becomes of a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The client gets it.
    Enforce,
    /// It is counted and logged, and the request passes.
    Observe,
}

impl Mode {
    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}
