//! Key management: its login to the gate's Redis, and its session endpoint.

use super::good;
use crate::manage::settings::SessionEndpoint;
use crate::proxy::settings::{Protocol, Target};
use crate::store::settings::Backend;

#[test]
fn keepers_have_their_own_login_and_everything_else_of_the_gates_redis() {
    let given = "store: {redis: 'rediss://a:7', username: gate, password: p, prefix: kc, tls: {ca: ca.pem}}\n\
                 management: {path: /k, session: https://s, roles: [admin, member], grants: {member: [read]}, max_active_keys: 3, \
                 wait_replicas: 2, redis: {username: keeper, password: SECRET}}\nroutes: {/a: read}";
    let settings = good(given);
    let Backend::Redis(gates) = &settings.store.backend else { panic!("it is a Redis") };
    let management_redis = settings.store.management_redis.as_ref().expect("they have a login");
    assert_eq!(
        (management_redis.username.as_deref(), &management_redis.topology, &management_redis.tls),
        (Some("keeper"), &gates.topology, &gates.tls)
    );
    assert_eq!((management_redis.prefix.as_str(), settings.store.wait_replicas), ("kc", 2));
    assert_eq!((settings.keys.max_active_keys, settings.keys.grants["member"].len()), (Some(3), 1));
    assert!(good("").store.management_redis.is_none());
    let elsewhere =
        good("store: redis://h/3\nmanagement: {roles: a, session: 'unix:s', redis: 'redis://u:p@other:7/3'}");
    let management_redis = elsewhere.store.management_redis.expect("they have a login");
    assert_eq!((management_redis.topology.to_string().contains("other:7"), management_redis.db), (true, 3));
}

#[test]
fn the_session_endpoint_is_reached_without_anybody_listening() {
    let at = |session: &str| {
        let given = format!("base_path: /api\nmanagement: {{roles: admin, session: '{session}'}}");
        let management = good(&given).management.expect("it is configured");
        assert_eq!((management.path.as_str(), management.served_at().as_str()), ("/v1/keys", "/api/v1/keys"));
        assert!(!management.unscoped && management.create_rate.to_string() == "60/1m");
        management.session
    };
    let tcp = |host: &str, port, protocol| Target::Tcp { host: host.to_owned(), port, protocol };
    for (session, target, authority, path) in [
        ("http://127.0.0.1:3000/session", tcp("127.0.0.1", 3000, Protocol::Http), "127.0.0.1:3000", "/session"),
        ("http://localhost/s?a=b", tcp("localhost", 80, Protocol::Http), "localhost", "/s?a=b"),
        ("http://[::1]:3000", tcp("[::1]", 3000, Protocol::Http), "[::1]:3000", "/"),
        ("https://app.example?x", tcp("app.example", 443, Protocol::Https), "app.example", "/?x"),
        ("unix:/run/app.sock:/session", Target::Unix("/run/app.sock".into()), "localhost", "/session"),
        ("unix:app.sock", Target::Unix("/etc/gate/app.sock".into()), "localhost", "/"),
    ] {
        let expected = SessionEndpoint { target, authority: authority.to_owned(), path: path.to_owned() };
        assert_eq!(at(session), expected, "{session}");
    }
    assert!(good("").management.is_none());
}
