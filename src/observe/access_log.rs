//! The access log: one line per request on standard output, JSON with OpenTelemetry's names, or text on a terminal.
//!
//! `lines` writes them, so that a request never waits. Client text is JSON-escaped, the query is never written, keys are masked.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::json_line::{JsonLine, name};
use super::lines::{Lines, Log};
use super::settings::{Format, Settings};
use super::{Decision, Finished};
use crate::clock;
use crate::gate::LimitNow;
use crate::keys::{Formats, mask};
use crate::policy::{Reason, percent};

/// How often a path is percent-decoded in search of keys.
const DECODINGS: usize = 3;

/// Shared by all workers.
pub struct AccessLog {
    lines: Lines,
    text: bool,
    enabled: AtomicBool,
    /// How many of 2³² allowed requests are logged.
    sample: AtomicU64,
    counter: AtomicU64,
}

impl AccessLog {
    /// Starts the writing thread.
    pub fn start(settings: &Settings) -> std::io::Result<Self> {
        let lines = Lines::start(Log::Access)?;
        let text = match settings.format {
            Format::Json => false,
            Format::Text => true,
            Format::Auto => std::io::stdout().is_terminal(),
        };
        let (enabled, sample) = (AtomicBool::default(), AtomicU64::default());
        let log = Self { lines, text, enabled, sample, counter: AtomicU64::new(0) };
        log.reconfigure(settings);
        Ok(log)
    }

    /// Changes level and sample; the format is fixed.
    pub fn reconfigure(&self, settings: &Settings) {
        self.enabled.store(settings.level >= tracing::Level::INFO, Ordering::Relaxed);
        // Exact enough for sampling.
        let sample = (settings.sample.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
        self.sample.store(sample, Ordering::Relaxed);
    }

    /// How many lines were dropped because standard output was read too slowly.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.lines.dropped()
    }

    pub fn write(&self, finished: &Finished<'_>, formats: &Formats) {
        let allowed = finished.decision() == Decision::Allowed;
        if !self.enabled.load(Ordering::Relaxed) || (allowed && !self.is_sampled()) {
            return;
        }
        // The method is client text, too.
        let method = mask(finished.method.as_str(), formats);
        let path = masked_path(finished.path, formats);
        let user_agent = finished.user_agent.map(|agent| mask(agent, formats));
        let written = if self.text { text } else { json };
        self.lines.push(&written(finished, &method, &path, user_agent.as_deref()));
    }

    /// Waits until all earlier lines are on standard output; to be called before the process exits, which ends the thread.
    pub fn flush(&self) {
        self.lines.flush();
    }

    /// Evenly spread rather than random: of any sequence of requests the configured share is logged.
    fn is_sampled(&self) -> bool {
        let sample = self.sample.load(Ordering::Relaxed);
        if sample > u64::from(u32::MAX) {
            return true;
        }
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        (count.wrapping_mul(sample) & u64::from(u32::MAX)) < sample
    }
}

/// The path with its keys masked. A percent-encoded key, even twice, is as readable as a plain one: a path that holds such a key
/// is written decoded.
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

