//! Settings of the key-management API.

use std::sync::Arc;

use crate::limit::Windows;
use crate::policy::pattern::{Pattern, Segment};
use crate::proxy::settings::Target;

#[derive(Debug, Clone)]
pub struct Settings {
    /// As configured, without the base path.
    pub path: String,
    /// Literals alone, the base path included.
    pub pattern: Pattern,
    pub session: SessionEndpoint,
    /// Who may manage the keys of a business.
    pub roles: Vec<String>,
    /// Whether a user may have keys that are bound to no business.
    pub unscoped: bool,
    /// How many keys one user may create.
    pub create_rate: Arc<Windows>,
}

/// The session endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEndpoint {
    pub target: Target,
    /// Host and port as in its address.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl Settings {
    /// Where it is served, in the form that requests are matched in.
    pub fn served_at(&self) -> String {
        let literals = self.pattern.segments.iter().map(|segment| match segment {
            Segment::Literal(text) | Segment::Parameter(text) => format!("/{text}"),
        });
        literals.collect()
    }
}
