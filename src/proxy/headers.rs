//! Header hygiene: hop-by-hop off first, then the identity and forwarding headers on, so that no client can remove or forge
//! what the upstream trusts (CVE-2022-31813, CVE-2024-45410).

use std::net::IpAddr;

use http::Version;
use http::header::{
    CONNECTION, COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};

use super::arrival::Arrival;
use super::settings::{Identity, Upstream};
use crate::gate::Permit;
use crate::gate::credential;
use crate::policy::{BusinessSource, Policy};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KNOWN_HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS];
const X_FORWARDED: &str = "x-forwarded-";
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What some frameworks take another method or path from; the gate has decided on the real ones.
const OVERRIDES: [HeaderName; 5] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

/// What says whose a request is, where it goes and where it ends, besides `X-Forwarded-*` and the overrides.
const OF_THE_HEAD: [&str; 17] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-api-key",
    "x-real-ip",
    "x-request-id",
];

/// What a forwarded request's headers are made from.
pub struct Forwarding<'a> {
    pub permit: &'a Permit,
    pub policy: &'a Policy,
    pub upstream: &'a Upstream,
    /// Every upstream's identity headers: none of them passes from a client.
    pub reserved: &'a [HeaderName],
    pub arrival: &'a Arrival,
    /// In which the request came.
    pub version: Version,
    pub request_id: &'a str,
}

/// The request's headers as the upstream gets them. The credential has been read before, from the whole of them.
pub fn forward(headers: &mut HeaderMap, forwarding: &Forwarding<'_>) {
    let Forwarding { permit, policy, upstream, reserved, arrival, version, request_id } = *forwarding;
    credential::strip(&policy.credentials, headers);
    let trailers = headers.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_hop_by_hop(headers);
    if trailers {
        // gRPC demands it; it says only that the client can take trailers, which stream through (RFC 9110 §10.1.4).
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    for name in look_alikes(headers, reserved).into_iter().chain(misspelt(headers, policy)) {
        headers.remove(name);
    }
    for name in &OVERRIDES {
        headers.remove(name);
    }
    join_cookies(headers);
    say_who_sent_it(headers, arrival, version);
    set(headers, X_REQUEST_ID, request_id);
    identity(headers, permit, upstream, request_id);
    for (name, value) in &upstream.headers {
        headers.insert(name, value.clone());
    }
}

/// The response's headers as the client gets them, before the gate's own.
pub fn backward(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
}

/// RFC 9110 §7.6.1: the fields that `Connection` names and the known ones, which speak of one connection only.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in KNOWN_HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Headers that are one of `reserved` to a backend that reads every sign in a name as `_` (CGI, WSGI, Rack and others do).
pub fn look_alikes(headers: &HeaderMap, reserved: &[HeaderName]) -> Vec<HeaderName> {
    headers.keys().filter(|name| reserved.iter().any(|reserved| is_alike(name, reserved))).cloned().collect()
}

fn is_alike(name: &HeaderName, reserved: &HeaderName) -> bool {
    let same = |a: u8, b: u8| a == b || (!a.is_ascii_alphanumeric() && !b.is_ascii_alphanumeric());
    let (name, reserved) = (name.as_str().as_bytes(), reserved.as_str().as_bytes());
    name.len() == reserved.len() && name.iter().zip(reserved).all(|(a, b)| same(*a, *b))
}

/// Headers that such a backend would take for one that the gate decided by, or sets: `X_Forwarded_For`, `Content_Length`.
fn misspelt(headers: &HeaderMap, policy: &Policy) -> Vec<HeaderName> {
    let is_odd = |name: &&HeaderName| !name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let decided_by = |name: &HeaderName| {
        let of_business = policy.business_sources.iter().filter_map(|source| match source {
            BusinessSource::Header(header) => Some(header),
            BusinessSource::Path(_) | BusinessSource::Query(_) => None,
        });
        let of_key = policy.credentials.sources.iter().map(|source| &source.header);
        of_business.chain(of_key).any(|header| header != name && is_alike(name, header))
    };
    headers.keys().filter(is_odd).filter(|name| is_of_the_head(name) || decided_by(name)).cloned().collect()
}

/// What a trailer must not say, in whichever spelling (RFC 9110 §6.5.1): some backends take trailers for headers.
pub fn of_the_head(trailers: &HeaderMap) -> Vec<HeaderName> {
    trailers.keys().filter(|name| is_of_the_head(name)).cloned().collect()
}

fn is_of_the_head(name: &HeaderName) -> bool {
    let name = name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    name.starts_with(X_FORWARDED)
        || OF_THE_HEAD.contains(&name.as_str())
        || OVERRIDES.iter().any(|header| header.as_str() == name)
}

/// `X-Forwarded-*` and `Via`; what an untrusted client says of itself is replaced, what a trusted proxy says is continued.
fn say_who_sent_it(headers: &mut HeaderMap, arrival: &Arrival, version: Version) {
    if !arrival.trusted {
        let says_so =
            |name: &&HeaderName| name.as_str().starts_with(X_FORWARDED) || **name == FORWARDED || **name == X_REAL_IP;
        let said: Vec<HeaderName> = headers.keys().filter(says_so).cloned().collect();
        for name in said {
            headers.remove(name);
        }
    }
    let hops: Vec<&str> = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let peer = canonical(arrival.peer);
    let hops = if hops.is_empty() { peer } else { format!("{}, {peer}", hops.join(", ")) };
    set(headers, X_FORWARDED_FOR, &hops);
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if arrival.secure { "https" } else { "http" }));
    }
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    let via = match version {
        Version::HTTP_10 => "1.0 sidegate",
        Version::HTTP_2 => "2.0 sidegate",
        _ => "1.1 sidegate",
    };
    headers.append(VIA, HeaderValue::from_static(via));
}

