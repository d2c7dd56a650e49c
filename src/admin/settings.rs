//! Settings of the operators' listeners.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderMap;
use http::uri::PathAndQuery;

#[derive(Debug, Clone)]
pub struct Settings {
    /// `/metrics /livez /readyz` and the operators' tools; belongs on loopback.
    pub admin: SocketAddr,
    /// `/metrics /livez /readyz` for the kubelet and Prometheus.
    pub probes: Option<SocketAddr>,
    /// The service's own probes, answered on `probes`.
    pub app: Vec<AppProbe>,
    /// Whether readiness needs the store (`ready.store`).
    pub ready_needs_store: bool,
}

/// A probe of the service, which the kubelet would send itself if the service did not listen on loopback alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppProbe {
    /// Its path on the listener `probes`.
    pub path: String,
    /// On loopback, always.
    pub address: SocketAddr,
    pub check: Check,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// GET; 200 to 399 is healthy.
    Http { target: PathAndQuery, headers: HeaderMap },
    /// A connection that is accepted is healthy.
    Tcp,
    /// The gRPC health protocol (`grpc.health.v1`); the empty service is the whole server.
    Grpc { service: String },
}
