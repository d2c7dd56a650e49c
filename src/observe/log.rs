//! The process's own log, on standard error: what it listens on, what changed, what an operator should know.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use super::settings::{Format, Settings};

/// The filter of the log that is installed.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Installs the log once per process; a second call changes nothing.
pub fn init(settings: &Settings) {
    let terminal = std::io::stderr().is_terminal();
    let text = match settings.format {
        Format::Json => false,
        Format::Text => true,
        Format::Auto => terminal,
    };
    let (filter, handle) = reload::Layer::new(filter(settings));
    let log = tracing_subscriber::registry().with(filter);
    // An error of writing a line would be reported on standard error too, with a macro that panics.
    let mut lines = fmt::layer().with_writer(std::io::stderr).with_target(false).log_internal_errors(false);
    // On a terminal the default is colours, unless NO_COLOR is set.
    if !terminal {
        lines.set_ansi(false);
    }
    let installed =
        if text { log.with(lines).try_init() } else { log.with(lines.json().flatten_event(true)).try_init() };
    // An error means that a log is installed already.
    if installed.is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Changes the level; the format is fixed.
pub fn reconfigure(settings: &Settings) {
    if let Some(installed) = FILTER.get() {
        // The only error is that the log was dropped.
        let _ = installed.reload(filter(settings));
    }
}

/// The configured level applies to our own lines; of libraries only `warn` and above are kept, since at trace level they print
/// the bytes of requests.
fn filter(settings: &Settings) -> Targets {
    Targets::new().with_default(LevelFilter::WARN).with_target("sidegate", settings.level)
}
