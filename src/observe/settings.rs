//! Settings of the logs.

#[derive(Debug, Clone)]
pub struct Settings {
    /// As in `tracing`: error, warn, info, debug, trace. The access log is written from info on.
    pub level: tracing::Level,
    pub format: Format,
    /// The share of allowed requests that are logged, 0 to 1; denials and failures always are.
    pub sample: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
    /// Text on a terminal, else JSON.
    Auto,
}
