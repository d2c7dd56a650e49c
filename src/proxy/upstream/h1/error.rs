//! Why an HTTP/1.1 exchange with an upstream failed, in words for the log.

use std::io;

use thiserror::Error;

use crate::proxy::upload::BodyError;

#[derive(Debug, Error)]
pub enum Error {
    /// The upstream could read the request's head, or the end of its body, in another way than it was decided on.
    #[error("the request cannot be sent: {0}")]
    Unsendable(&'static str),
    #[error("the request's body failed")]
    Body(#[source] BodyError),
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("the connection was closed before {0}")]
    Closed(&'static str),
    #[error("the answer's head is not HTTP/1.1")]
    Head(#[source] httparse::Error),
    #[error("the answer's trailers are no header fields")]
    Trailers(#[source] httparse::Error),
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
}
