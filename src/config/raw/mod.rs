//! The YAML's shapes: which fields there are, and which of them have a short form. What they mean, and what their values may
//! be, `compile` says. The contract in DESIGN.md lists the same fields with their defaults.

pub mod document;
mod listening;
mod schema;
mod shape;

use schemars::JsonSchema;
use serde::Deserialize;

use schema::{flag, words};

pub use listening::{Drain, Listen, ListenLimits, ListenTls, Log, Ready};
pub use shape::{Entries, Json, List, Scalar, Short};

/// A gate's whole configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of a sidegate configuration, such as `listen: 127.0.0.1:8080`")]
#[schemars(extend("required" = ["listen", "store", "routes"]))]
#[schemars(extend("oneOf" = [{"required": ["upstream"]}, {"required": ["upstreams"]}]))]
pub struct Root {
    /// Where clients connect: an address such as `0.0.0.0:8443`, or fields.
    pub listen: Option<Short<Listen>>,
    /// The operators' listener: `/metrics`, `/livez`, `/readyz` and tools. Keep it on loopback. Default `127.0.0.1:9900`.
    pub admin: Option<Short<Admin>>,
    /// A second listener with `/metrics`, `/livez` and `/readyz` alone, for the kubelet and Prometheus.
    pub probes: Option<Short<Probes>>,
    /// What every route and the management API stand below, such as `/api`.
    pub base_path: Option<Scalar>,
    /// The service behind the gate: its URL, or fields.
    pub upstream: Option<Short<Upstream>>,
    /// Several services by name, instead of `upstream`. One is called `default`.
    pub upstreams: Option<Entries<Short<Upstream>>>,
    /// Where keys and counts live: `redis://…`, `file:…`, or fields.
    pub store: Option<Short<Store>>,
    /// Where a request's key stands and how keys look.
    pub keys: Option<Keys>,
    /// What a scope implies, and what a new key gets.
    pub scopes: Option<Scopes>,
    /// Where a request may name the business it is about.
    pub business: Option<Business>,
    /// The plans by name. With plans, a business without one of them is refused, unless one is `default`.
    pub plans: Option<Entries<Plan>>,
    /// The limits by name. Each must be used by a route or by `defaults`.
    pub limits: Option<Entries<Limit>>,
    /// What routes with a key get that do not say it themselves.
    pub defaults: Option<Defaults>,
    /// What may pass, by pattern (`GET /v1/agents/**`). The most specific wins; anything else is 404.
    pub routes: Option<Entries<Short<Route>>>,
    /// How often the key of an open stream is asked about again.
    pub streams: Option<Streams>,
    /// Which rate-limit headers answers carry.
    pub rate_limit_headers: Option<RateLimitHeaders>,
    /// How denials read, by reason, public code, status, or `default`.
    pub errors: Option<Entries<ErrorText>>,
    /// Lets browsers of these origins read the gate's own answers.
    pub cors: Option<Cors>,
    /// Shut out at once, without asking the store.
    pub deny: Option<Deny>,
    /// The key API over HTTP, for people with a session of the service.
    pub management: Option<Management>,
    /// `enforce` (default), or `observe`: decide, count and log, but let pass.
    #[schemars(extend("anyOf" = words(&["enforce", "observe"])))]
    pub mode: Option<Scalar>,
    /// How many workers serve. Default: one per core of the CPU quota, at most 4.
    pub workers: Option<Scalar>,
    /// What `WWW-Authenticate` says. Default `api`.
    pub realm: Option<Scalar>,
    /// The largest request body, such as `10MB`. Default: no bound.
    pub max_body: Option<Scalar>,
    /// How the process ends.
    pub drain: Option<Drain>,
    /// What is logged and how.
    pub log: Option<Log>,
    /// When the gate counts as ready.
    pub ready: Option<Ready>,
}

/// The operators' listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`address`")]
pub struct Admin {
    /// Address and port, such as `127.0.0.1:9900`.
    pub address: Option<Scalar>,
}

/// The listener for probes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`address`, and `app` for the service's own probes")]
pub struct Probes {
    /// Address and port, such as `0.0.0.0:9901`.
    pub address: Option<Scalar>,
    /// The service's own probes, passed on from here.
    pub app: Option<List<AppProbe>>,
}

/// A probe of the service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{path: /ready, target: URL}`")]
pub struct AppProbe {
    /// The path on this listener, such as `/app/ready`.
    #[schemars(required)]
    pub path: Option<Scalar>,
    /// What is asked, on loopback: `http://127.0.0.1:3000/ok`, `tcp://127.0.0.1:3000`, `grpc://127.0.0.1:3000/service`.
    #[schemars(required)]
    pub target: Option<Scalar>,
    /// How long the service may take. Default 1s.
    pub timeout: Option<Scalar>,
    /// Headers of an HTTP question.
    pub headers: Option<Entries<List<Scalar>>>,
}

