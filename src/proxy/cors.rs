//! What a browser's script may read (Fetch, "CORS protocol"): the gate's own answers, for the origins that are configured, and
//! the gate's headers on answers that the upstream lets it read. The upstream's own headers stand as they came: whether its
//! answers are for another origin's scripts is not the gate's to say.

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap, HeaderValue, ORIGIN, VARY};

use super::settings::Cors;

/// What a script may read besides the few headers that every script may.
const EXPOSED: &str = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit, RateLimit-Policy, \
                       Retry-After, X-Request-Id";

/// On an answer of the gate's own, to a request from `origin`.
pub fn on_own(cors: Option<&Cors>, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(cors) = cors else { return };
    let allowed = match cors {
        Cors::AnyOrigin => Some(HeaderValue::from_static("*")),
        Cors::Origins(origins) => {
            // Whether or not this one is allowed: a cache must not give one's answer to another.
            headers.append(VARY, HeaderValue::from(ORIGIN));
            origin.filter(|origin| origins.contains(origin)).cloned()
        }
    };
    if let Some(allowed) = allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

/// On the upstream's answer: a line of its own, which adds to what the upstream exposes.
pub fn on_forwarded(cors: Option<&Cors>, headers: &mut HeaderMap) {
    if cors.is_some() && headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}
