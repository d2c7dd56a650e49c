//! Header names in the configuration: valid ones, and none that belong to the connection or that the gate writes itself.

use http::HeaderName;

use super::reader::Reader;
use crate::config::field_path::FieldPath;

/// What a header in the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Read from the request.
    Read,
    /// Set from the key's record on the request to the upstream.
    Identity,
    /// Set to a fixed value there, after everything else.
    Fixed,
    /// Set on an answer of the gate's own.
    Answer,
}

/// Framing and connection handling (RFC 9110 §7.6.1, RFC 9112 §6): a value of ours would contradict the real ones.
const CONNECTION: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the gate itself says on the way to the upstream.
const FORWARDING: [&str; 7] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-sidegate-would-deny", "expect"];

/// What the upstream gets from every request: where it is not set here, as the gate says it, or as it came.
const TRACING: [&str; 3] = ["x-request-id", "traceparent", "tracestate"];

/// Whether the upstream gets such a header also where it is not set here.
pub fn is_always_set(name: &HeaderName) -> bool {
    TRACING.contains(&name.as_str())
}

/// Reads a header's name and refuses what cannot be meant.
pub fn name(reader: &mut Reader<'_>, path: &FieldPath, text: &str, used: Use) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        reader.fail(path, format_args!("`{text}` is no name of a header; write one such as `X-Business-Id`"));
        return None;
    };
    let of_the_gate = match used {
        Use::Identity => FORWARDING.contains(&name.as_str()),
        Use::Read | Use::Fixed | Use::Answer => false,
    };
    // A service that is found by its name may need another Host than the client's.
    let is_host_to_upstream = used == Use::Fixed && name == http::header::HOST;
    if CONNECTION.contains(&name.as_str()) && !is_host_to_upstream || of_the_gate {
        reader.fail(path, format_args!("`{text}` belongs to the connection or to the gate; write another header"));
        return None;
    }
    Some(name)
}

/// The same for a map of headers, where two spellings of one name are a mistake too.
pub fn new_name(
    reader: &mut Reader<'_>,
    path: &FieldPath,
    text: &str,
    used: Use,
    others: impl IntoIterator<Item = HeaderName>,
) -> Option<HeaderName> {
    let name = name(reader, path, text, used)?;
    if others.into_iter().any(|other| other == name) {
        reader.fail(path, format_args!("`{text}` is set twice (case does not matter); keep one of them"));
        return None;
    }
    Some(name)
}
