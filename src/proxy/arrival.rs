//! Where a request came from. The listener knows; the pipeline forwards and logs it.

use std::net::IpAddr;

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
}
