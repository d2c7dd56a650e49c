//! The reasons for which a request is not served, each with its status, its public code and its default words.
//!
//! One row per reason, as in the contract's table. `gate/denial.rs` adds what a single case knows; `denial_text.rs` lets the
//! configuration word it otherwise.

/// Why a request was not served, by its name in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    BadRequest,
    BadPath,
    AmbiguousKey,
    RouteNotFound,
    MethodNotAllowed,
    MissingKey,
    MalformedKey,
    ForeignFormat,
    UnknownKey,
    RevokedKey,
    ExpiredKey,
    DeniedKey,
    InsufficientScope,
    PlanRequired,
    BusinessSuspended,
    BusinessForbidden,
    DeniedAddress,
    BodyTooLarge,
    HeadersTooLarge,
    UriTooLong,
    RateLimited,
    StoreUnavailable,
    Overloaded,
    UpstreamUnreachable,
    UpstreamInvalid,
    UpstreamTimeout,
    /// It was open for `streams.max_age` without an answer.
    MaxAge,
    Misdirected,
    /// Nobody is left to read the answer.
    ClientGone,
    /// Nobody is left to wait for one.
    ShuttingDown,
    /// The rest are answers of the key-management API.
    CrossSite,
    NoSession,
    UnsupportedMediaType,
    Unprocessable,
    RoleRequired,
    KeyNotFound,
    TooManyKeys,
    RotatedAlready,
    /// It was done, and is not held by as many replicas as `management.wait_replicas` wants.
    Unconfirmed,
}

/// What the contract's table says of a reason.
struct Row {
    name: &'static str,
    status: u16,
    /// What the client is told; several reasons share one where telling them apart would help someone guess.
    code: &'static str,
    detail: &'static str,
}

impl Reason {
    pub const ALL: [Self; 39] = [
        Self::BadRequest,
        Self::BadPath,
        Self::AmbiguousKey,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::MissingKey,
        Self::MalformedKey,
        Self::ForeignFormat,
        Self::UnknownKey,
        Self::RevokedKey,
        Self::ExpiredKey,
        Self::DeniedKey,
        Self::InsufficientScope,
        Self::PlanRequired,
        Self::BusinessSuspended,
        Self::BusinessForbidden,
        Self::DeniedAddress,
        Self::BodyTooLarge,
        Self::HeadersTooLarge,
        Self::UriTooLong,
        Self::RateLimited,
        Self::StoreUnavailable,
        Self::Overloaded,
        Self::UpstreamUnreachable,
        Self::UpstreamInvalid,
        Self::UpstreamTimeout,
        Self::MaxAge,
        Self::Misdirected,
        Self::ClientGone,
        Self::ShuttingDown,
        Self::CrossSite,
        Self::NoSession,
        Self::UnsupportedMediaType,
        Self::Unprocessable,
        Self::RoleRequired,
        Self::KeyNotFound,
        Self::TooManyKeys,
        Self::RotatedAlready,
        Self::Unconfirmed,
    ];

