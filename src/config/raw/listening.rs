//! The shapes of what belongs to the process: its listener, its log, its end. Like its neighbours in `raw`, read by `compile`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::schema::{flag, words};
use super::{List, Scalar};

/// Where clients connect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of `listen`")]
pub struct Listen {
    /// Address and port, such as `0.0.0.0:8443`.
    pub address: Option<Scalar>,
    /// Certificates. Absent: plain text.
    pub tls: Option<ListenTls>,
    /// Networks whose `X-Forwarded-For` names the client. Default none.
    pub trusted_proxies: Option<List<Scalar>>,
    /// Bounds on connections and heads.
    pub limits: Option<ListenLimits>,
    /// Whether each connection begins with a PROXY header, version 1 or 2. Default false.
    #[schemars(extend("anyOf" = flag()))]
    pub proxy_protocol: Option<Scalar>,
}

/// The listener's TLS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`certificates`, each with `cert` and `key`")]
pub struct ListenTls {
    /// The first is the default, others are chosen by SNI.
    pub certificates: Option<List<Certificate>>,
    /// PEM file: only clients with a certificate of these authorities connect.
    pub client_ca: Option<Scalar>,
}

/// A certificate and its key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{cert: FILE, key: FILE}`")]
pub struct Certificate {
    /// PEM file with the certificate and its chain.
    #[schemars(required)]
    pub cert: Option<Scalar>,
    /// PEM file with the private key.
    #[schemars(required)]
    pub key: Option<Scalar>,
}

/// Bounds on what clients may hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the listener's bounds, such as `connections: 10000`")]
pub struct ListenLimits {
    /// Connections open at once. Default 10000.
    pub connections: Option<Scalar>,
    /// How long a TLS handshake may take. Default 10s.
    pub handshake: Option<Scalar>,
    /// From a head's first byte to its last. Default 10s.
    pub header_read: Option<Scalar>,
    /// All header fields of a request. Default 32KiB.
    pub header_bytes: Option<Scalar>,
    /// How many header fields. Default 100.
    pub headers: Option<Scalar>,
    /// How long a client may pause within a body, or within taking an answer. Default 30s.
    pub body_idle: Option<Scalar>,
    /// How long a connection may be without a request. Default 2m.
    pub idle: Option<Scalar>,
    /// How long an answer that has begun may go without a frame in either direction. Default 5m.
    pub stream_idle: Option<Scalar>,
    /// Requests served at once; one more is 503. Each worker has an equal share, rounded up, and a connection stays with one worker.
    /// Default 10000.
    pub in_flight: Option<Scalar>,
    /// HTTP/2 streams at once on one connection. Default 100.
    pub h2_streams: Option<Scalar>,
    /// All header fields of a request on HTTP/2. Default 16KiB.
    pub h2_header_bytes: Option<Scalar>,
    /// HTTP/2 flow-control window of a stream. Default 64KiB.
    pub h2_stream_window: Option<Scalar>,
    /// HTTP/2 flow-control window of a connection. Default 1MiB.
    pub h2_connection_window: Option<Scalar>,
    /// Streams that a client reset before they were looked at. Default 20.
    pub h2_pending_resets: Option<Scalar>,
    /// Streams that a client made the gate reset. Default 256.
    pub h2_local_resets: Option<Scalar>,
    /// After how long a silent HTTP/2 connection is asked whether it lives. Default 30s.
    pub h2_ping: Option<Scalar>,
    /// How long it may take to answer. Default 10s.
    pub h2_ping_answer: Option<Scalar>,
}

/// How the process ends after SIGTERM.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`delay` and `deadline`")]
pub struct Drain {
    /// How long it is not ready but still serves. Default 5s.
    pub delay: Option<Scalar>,
    /// How long requests in flight may then take. Default 30s.
    pub deadline: Option<Scalar>,
}

/// What is logged and how.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`level`, `format` and `sample`")]
pub struct Log {
    /// `error`, `warn`, `info` (default), `debug`, `trace`.
    #[schemars(extend("anyOf" = words(&["error", "warn", "info", "debug", "trace"])))]
    pub level: Option<Scalar>,
    /// `auto` (default): text on a terminal, else JSON; `json`, `text`.
    #[schemars(extend("anyOf" = words(&["auto", "json", "text"])))]
    pub format: Option<Scalar>,
    /// The share of allowed requests that are logged. Default 1.0; denials always are.
    pub sample: Option<Scalar>,
}

/// When the gate counts as ready.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`store`")]
pub struct Ready {
    /// Whether it needs its store for that. Default true.
    #[schemars(extend("anyOf" = flag()))]
    pub store: Option<Scalar>,
}
