//! The gate's own JSON lines, as `observe::access_log` writes them. Lines of other releases are read as well: members that are
//! not known are passed over, and those that a later one leaves out are empty.

use std::borrow::Cow;

use serde::Deserialize;

use crate::clock;

/// One request as its gate saw it. What it did not know of the request is empty.
#[derive(Debug, Deserialize)]
pub struct Line<'l> {
    #[serde(borrow)]
    timestamp: Cow<'l, str>,
    #[serde(borrow, rename = "http.request.method")]
    pub method: Cow<'l, str>,
    #[serde(borrow, rename = "url.path")]
    pub path: Cow<'l, str>,
    #[serde(borrow, rename = "http.route", default)]
    pub route: Cow<'l, str>,
    #[serde(rename = "http.response.status_code", default)]
    pub status: u16,
    #[serde(borrow, rename = "client.address", default)]
    pub client: Cow<'l, str>,
    /// `allowed`, `observed`, `denied`, `failed`.
    #[serde(borrow, rename = "sidegate.decision")]
    pub decision: Cow<'l, str>,
    #[serde(borrow, rename = "sidegate.reason", default)]
    pub reason: Cow<'l, str>,
    #[serde(borrow, rename = "sidegate.key_id", default)]
    pub key_id: Cow<'l, str>,
    #[serde(borrow, rename = "sidegate.business", default)]
    pub business: Cow<'l, str>,
    /// The nearest limit, with its window where it has several: `per-key-1m`.
    #[serde(borrow, rename = "sidegate.limit", default)]
    pub limit: Cow<'l, str>,
    #[serde(rename = "sidegate.limit.remaining", default)]
    pub remaining: Option<u64>,
    #[serde(borrow, rename = "sidegate.request_id", default)]
    pub request_id: Cow<'l, str>,
    #[serde(borrow, rename = "user_agent.original", default)]
    pub agent: Cow<'l, str>,
    #[serde(borrow, rename = "sidegate.store_error", default)]
    pub store_error: Cow<'l, str>,
    #[serde(borrow, rename = "trace_id", default)]
    pub trace_id: Cow<'l, str>,
    #[serde(rename = "sidegate.duration_ms", default)]
    pub took_ms: Option<f64>,
    #[serde(rename = "sidegate.store.duration_ms", default)]
    pub store_ms: Option<f64>,
    #[serde(rename = "sidegate.upstream.duration_ms", default)]
    pub upstream_ms: Option<f64>,
}

impl<'l> Line<'l> {
    /// Collectors put their own words before a line (`kubectl logs --prefix`, CRI), so that it begins with its brace.
    pub fn read(line: &'l [u8]) -> Option<Self> {
        let begins = line.iter().position(|&byte| byte == b'{')?;
        let line: Self = serde_json::from_slice(&line[begins..]).ok()?;
        (!line.method.is_empty() && !line.path.contains('?')).then_some(line)
    }

    /// Milliseconds since the Unix epoch.
    pub fn at_ms(&self) -> Option<u64> {
        clock::parse_rfc3339(&self.timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_with_what_it_says_and_without_what_it_does_not() {
        let whole = r#"pod/a {"timestamp":"2026-03-23T14:30:00.007Z","http.request.method":"GET","url.path":"/a\"b","http.route":"/a/**",
            "http.response.status_code":401,"client.address":"192.0.2.1","sidegate.decision":"denied","sidegate.reason":"missing_key","new":[1]}"#;
        let line = Line::read(whole.as_bytes()).expect("it is one");
        assert_eq!((&*line.path, &*line.reason, &*line.key_id, line.status), ("/a\"b", "missing_key", "", 401));
        assert_eq!(line.at_ms(), Some(1_774_276_200_007));
        for other in ["", "{}", r#"{"level":"INFO","message":"listening"}"#, "{\"timestamp\":1}", "[]", "GET /a"] {
            assert!(Line::read(other.as_bytes()).is_none(), "{other}");
        }
    }
}
