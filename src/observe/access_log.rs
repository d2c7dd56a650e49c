//! The access log: one line per request on standard output, JSON with OpenTelemetry's names, or text on a terminal.
//!
//! Lines go through a bounded queue to a thread of their own. Whoever reads standard output too slowly loses lines, which are
//! counted; a request never waits for it. Client text is JSON-escaped, the query is never written, keys are masked.

use std::borrow::Cow;
use std::io::{BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::Finished;
use super::json_line::JsonLine;
use super::settings::{Format, Settings};
use crate::clock;
use crate::gate::LimitNow;
use crate::keys::{Formats, mask};
use crate::policy::{Reason, percent};

/// Lines that may wait to be written.
const QUEUE: usize = 8192;

/// How long lines gather; a reader sees each within about this.
const GATHER: Duration = Duration::from_millis(5);

/// How long the last lines may take to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// How deep a key may be percent-encoded in a path and still be found there.
const DECODINGS: usize = 3;

/// What waits in the queue.
enum Entry {
    Line(Vec<u8>),
    /// Tells when all lines before it are written.
    Flush(SyncSender<()>),
}

/// Shared by all workers. Dropping the last one ends the thread once its queue is written.
pub struct AccessLog {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
    text: bool,
    enabled: AtomicBool,
    /// Of 2³² allowed requests so many are logged.
    sample: AtomicU64,
    counter: AtomicU64,
}

impl AccessLog {
    /// Starts the writing thread.
    pub fn start(settings: &Settings) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&lines))?;
        let text = match settings.format {
            Format::Json => false,
            Format::Text => true,
            Format::Auto => std::io::stdout().is_terminal(),
        };
        let (enabled, sample) = (AtomicBool::default(), AtomicU64::default());
        let log = Self { queue, dropped: Arc::default(), text, enabled, sample, counter: AtomicU64::new(0) };
        log.follow(settings);
        Ok(log)
    }

    /// Level and sample from now on; the format stays.
    pub fn follow(&self, settings: &Settings) {
        self.enabled.store(settings.level >= tracing::Level::INFO, Ordering::Relaxed);
        // The product of 2³² and a share is exact enough for a sample.
        let sample = (settings.sample.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
        self.sample.store(sample, Ordering::Relaxed);
    }

    /// How many lines were lost because nobody read them in time.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    pub fn write(&self, finished: &Finished<'_>, formats: &Formats) {
        if !self.enabled.load(Ordering::Relaxed) || (finished.denial.is_none() && !self.is_sampled()) {
            return;
        }
        // A stranger chooses the method too.
        let method = mask(finished.method.as_str(), formats);
        let path = masked_path(finished.path, formats);
        let user_agent = finished.user_agent.map(|agent| mask(agent, formats));
        let written = if self.text { text } else { json };
        if self.queue.try_send(Entry::Line(written(finished, &method, &path, user_agent.as_deref()))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was written before is on standard output; before the process exits, which ends the thread as well.
    /// Nobody is waited for who does not read.
    pub fn flush(&self) {
        let (tell, told) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(tell)).is_ok() {
            let _ = told.recv_timeout(FLUSH);
        }
    }

    /// Evenly spread rather than drawn: of any so many requests the configured share is logged.
    fn is_sampled(&self) -> bool {
        let sample = self.sample.load(Ordering::Relaxed);
        if sample > u64::from(u32::MAX) {
            return true;
        }
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        (count.wrapping_mul(sample) & u64::from(u32::MAX)) < sample
    }
}

/// The path with its keys masked. One that is percent-encoded, even twice, can be read as well as a plain one: a path that holds
/// such a key is written decoded.
fn masked_path<'p>(path: &'p str, formats: &Formats) -> Cow<'p, str> {
    let mut decoded = Cow::Borrowed(path);
    for _ in 0..DECODINGS {
        if !decoded.contains('%') {
            break;
        }
        decoded = String::from_utf8_lossy(&percent::decode(&decoded, false)).into_owned().into();
        if let Cow::Owned(masked) = mask(&decoded, formats) {
            return Cow::Owned(masked);
        }
    }
    mask(path, formats)
}

