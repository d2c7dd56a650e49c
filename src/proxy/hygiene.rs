//! Which header fields are not forwarded: hop-by-hop ones, those that only the gate may set, and whatever a lenient backend
//! would take for one of these. CGI, WSGI, Rack and others read every character of a name that is no letter or digit as `_`.

use http::header::{CONNECTION, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::policy::{BusinessSource, Policy};

const X_FORWARDED: &str = "x-forwarded-";

/// Fields from which some frameworks take another method or path than the one that the gate decided on.
const OVERRIDES: [&str; 6] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];

/// Fields in which proxies pass the client's address, besides `X-Forwarded-*` and `Forwarded`.
const ADDRESSES: [&str; 3] = ["cf-connecting-ip", "true-client-ip", "x-real-ip"];

/// CGI passes it on as `HTTP_PROXY`, the variable that names a proxy for the program's own requests (httpoxy, CVE-2016-5385).
const PROXY: &str = "proxy";

/// Fields of authentication, tracing, routing and framing, besides `X-Forwarded-*`, addresses and overrides: no trailer or
/// misspelt field may pass for one of them.
const REQUEST_HEADERS: [&str; 19] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    PROXY,
    "proxy-authorization",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-api-key",
    "x-request-id",
];

/// Nearly every request has some to remove, and few have many.
type Names = SmallVec<[HeaderName; 4]>;

/// Removes the fields that `is_unwanted`, and those that `Connection` names (RFC 9110 §7.6.1), in one pass.
pub fn remove_all(headers: &mut HeaderMap, mut is_unwanted: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
    let mut unwanted = Names::new();
    for (name, value) in headers.iter() {
        // The usual value names no field.
        if *name == CONNECTION && value != "keep-alive" {
            unwanted.extend(named_by_connection(value));
        }
        if is_unwanted(name, value) {
            unwanted.push(name.clone());
        }
    }
    for name in unwanted {
        headers.remove(name);
    }
}

/// The fields that a line of `Connection` names. Options that are not field names, and `Host`, are left out.
fn named_by_connection(value: &HeaderValue) -> Vec<HeaderName> {
    let names_fields =
        |option: &&[u8]| ![&b"keep-alive"[..], b"close", b"upgrade"].iter().any(|o| o.eq_ignore_ascii_case(option));
    // Bytes: an option that is not text must not hide the others.
    let options = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(names_fields);
    options.filter_map(|name| HeaderName::from_bytes(name).ok()).filter(|name| *name != HOST).collect()
}

/// Whether it would become `HTTP_PROXY` behind CGI.
pub fn is_proxy_header(name: &HeaderName) -> bool {
    name.as_str() == PROXY
}

/// Fields of one connection (RFC 9110 §7.6.1), and the credentials for a proxy, which the gate is.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

pub fn is_override(name: &HeaderName) -> bool {
    OVERRIDES.contains(&name.as_str())
}

/// Fields that state where a request came from: accepted from trusted proxies alone.
pub fn is_forwarded_header(name: &HeaderName) -> bool {
    name.as_str().starts_with(X_FORWARDED) || *name == FORWARDED || ADDRESSES.contains(&name.as_str())
}

/// Whether a lenient backend would take the field for one of `reserved`.
pub fn is_like_any(name: &HeaderName, reserved: &[HeaderName]) -> bool {
    reserved.iter().any(|reserved| is_alike(name, reserved))
}

/// Whether a lenient backend would take the field for one that the gate reads or sets: `X_Forwarded_For`, `Content_Length`.
pub fn is_misspelt(name: &HeaderName, policy: &Policy) -> bool {
    let is_odd = || !name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_odd() && (is_request_header(name) || is_like_a_source(name, policy))
}

fn is_like_a_source(name: &HeaderName, policy: &Policy) -> bool {
    let of_business = policy.business_sources.iter().filter_map(|source| match source {
        BusinessSource::Header(header) => Some(header),
        BusinessSource::Path(_) | BusinessSource::Query(_) => None,
    });
    let of_key = policy.credentials.sources.iter().map(|source| &source.header);
    of_business.chain(of_key).any(|header| header != name && is_alike(name, header))
}

/// Removes from trailers the fields that must stand in a head, in whichever spelling (RFC 9110 §6.5.1): some backends merge
/// trailers into headers.
pub fn clean_trailers(trailers: &mut HeaderMap, reserved: &[HeaderName]) {
    let refused = |name: &&HeaderName| is_like_any(name, reserved) || is_request_header(name);
    let refused: Vec<HeaderName> = trailers.keys().filter(refused).cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
}

fn is_alike(name: &HeaderName, reserved: &HeaderName) -> bool {
    let same = |a: u8, b: u8| a == b || (!a.is_ascii_alphanumeric() && !b.is_ascii_alphanumeric());
    let (name, reserved) = (name.as_str().as_bytes(), reserved.as_str().as_bytes());
    name.len() == reserved.len() && name.iter().zip(reserved).all(|(a, b)| same(*a, *b))
}

fn is_request_header(name: &HeaderName) -> bool {
    let name = name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let lists = [&REQUEST_HEADERS[..], &ADDRESSES, &OVERRIDES];
    name.starts_with(X_FORWARDED) || lists.iter().any(|list| list.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_a_backend_reads_as_an_identity_header_is_found() {
        let reserved = [HeaderName::from_static("x-user-id")];
        for name in ["x_user_id", "x-user_id", "x-user-id", "x.user.id"] {
            assert!(is_like_any(&HeaderName::from_static(name), &reserved), "{name}");
        }
        for name in ["x-user-ids", "xuserid", "x-user-ie"] {
            assert!(!is_like_any(&HeaderName::from_static(name), &reserved), "{name}");
        }
    }
}