/// HTTP/2 clients may send one cookie a line; HTTP/1.1 servers expect one line (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

fn canonical(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

fn identity(headers: &mut HeaderMap, permit: &Permit, upstream: &Upstream, request_id: &str) {
    let caller = permit.caller();
    for (name, template) in &upstream.identity {
        let value = template.render(|placeholder, text| {
            let key = caller.map(|caller| &caller.key);
            match placeholder {
                Identity::KeyId => text.push_str(key.map_or("", |key| &key.id)),
                Identity::KeyName => push_header_text(text, key.map_or("", |key| &key.name)),
                Identity::Business => text.push_str(caller.and_then(|c| c.business.as_deref()).unwrap_or_default()),
                Identity::User => text.push_str(key.and_then(|key| key.user.as_deref()).unwrap_or_default()),
                Identity::Scopes => push_header_text(text, &key.map_or(String::new(), |key| key.scopes.join(" "))),
                Identity::Plan => push_header_text(text, caller.and_then(|c| c.plan.as_deref()).unwrap_or_default()),
                Identity::RequestId => text.push_str(request_id),
            }
        });
        if !value.is_empty() {
            set(headers, name.clone(), &value);
        }
    }
}

/// What people and other services wrote, percent-encoded where a header could not hold it unambiguously.
fn push_header_text(text: &mut String, written: &str) {
    for byte in written.bytes() {
        if byte == b' ' || (byte.is_ascii_graphic() && byte != b'%') {
            text.push(char::from(byte));
        } else {
            crate::policy::percent::push_triplet(text, byte);
        }
    }
}

/// Sets a header to a text of our own making. One that is no header value (none is known) is left out, never passed on wrong.
pub fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => {
            headers.insert(name, value);
        }
        Err(_) => {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_speaks_of_one_connection_does_not_pass() {
        let mut lines = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "1"),
        ]);
        remove_hop_by_hop(&mut lines);
        assert_eq!(lines, headers(&[("x-kept", "1")]));
    }

    #[test]
    fn a_header_that_a_backend_reads_as_an_identity_header_is_found() {
        let reserved = [HeaderName::from_static("x-user-id")];
        let lines = headers(&[
            ("x_user_id", "1"),
            ("x-user_id", "1"),
            ("x.user.id", "1"),
            ("x-user-id", "1"),
            ("x-user-ids", "1"),
            ("xuserid", "1"),
        ]);
        let mut found: Vec<_> = look_alikes(&lines, &reserved).iter().map(ToString::to_string).collect();
        found.sort_unstable();
        assert_eq!(found, ["x-user-id", "x-user_id", "x.user.id", "x_user_id"]);
    }

    #[test]
    fn names_and_scopes_cannot_break_out_of_their_header() {
        let mut text = String::new();
        push_header_text(&mut text, "Ana\r\nX-Admin: 1 % ü");
        assert_eq!(text, "Ana%0D%0AX-Admin: 1 %25 %C3%BC");
    }
}
