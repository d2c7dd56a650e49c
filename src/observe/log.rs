//! The process's own log, on standard error: what it listens on, what changed, what an operator should know.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::settings::{Format, Settings};

/// Installs the log once per process; a second call changes nothing. Our own lines follow the configured level, those of
/// libraries are kept from `warn` on, since at trace level they print the bytes of requests.
pub fn init(settings: &Settings) {
    let filter = EnvFilter::new(format!("warn,sidegate={}", settings.level));
    let text = match settings.format {
        Format::Json => false,
        Format::Text => true,
        Format::Auto => std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // An error here means that a log is installed already.
    let _ = if text { builder.try_init() } else { builder.json().flatten_event(true).try_init() };
}
