//! What a report shows, in words or as a document.

use super::tally::Tally;

/// What is shown.
pub struct Report {
    pub tally: Tally,
    pub top: usize,
    /// The share of allowed requests that are logged, where the configuration is known.
    pub sample: Option<f64>,
}
