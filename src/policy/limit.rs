//! A limit as the configuration writes it; the arithmetic is `limit`'s.

use std::sync::Arc;

use super::mode::Mode;
use crate::limit::{Algorithm, Windows};

/// A limit as configured; what a key, a business or a plan overrides is its windows.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    pub name: String,
    pub by: By,
    pub algorithm: Algorithm,
    pub windows: Arc<Windows>,
    pub mode: Mode,
}

/// Whose requests a limit counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Key,
    Business,
    User,
    /// The client address; of an IPv6 address its /64.
    Ip,
    Global,
}

impl By {
    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Business => "business",
            Self::User => "user",
            Self::Ip => "ip",
            Self::Global => "global",
        }
    }

    /// Whether it needs an authenticated caller, so that a public route cannot have it.
    pub fn needs_key(self) -> bool {
        match self {
            Self::Key | Self::Business | Self::User => true,
            Self::Ip | Self::Global => false,
        }
    }
}
