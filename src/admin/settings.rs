//! What the configuration says of the operators' listeners.

use std::net::SocketAddr;

#[derive(Debug, Clone)]
pub struct Settings {
    /// `/metrics /livez /readyz` and the operators' tools; belongs on loopback.
    pub admin: SocketAddr,
    /// `/metrics /livez /readyz` for the kubelet and Prometheus.
    pub probes: Option<SocketAddr>,
    /// Whether readiness needs the store (`ready.store`).
    pub ready_needs_store: bool,
}