/// A service behind the gate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of an upstream, such as `url: http://127.0.0.1:3000`")]
pub struct Upstream {
    /// `http://`, `https://`, `h2c://` with a host and a port, or `unix:/path.sock`; no path, no query.
    pub url: Option<Scalar>,
    /// How long a connection may take to be made, TLS included. Default 2s.
    pub connect_timeout: Option<Scalar>,
    /// From the last request-body frame forwarded to the response head. Default 15s.
    pub response_timeout: Option<Scalar>,
    /// How long an unused connection is kept. Default 60s.
    pub idle: Option<Scalar>,
    /// Requests at once on one HTTP/2 connection. Default 100.
    pub h2_streams: Option<Scalar>,
    /// Whether it is told in `Via` that a request has passed a proxy. Default true.
    pub via: Option<Scalar>,
    /// Headers that tell who asks, such as `X-Key-Id: "{key_id}"`; also {key_name} {business} {user} {scopes} {plan} {request_id}
    /// and {client}, the client's address.
    pub identity: Option<Entries<Scalar>>,
    /// Fixed headers, set last, such as a secret that shows that the gate was passed.
    pub headers: Option<Entries<Scalar>>,
    /// For `https`: authorities and a client certificate.
    pub tls: Option<ClientTls>,
}

/// TLS as a client.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`ca`, `cert` and `key`")]
pub struct ClientTls {
    /// PEM file with the authorities. Default: the system's.
    pub ca: Option<Scalar>,
    /// PEM file with the client certificate.
    pub cert: Option<Scalar>,
    /// PEM file with its private key.
    pub key: Option<Scalar>,
}

/// Where keys and counts live.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of `store`, such as `redis: redis://127.0.0.1:6379/0`")]
pub struct Store {
    /// `redis://` or `rediss://` address, or the nodes of a cluster or of sentinels.
    pub redis: Option<Short<RedisNodes>>,
    /// A file with keys and businesses, with counts in memory; for one process.
    pub file: Option<Scalar>,
    /// ACL user.
    pub username: Option<Scalar>,
    /// Its password, such as `${REDIS_PASSWORD}` or `${file:/run/secrets/redis}`.
    pub password: Option<Scalar>,
    /// What every key in Redis begins with. Default `sg`.
    pub prefix: Option<Scalar>,
    /// All store work of one request. Default 100ms.
    pub deadline: Option<Scalar>,
    /// What happens while the store is away.
    pub outage: Option<Outage>,
    /// For `rediss://`: authorities and a client certificate.
    pub tls: Option<ClientTls>,
}

/// Several Redis nodes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`cluster`, or `sentinels` and `master`")]
pub struct RedisNodes {
    /// Some nodes of a cluster; they know the others.
    pub cluster: Option<List<Scalar>>,
    /// The sentinels that know the master.
    pub sentinels: Option<List<Scalar>>,
    /// The master's name to the sentinels.
    pub master: Option<Scalar>,
}

/// What happens while the store is away.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`keys` and `limits`")]
pub struct Outage {
    /// `deny` (default), or `{known_for: 5m}`: keys confirmed within that time pass.
    pub keys: Option<Short<KnownFor>>,
    /// `local` (default): each process counts for itself and gives each limit whole; or `{local: {share: 1/4}}`, `allow`, `deny`.
    pub limits: Option<Short<Local>>,
}

/// Keys that were confirmed not long ago pass.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`deny`, or `{known_for: 5m}`")]
pub struct KnownFor {
    /// For how long, such as `5m`.
    pub known_for: Option<Scalar>,
}

/// Each process counts for itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`local`, `allow`, `deny`, or `{local: {share: 1/4}}`")]
pub struct Local {
    /// How much of each limit a process gives.
    pub local: Option<LocalShare>,
}

/// A part of each limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{share: 1/4}`")]
pub struct LocalShare {
    /// A fraction, such as `1/4` where four processes share the limits, so that in sum they give no more than the whole. Each gives
    /// room for one request at least (rounded down otherwise), which in sum may be more than a small limit.
    pub share: Option<Scalar>,
}

/// Where a request's key stands and how keys look.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of `keys`, such as `from` and `formats`")]
pub struct Keys {
    /// Where a key is looked for. Default: `Authorization: Bearer` and `X-API-Key`.
    pub from: Option<List<KeySource>>,
    /// How keys look; the first is what is minted. Absent: any value is looked up.
    pub formats: Option<List<KeyFormat>>,
    /// What a key must be created with: business, user, scopes, expiry. Default none.
    pub require: Option<List<Scalar>>,
    /// Unknown keys from one address, beyond which it gets 429 without a lookup, such as `60/1m`. Default: no bound.
    pub guessing: Option<List<Scalar>>,
    /// Whether the key itself reaches the upstream. Default false.
    #[schemars(extend("anyOf" = flag()))]
    pub forward: Option<Scalar>,
}