/// Field names follow OpenTelemetry's semantic conventions for HTTP; our own begin with `sidegate.`. Methods are tokens, and ids
/// of keys and businesses have a restricted alphabet (`keys::tenant::is_id`), so that they need no escaping.
fn json(finished: &Finished<'_>, method: &str, path: &str, user_agent: Option<&str>) -> Vec<u8> {
    let trail = finished.trail;
    let span = finished.span.digits();
    let mut line = JsonLine::at(&clock::rfc3339_ms(clock::ms_at(finished.ended)));
    line.plain(name!("http.request.method"), method.as_bytes());
    line.text(name!("url.path"), path);
    line.text(name!("http.route"), finished.route());
    line.number(name!("http.response.status_code"), finished.status.into());
    line.plain(name!("client.address"), finished.client.as_bytes());
    line.text_if(name!("user_agent.original"), user_agent);
    line.plain(name!("sidegate.request_id"), finished.request_id);
    // As OpenTelemetry names them in logs of other formats than its own.
    line.plain(name!("trace_id"), span.trace_id);
    line.plain(name!("span_id"), span.span_id);
    line.plain(name!("trace_flags"), span.flags);
    line.plain_if(name!("sidegate.parent_span_id"), span.parent_id);
    line.plain(name!("sidegate.decision"), finished.decision().name().as_bytes());
    line.plain_if(name!("sidegate.reason"), finished.reason().map(|reason| reason.name().as_bytes()));
    line.plain_if(name!("sidegate.store_error"), finished.store_error().map(str::as_bytes));
    if trail.known_for {
        // Judged during an outage, by what the store last confirmed.
        line.plain(name!("sidegate.basis"), b"known_for");
    }
    line.plain_if(name!("sidegate.key_id"), finished.key_id().map(str::as_bytes));
    line.plain_if(name!("sidegate.business"), finished.business().map(str::as_bytes));
    if let Some(binding) = finished.binding() {
        // The window nearest to its limit.
        line.text(name!("sidegate.limit"), &binding.policy_name());
        line.number(name!("sidegate.limit.remaining"), binding.now.remaining);
    }
    line.plain_if(name!("sidegate.limit.window"), finished.refused_by().as_deref().map(str::as_bytes));
    if let Some(seconds) = finished.retry_after() {
        line.number(name!("sidegate.retry_after"), seconds);
    }
    line.text_if(name!("sidegate.missing_scope"), finished.missing_scope());
    line.plain_if(name!("sidegate.key_digest"), finished.unknown_key().as_deref().map(str::as_bytes));
    line.milliseconds(name!("sidegate.duration_ms"), finished.took);
    line.milliseconds_if(name!("sidegate.gate.duration_ms"), finished.decided_in);
    line.milliseconds_if(name!("sidegate.store.duration_ms"), trail.store_took);
    line.milliseconds_if(name!("sidegate.upstream.duration_ms"), finished.upstream_took);
    line.end()
}

/// For a terminal. Client text is written with its control characters escaped.
fn text(finished: &Finished<'_>, method: &str, path: &str, _: Option<&str>) -> Vec<u8> {
    let observed = if finished.decision() == Decision::Observed { "observed: " } else { "" };
    let mut line = format!(
        "{} {} {} {} {observed}{} {:.1}ms",
        clock::rfc3339_ms(clock::ms_at(finished.ended)).escape_ascii(),
        method,
        path.escape_debug(),
        finished.status,
        finished.reason().map_or(finished.decision().name(), Reason::name),
        finished.took.as_secs_f64() * 1e3,
    );
    let limit = finished.binding().map(LimitNow::policy_name);
    let (window, digest) = (finished.refused_by(), finished.unknown_key());
    let retry_after = finished.retry_after().map(|seconds| seconds.to_string());
    for (name, value) in [
        ("key", finished.key_id()),
        ("business", finished.business()),
        ("limit", limit.as_deref()),
        ("window", window.as_deref()),
        ("retry_after", retry_after.as_deref()),
        ("missing_scope", finished.missing_scope()),
        ("key_digest", digest.as_deref()),
        ("store", finished.store_error()),
    ] {
        if let Some(value) = value {
            line.push_str(&format!(" {name}={value}"));
        }
    }
    let (id, span) = (finished.request_id.escape_ascii(), finished.span.digits());
    let (trace, span) = (span.trace_id.escape_ascii(), span.span_id.escape_ascii());
    line.push_str(&format!(" client={} id={id} trace={trace} span={span}\n", finished.client));
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use http::Method;

    use super::super::Span;
    use super::super::random::Random;
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
            request_id: b"r",
            span: &Span::begin(&http::HeaderMap::new(), &Random::default()),
            trail: &trail,
            denial: None,
            status: 200,
            ended: Instant::now(),
            took: Duration::from_micros(1500),
            decided_in: None,
            upstream_took: None,
        };
        let line = json(&finished, "GET", path, finished.user_agent);
        assert_eq!(line.iter().filter(|b| b.is_ascii_control()).count(), 1, "only the newline at the end");
        let value: serde_json::Value = serde_json::from_slice(&line).expect("one JSON document");
        assert_eq!((&value["url.path"], &value["sidegate.duration_ms"]), (&path.into(), &1.5.into()));
        let text = text(&finished, "GET", path, None);
        let span = finished.span.digits();
        let (trace, span) = (span.trace_id.escape_ascii(), span.span_id.escape_ascii());
        assert!(text.ends_with(format!(" id=r trace={trace} span={span}\n").as_bytes()));
        assert_eq!(text.iter().filter(|b| b.is_ascii_control()).count(), 1);
    }
}
