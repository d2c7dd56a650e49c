//! Turns denials into answers, and sets the rate-limit headers.
//!
//! The texts come from the policy (`denial_text`); here are the headers that HTTP requires with a status, and gRPC's form.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use super::close_reason::CloseReason;
use super::request_id::X_REQUEST_ID;
use super::settings::{RateLimitHeaders, Reset};
use crate::gate::{Denial, LimitNow, Trail};
use crate::observe::values::Values;
use crate::policy::denial_text::{Facts, Worded};
use crate::policy::{Policy, Reason};

const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What `rate_limit_headers.x` and `.ietf` stand for.
static X_FIELDS: [HeaderName; 3] = [X_LIMIT, X_REMAINING, X_RESET];
static IETF_FIELDS: [HeaderName; 2] = [RATELIMIT, RATELIMIT_POLICY];
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

const UNAVAILABLE: u16 = 14;

/// `Retry-After` of a 503, in seconds.
const UNAVAILABLE_FOR: u64 = 1;

/// The answer to a request that is not served.
pub fn denied(
    denial: &Denial,
    trail: &Trail,
    request_id: &str,
    grpc: bool,
    policy: &Policy,
    settings: RateLimitHeaders,
) -> Response<Bytes> {
    let rate_limited = matches!(denial, Denial::RateLimited { .. });
    let binding = trail.binding(rate_limited);
    let mut facts = Facts {
        request_id,
        limit: binding.map(|binding| binding.window.limit),
        remaining: binding.map(|binding| binding.now.remaining),
        reset: binding.map(|binding| reset(binding, settings.reset)),
        window: binding.map(|binding| binding.window.duration_ms / 1000),
        policy: binding.filter(|_| rate_limited).map(|binding| binding.window.to_string()),
        ..Facts::default()
    };
    let mut headers = HeaderMap::new();
    let detail;
    match denial {
        Denial::BadRequest(what) | Denial::BadParameter(what) => facts.detail = Some(what),
        Denial::BadPath(what) => facts.detail = Some(what),
        Denial::MethodNotAllowed { allow } => set(&mut headers, &ALLOW, allow),
        Denial::MissingKey => challenge(&mut headers, policy, ""),
        Denial::MalformedKey(what) => {
            facts.detail = *what;
            challenge(&mut headers, policy, r#", error="invalid_token""#);
        }
        Denial::ForeignFormat(text) => {
            facts.detail = Some(text);
            challenge(&mut headers, policy, r#", error="invalid_token""#);
        }
        Denial::UnknownKey | Denial::RevokedKey | Denial::ExpiredKey | Denial::DeniedKey => {
            challenge(&mut headers, policy, r#", error="invalid_token""#);
        }
        Denial::InsufficientScope { required } => {
            facts.scope = Some(required);
            challenge(&mut headers, policy, &format!(r#", error="insufficient_scope", scope="{required}""#));
        }
        Denial::RateLimited { retry_after, violated } => {
            facts.violated = violated;
            facts.retry_after = *retry_after;
            if let Some(seconds) = retry_after {
                headers.insert(RETRY_AFTER, (*seconds).into());
                detail = format!("Too many requests. Try again in {seconds} seconds.");
                facts.detail = Some(&detail);
            }
        }
        Denial::StoreUnavailable(_) | Denial::Overloaded => {
            facts.retry_after = Some(UNAVAILABLE_FOR);
            headers.insert(RETRY_AFTER, UNAVAILABLE_FOR.into());
        }
        Denial::Unmanaged { reason, detail } => {
            facts.detail = detail.as_deref();
            if *reason == Reason::NoSession {
                // A 401 names a scheme (RFC 9110 §15.5.2); none is registered for sessions, and a key would not help.
                let realm = &policy.credentials.realm;
                set(&mut headers, &WWW_AUTHENTICATE, &format!(r#"Session realm="{realm}""#));
            }
        }
        Denial::AmbiguousKey
        | Denial::RouteNotFound
        | Denial::PlanRequired
        | Denial::BusinessSuspended
        | Denial::BusinessForbidden
        | Denial::DeniedAddress
        | Denial::BodyTooLarge
        | Denial::HeadersTooLarge
        | Denial::UriTooLong
        | Denial::UpstreamUnreachable(_)
        | Denial::UpstreamInvalid(_)
        | Denial::UpstreamTimeout
        | Denial::TooOld
        | Denial::Misdirected
        | Denial::ClientGone
        | Denial::ShuttingDown => {}
    }
    let worded = policy.texts.word(denial.reason(), &facts);
    if grpc { as_grpc(denial.reason(), &worded, headers) } else { as_http(worded, headers) }
}

fn as_http(worded: Worded, mut headers: HeaderMap) -> Response<Bytes> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(worded.content_type));
    for (name, value) in &worded.headers {
        set(&mut headers, name, value);
    }
    if HEURISTICALLY_CACHEABLE.contains(&worded.status) && !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let mut response = Response::new(Bytes::from(worded.body));
    // Valid: a configured status is checked at load, and the reasons' own are constants.
    *response.status_mut() = StatusCode::from_u16(worded.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

/// Trailers-only: status and message in the head of a response without a body (gRPC over HTTP/2, "Responses").
fn as_grpc(reason: Reason, worded: &Worded, mut headers: HeaderMap) -> Response<Bytes> {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, grpc_status(reason.status()).into());
    set(&mut headers, &GRPC_MESSAGE, &grpc_message(&worded.detail));
    // To caches in between it looks like a success.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = headers;
    response
}

/// The trailers of a gRPC answer that the gate ends. UNAVAILABLE where nothing is wrong with the call, as gRPC's own servers do
/// with what is too old or idle: its client may call again, and DEADLINE_EXCEEDED would mean the client's own deadline.
pub fn grpc_trailers(close_reason: &CloseReason, request_id: &str, policy: &Policy) -> HeaderMap {
    let worded;
    let (status, message) = match close_reason {
        CloseReason::Denied(denial) => {
            let scope =
                if let Denial::InsufficientScope { required } = denial { Some(required.as_str()) } else { None };
            let facts = Facts { request_id, scope, ..Facts::default() };
            worded = policy.texts.word(denial.reason(), &facts);
            (grpc_status(denial.reason().status()), worded.detail.as_str())
        }
        CloseReason::TooOld => (UNAVAILABLE, "The stream has reached its greatest age"),
        CloseReason::Idle => (UNAVAILABLE, "Nothing has passed on the stream for too long"),
        CloseReason::ShuttingDown => (UNAVAILABLE, "The gate is shutting down"),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, status.into());
    set(&mut trailers, &GRPC_MESSAGE, &grpc_message(message));
    trailers
}

/// Percent-encoded, all but printable ASCII (gRPC over HTTP/2, "Responses").
fn grpc_message(text: &str) -> String {
    let mut message = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => message.push(char::from(byte)),
            _ => crate::policy::percent::push_triplet(&mut message, byte),
        }
    }
    message
}

/// The documented mapping, which follows gRPC's own for HTTP statuses ("HTTP to gRPC Status Code Mapping").
fn grpc_status(status: u16) -> u16 {
    match status {
        400 | 413 | 414 | 431 => 3,
        401 => 16,
        403 => 7,
        404 | 405 => 12,
        429 => 8,
        499 => 1,
        502 | 503 => UNAVAILABLE,
        504 => 4,
        _ => 2,
    }
}

/// RFC 6750 §3: no error attribute where no key was sent.
fn challenge(headers: &mut HeaderMap, policy: &Policy, attributes: &str) {
    let realm = &policy.credentials.realm;
    set(headers, &WWW_AUTHENTICATE, &format!(r#"Bearer realm="{realm}"{attributes}"#));
}

/// Sets a header to a text that the gate made. A text that is no header value (none is known) is left out, never sent altered.
fn set(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => {
            headers.insert(name, value);
        }
        Err(_) => {
            headers.remove(name);
        }
    }
}

/// The limit headers of an answer to a request that was counted. The upstream's own copies are replaced, or where the gate says
/// nothing in a field removed: they would contradict what it says in the others. What the configuration's words for a denial
/// say there stays.
pub fn rate_limit_headers(
    headers: &mut HeaderMap,
    trail: &Trail,
    denial: Option<&Denial>,
    settings: RateLimitHeaders,
    values: &Values,
) {
    let Some(binding) = trail.binding(matches!(denial, Some(Denial::RateLimited { .. }))) else { return };
    if denial.is_none() {
        let unsaid = [(settings.x, &X_FIELDS[..]), (settings.ietf, &IETF_FIELDS)];
        for name in unsaid.into_iter().filter(|(said, _)| !said).flat_map(|(_, names)| names) {
            headers.remove(name);
        }
    }
    if settings.x {
        headers.insert(X_LIMIT, values.number(binding.window.limit));
        headers.insert(X_REMAINING, values.number(binding.now.remaining));
        headers.insert(X_RESET, values.number(reset(binding, settings.reset)));
    }
    if settings.ietf {
        let policies = trail.enforced().map(|limit| {
            format!(r#""{}";q={};w={}"#, limit.policy_name(), limit.window.limit, limit.window.duration_ms / 1000)
        });
        set(headers, &RATELIMIT_POLICY, &policies.collect::<Vec<_>>().join(", "));
        let states = trail.enforced().map(|limit| {
            format!(r#""{}";r={};t={}"#, limit.policy_name(), limit.now.remaining, limit.effective_in_seconds())
        });
        set(headers, &RATELIMIT, &states.collect::<Vec<_>>().join(", "));
    }
}

/// Removes from an answer's trailers the fields that the gate sets in its head.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    for name in X_FIELDS.iter().chain(&IETF_FIELDS).chain([&X_REQUEST_ID]) {
        trailers.remove(name);
    }
}

fn reset(limit: &LimitNow, form: Reset) -> u64 {
    match form {
        // Rounded up: at that second the window has reset.
        Reset::Unix => limit.now.reset_ms.div_ceil(1000),
        Reset::Seconds => limit.reset_in_seconds(),
    }
}

/// Statuses that a cache may keep without an explicit lifetime (RFC 9110 §15.1). A denial must not be kept: with another key, or
/// after a reload, the same target is served.
const HEURISTICALLY_CACHEABLE: [u16; 12] = [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501];

/// `204` to `OPTIONS *`.
pub fn server_options() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
