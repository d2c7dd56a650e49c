//! The process's own log, on standard error: what it listens on, what changed, what an operator should know.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

use super::settings::{Format, Settings};

/// Changes the level of the log that is installed, whatever type its format gives it.
static LEVEL: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Installs the log once per process; a second call changes nothing.
pub fn init(settings: &Settings) {
    let is_terminal = std::io::stderr().is_terminal();
    let text = match settings.format {
        Format::Json => false,
        Format::Text => true,
        Format::Auto => is_terminal,
    };
    // no-color.org
    let coloured = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter(settings));
    // A line that cannot be written would be complained of on standard error too, with a macro that panics.
    let builder =
        builder.with_writer(std::io::stderr).with_target(false).log_internal_errors(false).with_ansi(coloured);
    // An error here means that a log is installed already.
    if text {
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init().map(|()| keep(handle));
    } else {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init().map(|()| keep(handle));
    }
}

/// The level from now on; the format stays.
pub fn follow(settings: &Settings) {
    if let Some(change) = LEVEL.get() {
        change(filter(settings));
    }
}

fn keep<S>(handle: Handle<EnvFilter, S>)
where
    Handle<EnvFilter, S>: Send + Sync + 'static,
{
    // The only error is that the log is gone, and then there is nobody to tell.
    let _ = LEVEL.set(Box::new(move |filter| drop(handle.reload(filter))));
}

/// Our own lines follow the configured level, those of libraries are kept from `warn` on, since at trace level they print the
/// bytes of requests.
fn filter(settings: &Settings) -> EnvFilter {
    EnvFilter::new(format!("warn,sidegate={}", settings.level))
}
