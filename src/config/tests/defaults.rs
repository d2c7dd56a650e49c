//! What a configuration means that says only what it must; and that the example, which says everything, runs.

use std::path::Path;
use std::time::Duration;

use super::{good, whole};
use crate::config::load::{from_file, from_text};
use crate::keys::format::Formats;
use crate::limit::Algorithm;
use crate::observe::settings::Format;
use crate::policy::{Access, UpstreamId};
use crate::proxy::settings::{Protocol, RateLimitHeaders, Reset, Streams, Target};
use crate::store::outage::LimitsOutage;
use crate::store::settings::Backend;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_listener_has_the_contracts_defaults() {
    let settings = good("");
    let listen = settings.listen;
    assert_eq!(listen.address.to_string(), "127.0.0.1:8080");
    assert!(listen.tls.is_none() && listen.trusted_proxies.is_empty());
    assert!((1..=4).contains(&listen.workers));
    assert_eq!((listen.drain.delay, listen.drain.deadline), (5 * SECOND, 30 * SECOND));
    let bounds = listen.bounds;
    assert_eq!((bounds.connections, bounds.headers, bounds.h2.streams), (10_000, 100, 100));
    assert_eq!((bounds.handshake, bounds.header_read, bounds.header_bytes), (10 * SECOND, 10 * SECOND, 32 * 1024));
    assert_eq!((bounds.idle, bounds.body_idle, bounds.stream_idle), (120 * SECOND, 30 * SECOND, 300 * SECOND));
    assert_eq!((bounds.in_flight, listen.proxy_protocol), (10_000, false));
    let h2 = bounds.h2;
    assert_eq!((h2.header_bytes, h2.stream_window, h2.connection_window), (16 * 1024, 64 * 1024, 1024 * 1024));
    assert_eq!((h2.pending_resets, h2.local_resets), (20, 256));
    assert_eq!((h2.ping, h2.ping_answer), (30 * SECOND, 10 * SECOND));
    assert_eq!(settings.proxy.header_bytes, 32 * 1024);
    assert_eq!(settings.admin.admin.to_string(), "127.0.0.1:9900");
    assert_eq!((settings.admin.probes, settings.admin.ready_needs_store), (None, true));
    assert_eq!((settings.observe.level, settings.observe.sample), (tracing::Level::INFO, 1.0));
    assert_eq!(settings.observe.format, Format::Auto);
    assert_eq!(settings.warnings, Vec::<String>::new());
}

#[test]
fn the_store_and_the_upstream_have_the_contracts_defaults() {
    let settings = good("");
    let Backend::Redis(redis) = &settings.store.backend else { panic!("Redis is configured") };
    assert_eq!((redis.topology.to_string().as_str(), redis.db, redis.prefix.as_str()), ("127.0.0.1:6379", 0, "sg"));
    assert_eq!((&redis.username, &redis.password), (&None, &None));
    assert_eq!(settings.store.deadline, Duration::from_millis(100));
    assert_eq!(settings.store.limits_outage, LimitsOutage::Local { share: None });
    let [upstream] = settings.proxy.upstreams.as_slice() else { panic!("one upstream is configured") };
    let target = Target::Tcp { host: "127.0.0.1".to_owned(), port: 3000, protocol: Protocol::Http };
    assert_eq!((upstream.name.as_str(), &upstream.target), ("default", &target));
    assert_eq!(
        (upstream.connect_timeout, upstream.response_timeout, upstream.idle),
        (2 * SECOND, 15 * SECOND, 60 * SECOND)
    );
    assert!(upstream.identity.is_empty() && upstream.headers.is_empty());
    let headers = RateLimitHeaders { x: true, reset: Reset::Unix, ietf: false };
    assert_eq!(settings.proxy.rate_limit_headers, headers);
    assert_eq!(settings.proxy.streams, Streams { recheck: 10 * SECOND, max_age: 3600 * SECOND });
    assert_eq!(settings.proxy.cors, None);
}

#[test]
fn the_policy_has_the_contracts_defaults() {
    let settings = good("limits: {l: {by: key, windows: 5/1m}}\ndefaults: {limits: l}");
    let policy = &settings.policy;
    let sources: Vec<_> = policy.credentials.sources.iter().map(|s| (s.header.as_str(), s.scheme.as_deref())).collect();
    assert_eq!(sources, [("authorization", Some("Bearer")), ("x-api-key", None)]);
    assert_eq!(policy.credentials.formats, Formats::default());
    assert_eq!((policy.credentials.forward, policy.credentials.realm.as_str()), (false, "api"));
    assert!(policy.plans.is_none() && policy.business_sources.is_empty());
    assert_eq!(policy.limits["l"].algorithm, Algorithm::Fixed);
    let route = policy.routes.iter().next().expect("one route is configured");
    assert_eq!((route.pattern.as_str(), &route.access, route.cost), ("GET /v1/a", &Access::Any, 1));
    assert_eq!(
        (route.upstream, route.lenient, route.max_body, route.response_timeout),
        (UpstreamId(0), false, None, None)
    );
    assert!(!route.preflight);
    assert_eq!((settings.keys.require.len(), settings.keys.default_scopes.len()), (0, 0));
}

#[test]
fn the_example_says_everything_and_runs_as_it_stands() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml");
    let settings = from_file(&file).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(settings.warnings, Vec::<String>::new());
    assert_eq!(settings.policy.routes.iter().count(), 8);
    assert!(settings.listen.tls.is_none());
}

#[test]
fn paths_start_at_the_files_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("gate.yaml");
    std::fs::write(&file, whole("store: file:keys.yaml")).expect("a file in it");
    let settings = from_file(&file).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(matches!(settings.store.backend, Backend::File(path) if path == folder.path().join("keys.yaml")));
    let settings = from_text(&whole("store: {file: /k.yaml}"), Path::new("here"), "demo");
    let settings = settings.unwrap_or_else(|errors| panic!("{errors}"));
    assert!(matches!(settings.store.backend, Backend::File(path) if path == Path::new("/k.yaml")));
}
