//! A request's headers as the upstream gets them: what must not pass comes off first (`hygiene`), then the identity and
//! forwarding headers go on, so that no client can remove or forge what the upstream trusts (CVE-2022-31813, CVE-2024-45410).

use std::borrow::Cow;

use http::Version;
use http::header::{COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, VIA};

use super::arrival::Arrival;
use super::hygiene;
use super::request_id::{RequestId, X_REQUEST_ID};
use super::settings::{Identity, Upstream};
use crate::gate::trail::Caller;
use crate::gate::{Permit, credential};
use crate::observe::Span;
use crate::observe::trace::{TRACEPARENT, TRACESTATE};
use crate::policy::Policy;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Why the request would have been denied, where denials are only observed.
pub const WOULD_DENY: HeaderName = HeaderName::from_static("x-sidegate-would-deny");

/// The fields that the gate sets whatever is configured.
const OWN: [HeaderName; 9] =
    [TE, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, VIA, X_REQUEST_ID, TRACEPARENT, TRACESTATE, WOULD_DENY];

/// How many of these nearly every request gets, to allocate for them once.
const USUAL: usize = 6;

/// The fields that the gate adds. They are written behind what is left of the client's, of which none has such a name: to insert
/// them into the map would cost more than all else that is done for a request.
pub type Added<'a> = Vec<(Cow<'a, HeaderName>, Value<'a>)>;

/// An added field's value. Most are borrowed from what outlives the request's head: to share the bytes of a `HeaderValue` costs
/// more than to write them.
pub enum Value<'a> {
    /// Made for this request.
    Owned(HeaderValue),
    /// Held by the permit, the settings or the connection.
    Borrowed(&'a HeaderValue),
    RequestId(&'a RequestId),
    Span(&'a Span),
}

/// What a forwarded request's headers are made from.
pub struct Forwarding<'a> {
    pub permit: &'a Permit,
    pub policy: &'a Policy,
    pub upstream: &'a Upstream,
    /// The gate's own fields that this upstream's configuration sets instead (`overridden`).
    pub overridden: &'a [HeaderName],
    /// Every upstream's identity headers: no client's copy of any passes.
    pub reserved: &'a [HeaderName],
    pub arrival: &'a Arrival,
    /// The version of the client's request.
    pub version: Version,
    /// Trailers may follow the body, and are forwarded; without them a `Trailer` field would announce nothing.
    pub may_have_trailers: bool,
    pub request_id: &'a RequestId,
    pub span: &'a Span,
}

/// Removes what must not reach the upstream from `headers`, and returns the fields to add. The credential has been read before,
/// from the unchanged headers.
pub fn forward<'a>(headers: &mut HeaderMap, forwarding: &Forwarding<'a>) -> Added<'a> {
    let Forwarding {
        permit,
        policy,
        upstream,
        overridden,
        reserved,
        arrival,
        version,
        may_have_trailers,
        request_id,
        span,
    } = *forwarding;
    credential::strip(&policy.credentials, headers, permit.keys());
    let mut takes_trailers = false;
    let foreign = !arrival.trusted;
    // Where nothing is enforced, a method or path that the service takes from another field evades no decision.
    let enforces = policy.enforces();
    hygiene::remove_all(headers, |name, value| {
        takes_trailers |= *name == TE && value.as_bytes().eq_ignore_ascii_case(b"trailers");
        hygiene::is_hop_by_hop(name)
            || hygiene::is_proxy_header(name)
            || *name == X_REQUEST_ID
            || (!may_have_trailers && *name == TRAILER)
            || (!upstream.via && *name == VIA)
            || span.replaces(name)
            || (enforces && hygiene::is_override(name))
            || (foreign && hygiene::is_forwarded_header(name))
            || hygiene::is_like_any(name, reserved)
            || hygiene::is_misspelt(name, policy)
    });
    let mut added = Vec::with_capacity(USUAL + upstream.identity.len() + upstream.headers.len());
    if takes_trailers {
        // gRPC requires it; the client can take trailers, and the gate passes them through (RFC 9110 §10.1.4).
        added.push((Cow::Owned(TE), Value::fixed("trailers")));
    }
    join_cookies(headers);
    set_forwarded(headers, &mut added, arrival);
    if upstream.via {
        // Behind those that the request has passed before.
        added.push((Cow::Owned(VIA), Value::fixed(via(version))));
    }
    added.push((Cow::Owned(X_REQUEST_ID), Value::RequestId(request_id)));
    added.push((Cow::Owned(TRACEPARENT), Value::Span(span)));
    span.pass_state(headers);
    identity(&mut added, forwarding);
    for (name, value) in &upstream.headers {
        if *name == HOST {
            headers.insert(HOST, value.clone());
        } else {
            added.push((Cow::Borrowed(name), Value::Borrowed(value)));
        }
    }
    if let Some(denial) = permit.observed() {
        added.push((Cow::Owned(WOULD_DENY), Value::fixed(denial.reason().name())));
    }
    for name in overridden {
        let last = added.iter().rposition(|(added, _)| **added == *name);
        let mut at = 0..;
        added.retain(|(added, _)| (at.next() == last) | (**added != *name));
    }
    added
}

