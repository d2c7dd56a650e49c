//! A review from its first byte until it is answered: how many at once, how many bytes of them, and how much they may become.
//!
//! Whoever reaches the port may send what he likes, and what JSON becomes in memory is many times its bytes. So room is taken
//! before a body is read, and a body is weighed before it is parsed. That parsing and answering are one step without a wait
//! between is `serving`'s part: of all reviews, one is parsed at a time.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// The most that an API server sends (the size of an object in etcd, twice: the old one and the new).
const LARGEST_REVIEW: u32 = 3 * 1024 * 1024;
/// Of all bodies together, as they were announced: hundreds of pods as they are, four of the largest.
const BODIES: usize = 4 * LARGEST_REVIEW as usize;
/// Reviews under way, those that wait for room among them.
const AT_ONCE: usize = 200;
/// An API server has a review whole when it begins to send it.
const ARRIVAL: Duration = Duration::from_secs(3);

/// What one review may take once it is parsed, by `weight`: eighteen thousand maps, which is a hundred containers with as many
/// variables each. An answer needs it up to four times.
const HEAVIEST: usize = 12 * 1024 * 1024;
/// A map with anything in it: a node of `serde_json`'s tree has room for eleven.
const MAP: usize = 640;
/// One more in a list or a map: itself, its key or text, and what is kept free.
const ELEMENT: usize = 144;

/// Why there is nothing to answer: a status, and what its body says.
pub type Refused = (StatusCode, String);

/// What all reviews share.
pub struct ReviewBudget {
    reviews: Semaphore,
    bytes: Semaphore,
}

/// A body that came whole and may be parsed. Its room is free again when it is dropped.
pub struct Body<'r> {
    pub bytes: Vec<u8>,
    _budget: (SemaphorePermit<'r>, SemaphorePermit<'r>),
}

/// Of a review what is to be known before it is parsed.
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

    /// Waits for room and then for the body. The caller bounds it all.
    pub async fn read(&self, body: Incoming) -> Result<Body<'_>, Refused> {
        let full = |_| (StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once".to_owned());
        let review = self.reviews.try_acquire().map_err(full)?;
        let announced = body.size_hint().upper().unwrap_or(LARGEST_REVIEW.into());
        let Some(announced) = u32::try_from(announced).ok().filter(|length| *length <= LARGEST_REVIEW) else {
            let _ = timeout(ARRIVAL, thrown_away(body)).await;
            return Err(too_large("it has more than 3 MiB"));
        };
        let bytes = self.bytes.acquire_many(announced).await;
        let bytes = bytes.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "no more reviews are read".to_owned()))?;
        let late = |_| (StatusCode::REQUEST_TIMEOUT, "the review did not come whole".to_owned());
        let read = timeout(ARRIVAL, whole(body, announced)).await.map_err(late)??;
        if weight(&read) > HEAVIEST {
            return Err(too_large("it holds too many maps and elements"));
        }
        Ok(Body { bytes: read, _budget: (review, bytes) })
    }
}

impl Body<'_> {
    /// The namespace that it names; empty where it names none, or is no review.
    pub fn namespace(&self) -> String {
        serde_json::from_slice::<ReviewHead>(&self.bytes).map(|asked| asked.request.namespace).unwrap_or_default()
    }
}

/// In one piece, made as large as was announced: pieces put together would need twice the room.
async fn whole(body: Incoming, announced: u32) -> Result<Vec<u8>, Refused> {
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

/// Who is still sending when the connection closes never sees the answer.
async fn thrown_away(body: Incoming) {
    let mut body = Limited::new(body, 2 * LARGEST_REVIEW as usize);
    while let Some(Ok(_)) = body.frame().await {}
}

fn too_large(why: &str) -> Refused {
    (StatusCode::PAYLOAD_TOO_LARGE, format!("the review cannot be read: {why}"))
}

/// About how many bytes it becomes; more rather than less. What stands in texts counts as well, escaped or not, since some
/// annotations hold JSON of their own.
fn weight(json: &[u8]) -> usize {
    let of = |at: usize, byte: u8| match byte {
        b'{' if json.get(at + 1) == Some(&b'}') => ELEMENT,
        b'{' => MAP,
        b'[' | b',' => ELEMENT,
        // `\u007b` is a brace; nobody writes letters so.
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
            assert_eq!(weight(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn a_pod_as_large_as_any_is_light_enough() {
        let variable = r#"{"name":"A","valueFrom":{"configMapKeyRef":{"name":"b","key":"c"}}}"#;
        let managed = r#""k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:valueFrom":{".":{},"f:configMapKeyRef":{}}}"#;
        let many = |one: &str| vec![one; 2000].join(",");
        assert!(weight(format!("[{},{}]", many(variable), many(managed)).as_bytes()) <= HEAVIEST);
    }
}