/// Writes whole lines, all that are waiting at once. Then it lets some gather before it waits again: a thread that waits is
/// woken by whoever sends, and at a thousand requests a second that costs them more than the line itself (measured: 9–12 µs
/// of 43 µs a request).
fn write(entries: &Receiver<Entry>) {
    let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout());
    while let Ok(entry) = entries.recv() {
        let mut next = Some(entry);
        while let Some(entry) = next {
            // A closed standard output is no reason to stop serving.
            match entry {
                Entry::Line(line) => drop(out.write_all(&line)),
                Entry::Flush(tell) => {
                    let _ = out.flush();
                    let _ = tell.try_send(());
                }
            }
            next = entries.try_recv().ok();
        }
        let _ = out.flush();
        std::thread::sleep(GATHER);
    }
}

/// Field names after OpenTelemetry's semantic conventions for HTTP, and our own below `sidegate.`.
fn json(finished: &Finished<'_>, method: &str, path: &str, user_agent: Option<&str>) -> Vec<u8> {
    let trail = finished.trail;
    let mut line = JsonLine::new("timestamp", &clock::rfc3339_ms(clock::now_ms()));
    line.text("http.request.method", method);
    line.text("url.path", path);
    line.text("http.route", finished.route());
    line.number("http.response.status_code", finished.status.into());
    line.text("client.address", finished.client);
    line.text_if("user_agent.original", user_agent);
    line.text("sidegate.request_id", finished.request_id);
    line.text("sidegate.decision", finished.decision().name());
    line.text_if("sidegate.reason", finished.reason().map(Reason::name));
    if trail.known_for {
        // The store was away, and the key was judged by what was last confirmed of it.
        line.text("sidegate.basis", "known_for");
    }
    line.text_if("sidegate.key_id", finished.key_id());
    line.text_if("sidegate.business", finished.business());
    if let Some(binding) = finished.binding() {
        // The window that was nearest to its limit.
        line.text("sidegate.limit", &binding.policy_name());
        line.number("sidegate.limit.remaining", binding.now.remaining);
    }
    line.milliseconds("sidegate.duration_ms", finished.took);
    line.milliseconds_if("sidegate.gate.duration_ms", finished.decided_in);
    line.milliseconds_if("sidegate.store.duration_ms", trail.store_took);
    line.milliseconds_if("sidegate.upstream.duration_ms", finished.upstream_took);
    line.end()
}

/// For a person at a terminal. Every client text is printed with its control characters escaped.
fn text(finished: &Finished<'_>, method: &str, path: &str, _: Option<&str>) -> Vec<u8> {
    let mut line = format!(
        "{} {} {} {} {} {:.1}ms",
        clock::rfc3339_ms(clock::now_ms()),
        method,
        path.escape_debug(),
        finished.status,
        finished.reason().map_or(finished.decision().name(), Reason::name),
        finished.took.as_secs_f64() * 1e3,
    );
    let limit = finished.binding().map(LimitNow::policy_name);
    for (name, value) in [("key", finished.key_id()), ("business", finished.business()), ("limit", limit.as_deref())] {
        if let Some(value) = value {
            line.push_str(&format!(" {name}={value}"));
        }
    }
    line.push_str(&format!(" client={} id={}\n", finished.client, finished.request_id));
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::gate::Trail;

    #[test]
    fn whatever_a_client_sends_stays_one_json_line() {
        let trail = Trail::default();
        let path = "/a\r\n{\"x\":1}\u{1b}[31m";
        let finished = Finished {
            method: &Method::GET,
            path,
            client: "192.0.2.1",
            user_agent: Some("quote\" back\\ \u{7}"),
            request_id: "r",
            trail: &trail,
            denial: None,
            status: 200,
            took: Duration::from_micros(1500),
            decided_in: None,
            upstream_took: None,
        };
        let line = json(&finished, "GET", path, finished.user_agent);
        assert_eq!(line.iter().filter(|b| b.is_ascii_control()).count(), 1, "only the newline at the end");
        let value: serde_json::Value = serde_json::from_slice(&line).expect("one JSON document");
        assert_eq!((&value["url.path"], &value["sidegate.duration_ms"]), (&path.into(), &1.5.into()));
        let text = text(&finished, "GET", path, None);
        assert_eq!(text.iter().filter(|b| b.is_ascii_control()).count(), 1);
    }
}
