//! What is written arrives where it is meant: replacements, secrets, overrides, the long forms.

use std::path::Path;
use std::time::Duration;

use http::Method;

use super::{each_has_one_error, good, whole};
use crate::config::load::from_text;
use crate::keys::Digest;
use crate::keys::format::{FormatAction, Reading};
use crate::keys::rules::Required;
use crate::limit::Windows;
use crate::policy::denial_text::Facts;
use crate::policy::route::Found;
use crate::policy::{Access, Allowances, BusinessSource, Reason, UpstreamId};
use crate::proxy::settings::{Identity, Protocol, Target};
use crate::store::outage::{KeysOutage, LimitsOutage};
use crate::store::redis::{Tls, Topology};
use crate::store::settings::Backend;

#[test]
fn variables_are_replaced_in_values_and_never_read_as_yaml() {
    let settings = good(
        "realm: '${YAML} ${ABSENT:-none}'\nlog: {sample: '${ABSENT:-0.5}'}\nrate_limit_headers: {ietf: '${TRUE}'}\nworkers: ${NUMBER}",
    );
    assert_eq!(settings.policy.credentials.realm, "{a: [b none");
    assert_eq!(
        (settings.observe.sample, settings.proxy.rate_limit_headers.ietf, settings.listen.workers),
        (0.5, true, 7)
    );
    each_has_one_error(&[
        ("realm: ${ABSENT}", "realm", "the environment variable `ABSENT` is not set"),
        ("workers: ${SECRET}", "workers", "`${SECRET}` is no whole number"),
        ("realm: ${file:secret}", "realm", "use an environment variable here"),
        (
            "upstream: {url: http://localhost, headers: {X-A: '${file:/absent}'}}",
            "upstream.headers.X-A",
            "readable file",
        ),
        ("errors: {default: {body: {a: ['${ABSENT}']}}}", "errors.default.body.a[0]", "`ABSENT` is not set"),
        ("store: {redis: 'redis://h', username: u, password: '${ABSENT}'}", "store.password", "`ABSENT` is not set"),
    ]);
}

#[test]
fn secrets_come_from_files_and_stay_secret() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("pw"), "hunter2\n").expect("a file in it");
    let text = whole(
        "store: {redis: 'redis://h:1/2', username: gate, password: '${file:pw}'}\nupstream: {url: http://localhost, headers: {X-S: '${file:pw}'}}",
    );
    let settings = from_text(&text, folder.path(), "x").unwrap_or_else(|errors| panic!("{errors}"));
    let Backend::Redis(redis) = &settings.store.backend else { panic!("Redis is configured") };
    assert_eq!(redis.password.as_ref().map(|p| p.expose()), Some("hunter2"));
    assert_eq!(redis.login_files.password, Some(folder.path().join("pw")), "it is read again when it was rotated");
    assert_eq!(settings.proxy.upstreams[0].headers[0].1, "hunter2");
    assert!(!format!("{settings:?}").contains("hunter2"), "a secret stands in the settings' debug text");
}

