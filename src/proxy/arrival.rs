//! Where a request came from: determined by the listener, forwarded and logged by the pipeline.

use std::net::IpAddr;
use std::rc::Rc;

use http::HeaderValue;

use crate::gate::Denial;

/// Where a request came from, as the listener determines it.
#[derive(Clone)]
pub struct Arrival {
    /// The other end of the connection.
    pub peer: Address,
    /// The client: the peer, or the address that a trusted proxy names.
    pub client: Address,
    /// Whether the peer is a trusted proxy.
    pub trusted: bool,
    /// Whether the request came over TLS.
    pub secure: bool,
    /// Why the listener refuses the request, if it does; it is answered and logged like every other denial.
    pub refused: Option<Refused>,
}

/// An address with its text, which is formatted once per connection: forwarded headers and log lines repeat it with every
/// request. Clones share it.
#[derive(Debug, Clone)]
pub struct Address(Rc<AddressText>);

#[derive(Debug)]
struct AddressText {
    ip: IpAddr,
    text: HeaderValue,
}

impl Address {
    pub fn ip(&self) -> IpAddr {
        self.0.ip
    }

    pub fn as_str(&self) -> &str {
        // Digits, dots and colons always are text.
        self.0.text.to_str().unwrap_or_default()
    }

    pub fn value(&self) -> &HeaderValue {
        &self.0.text
    }
}

impl From<IpAddr> for Address {
    /// IPv4 mapped into IPv6 is IPv4.
    fn from(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        let text = HeaderValue::try_from(ip.to_string()).expect("digits, dots and colons are a header's value");
        Self(Rc::new(AddressText { ip, text }))
    }
}

/// Reasons to refuse a request that only the listener can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The limit on requests in flight is reached.
    Overloaded,
    /// Whitespace around a field's value, which HTTP/2 forbids (RFC 9113 §8.2.1) and HTTP/1.1 would strip.
    PaddedValue,
    /// The host belongs to another certificate than the one presented on this connection.
    Misdirected,
}

impl From<Refused> for Denial {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::Overloaded,
            Refused::PaddedValue => Self::BadRequest("A header's value begins or ends with whitespace".into()),
            Refused::Misdirected => Self::Misdirected,
        }
    }
}
