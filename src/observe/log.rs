//! The process's own log, on standard error: what it listens on, what changed, what an operator should know.
//!
//! Workers write it as well, so that its lines are buffered like the access log's: a reader that stalls blocks nobody.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::thread;

use tracing::error;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use super::lines::{self, Lines};
use super::settings::{Format, Settings};

/// The filter of the log that is installed.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// The lines of the log that is installed.
static LINES: OnceLock<Arc<Lines>> = OnceLock::new();

/// Dropped when the process ends: until then what is queued is written, unless nobody reads it.
#[must_use]
#[derive(Debug)]
pub struct Installed(());

impl Drop for Installed {
    fn drop(&mut self) {
        flush();
    }
}

/// Installs the log once per process; a second call changes nothing.
pub fn init(settings: &Settings) -> io::Result<Installed> {
    if LINES.get().is_some() {
        return Ok(Installed(()));
    }
    let queue = Arc::new(Lines::start(lines::Log::Process)?);
    let terminal = io::stderr().is_terminal();
    let text = match settings.format {
        Format::Json => false,
        Format::Text => true,
        Format::Auto => terminal,
    };
    let (filter, handle) = reload::Layer::new(filter(settings));
    let log = tracing_subscriber::registry().with(filter);
    let appender = queue.clone();
    let append = move || Append(appender.clone());
    // An error of writing a line would be reported on standard error too, with a macro that panics.
    let mut lines = fmt::layer().with_writer(append).with_target(false).log_internal_errors(false);
    // On a terminal the default is colours, unless NO_COLOR is set.
    if !terminal {
        lines.set_ansi(false);
    }
    let installed =
        if text { log.with(lines).try_init() } else { log.with(lines.json().flatten_event(true)).try_init() };
    // An error means that a log is installed already.
    if installed.is_ok() {
        let _ = FILTER.set(handle);
        let _ = LINES.set(queue);
        panic::set_hook(Box::new(panicked));
    }
    Ok(Installed(()))
}

/// How many of its lines were dropped because the buffer was full, or lost because they could not be written.
pub fn dropped() -> Arc<AtomicU64> {
    LINES.get().map(|lines| lines.dropped()).unwrap_or_default()
}

/// Waits until what was logged before is written, if somebody reads it.
fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// One line at a time, as the formatter writes it.
struct Append(Arc<Lines>);

impl io::Write for Append {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A panic is a line like any other: the standard library's own hook waits for whoever reads standard error.
fn panicked(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or_default();
    let at = panic.location().map(ToString::to_string);
    let text = panic.payload().downcast_ref::<&str>().copied();
    let message = text.or_else(|| Some(panic.payload().downcast_ref::<String>()?.as_str())).unwrap_or_default();
    // With RUST_BACKTRACE alone.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    error!(thread = name, at, backtrace, "panicked: {message}");
    // Nothing else is done in this process, or on a worker's thread something is.
    if cfg!(panic = "abort") || name == "main" {
        flush();
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