#[test]
fn a_login_in_the_address_is_taken_out_of_it() {
    let settings = good("store: 'redis://gate:hunter%32%40@h:7/1'");
    let Backend::Redis(redis) = &settings.store.backend else { panic!("Redis is configured") };
    assert_eq!((redis.topology.to_string().as_str(), redis.username.as_deref()), ("h:7", Some("gate")));
    assert_eq!(redis.password.as_ref().map(|p| p.expose()), Some("hunter2@"));
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn redis_over_tls_has_its_own_authorities_and_a_client_certificate() {
    let settings = good("store: {redis: 'rediss://h', tls: {ca: ca.crt, cert: c.crt, key: c.key}}");
    let Backend::Redis(redis) = &settings.store.backend else { panic!("Redis is configured") };
    let file = |name: &str| Path::new("/etc/gate").join(name);
    let tls = Tls { ca: Some(file("ca.crt")), client: Some((file("c.crt"), file("c.key"))) };
    assert_eq!(redis.tls, Some(tls));
    let settings = good("store: rediss://h");
    let Backend::Redis(redis) = &settings.store.backend else { panic!("Redis is configured") };
    assert_eq!(redis.tls, Some(Tls::default()));
}

#[test]
fn sentinels_have_a_login_of_their_own() {
    let settings = good(
        "store: {redis: {sentinels: ['redis://:hunter2@a/3', 'redis://:hunter2@b:1/3'], master: main}, username: gate, password: '${SECRET}3'}",
    );
    let Backend::Redis(redis) = &settings.store.backend else { panic!("Redis is configured") };
    let Topology::Sentinels(sentinels) = &redis.topology else { panic!("sentinels are configured") };
    assert_eq!(redis.topology.to_string(), "main behind the sentinels a:26379, b:1");
    assert_eq!((redis.db, sentinels.username.as_deref()), (3, None));
    assert_eq!(sentinels.password.as_ref().map(|p| p.expose()), Some("hunter2"));
    assert_eq!(redis.password.as_ref().map(|p| p.expose()), Some("hunter23"));
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_cluster_is_some_of_its_nodes() {
    let settings = good("store: {redis: {cluster: ['rediss://u:hunter2@a', 'rediss://u:hunter2@b:1']}, tls: {ca: c}}");
    let Backend::Redis(redis) = &settings.store.backend else { panic!("Redis is configured") };
    assert_eq!(redis.topology.to_string(), "the cluster of a:6379, b:1");
    assert_eq!((redis.username.as_deref(), redis.tls.is_some()), (Some("u"), true));
}

#[test]
fn outages_and_deadlines_are_read() {
    let settings =
        good("store: {redis: 'redis://h', deadline: 50ms, prefix: 'a:b', outage: {limits: {local: {share: 1/4}}}}");
    assert_eq!(settings.store.limits_outage, LimitsOutage::Local { share: Some((1, 4)) });
    assert_eq!(settings.store.deadline, Duration::from_millis(50));
    let settings = good("store: {redis: 'redis://h', outage: {limits: deny}}");
    assert_eq!(settings.store.limits_outage, LimitsOutage::Deny);
    assert_eq!(settings.store.keys_outage, KeysOutage::Deny);
    let settings = good("store: {redis: 'redis://h', outage: {keys: {known_for: 5m}}}");
    assert_eq!(settings.store.keys_outage, KeysOutage::KnownFor(Duration::from_secs(300)));
    let settings = good("keys: {guessing: [60/m, 600/1h]}");
    let guessing = settings.policy.credentials.guessing.as_ref().expect("it is configured");
    assert_eq!(**guessing, Windows::parse(["60/1m", "600/1h"]).expect("these are windows"));
    assert!(good("").policy.credentials.guessing.is_none());
}

#[test]
fn upstreams_stand_with_the_default_first() {
    let settings = good(
        "upstreams:\n  s: {url: 'unix:run/app.sock', response_timeout: 1m}\n  t: h2c://localhost:1\n  default: https://localhost\n\
         routes: {/a: {any: true, upstream: s}}\nkeys: {formats: [{prefix: l_, length: 43}, {prefix: t_, upstream: t}]}",
    );
    let upstreams = &settings.proxy.upstreams;
    let names: Vec<_> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["default", "s", "t"]);
    assert_eq!(upstreams[1].target, Target::Unix("/etc/gate/run/app.sock".into()));
    assert_eq!(upstreams[2].target, Target::Tcp { host: "localhost".to_owned(), port: 1, protocol: Protocol::H2c });
    let route = settings.policy.routes.iter().next().expect("a route");
    assert_eq!(route.upstream, UpstreamId(1));
    let key = format!("t_{}", "a".repeat(43));
    let Reading::Ours(format) = settings.policy.credentials.formats.read(&key) else { panic!("the key has a format") };
    assert_eq!(format.action(), &FormatAction::Upstream("t".to_owned()));
}

#[test]
fn routes_say_all_that_the_long_form_can() {
    let settings = good(
        "base_path: /api\nmax_body: 2kB\nlimits: {k: {by: key, windows: 9/1m}, b: {by: business, windows: 9/1m}, i: {by: ip, windows: 9/s}}\n\
         defaults: {limits: [k], max_query: {limit: 100}}\nplans: {default: {}, pro: {limits: {b: 99/1m}}, free: {api: false}}\n\
         business: {from: [{path: id}, {query: b}, {header: X-B}]}\n\
         routes:\n  GET /a/{id}: a:read\n  /b: {any_scope: [a, b], cost: 5, limits: [b], max_query: {}, max_body: 1MiB, response_timeout: 1m, paths: semicolon, lenient: true}\n\
         \x20 /c: {any: true, limits: []}\n  /p: public\n  /q: {public: true, limits: i}\n",
    );
    let find = |path: &str| match settings.policy.routes.find(&Method::GET, path) {
        Found::Route { route, .. } => std::sync::Arc::clone(route),
        other => panic!("{path}: {other:?}"),
    };
    let names = |path: &str| find(path).limits.iter().map(|limit| limit.name.clone()).collect::<Vec<_>>();
    assert_eq!(find("/api/a/x").access, Access::All(vec!["a:read".to_owned()]));
    assert_eq!(find("/api/a/x").pattern, "GET /a/{id}");
    assert_eq!(
        (names("/api/a/x"), find("/api/a/x").max_query.clone()),
        (vec!["k".to_owned()], vec![("limit".to_owned(), 100)])
    );
    let b = find("/api/b");
    assert_eq!(b.access, Access::AnyOf(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!((b.cost, b.max_query.len(), b.max_body, b.lenient), (5, 0, Some(1 << 20), true));
    assert_eq!(
        (b.response_timeout, b.allows),
        (Some(Duration::from_secs(60)), Allowances { encoded_slash: false, semicolon: true })
    );
    assert_eq!(
        (names("/api/b"), names("/api/c"), names("/api/p"), names("/api/q")),
        (vec!["b".to_owned()], vec![], vec![], vec!["i".to_owned()])
    );
    assert_eq!((find("/api/p").max_query.len(), find("/api/p").max_body), (0, Some(2000)));
    let policy = &settings.policy;
    assert_eq!(policy.business_sources[0], BusinessSource::Path("id".to_owned()));
    let plans = policy.plans.as_ref().expect("plans are configured");
    assert_eq!(plans.of(Some("pro")).map(|plan| plan.limits["b"].to_string()), Some("99/1m".to_owned()));
    assert_eq!(plans.of(Some("free")).map(|plan| plan.api), Some(false));
    assert_eq!(settings.base_path.as_deref(), Some("/api"));
}

#[test]
fn new_keys_have_rules_and_scopes_are_known() {
    let settings = good(
        "keys: {require: [user, expiry]}\nscopes: {implies: {admin: ['*'], write: read}, default: [d]}\nroutes: {/a: r, /b: {any_scope: [s, read]}}",
    );
    assert_eq!(settings.keys.require, [Required::User, Required::Expiry]);
    assert_eq!(settings.keys.default_scopes, ["d"]);
    assert_eq!(settings.keys.known_scopes, ["admin", "d", "r", "read", "s", "write"]);
    assert!(settings.policy.scopes.allow(&["admin".to_owned()], "x"));
}

#[test]
fn the_deny_list_holds_ids_digests_and_networks() {
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let settings = good(&format!("deny: {{keys: [k-1, {digest}], addresses: [192.0.2.7, '2001:db8::/32']}}"));
    let deny = &settings.policy.deny;
    assert!(deny.holds_id("k-1") && !deny.holds_id("K-1") && deny.holds_key(&Digest::of("abc")));
    assert!(deny.holds_key(&Digest::of("k-1")), "a key without a format could be meant as well");
    for (address, is_held) in [("192.0.2.7", true), ("192.0.2.8", false), ("2001:db8::1", true)] {
        assert_eq!(deny.holds_address(address.parse().expect("an address")), is_held, "{address}");
    }
}

#[test]
fn a_key_is_denied_however_its_uuid_is_spelt() {
    let (lower, upper) = ("01491d84-0220-41bb-8e2b-20041a88d42f", "01491D84-0220-41BB-8E2B-20041A88D42F");
    for written in [lower, upper] {
        let settings = good(&format!("deny: {{keys: ['{written}']}}"));
        let deny = &settings.policy.deny;
        assert!(deny.holds_id(lower) && deny.holds_id(upper), "{written}");
    }
}

#[test]
fn identity_and_errors_are_templates() {
    let settings = good(
        "upstream: {url: http://localhost, identity: {X-Id: '{key_id}'}}\n\
         errors:\n  default: {body: {error: {code: '{status|string}', n: 1.5, v: '${SECRET}'}}, headers: {X-E: '{code}'}}\n  '404': {status: '400', title: T, type: urn:x, code: c}\n",
    );
    assert_eq!(settings.proxy.upstreams[0].identity[0].1.whole(), Some(Identity::KeyId));
    let worded = settings.policy.texts.word(Reason::RouteNotFound, &Facts::default());
    let body = r#"{"error":{"code":"400","n":1.5,"v":"hunter2"}}"#;
    assert_eq!((worded.status, String::from_utf8(worded.body).expect("JSON is UTF-8").as_str()), (400, body));
    assert_eq!(worded.headers[0].1, "c");
}

#[test]
fn tls_files_stand_in_the_configurations_folder() {
    let settings = good(
        "listen: {address: 127.0.0.1:1, tls: {certificates: [{cert: a.crt, key: /k/a.key}, {cert: b, key: c}]}}\nupstream: {url: https://h, tls: {ca: ca.crt, cert: c, key: k}}",
    );
    let tls = settings.listen.tls.expect("TLS is configured");
    assert_eq!(tls.certificates[0].cert, Path::new("/etc/gate/a.crt"));
    assert_eq!(tls.certificates[0].key, Path::new("/k/a.key"));
    assert_eq!(tls.certificates.len(), 2);
    assert_eq!(settings.proxy.upstreams[0].tls.ca.as_deref(), Some(Path::new("/etc/gate/ca.crt")));
    assert!(settings.proxy.upstreams[0].tls.client.is_some());
}

#[test]
fn a_window_is_as_large_as_its_algorithm_counts_exactly() {
    good("limits: {l: {by: ip, windows: 1000000/30d}}\ndefaults: {limits: l}");
    each_has_one_error(&[
        (
            "limits: {l: {by: ip, windows: 1000000/30d, algorithm: sliding-window}}\ndefaults: {limits: l}",
            "limits.l.windows",
            "or `algorithm: fixed-window`",
        ),
        (
            "plans: {p: {limits: {l: 9000000/30d}}}\nlimits: {l: {by: ip, windows: 1/s, algorithm: token-bucket}}\n\
             routes: {/a: {public: true, limits: l}}",
            "plans.p.limits.l",
            "`9000000/30d` is too large",
        ),
    ]);
}