    pub fn name(self) -> &'static str {
        self.row().name
    }

    pub fn status(self) -> u16 {
        self.row().status
    }

    /// Whether something failed, behind the gate or before it, rather than the gate refusing.
    pub fn is_failure(self) -> bool {
        self.status() >= 500 || self == Self::ClientGone
    }

    pub fn code(self) -> &'static str {
        self.row().code
    }

    pub fn default_detail(self) -> &'static str {
        self.row().detail
    }

    /// The registered phrase of the status (RFC 9110 §15), which RFC 9457 recommends as the title of `about:blank`. 499 alone is
    /// not registered; its name is the one that nginx gave it.
    pub fn title(self) -> &'static str {
        http::StatusCode::from_u16(self.status())
            .ok()
            .and_then(|s| s.canonical_reason())
            .unwrap_or("Client Closed Request")
    }

    fn row(self) -> Row {
        const INVALID: &str = "Invalid API key";
        const FORBIDDEN: &str = "Insufficient permissions";
        let invalid_key = |name| Row { name, status: 401, code: "invalid_api_key", detail: INVALID };
        let same = |name, status, detail| Row { name, status, code: name, detail };
        match self {
            Self::BadRequest => same("bad_request", 400, "The request is malformed"),
            Self::BadPath => same("bad_path", 400, "The path is malformed"),
            Self::AmbiguousKey => same("ambiguous_key", 400, "More than one API key was sent; send one, once"),
            Self::RouteNotFound => same("route_not_found", 404, "Not found"),
            Self::MethodNotAllowed => same("method_not_allowed", 405, "Method not allowed"),
            Self::MissingKey => same("missing_key", 401, "Missing API key"),
            Self::MalformedKey => invalid_key("malformed_key"),
            Self::ForeignFormat => invalid_key("foreign_format"),
            Self::UnknownKey => invalid_key("unknown_key"),
            Self::RevokedKey => invalid_key("revoked_key"),
            Self::ExpiredKey => invalid_key("expired_key"),
            Self::DeniedKey => invalid_key("denied_key"),
            Self::InsufficientScope => same("insufficient_scope", 403, FORBIDDEN),
            Self::PlanRequired => same("plan_required", 403, FORBIDDEN),
            Self::BusinessSuspended => same("business_suspended", 403, FORBIDDEN),
            Self::BusinessForbidden => same("business_forbidden", 403, FORBIDDEN),
            Self::DeniedAddress => same("denied_address", 403, FORBIDDEN),
            Self::BodyTooLarge => same("body_too_large", 413, "The request body is too large"),
            Self::HeadersTooLarge => same("headers_too_large", 431, "The request headers are too large"),
            Self::UriTooLong => same("uri_too_long", 414, "The request target is too long"),
            Self::RateLimited => same("rate_limited", 429, "Too many requests"),
            Self::StoreUnavailable => same("store_unavailable", 503, "The request cannot be checked right now"),
            Self::Overloaded => same("overloaded", 503, "Too many requests are being served right now"),
            Self::UpstreamUnreachable => same("upstream_unreachable", 502, "The service cannot be reached"),
            Self::UpstreamInvalid => same("upstream_invalid", 502, "The service gave no valid answer"),
            Self::UpstreamTimeout => same("upstream_timeout", 504, "The service did not answer in time"),
            Self::MaxAge => same("max_age", 503, "The request was open for too long"),
            Self::Misdirected => same("misdirected", 421, "This host is not served on this connection"),
            Self::ClientGone => same("client_gone", 499, "The request broke off"),
            Self::ShuttingDown => same("shutting_down", 503, "The gate ended before there was an answer"),
            Self::CrossSite => same("cross_site", 403, "Requests from other sites are not taken here"),
            Self::NoSession => same("no_session", 401, "Sign in first"),
            Self::UnsupportedMediaType => {
                same("unsupported_media_type", 415, "Send the body as JSON, with `Content-Type: application/json`")
            }
            Self::Unprocessable => same("unprocessable", 422, "The request cannot be understood"),
            Self::RoleRequired => same("role_required", 403, FORBIDDEN),
            Self::KeyNotFound => same("key_not_found", 404, "There is no such key"),
            Self::TooManyKeys => same("too_many_keys", 409, "There are too many active keys"),
            Self::RotatedAlready => same("rotated_already", 409, "The key was rotated already"),
            Self::Unconfirmed => same("unconfirmed", 503, "It is done, but the store's replicas have not confirmed it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_is_listed_once_and_has_a_name_of_its_own() {
        let names: HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn an_invalid_key_does_not_say_why() {
        let codes: HashSet<_> = [
            Reason::MalformedKey,
            Reason::ForeignFormat,
            Reason::UnknownKey,
            Reason::RevokedKey,
            Reason::ExpiredKey,
            Reason::DeniedKey,
        ]
        .map(Reason::code)
        .into();
        assert_eq!(codes, HashSet::from(["invalid_api_key"]));
    }
}
