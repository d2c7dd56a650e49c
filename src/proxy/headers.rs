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

/// What the gate says of a request whatever is configured.
const OWN: [HeaderName; 9] =
    [TE, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, VIA, X_REQUEST_ID, TRACEPARENT, TRACESTATE, WOULD_DENY];

/// How many of these nearly every request gets.
const USUAL: usize = 6;

/// What the gate says of a request behind what is left of its client's fields, of which none has such a name: to find each its
/// place among them would cost more than all else that is done for it.
pub type Added<'a> = Vec<(Cow<'a, HeaderName>, Value<'a>)>;

/// What the gate says in a field. Most of it stands elsewhere as long as it is needed: to share the bytes of a header's value
/// costs more than to write them.
pub enum Value<'a> {
    /// For this request.
    Made(HeaderValue),
    /// By whoever lives longer than it.
    Kept(&'a HeaderValue),
    RequestId(&'a RequestId),
    Span(&'a Span),
}

/// What a forwarded request's headers are made from.
pub struct Forwarding<'a> {
    pub permit: &'a Permit,
    pub policy: &'a Policy,
    pub upstream: &'a Upstream,
    /// What the upstream is told in place of the gate's own (`overridden`).
    pub overridden: &'a [HeaderName],
    /// Every upstream's identity headers: none of them passes from a client.
    pub reserved: &'a [HeaderName],
    pub arrival: &'a Arrival,
    /// In which the request came.
    pub version: Version,
    /// Trailers may follow its body, and the upstream gets them.
    pub trails: bool,
    pub request_id: &'a RequestId,
    pub span: &'a Span,
}

/// The request's headers as the upstream gets them, together with what stands behind them. The credential has been read before,
/// from the whole of them.
pub fn forward<'a>(headers: &mut HeaderMap, forwarding: &Forwarding<'a>) -> Added<'a> {
    let Forwarding { permit, policy, upstream, overridden, reserved, arrival, version, trails, request_id, span } =
        *forwarding;
    credential::strip(&policy.credentials, headers, permit.keys());
    let mut takes_trailers = false;
    let foreign = !arrival.trusted;
    // Where nothing is enforced, no other method or path slips past anything.
    let enforces = policy.enforces();
    hygiene::remove_all(headers, |name, value| {
        takes_trailers |= *name == TE && value.as_bytes().eq_ignore_ascii_case(b"trailers");
        hygiene::is_hop_by_hop(name)
            || hygiene::names_a_proxy(name)
            || *name == X_REQUEST_ID
            || (!trails && *name == TRAILER)
            || (!upstream.via && *name == VIA)
            || span.replaces(name)
            || (enforces && hygiene::is_override(name))
            || (foreign && hygiene::says_who_sent_it(name))
            || hygiene::looks_like_one_of(name, reserved)
            || hygiene::is_misspelt(name, policy)
    });
    let mut added = Vec::with_capacity(USUAL + upstream.identity.len() + upstream.headers.len());
    if takes_trailers {
        // gRPC demands it; it says only that the client can take trailers, which stream through (RFC 9110 §10.1.4).
        added.push((Cow::Owned(TE), Value::fixed("trailers")));
    }
    join_cookies(headers);
    say_who_sent_it(headers, &mut added, arrival);
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
            added.push((Cow::Borrowed(name), Value::Kept(value)));
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
        Self::Made(HeaderValue::from_static(text))
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Made(value) => value.as_bytes(),
            Self::Kept(value) => value.as_bytes(),
            Self::RequestId(id) => id.as_bytes(),
            Self::Span(span) => span.as_bytes(),
        }
    }
}

/// For whoever keeps them.
pub fn fields(added: &Added<'_>) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let value = |value: &Value<'_>| match value {
        Value::Made(value) => value.clone(),
        Value::Kept(value) => (*value).clone(),
        Value::RequestId(_) | Value::Span(_) => {
            HeaderValue::from_bytes(value.as_bytes()).expect("hexadecimal digits and hyphens are a header's value")
        }
    };
    added.iter().map(move |(name, of)| (HeaderName::clone(name), value(of)))
}

/// Every upstream's own headers: none of them passes from a client, whichever upstream is asked, on public routes neither.
pub fn reserved(upstreams: &[Upstream]) -> Vec<HeaderName> {
    let identity = upstreams.iter().flat_map(|upstream| upstream.identity.iter().map(|(name, _)| name));
    let fixed = upstreams.iter().flat_map(|upstream| upstream.headers.iter().map(|(name, _)| name));
    identity.chain(fixed).filter(|name| *name != HOST).cloned().chain([WOULD_DENY]).collect()
}

/// Which of the gate's own fields the configuration says otherwise; few do.
pub fn overridden(upstream: &Upstream) -> Vec<HeaderName> {
    let identity = upstream.identity.iter().map(|(name, _)| name);
    let configured = identity.chain(upstream.headers.iter().map(|(name, _)| name));
    configured.filter(|name| OWN.contains(name)).cloned().collect()
}

/// The response's headers as the client gets them, before the gate's own. Trailers are announced to whom they are sent.
pub fn backward(headers: &mut HeaderMap, takes_trailers: bool) {
    hygiene::remove_all(headers, |name, _| hygiene::is_hop_by_hop(name) || (!takes_trailers && *name == TRAILER));
}

/// `X-Forwarded-*`; what an untrusted client said of itself is gone, what a trusted proxy says is continued.
fn say_who_sent_it<'a>(headers: &mut HeaderMap, added: &mut Added<'a>, arrival: &'a Arrival) {
    match hops(headers, arrival) {
        Some(hops) => drop(headers.insert(X_FORWARDED_FOR, hops)),
        None => added.push((Cow::Owned(X_FORWARDED_FOR), Value::Kept(arrival.peer.value()))),
    }
    let said = |headers: &HeaderMap, name: HeaderName| arrival.trusted && headers.contains_key(name);
    if !said(headers, X_FORWARDED_PROTO) {
        added.push((Cow::Owned(X_FORWARDED_PROTO), Value::fixed(if arrival.secure { "https" } else { "http" })));
    }
    if !said(headers, X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).filter(|host| !host.is_empty())
    {
        added.push((Cow::Owned(X_FORWARDED_HOST), Value::Made(host.clone())));
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

/// Whom the request has passed by a trusted proxy's account, the peer last. A hop that is no text is left out, and no other with
/// it.
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
            let text = template.render(|part, text| introduce(forwarding, part, text));
            // One that is no header value (none is known) is left out, never passed on wrong.
            HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
        };
        let value = match (template.whole(), permit.caller()) {
            (Some(Identity::Client), _) => Some(Value::Kept(arrival.client.value())),
            (Some(part), Some(caller)) if part != Identity::RequestId => {
                caller.identity_headers.value(part as usize, value).map(Value::Kept)
            }
            _ => value().map(Value::Made),
        };
        added.extend(value.map(|value| (Cow::Borrowed(name), value)));
    }
}

fn introduce(forwarding: &Forwarding<'_>, part: Identity, text: &mut String) {
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
