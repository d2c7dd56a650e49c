//! The access log: one line per request on standard output, JSON with OpenTelemetry's names, or text on a terminal.
//!
//! Lines go through a bounded queue to a thread of their own. Whoever reads standard output too slowly loses lines, which are
//! counted; a request never waits for it. Client text is JSON-escaped, the query is never written, keys are masked.

use std::io::{BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::Serialize;

use super::Finished;
use super::settings::{Format, Settings};
use crate::clock;
use crate::keys::{Formats, mask};

/// Lines that may wait to be written.
const QUEUE: usize = 8192;

/// How long lines gather; a reader sees each within about this.
const GATHER: Duration = Duration::from_millis(5);

/// Shared by all workers. Dropping the last one ends the thread once its queue is written.
pub struct AccessLog {
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    text: bool,
    enabled: bool,
    /// Of 2³² allowed requests so many are logged.
    sample: u64,
    counter: AtomicU64,
}

/// Field names after OpenTelemetry's semantic conventions for HTTP, and our own below `sidegate.`.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    #[serde(rename = "http.request.method")]
    method: &'a str,
    #[serde(rename = "url.path")]
    path: &'a str,
    #[serde(rename = "http.route")]
    route: &'a str,
    #[serde(rename = "http.response.status_code")]
    status: u16,
    #[serde(rename = "client.address")]
    client: String,
    #[serde(rename = "user_agent.original", skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(rename = "sidegate.request_id")]
    request_id: &'a str,
    #[serde(rename = "sidegate.decision")]
    decision: &'a str,
    #[serde(rename = "sidegate.reason", skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// `known_for`: the store was away, and the key was judged by what was last confirmed of it.
    #[serde(rename = "sidegate.basis", skip_serializing_if = "Option::is_none")]
    basis: Option<&'a str>,
    #[serde(rename = "sidegate.key_id", skip_serializing_if = "Option::is_none")]
    key_id: Option<&'a str>,
    #[serde(rename = "sidegate.business", skip_serializing_if = "Option::is_none")]
    business: Option<&'a str>,
    /// The window that was nearest to its limit.
    #[serde(rename = "sidegate.limit", skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    #[serde(rename = "sidegate.limit.remaining", skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    #[serde(rename = "sidegate.duration_ms")]
    took_ms: f64,
    #[serde(rename = "sidegate.gate.duration_ms", skip_serializing_if = "Option::is_none")]
    gate_ms: Option<f64>,
    #[serde(rename = "sidegate.store.duration_ms", skip_serializing_if = "Option::is_none")]
    store_ms: Option<f64>,
    #[serde(rename = "sidegate.upstream.duration_ms", skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
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
        Ok(Self {
            queue,
            dropped: Arc::default(),
            text,
            enabled: settings.level >= tracing::Level::INFO,
            // The product of 2³² and a share is exact enough for a sample.
            sample: (settings.sample.clamp(0.0, 1.0) * 4_294_967_296.0) as u64,
            counter: AtomicU64::new(0),
        })
    }

    /// How many lines were lost because nobody read them in time.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    pub fn write(&self, finished: &Finished<'_>, formats: &Formats) {
        if !self.enabled || (finished.denial.is_none() && !self.is_sampled()) {
            return;
        }
        // A stranger chooses the method too.
        let method = mask(finished.method.as_str(), formats);
        let path = mask(finished.path, formats);
        let user_agent = finished.user_agent.map(|agent| mask(agent, formats));
        let line = Line { method: &method, ..Line::of(finished, &path, user_agent.as_deref()) };
        let bytes = if self.text { line.text() } else { line.json() };
        if self.queue.try_send(bytes).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Evenly spread rather than drawn: of any so many requests the configured share is logged.
    fn is_sampled(&self) -> bool {
        if self.sample > u64::from(u32::MAX) {
            return true;
        }
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        (count.wrapping_mul(self.sample) & u64::from(u32::MAX)) < self.sample
    }
}

/// Writes whole lines, all that are waiting at once. Then it lets some gather before it waits again: a thread that waits is
/// woken by whoever sends, and at a thousand requests a second that costs them more than the line itself (measured: 9–12 µs
/// of 43 µs a request).
fn write(lines: &Receiver<Vec<u8>>) {
    let mut out = BufWriter::with_capacity(64 * 1024, std::io::stdout());
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            // A closed standard output is no reason to stop serving.
            let _ = out.write_all(&line);
            next = lines.try_recv().ok();
        }
        let _ = out.flush();
        std::thread::sleep(GATHER);
    }
}

impl<'a> Line<'a> {
    fn of(finished: &'a Finished<'_>, path: &'a str, user_agent: Option<&'a str>) -> Self {
        let ms = |took: std::time::Duration| (took.as_secs_f64() * 1e6).round() / 1e3;
        let denied = finished.reason() == Some(crate::policy::Reason::RateLimited);
        let binding = finished.trail.binding(denied);
        Self {
            timestamp: clock::rfc3339_ms(clock::now_ms()),
            method: finished.method.as_str(),
            path,
            route: finished.route(),
            status: finished.status,
            client: finished.client.to_string(),
            user_agent,
            request_id: finished.request_id,
            decision: finished.decision().name(),
            reason: finished.reason().map(crate::policy::Reason::name),
            basis: finished.trail.known_for.then_some("known_for"),
            key_id: finished.trail.caller.as_ref().map(|caller| caller.key.id.as_str()),
            business: finished.business(),
            limit: binding.map(crate::gate::LimitNow::policy_name),
            remaining: binding.map(|binding| binding.now.remaining),
            took_ms: ms(finished.took),
            gate_ms: finished.decided_in.map(ms),
            store_ms: finished.trail.store_took.map(ms),
            upstream_ms: finished.upstream_took.map(ms),
        }
    }

    fn json(&self) -> Vec<u8> {
        // Strings, numbers and options of them are always JSON.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// For a person at a terminal. Every client text is printed with its control characters escaped.
    fn text(&self) -> Vec<u8> {
        let mut line = format!(
            "{} {} {} {} {} {:.1}ms",
            self.timestamp,
            self.method,
            self.path.escape_debug(),
            self.status,
            self.reason.unwrap_or(self.decision),
            self.took_ms,
        );
        for (name, value) in [("key", self.key_id), ("business", self.business), ("limit", self.limit.as_deref())] {
            if let Some(value) = value {
                line.push_str(&format!(" {name}={value}"));
            }
        }
        line.push_str(&format!(" client={} id={}\n", self.client, self.request_id));
        line.into_bytes()
    }
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
            client: std::net::IpAddr::from([192, 0, 2, 1]),
            user_agent: Some("quote\" back\\ \u{7}"),
            request_id: "r",
            trail: &trail,
            denial: None,
            status: 200,
            took: Duration::from_micros(1500),
            decided_in: None,
            upstream_took: None,
        };
        let line = Line::of(&finished, path, finished.user_agent).json();
        assert_eq!(line.iter().filter(|b| b.is_ascii_control()).count(), 1, "only the newline at the end");
        let value: serde_json::Value = serde_json::from_slice(&line).expect("one JSON document");
        assert_eq!((&value["url.path"], &value["sidegate.duration_ms"]), (&path.into(), &1.5.into()));
        let text = Line::of(&finished, path, None).text();
        assert_eq!(text.iter().filter(|b| b.is_ascii_control()).count(), 1);
    }
}
