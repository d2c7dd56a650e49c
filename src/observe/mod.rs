//! What operators see: metrics, the access log, traces, the process's own log.
//!
//! One `Finished` per request goes to the metrics and the access log. No client text becomes a label, and what looks like a key
//! is masked before it is written.

pub mod access_log;
pub mod counts;
mod durations;
pub mod finished;
mod json_line;
mod labels;
mod lines;
pub mod log;
pub mod metrics;
pub mod random;
pub mod settings;
pub mod trace;
pub mod values;

pub use access_log::AccessLog;
pub use counts::Counts;
pub use finished::{Decision, Finished};
pub use metrics::Metrics;
pub use trace::Span;
