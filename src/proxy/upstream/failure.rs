//! Why an upstream gave no answer, or only a part of one, and whether the request may be sent again.

use http::Method;
use thiserror::Error;

use super::h1::error;
use crate::proxy::truncated_body::TruncatedBody;
use crate::proxy::upload::ForwardedBody;

/// Why an exchange failed, or an answer broke off.
#[derive(Debug, Error)]
pub enum Failure {
    #[error(transparent)]
    H1(#[from] error::Error),
    #[error(transparent)]
    H2(#[from] TruncatedBody),
}

/// An exchange without an answer, and what decides whether it may be repeated (RFC 9110 §9.2.2).
pub struct FailedExchange {
    /// Nothing of the request was sent.
    pub unsent: bool,
    /// The upstream said that it did not process it (GOAWAY, REFUSED_STREAM).
    pub refused: bool,
    /// A reused connection that ended without a byte of an answer: the upstream may have closed it before the request arrived.
    pub closed_silently: bool,
    pub error: Failure,
}

impl FailedExchange {
    /// The connection was closed before it could be used.
    pub fn unsent(error: impl Into<Failure>) -> Self {
        Self { unsent: true, refused: false, closed_silently: false, error: error.into() }
    }

    pub fn may_be_sent_again(&self, method: &Method, body: &ForwardedBody) -> bool {
        let idempotent = method.is_idempotent() && body.upload().is_none();
        self.unsent || (!body.has_begun() && (self.refused || (self.closed_silently && idempotent)))
    }
}

/// An error with all its sources, for the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