impl Value<'_> {
    fn fixed(text: &'static str) -> Self {
        Self::Owned(HeaderValue::from_static(text))
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Owned(value) => value.as_bytes(),
            Self::Borrowed(value) => value.as_bytes(),
            Self::RequestId(id) => id.as_bytes(),
            Self::Span(span) => span.as_bytes(),
        }
    }
}

/// The added fields as a header map holds them (HTTP/2).
pub fn fields(added: &Added<'_>) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let value = |value: &Value<'_>| match value {
        Value::Owned(value) => value.clone(),
        Value::Borrowed(value) => (*value).clone(),
        Value::RequestId(_) | Value::Span(_) => {
            HeaderValue::from_bytes(value.as_bytes()).expect("hexadecimal digits and hyphens are a header's value")
        }
    };
    added.iter().map(move |(name, of)| (HeaderName::clone(name), value(of)))
}

/// Every upstream's identity and fixed headers: no client's copy passes, whichever upstream gets the request, on public routes
/// neither.
pub fn reserved(upstreams: &[Upstream]) -> Vec<HeaderName> {
    let identity = upstreams.iter().flat_map(|upstream| upstream.identity.iter().map(|(name, _)| name));
    let fixed = upstreams.iter().flat_map(|upstream| upstream.headers.iter().map(|(name, _)| name));
    identity.chain(fixed).filter(|name| *name != HOST).cloned().chain([WOULD_DENY]).collect()
}

/// Which of the gate's own fields the upstream's configuration sets itself; few do.
pub fn overridden(upstream: &Upstream) -> Vec<HeaderName> {
    let identity = upstream.identity.iter().map(|(name, _)| name);
    let configured = identity.chain(upstream.headers.iter().map(|(name, _)| name));
    configured.filter(|name| OWN.contains(name)).cloned().collect()
}

/// The response's headers as the client gets them, before the gate adds its own. `Trailer` stays only for a client that is sent
/// trailers.
pub fn backward(headers: &mut HeaderMap, takes_trailers: bool) {
    hygiene::remove_all(headers, |name, _| hygiene::is_hop_by_hop(name) || (!takes_trailers && *name == TRAILER));
}

/// Sets `X-Forwarded-*`. An untrusted client's have been removed; a trusted proxy's are kept and extended.
fn set_forwarded<'a>(headers: &mut HeaderMap, added: &mut Added<'a>, arrival: &'a Arrival) {
    match hops(headers, arrival) {
        Some(hops) => drop(headers.insert(X_FORWARDED_FOR, hops)),
        None => added.push((Cow::Owned(X_FORWARDED_FOR), Value::Borrowed(arrival.peer.value()))),
    }
    let is_set = |headers: &HeaderMap, name: HeaderName| arrival.trusted && headers.contains_key(name);
    if !is_set(headers, X_FORWARDED_PROTO) {
        added.push((Cow::Owned(X_FORWARDED_PROTO), Value::fixed(if arrival.secure { "https" } else { "http" })));
    }
    if !is_set(headers, X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).filter(|host| !host.is_empty())
    {
        added.push((Cow::Owned(X_FORWARDED_HOST), Value::Owned(host.clone())));
    }
}

