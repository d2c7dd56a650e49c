//! Request ids: a random UUID each, or the client's own where a trusted proxy passes one on.

use std::cell::RefCell;

use http::HeaderMap;
use uuid::{Builder, Uuid};

use super::headers::X_REQUEST_ID;

/// Bytes that are asked of the system at a time: a call for each id would cost half a microsecond (measured).
const DRAWN: usize = 4096;
const OF_ONE: usize = 16;

/// One worker's source of ids.
#[derive(Debug)]
pub struct RequestIds {
    /// Random bytes, and how many of them are used up.
    drawn: RefCell<(Box<[u8; DRAWN]>, usize)>,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self { drawn: RefCell::new((Box::new([0; DRAWN]), DRAWN)) }
    }
}

impl RequestIds {
    /// The client's own id if it is a UUID and comes through a trusted proxy; else a new one.
    pub fn of(&self, headers: &HeaderMap, trusted: bool) -> String {
        let theirs = headers.get(X_REQUEST_ID).filter(|_| trusted);
        let theirs = theirs.and_then(|id| Uuid::try_parse_ascii(id.as_bytes()).ok());
        theirs.unwrap_or_else(|| self.new_id()).hyphenated().to_string()
    }

    /// Version 4 (RFC 9562 §5.4).
    fn new_id(&self) -> Uuid {
        let (bytes, used) = &mut *self.drawn.borrow_mut();
        if *used + OF_ONE > DRAWN {
            if getrandom::fill(&mut bytes[..]).is_err() {
                // Ids tell requests apart, they guard nothing: uuid's own source, or its panic, is as good.
                return Uuid::new_v4();
            }
            *used = 0;
        }
        let mut id = [0; OF_ONE];
        id.copy_from_slice(&bytes[*used..*used + OF_ONE]);
        *used += OF_ONE;
        Builder::from_random_bytes(id).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::HeaderValue;

    use super::*;

    #[test]
    fn every_id_is_another_and_a_trusted_one_is_kept() {
        let ids = RequestIds::default();
        let mut headers = HeaderMap::new();
        let made: HashSet<String> = (0..1000).map(|_| ids.of(&headers, true)).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 4)));
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("6A5122A8-a101-4c26-9a8d-819eb0e0054c"));
        assert_eq!(ids.of(&headers, true), "6a5122a8-a101-4c26-9a8d-819eb0e0054c");
        assert_ne!(ids.of(&headers, false), "6a5122a8-a101-4c26-9a8d-819eb0e0054c");
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("<script>"));
        assert_ne!(ids.of(&headers, true), "<script>");
    }
}
