//! The YAML's shapes: which fields there are, and which of them have a short form. What they mean, and what their values may
//! be, `compile` says. The contract in DESIGN.md lists the same fields with their defaults.

mod shape;

use serde::Deserialize;

pub use shape::{Entries, Json, List, Scalar, Short};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of a sidegate configuration, such as `listen: 127.0.0.1:8080`")]
pub struct Root {
    pub listen: Option<Short<Listen>>,
    pub admin: Option<Short<Admin>>,
    pub probes: Option<Short<Probes>>,
    pub base_path: Option<Scalar>,
    pub upstream: Option<Short<Upstream>>,
    pub upstreams: Option<Entries<Short<Upstream>>>,
    pub store: Option<Short<Store>>,
    pub keys: Option<Keys>,
    pub scopes: Option<Scopes>,
    pub business: Option<Business>,
    pub plans: Option<Entries<Plan>>,
    pub limits: Option<Entries<Limit>>,
    pub defaults: Option<Defaults>,
    pub routes: Option<Entries<Short<Route>>>,
    pub streams: Option<Streams>,
    pub rate_limit_headers: Option<RateLimitHeaders>,
    pub errors: Option<Entries<ErrorText>>,
    pub cors: Option<Cors>,
    pub deny: Option<Deny>,
    pub management: Option<Management>,
    pub mode: Option<Scalar>,
    pub workers: Option<Scalar>,
    pub realm: Option<Scalar>,
    pub max_body: Option<Scalar>,
    pub drain: Option<Drain>,
    pub log: Option<Log>,
    pub ready: Option<Ready>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of `listen`")]
pub struct Listen {
    pub address: Option<Scalar>,
    pub tls: Option<ListenTls>,
    pub trusted_proxies: Option<List<Scalar>>,
    pub limits: Option<ListenLimits>,
    pub proxy_protocol: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`certificates`, each with `cert` and `key`")]
pub struct ListenTls {
    pub certificates: Option<List<Certificate>>,
    pub client_ca: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{cert: FILE, key: FILE}`")]
pub struct Certificate {
    pub cert: Option<Scalar>,
    pub key: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the listener's bounds, such as `connections: 10000`")]
pub struct ListenLimits {
    pub connections: Option<Scalar>,
    pub handshake: Option<Scalar>,
    pub header_read: Option<Scalar>,
    pub header_bytes: Option<Scalar>,
    pub headers: Option<Scalar>,
    pub body_idle: Option<Scalar>,
    pub idle: Option<Scalar>,
    pub stream_idle: Option<Scalar>,
    pub in_flight: Option<Scalar>,
    pub h2_streams: Option<Scalar>,
    pub h2_header_bytes: Option<Scalar>,
    pub h2_stream_window: Option<Scalar>,
    pub h2_connection_window: Option<Scalar>,
    pub h2_pending_resets: Option<Scalar>,
    pub h2_local_resets: Option<Scalar>,
    pub h2_ping: Option<Scalar>,
    pub h2_ping_answer: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`address`")]
pub struct Admin {
    pub address: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`address`, and `app` for the service's own probes")]
pub struct Probes {
    pub address: Option<Scalar>,
    pub app: Option<List<AppProbe>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{path: /ready, target: URL}`")]
pub struct AppProbe {
    #[serde(rename = "path")]
    _path: Option<Scalar>,
    #[serde(rename = "target")]
    _target: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of an upstream, such as `url: http://127.0.0.1:3000`")]
pub struct Upstream {
    pub url: Option<Scalar>,
    pub connect_timeout: Option<Scalar>,
    pub response_timeout: Option<Scalar>,
    pub idle: Option<Scalar>,
    pub h2_streams: Option<Scalar>,
    pub identity: Option<Entries<Scalar>>,
    pub headers: Option<Entries<Scalar>>,
    pub tls: Option<ClientTls>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`ca`, `cert` and `key`")]
pub struct ClientTls {
    pub ca: Option<Scalar>,
    pub cert: Option<Scalar>,
    pub key: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of `store`, such as `redis: redis://127.0.0.1:6379/0`")]
pub struct Store {
    pub redis: Option<Short<RedisNodes>>,
    pub file: Option<Scalar>,
    pub username: Option<Scalar>,
    pub password: Option<Scalar>,
    pub prefix: Option<Scalar>,
    pub deadline: Option<Scalar>,
    pub outage: Option<Outage>,
    pub tls: Option<ClientTls>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`cluster`, or `sentinels` and `master`")]
pub struct RedisNodes {
    pub cluster: Option<List<Scalar>>,
    pub sentinels: Option<List<Scalar>>,
    pub master: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`keys` and `limits`")]
pub struct Outage {
    pub keys: Option<Short<KnownFor>>,
    pub limits: Option<Short<Local>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`deny`, or `{known_for: 5m}`")]
pub struct KnownFor {
    pub known_for: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`local`, `allow`, `deny`, or `{local: {share: 1/4}}`")]
pub struct Local {
    pub local: Option<LocalShare>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{share: 1/4}`")]
pub struct LocalShare {
    pub share: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of `keys`, such as `from` and `formats`")]
pub struct Keys {
    pub from: Option<List<KeySource>>,
    pub formats: Option<List<KeyFormat>>,
    pub require: Option<List<Scalar>>,
    pub guessing: Option<List<Scalar>>,
    pub forward: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{header: Authorization, scheme: Bearer}` or `{header: X-API-Key}`")]
pub struct KeySource {
    pub header: Option<Scalar>,
    pub scheme: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{prefix: live_, length: 43}`")]
pub struct KeyFormat {
    pub prefix: Option<Scalar>,
    pub length: Option<List<Scalar>>,
    pub alphabet: Option<Scalar>,
    pub checksum: Option<Scalar>,
    pub reject: Option<Scalar>,
    pub upstream: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`implies` and `default`")]
pub struct Scopes {
    pub implies: Option<Entries<List<Scalar>>>,
    pub default: Option<List<Scalar>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`from`")]
pub struct Business {
    pub from: Option<List<BusinessSource>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{path: NAME}`, `{query: NAME}` or `{header: NAME}`")]
pub struct BusinessSource {
    pub path: Option<Scalar>,
    pub query: Option<Scalar>,
    pub header: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{api: false}` or `{limits: {NAME: 600/1m}}`; `{}` where nothing is special")]
pub struct Plan {
    pub api: Option<Scalar>,
    pub limits: Option<Entries<List<Scalar>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`{by: key, windows: 60/1m}`")]
pub struct Limit {
    pub by: Option<Scalar>,
    pub windows: Option<List<Scalar>>,
    pub algorithm: Option<Scalar>,
    pub mode: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`limits` and `max_query`")]
pub struct Defaults {
    pub limits: Option<List<Scalar>>,
    pub max_query: Option<Entries<Scalar>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a scope, `any`, `public`, or the fields of a route")]
pub struct Route {
    pub scopes: Option<List<Scalar>>,
    pub any_scope: Option<List<Scalar>>,
    pub any: Option<Scalar>,
    pub public: Option<Scalar>,
    pub cost: Option<Scalar>,
    pub limits: Option<List<Scalar>>,
    pub max_query: Option<Entries<Scalar>>,
    pub response_timeout: Option<Scalar>,
    pub max_body: Option<Scalar>,
    pub upstream: Option<Scalar>,
    pub lenient: Option<Scalar>,
    pub paths: Option<List<Scalar>>,
    pub mode: Option<Scalar>,
    pub preflight: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`recheck` and `max_age`")]
pub struct Streams {
    pub recheck: Option<Scalar>,
    pub max_age: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`x`, `reset` and `ietf`")]
pub struct RateLimitHeaders {
    pub x: Option<Scalar>,
    pub reset: Option<Scalar>,
    pub ietf: Option<Scalar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`status`, `code`, `type`, `title`, `detail`, `headers`, `body`")]
pub struct ErrorText {
    pub status: Option<Scalar>,
    pub code: Option<Scalar>,
    pub r#type: Option<Scalar>,
    pub title: Option<Scalar>,
    pub detail: Option<Scalar>,
    pub headers: Option<Entries<Scalar>>,
    pub body: Option<Json>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`origins` and `preflight`")]
pub struct Cors {
    pub origins: Option<List<Scalar>>,
    pub preflight: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`keys` and `addresses`")]
pub struct Deny {
    pub keys: Option<List<Scalar>>,
    pub addresses: Option<List<Scalar>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of `management`, such as `path` and `session`")]
pub struct Management {
    pub path: Option<Scalar>,
    pub session: Option<Scalar>,
    pub roles: Option<List<Scalar>>,
    pub grants: Option<Entries<List<Scalar>>>,
    pub max_active_keys: Option<Scalar>,
    pub redis: Option<Short<ManagementRedis>>,
    pub unscoped: Option<Scalar>,
    pub create_rate: Option<List<Scalar>>,
    pub wait_replicas: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an address of Redis, or `{url, username, password}`")]
pub struct ManagementRedis {
    pub url: Option<Scalar>,
    pub username: Option<Scalar>,
    pub password: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`delay` and `deadline`")]
pub struct Drain {
    pub delay: Option<Scalar>,
    pub deadline: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`level`, `format` and `sample`")]
pub struct Log {
    pub level: Option<Scalar>,
    pub format: Option<Scalar>,
    pub sample: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`store`")]
pub struct Ready {
    pub store: Option<Scalar>,
}