/// Where a key may stand.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{header: Authorization, scheme: Bearer}` or `{header: X-API-Key}`")]
pub struct KeySource {
    /// The header's name.
    pub header: Option<Scalar>,
    /// What stands before the key, such as `Bearer`.
    pub scheme: Option<Scalar>,
}

/// How a key looks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{prefix: live_, length: 43}`")]
pub struct KeyFormat {
    /// What it begins with, such as `live_`.
    pub prefix: Option<Scalar>,
    /// Characters after the prefix: a number, or the least and the most. Default: 1 to 512, of which 43 are minted.
    pub length: Option<List<Scalar>>,
    /// `base62` (default), `base64url` or `hex`.
    #[schemars(extend("anyOf" = words(&["base62", "base64url", "hex"])))]
    pub alphabet: Option<Scalar>,
    /// Whether keys end in a CRC-32 inside `length`, so that others are refused without a lookup. Default false.
    #[schemars(extend("anyOf" = flag()))]
    pub checksum: Option<Scalar>,
    /// Keys of this format are refused, with this text.
    pub reject: Option<Scalar>,
    /// Keys of this format are served there, whatever the route says.
    pub upstream: Option<Scalar>,
}

/// What scopes mean.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`implies` and `default`")]
pub struct Scopes {
    /// What a scope grants besides itself, such as `admin: ["*"]`.
    pub implies: Option<Entries<List<Scalar>>>,
    /// What a key created without scopes gets. Default none.
    pub default: Option<List<Scalar>>,
}

/// Where a request may name a business.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`from`")]
pub struct Business {
    /// All places that name one must agree, else 400.
    pub from: Option<List<BusinessSource>>,
}

/// A place where a request may name a business.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{path: NAME}`, `{query: NAME}` or `{header: NAME}`")]
pub struct BusinessSource {
    /// The name of a path parameter.
    pub path: Option<Scalar>,
    /// The name of a query parameter.
    pub query: Option<Scalar>,
    /// The name of a header.
    pub header: Option<Scalar>,
}

/// What a plan gives.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{api: false}` or `{limits: {NAME: 600/1m}}`; `{}` where nothing is special")]
pub struct Plan {
    /// Whether it includes the API at all. Default true.
    #[schemars(extend("anyOf" = flag()))]
    pub api: Option<Scalar>,
    /// Windows that replace those of these limits.
    pub limits: Option<Entries<List<Scalar>>>,
}

/// How many requests are let through, and counted together with which others.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{by: key, windows: 60/1m}`")]
pub struct Limit {
    /// Whose requests are counted together. `ip` counts an IPv6 address by its /64.
    #[schemars(required, extend("anyOf" = words(&["key", "business", "user", "ip", "global"])))]
    pub by: Option<Scalar>,
    /// `60/1m`, or several that must all have room; units s m h d.
    #[schemars(required)]
    pub windows: Option<List<Scalar>>,
    /// How a window counts. Default `fixed-window`.
    #[schemars(extend("anyOf" = words(&["fixed-window", "sliding-window", "token-bucket"])))]
    pub algorithm: Option<Scalar>,
    /// `enforce` (default), or `observe`: count and log, but let pass.
    #[schemars(extend("anyOf" = words(&["enforce", "observe"])))]
    pub mode: Option<Scalar>,
}

/// What routes with a key get that do not say it themselves.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`limits` and `max_query`")]
pub struct Defaults {
    /// Names of limits.
    pub limits: Option<List<Scalar>>,
    /// The most that query parameters may say; a larger number is clamped.
    pub max_query: Option<Entries<Scalar>>,
}

/// What a pattern needs: a scope, `any`, `public`, or fields.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a scope, `any`, `public`, or the fields of a route")]
pub struct Route {
    /// The scopes that a key needs, all of them.
    pub scopes: Option<List<Scalar>>,
    /// Scopes of which a key needs one.
    pub any_scope: Option<List<Scalar>>,
    /// true: any valid key.
    #[schemars(extend("anyOf" = flag()))]
    pub any: Option<Scalar>,
    /// true: no key at all; `defaults` do not apply.
    #[schemars(extend("anyOf" = flag()))]
    pub public: Option<Scalar>,
    /// What one request takes from each limit. Default 1.
    pub cost: Option<Scalar>,
    /// Names of limits, instead of the defaults'.
    pub limits: Option<List<Scalar>>,
    /// The most that query parameters may say, instead of the defaults'.
    pub max_query: Option<Entries<Scalar>>,
    /// Instead of the upstream's.
    pub response_timeout: Option<Scalar>,
    /// Instead of the one for all.
    pub max_body: Option<Scalar>,
    /// The name of an upstream. Default `default`.
    pub upstream: Option<Scalar>,
    /// true: a path that a lenient service would read as another route's is served all the same. Default false.
    #[schemars(extend("anyOf" = flag()))]
    pub lenient: Option<Scalar>,
    /// What a path may hold that is refused elsewhere: `encoded-slash`, `semicolon`.
    pub paths: Option<List<Scalar>>,
    /// `enforce`, or `observe`: decide, count and log, but let pass. Default: the configuration's `mode`.
    #[schemars(extend("anyOf" = words(&["enforce", "observe"])))]
    pub mode: Option<Scalar>,
    /// `forward` passes CORS preflight requests on without a key, `deny` does not. Default: what `cors.preflight` says.
    pub preflight: Option<Scalar>,
}