/// RFC 9110 §7.6.3. Nothing here looks for it: a request that comes back to the gate is not told by it.
fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0 sidegate",
        Version::HTTP_2 => "2.0 sidegate",
        _ => "1.1 sidegate",
    }
}

/// The `X-Forwarded-For` of a trusted proxy, extended by the peer. A hop that is not ASCII is left out; the others stay.
fn hops(headers: &HeaderMap, Arrival { peer, trusted, .. }: &Arrival) -> Option<HeaderValue> {
    if !trusted || !headers.contains_key(X_FORWARDED_FOR) {
        return None;
    }
    let lines = headers.get_all(X_FORWARDED_FOR).iter();
    let hops = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let hops = hops.filter(|hop| hop.is_ascii() && !hop.is_empty()).chain([peer.as_str().as_bytes()]);
    let hops = hops.collect::<Vec<_>>().join(&b", "[..]);
    Some(HeaderValue::try_from(hops).unwrap_or_else(|_| peer.value().clone()))
}

/// HTTP/2 clients may send one cookie a line; HTTP/1.1 servers expect one line (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.len() == headers.keys_len() {
        // No field stands in several lines.
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

fn identity<'a>(added: &mut Added<'a>, forwarding: &Forwarding<'a>) {
    let Forwarding { permit, upstream, arrival, .. } = *forwarding;
    for (name, template) in &upstream.identity {
        let value = || {
            let text = template.render(|part, text| write_identity(forwarding, part, text));
            // A text that is no header value (none is known) is left out, never forwarded altered.
            HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
        };
        let value = match (template.whole(), permit.caller()) {
            (Some(Identity::Client), _) => Some(Value::Borrowed(arrival.client.value())),
            (Some(part), Some(caller)) if part != Identity::RequestId => {
                caller.identity_headers.value(part as usize, value).map(Value::Borrowed)
            }
            _ => value().map(Value::Owned),
        };
        added.extend(value.map(|value| (Cow::Borrowed(name), value)));
    }
}

fn write_identity(forwarding: &Forwarding<'_>, part: Identity, text: &mut String) {
    let Forwarding { permit, arrival, request_id, .. } = *forwarding;
    let caller = permit.caller();
    let key = caller.map(|caller| &caller.key);
    match part {
        Identity::KeyId => text.push_str(key.map_or("", |key| &key.id)),
        Identity::KeyName => push_header_text(text, key.map_or("", |key| &key.name)),
        Identity::Business => text.push_str(caller.and_then(Caller::business).unwrap_or_default()),
        Identity::User => text.push_str(key.and_then(|key| key.user.as_deref()).unwrap_or_default()),
        Identity::Scopes => push_header_text(text, &key.map_or(String::new(), |key| key.scopes.join(" "))),
        Identity::Plan => push_header_text(text, caller.and_then(|c| c.plan.as_deref()).unwrap_or_default()),
        Identity::RequestId => text.push_str(request_id.as_str()),
        Identity::Client => text.push_str(arrival.client.as_str()),
    }
}

/// Text that people and other services chose, percent-encoded where a header could not hold it unambiguously.
fn push_header_text(text: &mut String, written: &str) {
    for byte in written.bytes() {
        if byte == b' ' || (byte.is_ascii_graphic() && byte != b'%') {
            text.push(char::from(byte));
        } else {
            crate::policy::percent::push_triplet(text, byte);
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
            ("connection", "close, X-Secret, Host"),
            ("host", "api.example"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("x-kept", "1"),
        ]);
        backward(&mut lines, false);
        assert_eq!(lines, headers(&[("host", "api.example"), ("x-kept", "1")]));
    }

    #[test]
    fn names_and_scopes_cannot_break_out_of_their_header() {
        let mut text = String::new();
        push_header_text(&mut text, "Ana\r\nX-Admin: 1 % ü");
        assert_eq!(text, "Ana%0D%0AX-Admin: 1 %25 %C3%BC");
    }
}
