//! Why a request is not served: its reason, with the data of this case.
//!
//! The rest of the process reads a denial through `reason()`; `proxy/respond` alone turns it into an answer.

use std::borrow::Cow;

use crate::policy::Reason;
use crate::store::StoreError;

#[derive(Debug, Clone)]
pub enum Denial {
    BadRequest(Cow<'static, str>),
    /// A parameter that the policy reads has an invalid value; the request itself is well-formed.
    BadParameter(Cow<'static, str>),
    BadPath(&'static str),
    AmbiguousKey,
    RouteNotFound,
    MethodNotAllowed {
        allow: String,
    },
    MissingKey,
    /// With a text for the client where it helps and reveals nothing about other keys.
    MalformedKey(Option<&'static str>),
    /// The format's own text.
    ForeignFormat(String),
    UnknownKey,
    RevokedKey,
    ExpiredKey,
    DeniedKey,
    InsufficientScope {
        /// What the route needs, separated by spaces.
        required: String,
    },
    PlanRequired,
    BusinessSuspended,
    BusinessForbidden,
    DeniedAddress,
    BodyTooLarge,
    HeadersTooLarge,
    UriTooLong,
    RateLimited {
        /// Whole seconds, at least 1, after which this request passes; `None`: never, as the limits stand.
        retry_after: Option<u64>,
        /// The policies that denied it.
        violated: Vec<String>,
    },
    StoreUnavailable(StoreError),
    Overloaded,
    /// With the error, which goes to the log, not to the client.
    UpstreamUnreachable(String),
    UpstreamInvalid(String),
    UpstreamTimeout,
    /// `streams.max_age` was reached before there was an answer.
    TooOld,
    Misdirected,
    /// The client disconnected before there was an answer, or broke off its body.
    ClientGone,
    /// The process ended before there was an answer.
    ShuttingDown,
    /// A denial of the key-management API, with a text of its own where the reason's is not enough.
    Unmanaged {
        reason: Reason,
        detail: Option<String>,
    },
}

impl Denial {
    pub fn reason(&self) -> Reason {
        match self {
            Self::BadRequest(_) | Self::BadParameter(_) => Reason::BadRequest,
            Self::BadPath(_) => Reason::BadPath,
            Self::AmbiguousKey => Reason::AmbiguousKey,
            Self::RouteNotFound => Reason::RouteNotFound,
            Self::MethodNotAllowed { .. } => Reason::MethodNotAllowed,
            Self::MissingKey => Reason::MissingKey,
            Self::MalformedKey(_) => Reason::MalformedKey,
            Self::ForeignFormat(_) => Reason::ForeignFormat,
            Self::UnknownKey => Reason::UnknownKey,
            Self::RevokedKey => Reason::RevokedKey,
            Self::ExpiredKey => Reason::ExpiredKey,
            Self::DeniedKey => Reason::DeniedKey,
            Self::InsufficientScope { .. } => Reason::InsufficientScope,
            Self::PlanRequired => Reason::PlanRequired,
            Self::BusinessSuspended => Reason::BusinessSuspended,
            Self::BusinessForbidden => Reason::BusinessForbidden,
            Self::DeniedAddress => Reason::DeniedAddress,
            Self::BodyTooLarge => Reason::BodyTooLarge,
            Self::HeadersTooLarge => Reason::HeadersTooLarge,
            Self::UriTooLong => Reason::UriTooLong,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::StoreUnavailable(_) => Reason::StoreUnavailable,
            Self::Overloaded => Reason::Overloaded,
            Self::UpstreamUnreachable(_) => Reason::UpstreamUnreachable,
            Self::UpstreamInvalid(_) => Reason::UpstreamInvalid,
            Self::UpstreamTimeout => Reason::UpstreamTimeout,
            Self::TooOld => Reason::MaxAge,
            Self::Misdirected => Reason::Misdirected,
            Self::ClientGone => Reason::ClientGone,
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::Unmanaged { reason, .. } => *reason,
        }
    }

    /// Whether it may pass in observe mode: a decision of the policy; not a request that two servers may read differently, nor
    /// one that cannot be served.
    pub fn is_observable(&self) -> bool {
        match self {
            Self::RouteNotFound
            | Self::MethodNotAllowed { .. }
            | Self::BadParameter(_)
            | Self::MissingKey
            | Self::MalformedKey(_)
            | Self::ForeignFormat(_)
            | Self::UnknownKey
            | Self::RevokedKey
            | Self::ExpiredKey
            | Self::DeniedKey
            | Self::InsufficientScope { .. }
            | Self::PlanRequired
            | Self::BusinessSuspended
            | Self::BusinessForbidden
            | Self::DeniedAddress
            | Self::BodyTooLarge
            | Self::HeadersTooLarge
            | Self::UriTooLong
            | Self::RateLimited { .. }
            | Self::StoreUnavailable(_) => true,
            Self::BadRequest(_)
            | Self::BadPath(_)
            | Self::AmbiguousKey
            | Self::Overloaded
            | Self::UpstreamUnreachable(_)
            | Self::UpstreamInvalid(_)
            | Self::UpstreamTimeout
            | Self::TooOld
            | Self::Misdirected
            | Self::ClientGone
            | Self::ShuttingDown
            | Self::Unmanaged { .. } => false,
        }
    }

    /// Whether something failed, in the gate, behind it or at the client, rather than the gate refusing.
    pub fn is_failure(&self) -> bool {
        self.reason().is_failure()
    }
}

impl From<StoreError> for Denial {
    fn from(error: StoreError) -> Self {
        Self::StoreUnavailable(error)
    }
}
