//! Request ids: a random UUID each, or the client's own where a trusted proxy passes one on. Spans use the same random source.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::fmt::Hyphenated;
use uuid::{Builder, Uuid};

use crate::observe::Span;
use crate::observe::random::Random;
use crate::observe::values::Values;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of one request: a UUID, as `X-Request-Id` carries it to the upstream and back. 36 bytes inline, since to copy them
/// costs less than to count references to shared ones.
#[derive(Debug, Clone)]
pub struct RequestId([u8; Hyphenated::LENGTH]);

impl RequestId {
    pub fn as_str(&self) -> &str {
        // A UUID's digits and hyphens always are text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One worker's source of ids, and of other header values that are made for each request.
#[derive(Debug, Default)]
pub struct RequestIds {
    random: Random,
    pub values: Values,
}

impl RequestIds {
    /// The client's own id if it is a UUID and comes through a trusted proxy; else a new one, of version 4 (RFC 9562 §5.4).
    pub fn of(&self, headers: &HeaderMap, trusted: bool) -> RequestId {
        let theirs = if trusted { headers.get(X_REQUEST_ID) } else { None };
        let theirs = theirs.and_then(|id| Uuid::try_parse_ascii(id.as_bytes()).ok());
        let id = theirs.unwrap_or_else(|| Builder::from_random_bytes(self.random.take()).into_uuid());
        let mut text = [0; Hyphenated::LENGTH];
        id.hyphenated().encode_lower(&mut text);
        RequestId(text)
    }

    /// As the answer carries it.
    pub fn value(&self, id: &RequestId) -> HeaderValue {
        self.values.of(&id.0).expect("hexadecimal digits and hyphens are a header's value")
    }

    /// The gate's span in the trace that the request names, or in a new one.
    pub fn span(&self, headers: &HeaderMap) -> Span {
        Span::begin(headers, &self.random)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_id_is_another_and_a_trusted_one_is_kept() {
        let ids = RequestIds::default();
        let mut headers = HeaderMap::new();
        let id = |headers: &HeaderMap, trusted| ids.of(headers, trusted).as_str().to_owned();
        let made: HashSet<String> = (0..1000).map(|_| id(&headers, true)).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 4)));
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("6A5122A8-a101-4c26-9a8d-819eb0e0054c"));
        assert_eq!(id(&headers, true), "6a5122a8-a101-4c26-9a8d-819eb0e0054c");
        assert_ne!(id(&headers, false), "6a5122a8-a101-4c26-9a8d-819eb0e0054c");
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("<script>"));
        assert_ne!(id(&headers, true), "<script>");
    }
}
