//! Bounds the memory of reviews: how many at once, how many bytes, and how much they take when parsed.
//!
//! Anyone who reaches the port can send anything, and parsed JSON takes many times its bytes. So a budget is acquired before a
//! body is read, and a body's parsed size is estimated before it is parsed. `serving` parses and answers without an await in
//! between, so that one review is parsed at a time.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// The most that an API server sends (the size of an object in etcd, twice: the old one and the new).
const LARGEST_REVIEW: u32 = 3 * 1024 * 1024;
/// The announced sizes of all bodies together: hundreds of usual pods, or four of the largest.
const BODIES: usize = 4 * LARGEST_REVIEW as usize;
/// Reviews at once, including those that wait for the budget.
const AT_ONCE: usize = 200;
/// How long a body may take: an API server sends a review that is already complete.
const ARRIVAL: Duration = Duration::from_secs(3);

/// The estimated size of one parsed review: eighteen thousand maps, which is a hundred containers with as many variables each. An
/// answer needs it up to four times.
const LARGEST_PARSED: usize = 12 * 1024 * 1024;
/// A map that is not empty: a node of `serde_json`'s B-tree holds eleven entries.
const MAP: usize = 640;
/// Another element of a list or a map: itself, its key or text, and spare capacity.
const ELEMENT: usize = 144;

/// Why a review is refused: a status and its body.
pub type Refused = (StatusCode, String);

/// The budget that all reviews share.
pub struct ReviewBudget {
    reviews: Semaphore,
    bytes: Semaphore,
}

/// A complete body that may be parsed. Dropping it releases its budget.
pub struct Body<'r> {
    pub bytes: Vec<u8>,
    _budget: (SemaphorePermit<'r>, SemaphorePermit<'r>),
}

/// The part of a review that is parsed first.
#[derive(Deserialize)]
struct ReviewHead {
    request: RequestHead,
}

#[derive(Deserialize)]
struct RequestHead {
    #[serde(default)]
    namespace: String,
}

impl ReviewBudget {
    pub fn new() -> Self {
        Self { reviews: Semaphore::new(AT_ONCE), bytes: Semaphore::new(BODIES) }
    }

    /// Waits for the budget and then for the body. The caller bounds the time.
    pub async fn read(&self, body: Incoming) -> Result<Body<'_>, Refused> {
        let full = |_| (StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once".to_owned());
        let review = self.reviews.try_acquire().map_err(full)?;
        let announced = body.size_hint().upper().unwrap_or(LARGEST_REVIEW.into());
        let Some(announced) = u32::try_from(announced).ok().filter(|length| *length <= LARGEST_REVIEW) else {
            let _ = timeout(ARRIVAL, discard(body)).await;
            return Err(too_large("it has more than 3 MiB"));
        };
        let bytes = self.bytes.acquire_many(announced).await;
        let bytes = bytes.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "no more reviews are read".to_owned()))?;
        let late = |_| (StatusCode::REQUEST_TIMEOUT, "the review did not come whole".to_owned());
        let read = timeout(ARRIVAL, collect(body, announced)).await.map_err(late)??;
        if parsed_size(&read) > LARGEST_PARSED {
            return Err(too_large("it holds too many maps and elements"));
        }
        Ok(Body { bytes: read, _budget: (review, bytes) })
    }
}

impl Body<'_> {
    /// The namespace that it names; empty if it names none, or is no review.
    pub fn namespace(&self) -> String {
        serde_json::from_slice::<ReviewHead>(&self.bytes).map(|asked| asked.request.namespace).unwrap_or_default()
    }
}

/// Collects a body in one buffer of the announced size: joining pieces would need twice the memory.
async fn collect(body: Incoming, announced: u32) -> Result<Vec<u8>, Refused> {
    let mut body = Limited::new(body, announced as usize);
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => too_large("it has more than 3 MiB"),
            None => (StatusCode::BAD_REQUEST, format!("the review cannot be read: {error}")),
        })?;
        if let Ok(data) = frame.into_data() {
            if read.is_empty() {
                read.reserve_exact(announced as usize);
            }
            read.extend_from_slice(&data);
        }
    }
    read.shrink_to_fit();
    Ok(read)
}

/// Reads and discards a body: if the connection closed while a client still sends, it would not see the answer.
async fn discard(body: Incoming) {
    let mut body = Limited::new(body, 2 * LARGEST_REVIEW as usize);
    while let Some(Ok(_)) = body.frame().await {}
}

fn too_large(why: &str) -> Refused {
    (StatusCode::PAYLOAD_TOO_LARGE, format!("the review cannot be read: {why}"))
}

/// An upper estimate of the parsed size in bytes. Texts are counted as if they were JSON, escaped or not, since some annotations
/// hold JSON of their own.
fn parsed_size(json: &[u8]) -> usize {
    let of = |at: usize, byte: u8| match byte {
        b'{' if json.get(at + 1) == Some(&b'}') => ELEMENT,
        b'{' => MAP,
        b'[' | b',' => ELEMENT,
        // `\u007b` is a brace; letters are not usually escaped.
        b'\\' if json[at..].starts_with(br"\u007") => MAP,
        b'\\' if json[at..].starts_with(br"\u00") => ELEMENT,
        _ => 0,
    };
    json.iter().enumerate().map(|(at, byte)| of(at, *byte)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_much_weighs_much() {
        for (json, expected) in [
            (r#"{"a":"b"}"#, MAP),
            ("{}", ELEMENT),
            ("[0,0,0]", 3 * ELEMENT),
            (r#"{"a":{"b":[]},"c":1}"#, 2 * MAP + 2 * ELEMENT),
            (r#""{\"a\":{\"b\":1}}""#, 2 * MAP),
            (r#""\u007b\"a\":1\u007D""#, 2 * MAP),
            (r#""1\u002c2""#, ELEMENT),
        ] {
            assert_eq!(parsed_size(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn a_pod_as_large_as_any_is_light_enough() {
        let variable = r#"{"name":"A","valueFrom":{"configMapKeyRef":{"name":"b","key":"c"}}}"#;
        let managed = r#""k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:valueFrom":{".":{},"f:configMapKeyRef":{}}}"#;
        let many = |one: &str| vec![one; 2000].join(",");
        assert!(parsed_size(format!("[{},{}]", many(variable), many(managed)).as_bytes()) <= LARGEST_PARSED);
    }
}
