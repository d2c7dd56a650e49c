//! Settings of forwarding and answering.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::keys::Digest;
use crate::policy::template::Template;

#[derive(Debug, Clone)]
pub struct Settings {
    /// By `UpstreamId`; the first is the default.
    pub upstreams: Vec<Upstream>,
    pub rate_limit_headers: RateLimitHeaders,
    /// All header fields of a request together, in bytes (`listen.limits.header_bytes`).
    pub header_bytes: usize,
    /// The same over HTTP/2, which counts 32 bytes more for each field (`listen.limits.h2_header_bytes`; RFC 9113 §6.5.2).
    pub h2_header_bytes: usize,
    /// How many there may be (`listen.limits.headers`).
    pub headers: usize,
    pub streams: Streams,
    /// Absent: no CORS headers.
    pub cors: Option<Cors>,
}

/// Limits on open requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// How often the key is rechecked.
    pub recheck: Duration,
    /// How long a request may stay open.
    pub max_age: Duration,
}

/// Which origins' scripts may read local replies and the gate's headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    AnyOrigin,
    /// As browsers write them (`https://app.example.com`).
    Origins(Vec<HeaderValue>),
}

/// A service behind the gate. Where two are equal, a reload keeps the connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub name: String,
    pub target: Target,
    pub connect_timeout: Duration,
    /// From the last request-body frame forwarded to the response head.
    pub response_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
    /// Requests at once on one HTTP/2 connection; the upstream may allow fewer.
    pub h2_streams: usize,
    /// Whether it is told in `Via` that requests have passed a proxy; where not, nobody else's passes either.
    pub via: bool,
    /// Set on the forwarded request; a client's own copy never passes. One that renders empty is left out.
    pub identity: Vec<(HeaderName, Template<Identity>)>,
    /// Fixed, set last.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub tls: UpstreamTls,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An IPv6 host stands in brackets, as in a URL.
    Tcp {
        host: String,
        port: u16,
        protocol: Protocol,
    },
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `http://`: HTTP/1.1 in clear.
    Http,
    /// `https://`: HTTP/2 or HTTP/1.1 by ALPN.
    Https,
    /// `h2c://`: HTTP/2 in clear, by prior knowledge.
    H2c,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file of the authorities to trust; absent: the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of the client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Digests of these files' contents, so that settings differ when a file has changed.
    pub contents: Vec<Option<Digest>>,
}

/// The placeholders of an identity header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    KeyId,
    KeyName,
    Business,
    User,
    Scopes,
    Plan,
    RequestId,
    /// Its address: the peer's, or whom a trusted proxy names.
    Client,
}

impl Identity {
    pub const PLACEHOLDERS: &'static [(&'static str, Self)] = &[
        ("key_id", Self::KeyId),
        ("key_name", Self::KeyName),
        ("business", Self::Business),
        ("user", Self::User),
        ("scopes", Self::Scopes),
        ("plan", Self::Plan),
        ("request_id", Self::RequestId),
        ("client", Self::Client),
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimitHeaders {
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`.
    pub x: bool,
    pub reset: Reset,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
    pub ietf: bool,
}

/// The form of a reset time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Seconds since the Unix epoch, as GitHub does.
    Unix,
    /// Seconds from now.
    Seconds,
}
