//! Where a request came from. The listener knows; the pipeline forwards and logs it.

use std::net::IpAddr;

use crate::gate::Denial;

/// Where a request came from, as the listener knows it.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// The client that it speaks for: the peer, or whom a trusted proxy names.
    pub client: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
    /// Whether the request came over TLS.
    pub secure: bool,
    /// Why the listener will not have it served; it is answered and logged like every other.
    pub refused: Option<Refused>,
}

/// What only the listener can see of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As many are in flight as may be.
    Overloaded,
    TooManyHeaders,
    /// Whitespace around a field's value, which HTTP/2 does not have (RFC 9113 §8.2.1) and HTTP/1.1 would take off again.
    PaddedValue,
}

impl From<Refused> for Denial {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::Overloaded,
            Refused::TooManyHeaders => Self::HeadersTooLarge,
            Refused::PaddedValue => Self::BadRequest("A header's value begins or ends with whitespace".into()),
        }
    }
}
