//! Why an upstream gave no answer, or not the whole of one, and whether it may be asked again.

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

/// Why an exchange brought no answer, and what that allows (RFC 9110 §9.2.2).
pub struct FailedExchange {
    /// Nothing of the request was sent.
    pub unsent: bool,
    /// The upstream said that it did not look at it.
    pub refused: bool,
    /// The connection had served before and ended without a word: the upstream may have closed it before the request came.
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

/// The whole story of an error, for the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told.push_str(": ");
        told.push_str(&cause.to_string());
        source = cause.source();
    }
    told
}
