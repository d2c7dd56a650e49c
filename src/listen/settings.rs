//! What the configuration says of the listener: where, with which certificates, within which bounds.

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
    pub drain: Drain,
    /// Threads that serve requests.
    pub workers: usize,
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
    /// Open at once; one more is closed at once.
    pub connections: usize,
    pub handshake: Duration,
    pub header_read: Duration,
    pub header_bytes: usize,
    /// Header fields of one request.
    pub headers: usize,
    pub h2_streams: u32,
}

/// What happens between SIGTERM and the exit.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Not ready, but still accepting, for so long.
    pub delay: Duration,
    /// Then what is in flight has so long to end.
    pub deadline: Duration,
}
