//! All that is known of the request that is asked about: what `words` and `document` show.

use std::sync::Arc;

use super::candidates::Candidates;
use super::outcome::Outcome;
use super::request::ExplainedRequest;
use crate::config::Settings;
use crate::gate::observed;
use crate::policy::{Mode, Route};

/// All that is known of the request.
pub struct Explanation<'s> {
    pub settings: &'s Settings,
    pub explained: ExplainedRequest,
    /// The route that it means, with its cost.
    pub route: Option<Arc<Route>>,
    pub candidates: Candidates,
    pub outcome: Outcome,
    /// What holds beyond the verdict.
    pub notes: Vec<String>,
}

impl Explanation<'_> {
    /// Whether a denial would be enforced.
    pub fn mode(&self) -> Mode {
        observed::mode(&self.settings.policy, self.route.as_deref(), self.explained.method(), self.explained.path())
    }
}