/// Open streams.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`recheck` and `max_age`")]
pub struct Streams {
    /// How often the key is asked about again while a stream is open. Default 10s.
    pub recheck: Option<Scalar>,
    /// How long a stream may be open. Default 1h.
    pub max_age: Option<Scalar>,
}

/// Which rate-limit headers answers carry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`x`, `reset` and `ietf`")]
pub struct RateLimitHeaders {
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`. Default true.
    #[schemars(extend("anyOf" = flag()))]
    pub x: Option<Scalar>,
    /// `unix` (default): when the window resets; `seconds`: until then.
    #[schemars(extend("anyOf" = words(&["unix", "seconds"])))]
    pub reset: Option<Scalar>,
    /// `RateLimit` and `RateLimit-Policy` of the IETF draft. Default false.
    #[schemars(extend("anyOf" = flag()))]
    pub ietf: Option<Scalar>,
}

/// How a denial reads. What is left out comes from the less specific entry.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`status`, `code`, `type`, `title`, `detail`, `headers`, `body`")]
pub struct ErrorText {
    /// The status that is sent instead.
    pub status: Option<Scalar>,
    /// The public code.
    pub code: Option<Scalar>,
    /// The problem's type.
    pub r#type: Option<Scalar>,
    /// The problem's title.
    pub title: Option<Scalar>,
    /// One sentence; may hold placeholders such as `{retry_after}`.
    pub detail: Option<Scalar>,
    /// Further headers of the answer.
    pub headers: Option<Entries<Scalar>>,
    /// The JSON body instead of problem+json; a text that is one placeholder keeps its type.
    pub body: Option<Json>,
}

/// Cross-origin requests of browsers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`origins` and `preflight`")]
pub struct Cors {
    /// Origins that may read the gate's own answers, such as `https://app.example.com`.
    pub origins: Option<List<Scalar>>,
    /// `deny` (default), or `forward`: browsers' preflight requests go to the service without a key.
    pub preflight: Option<Scalar>,
}

/// Shut out at once, at the next reload, without asking the store.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`keys` and `addresses`")]
pub struct Deny {
    /// Ids or SHA-256 digests of keys, never a key itself, nor its hint.
    pub keys: Option<List<Scalar>>,
    /// Addresses and networks.
    pub addresses: Option<List<Scalar>>,
}

/// The key API over HTTP.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of `management`, such as `path` and `session`")]
pub struct Management {
    /// Where it stands, below `base_path`. Default `/v1/keys`.
    pub path: Option<Scalar>,
    /// The URL that says whose session a request has; asked with the caller's Cookie and Authorization.
    pub session: Option<Scalar>,
    /// Roles in a business that may keep its keys.
    pub roles: Option<List<Scalar>>,
    /// Which scopes a role may give to keys. Default: everything, for each role that is not named here.
    pub grants: Option<Entries<List<Scalar>>>,
    /// The most active keys that a business may have. Default: no bound.
    pub max_active_keys: Option<Scalar>,
    /// Another login than the gate's own, which may not mint. Default: the gate's own.
    pub redis: Option<Short<ManagementRedis>>,
    /// Whether a user may create keys for all businesses that he owns. Default false.
    #[schemars(extend("anyOf" = flag()))]
    pub unscoped: Option<Scalar>,
    /// How often a user may create keys. Default `60/1m`.
    pub create_rate: Option<List<Scalar>>,
    /// How many replicas must hold a key's end (its revocation, or its rotation without an overlap) before that is answered, waited
    /// for 4 s. Not confirmed, it acts all the same, and the answer says so. Default 0.
    pub wait_replicas: Option<Scalar>,
}

/// A login of its own for management.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an address of Redis, or `{url, username, password}`")]
pub struct ManagementRedis {
    /// The address of Redis.
    pub url: Option<Scalar>,
    /// ACL user.
    pub username: Option<Scalar>,
    /// Its password.
    pub password: Option<Scalar>,
}
