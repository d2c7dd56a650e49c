//! Settings of the listener: address, certificates, bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

#[derive(Debug, Clone)]
pub struct Settings {
    pub address: SocketAddr,
    /// Absent: plain text.
    pub tls: Option<Tls>,
    /// Whose `X-Forwarded-For` names the client.
    pub trusted_proxies: Vec<IpNet>,
    pub bounds: Bounds,
    /// Whether each connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    pub drain: Drain,
    /// Threads that serve requests.
    pub workers: usize,
}

impl Settings {
    /// How many requests one worker serves at once: each has an equal share, so that workers need no shared counter.
    pub fn in_flight_each(&self) -> usize {
        self.bounds.in_flight.div_ceil(self.workers)
    }
}

#[derive(Debug, Clone)]
pub struct Tls {
    /// PEM files; the first pair is the default, others are chosen by SNI. Never empty.
    pub certificates: Vec<CertificateFiles>,
    /// PEM file of the authorities that clients' certificates must come from; absent: clients need none.
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// `listen.limits`.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Open at once; more are refused.
    pub connections: usize,
    pub handshake: Duration,
    pub header_read: Duration,
    pub header_bytes: usize,
    /// Header fields of one request.
    pub headers: usize,
    /// How long a connection may be without a request.
    pub idle: Duration,
    /// How long a client may pause in sending a request's body, and in reading an answer; how long nothing may pass through a
    /// half-closed tunnel.
    pub body_idle: Duration,
    /// How long an answer that has begun may go without a frame in either direction, and an upgraded connection without a byte.
    pub stream_idle: Duration,
    /// Requests served at once, by all workers together, each until the upstream's last frame; an upgraded connection counts
    /// until it ends.
    pub in_flight: usize,
    pub h2: H2Bounds,
}

/// Bounds of HTTP/2 alone.
#[derive(Debug, Clone)]
pub struct H2Bounds {
    /// Open at once on one connection.
    pub streams: u32,
    /// All header fields of one request, as RFC 9113 §6.5.2 counts them.
    pub header_bytes: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    /// Streams that the client reset before they were accepted (rapid reset, CVE-2023-44487).
    pub pending_resets: usize,
    /// Streams that the client made the gate reset (CVE-2025-8671).
    pub local_resets: usize,
    /// How often an HTTP/2 PING is sent, and how long its answer may take.
    pub ping: Duration,
    pub ping_answer: Duration,
}

/// What happens between SIGTERM and the exit.
#[derive(Debug, Clone)]
pub struct Drain {
    /// How long the process is not ready, but still accepts.
    pub delay: Duration,
    /// How long requests in flight then have to end.
    pub deadline: Duration,
}
