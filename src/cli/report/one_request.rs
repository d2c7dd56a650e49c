//! `--request-id`: the lines of one request, and what they mean.

use std::fmt::{self, Display, Write as _};

use serde_json::{Value, json};

use super::advice;
use crate::cli::keys::words::printable;
use crate::cli::logs::own::Line;
use crate::cli::style::{BOLD, GREEN, RED, Style, YELLOW};
use crate::clock;

/// Lines that are kept: a client may send its own id again and again.
const MOST_LINES: usize = 20;

/// The lines that were found, shown as they are read: none outlives its log.
pub struct OneRequest<'a> {
    id: &'a str,
    style: Option<Style>,
    pub shown: Vec<String>,
}

impl<'a> OneRequest<'a> {
    /// With a style in words, without one as JSON documents, one a line.
    pub fn new(id: &'a str, style: Option<Style>) -> Self {
        Self { id, style, shown: Vec::new() }
    }

    pub fn note(&mut self, line: Option<Line<'_>>) {
        let Some(line) = line.filter(|line| line.request_id == self.id) else { return };
        if self.shown.len() < MOST_LINES {
            self.shown.push(match self.style {
                Some(style) => words(&line, style),
                None => format!("{}\n", document(&line)),
            });
        }
    }
}

impl Display for OneRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.iter().enumerate().try_for_each(|(index, shown)| {
            let gap = if index > 0 && self.style.is_some() { "\n" } else { "" };
            write!(f, "{gap}{shown}")
        })
    }
}

fn words(line: &Line<'_>, style: Style) -> String {
    let mut text = String::new();
    let asked = printable(&format!("{} {}", line.method, line.path));
    let _ = writeln!(text, "{} from {} at {}\n", style.paint(BOLD, &asked), printable(&line.client), at(line));
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<10}{value}");
        }
    };
    fact("route", &printable(&line.route));
    let (code, meaning) = match &*line.decision {
        "allowed" => (GREEN, "allowed".to_owned()),
        "observed" => (YELLOW, format!("passed, but enforcement refuses it: {}", line.reason)),
        "denied" => (RED, format!("refused: {}", line.reason)),
        _ => (RED, format!("{}: {}", line.decision, line.reason)),
    };
    fact("answer", &style.paint(code, &printable(&format!("{}, {meaning}", line.status))));
    if !line.reason.is_empty() {
        fact("advice", advice::for_reason(&line.reason));
    }
    fact("store", &printable(&line.store_error));
    fact("key", &printable(&line.key_id));
    fact("business", &printable(&line.business));
    if !line.limit.is_empty() {
        let left = line.remaining.map_or_else(String::new, |left| format!(", of which {left} is left"));
        fact("limit", &printable(&format!("{}{left}", line.limit)));
    }
    fact("agent", &printable(&line.agent));
    if let Some(took) = line.took_ms {
        let parts = [("the store", line.store_ms), ("the service", line.upstream_ms)];
        let parts: Vec<_> = parts.iter().filter_map(|(who, ms)| Some(format!("{} ms of {who}", (*ms)?))).collect();
        let parts = if parts.is_empty() { String::new() } else { format!(", of them {}", parts.join(" and ")) };
        fact("took", &format!("{took} ms{parts}"));
    }
    fact("trace", &printable(&line.trace_id));
    text
}

fn document(line: &Line<'_>) -> Value {
    let told = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "request_id": line.request_id,
        "at": line.at_ms().map(clock::rfc3339),
        "method": line.method,
        "path": line.path,
        "route": told(&line.route),
        "client": told(&line.client),
        "agent": told(&line.agent),
        "status": line.status,
        "decision": line.decision,
        "reason": told(&line.reason),
        "advice": told(&line.reason).map(|reason| advice::for_reason(&reason)),
        "store_error": told(&line.store_error),
        "key_id": told(&line.key_id),
        "business": told(&line.business),
        "limit": told(&line.limit),
        "remaining": line.remaining,
        "duration_ms": line.took_ms,
        "trace_id": told(&line.trace_id),
    })
}

fn at(line: &Line<'_>) -> String {
    line.at_ms().map_or_else(|| "a time that cannot be read".to_owned(), clock::rfc3339)
}
