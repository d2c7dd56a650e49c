//! What a browser's script may read (Fetch, "CORS protocol"): local replies, for the configured origins, and the gate's headers
//! on answers that the upstream lets it read. The upstream's own CORS headers are passed on unchanged: whether its answers are
//! for another origin's scripts is for the upstream to say.

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap, HeaderValue, ORIGIN, VARY};

use super::settings::Cors;

/// The gate's headers, which no script may read unless they are exposed.
const EXPOSED: &str = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit, RateLimit-Policy, \
                       Retry-After, X-Request-Id";

/// Sets the headers of a local reply to a request from `origin`.
pub fn on_local_reply(cors: Option<&Cors>, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let Some(cors) = cors else { return };
    let allowed = match cors {
        Cors::AnyOrigin => Some(HeaderValue::from_static("*")),
        Cors::Origins(origins) => {
            // Whether or not this origin is allowed: a cache must not give one origin's answer to another.
            headers.append(VARY, HeaderValue::from(ORIGIN));
            origin.filter(|origin| origins.contains(origin)).cloned()
        }
    };
    if let Some(allowed) = allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

/// Extends the upstream's answer: a line of its own adds to what the upstream exposes.
pub fn on_forwarded(cors: Option<&Cors>, headers: &mut HeaderMap) {
    if cors.is_some() && headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}
