//! Errors of meaning: all at once, each with its path, its line, and what to write instead.

use std::path::Path;
use std::time::Duration;

use http::HeaderValue;

use super::{each_has_one_error, errors, good};
use crate::config::load;
use crate::policy::Mode;
use crate::proxy::settings::{Cors, Streams};

#[test]
fn they_come_all_at_once_in_the_order_of_the_file() {
    let text = "listen: 127.0.0.1\nupstream: {url: http://a/b}\nlimits:\n  l: {by: kye, windows: 0/1m}\n  unused: {by: ip, windows: 1/s}\n\
                routes:\n  GET /a:\n    scopes: []\n  /b: {any: true, limits: li}\n  /c/:id: any\n";
    let said: Vec<String> = errors(text).iter().map(ToString::to_string).collect();
    let expected = [
        "gate.yaml: store: it is missing; write `store: redis://127.0.0.1:6379/0`, or `store: file:sidegate-keys.yaml` for one process alone",
        "gate.yaml:1:9: listen.address: `127.0.0.1` is no address with a port; write one such as `127.0.0.1:8080`",
        "gate.yaml:2:12: upstream.url: an upstream has no path and no query: sidegate forwards the request's own byte for byte and rewrites none; \
             end it after the port, and let the service, or a proxy behind the gate, map the path",
        "gate.yaml:4:7: limits.l.by: there is no `kye` here; did you mean `key`?",
        "gate.yaml:4:16: limits.l.windows: `0/1m` lets nothing through; write a number above 0 (a key, a business or a plan is closed in its document)",
        "gate.yaml:5:3: limits.unused: no route uses it; name it in `defaults.limits` or in a route's `limits`, or remove it",
        "gate.yaml:8:5: routes.\"GET /a\".scopes: no scope is listed; write one, or `any: true` for any valid key, or `public: true` for no key",
        "gate.yaml:9:19: routes.\"/b\".limits: there is no limit `li`; did you mean `l`?",
        "gate.yaml:10:3: routes.\"/c/:id\": `:id` is not how a parameter is written; write `{id}` for one segment",
    ];
    let without_unused: Vec<_> = said.iter().filter(|line| !line.contains("limits.l: no route")).cloned().collect();
    assert_eq!(without_unused, expected);
}

#[test]
fn what_is_missing_is_said() {
    let said: Vec<String> = errors("realm: x\n").iter().map(|error| error.path.clone()).collect();
    assert_eq!(said, ["upstream", "routes", "listen", "store"]);
    each_has_one_error(&[
        ("listen: {trusted_proxies: []}", "listen.address", "it is missing; write one such as `127.0.0.1:8080`"),
        ("upstream: {idle: 1s}", "upstream.url", "it is missing"),
        ("store: {prefix: x}", "store", "neither `redis` nor `file`"),
        ("admin: {}", "admin.address", "it is missing"),
        ("keys: {from: {scheme: Bearer}}", "keys.from.header", "it is missing"),
        ("keys: {formats: {length: 43}}", "keys.formats.prefix", "it is missing"),
        ("business: {}", "business.from", "it is missing"),
        ("limits: {l: {windows: 1/s}}\ndefaults: {limits: l}", "limits.l.by", "it is missing; write `by: key`"),
        ("limits: {l: {by: ip}}\ndefaults: {limits: l}", "limits.l.windows", "it is missing; write one window"),
        ("management: {roles: admin}", "management.session", "it is missing"),
        ("management: {session: 'https://a/session'}", "management.roles", "write who may manage keys"),
        ("routes: {}", "routes", "there is none"),
        ("listen: {address: 127.0.0.1:1, tls: {}}", "listen.tls.certificates", "there is none"),
        (
            "listen: {address: 127.0.0.1:1, tls: {certificates: {cert: a}}}",
            "listen.tls.certificates.key",
            "it is missing",
        ),
    ]);
}

#[test]
fn names_have_to_be_defined_and_used() {
    each_has_one_error(&[
        ("defaults: {limits: a}", "defaults.limits", "there is no limit `a`; none is defined"),
        (
            "routes: {/a: {any: true, limits: [l, l]}}\nlimits: {l: {by: ip, windows: 1/s}}",
            "routes.\"/a\".limits[1]",
            "twice",
        ),
        ("limits: {l: {by: ip, windows: 1/s}}", "limits.l", "no route uses it"),
        ("limits: {a b: {by: ip, windows: 1/s}}\ndefaults: {limits: a b}", "limits.\"a b\"", "a name has"),
        ("plans: {pro: {limits: {l: 1/s}}}", "plans.pro.limits.l", "there is no limit `l`"),
        ("plans: {}", "plans", "there is no plan"),
        (
            "routes: {/a: {any: true, upstream: sandbx}}\nupstreams: {default: http://localhost, sandbox: http://localhost}",
            "routes.\"/a\".upstream",
            "did you mean `sandbox`?",
        ),
        ("keys: {formats: {prefix: t_, upstream: s}}", "keys.formats.upstream", "there is no upstream `s`"),
        ("upstreams: {a: http://localhost}", "upstreams", "none is called `default`"),
        ("upstream: http://localhost\nupstreams: {default: http://localhost}", "upstreams", "exclude each other"),
        ("business: {from: {path: id}}", "business.from.path", "no route has the parameter `{id}`"),
        ("errors: {rate_limit: {code: x}}", "errors.rate_limit", "did you mean `rate_limited`?"),
        ("errors: {default: {detail: '{x}'}}", "errors.default", "there is no placeholder `{x}` here"),
        (
            "upstream: {url: http://localhost, identity: {X-A: '{id}'}}",
            "upstream.identity.X-A",
            "there is no placeholder `{id}`",
        ),
    ]);
}

#[test]
fn routes_that_cannot_be_meant_are_refused() {
    each_has_one_error(&[
        ("routes: {/a: any, /%61: any}", "routes.\"/%61\"", "it serves the same requests as `/a`"),
        ("routes: {'GET,PUT /a/{x}': any, 'PUT /a/{y}': any}", "routes.\"PUT /a/{y}\"", "`GET,PUT /a/{x}`"),
        ("routes: {/a: Public}", "routes.\"/a\"", "write `public`"),
        ("routes: {/a: true}", "routes.\"/a\"", "write a scope, `any`, or `public`"),
        ("routes: {/a: a b}", "routes.\"/a\"", "several as `{scopes: [a, b]}`"),
        ("routes: {/a: {cost: 2}}", "routes.\"/a\"", "it does not say who may call it"),
        ("routes: {/a: {any: false}}", "routes.\"/a\"", "it does not say who may call it"),
        ("routes: {/a: {any: true, scopes: a}}", "routes.\"/a\"", "exclude each other"),
        ("routes: {/a: {public: true, scopes: a}}", "routes.\"/a\".public", "needs no scopes"),
        ("routes: {/a: {public: true, any: true}}", "routes.\"/a\".public", "keep one"),
        ("routes: {/a: {any_scope: []}}", "routes.\"/a\".any_scope", "no scope is listed"),
        ("routes: {/a: {scopes: [a, a]}}", "routes.\"/a\".scopes[1]", "twice"),
        (
            "routes: {/a: {public: true, limits: l}}\nlimits: {l: {by: business, windows: 1/s}}",
            "routes.\"/a\".limits",
            "a public route reads none",
        ),
        ("routes: {/a: {any: true, cost: 0}}", "routes.\"/a\".cost", "`limits: []`"),
        (
            "routes: {/a: {any: true, cost: 5, limits: l}}\nlimits: {l: {by: ip, windows: [4/1s, 90/1m]}}",
            "routes.\"/a\".cost",
            "never fits into `l` (4/1s, 90/1m)",
        ),
        ("routes: {/a: {any: true, paths: [slash]}}", "routes.\"/a\".paths", "there is no `slash` here"),
        ("routes: {/a: {any: true, max_query: {limit: many}}}", "routes.\"/a\".max_query.limit", "no whole number"),
        ("routes: {FETCH /a: any}", "routes.\"FETCH /a\"", "no method"),
        ("base_path: /", "base_path", "remove this field"),
        ("base_path: /a/{b}", "base_path", "no fixed path"),
        ("base_path: /a/**", "base_path", "no fixed path"),
        ("base_path: /a/", "base_path", "no fixed path"),
        ("base_path: a", "base_path", "begins without `/`"),
    ]);
    // A plan may make room for what the configuration alone would never let through.
    good(
        "plans: {pro: {limits: {l: 9/1s}}}\nroutes: {/a: {any: true, cost: 5, limits: l}}\nlimits: {l: {by: key, windows: 4/1s}}",
    );
}

#[test]
fn keys_that_cannot_be_meant_are_refused() {
    each_has_one_error(&[
        ("keys: {from: []}", "keys.from", "no key could be read"),
        ("keys: {from: [{header: X-A}, {header: x-a}]}", "keys.from[1]", "read already"),
        ("keys: {from: {header: A B}}", "keys.from.header", "no name of a header"),
        ("keys: {from: {header: Host}}", "keys.from.header", "belongs to the connection"),
        ("keys: {from: {header: X-A, scheme: 'a b'}}", "keys.from.scheme", "no scheme"),
        ("keys: {formats: []}", "keys.formats", "it is empty"),
        ("keys: {formats: {prefix: a_, length: 21}}", "keys.formats", "fewer than 128"),
        ("keys: {formats: {prefix: a_, length: [1, 2, 3]}}", "keys.formats.length", "`[20, 44]`"),
        ("keys: {formats: {prefix: a_, alphabet: base58}}", "keys.formats.alphabet", "did you mean `base62`?"),
        ("keys: {formats: [{prefix: a_}, {prefix: a_, reject: No}]}", "keys.formats[1].prefix", "another format has"),
        ("keys: {formats: {prefix: a_, reject: No}}", "keys.formats", "no key is accepted"),
        ("keys: {formats: [{prefix: a_}, {prefix: b_, reject: true}]}", "keys.formats[1].reject", "write the sentence"),
        (
            "keys: {formats: [{prefix: a_}, {prefix: b_, reject: No, upstream: default}]}",
            "keys.formats[1].upstream",
            "exclude",
        ),
        ("keys: {require: [scope]}", "keys.require", "did you mean `scopes`?"),
        ("keys: {require: scopes}\nscopes: {default: [a]}", "keys.require", "exclude each other"),
        ("scopes: {implies: {a: []}}", "scopes.implies.a", "implies nothing"),
        ("scopes: {implies: {a: 'b c'}}", "scopes.implies.a", "a scope has no spaces"),
        ("business: {from: {path: a, query: b}}", "business.from", "write one of"),
        ("business: {from: [{query: b}, {query: b}]}", "business.from[1]", "twice"),
        ("deny: {keys: ['hunter2 secret']}", "deny.keys", "64 hexadecimal digits"),
        ("deny: {keys: [sg_hunter2hunter2]}", "deny.keys", "whole key, which does not belong here; write its id"),
        ("keys: {formats: {prefix: kc_}}\ndeny: {keys: [kc_hunter2-hunter2]}", "deny.keys", "looks like a whole key"),
        ("deny: {keys: [sg_8fK2mQ0a]}", "deny.keys", "a key's hint, which others may share; write the id"),
        ("deny: {addresses: [10.0.0.0/33]}", "deny.addresses", "no network"),
        ("deny: {addresses: [10.0.0.1/8]}", "deny.addresses", "write `10.0.0.0/8`"),
        ("realm: 'a\"b'", "realm", "without quotes"),
    ]);
}

#[test]
fn a_route_whose_paths_are_refused_in_requests_is_a_mistake() {
    each_has_one_error(&[
        ("routes: {'/l%2fm': any}", "routes.\"/l%2fm\"", "could never match; add `paths: [encoded-slash]` to it"),
        ("routes: {'/a%3bb/{id}': any}", "routes.\"/a%3bb/{id}\"", "add `paths: [semicolon]` to it"),
        ("routes: {'GET /a;b/**': any}", "routes.\"GET /a;b/**\"", "add `paths: [semicolon]` to it"),
        ("routes: {'/a;b%2F': {any: true, paths: semicolon}}", "routes.\"/a;b%2F\"", "[encoded-slash, semicolon]"),
        ("base_path: /x;y\nroutes: {/a: any}", "routes.\"/a\"", "add `paths: [semicolon]` to it"),
        ("routes: {'/a%5Cb': any}", "routes.\"/a%5Cb\"", "could never match; remove it"),
        ("routes: {'/a%00': any}", "routes.\"/a%00\"", "could never match; remove it"),
    ]);
    good(
        "routes: {'/l%2fm;n': {any: true, paths: [encoded-slash, semicolon]}, '/%7euser/a%20b%C3%BC/': any, /: any, /**: any}",
    );
}

#[test]
fn upstreams_and_stores_that_cannot_be_meant_are_refused() {
    each_has_one_error(&[
        ("upstream: http://hunter2@localhost", "upstream.url", "a login does not belong"),
        ("upstream: localhost:3000", "upstream.url", "this is no upstream"),
        ("upstream: http://localhost/v1", "upstream.url", "rewrites none"),
        (
            "upstream: {url: http://localhost, headers: {Transfer-Encoding: x}}",
            "upstream.headers.Transfer-Encoding",
            "belongs to the connection",
        ),
        ("upstream: {url: http://localhost, identity: {Via: x}}", "upstream.identity.Via", "belongs to the connection"),
        (
            "upstream: {url: http://localhost, identity: {X-Request-Id: '{user}'}}",
            "upstream.identity.X-Request-Id",
            "write another header, or a value that is never empty",
        ),
        (
            "upstream: {url: http://localhost, headers: {X-Real-IP: '{client}'}}",
            "upstream.headers.X-Real-IP",
            "write `X-Real-IP: \"{client}\"` under `identity`",
        ),
        ("upstream: {url: http://localhost, via: no}", "upstream.via", "`no`"),
        (
            "upstream: {url: http://localhost, identity: {tracestate: '{key_id}{plan}'}}",
            "upstream.identity.tracestate",
            "write another header, or a value that is never empty",
        ),
        (
            "upstream: {url: http://localhost, identity: {X-A: x}, headers: {x-a: y}}",
            "upstream.headers.x-a",
            "set twice",
        ),
        (
            "upstream: {url: http://localhost, headers: {X-A: \"hunter2\\n\"}}",
            "upstream.headers.X-A",
            "cannot stand in a header",
        ),
        ("upstream: {url: http://localhost, tls: {ca: a}}", "upstream.tls", "write `https://`"),
        ("upstream: {url: https://localhost, tls: {cert: a}}", "upstream.tls", "write both"),
        ("upstream: {url: http://localhost, idle: 0s}", "upstream.idle", "no time at all"),
        ("store: redis://u:hunter2@host/zero", "store", "redis://host:6379/0"),
        ("store: redis://u@host", "store", "has no password"),
        ("store: {redis: 'redis://:hunter2@host', password: hunter2}", "store.password", "keep one"),
        ("store: {redis: 'redis://u:hunter2@host', username: v}", "store.username", "keep one"),
        ("store: {redis: 'redis://host', username: v}", "store.username", "needs a password"),
        ("store: {redis: 'redis://host', prefix: 'a{b}'}", "store.prefix", "letters, digits"),
        ("store: {redis: 'redis://host', deadline: 0ms}", "store.deadline", "no time at all"),
        ("store: {redis: 'redis://host', file: k}", "store.file", "exclude each other"),
        ("store: {file: k, prefix: x}", "store.prefix", "a file has none"),
        ("store: {redis: {sentinels: ['redis://a']}}", "store.redis.master", "it is missing; write what the sentinels"),
        ("store: {redis: {cluster: ['redis://a/1']}}", "store.redis.cluster", "the database 0 alone"),
        ("store: {redis: {cluster: ['redis://a'], master: m}}", "store.redis.master", "remove this field"),
        ("store: {redis: {cluster: ['redis://a'], sentinels: ['redis://b']}}", "store.redis.sentinels", "exclude"),
        ("store: {redis: {sentinels: [], master: m}}", "store.redis.sentinels", "there is none"),
        (
            "store: {redis: {sentinels: ['redis://a', 'rediss://b'], master: m}}",
            "store.redis.sentinels[1]",
            "the same scheme",
        ),
        ("store: {redis: 'redis://host', tls: {ca: a}}", "store.tls", "write `rediss://`"),
        ("store: {redis: 'rediss://host', tls: {key: a}}", "store.tls", "write both"),
        ("store: 'file:'", "store", "it is empty"),
        (
            "store: {redis: 'redis://host', outage: {limits: {local: {share: 2}}}}",
            "store.outage.limits.local.share",
            "no share",
        ),
        ("store: {redis: 'redis://host', outage: {limits: alow}}", "store.outage.limits", "did you mean `allow`?"),
    ]);
}

#[test]
fn an_upstream_is_not_the_gate_itself() {
    let told = |listen: &str, url: &str| {
        let yaml = format!("listen: {listen}\nupstream: {url}\nstore: 'redis://host'\nroutes: {{/a: any}}\n");
        load::from_text(&yaml, Path::new("."), "t").err().map(|errors| errors.to_string())
    };
    for (listen, url) in [
        ("127.0.0.1:7", "http://127.0.0.1:7"),
        ("127.0.0.1:7", "http://localhost:7"),
        ("0.0.0.0:7", "http://127.0.0.1:7"),
        ("0.0.0.0:7", "http://0.0.0.0:7"),
        ("'[::]:7'", "h2c://127.0.0.1:7"),
        ("'[::]:7'", "'http://[::1]:7'"),
        ("10.0.0.7:80", "http://10.0.0.7"),
    ] {
        let told = told(listen, url).unwrap_or_default();
        assert!(told.contains("is where the gate itself listens"), "{listen} {url}: {told}");
    }
    for (listen, url) in [
        ("127.0.0.1:7", "http://127.0.0.1:8"),
        ("127.0.0.1:7", "http://10.0.0.7:7"),
        ("127.0.0.1:7", "'http://[::1]:7'"),
        ("0.0.0.0:7", "http://10.0.0.7:7"),
        ("0.0.0.0:7", "http://service:7"),
        ("0.0.0.0:7", "'http://[::1]:7'"),
        ("10.0.0.7:7", "http://localhost:7"),
    ] {
        assert_eq!(told(listen, url), None, "{listen} {url}");
    }
}

#[test]
fn the_process_has_bounds() {
    each_has_one_error(&[
        ("workers: 0", "workers", "from 1 to 1024"),
        ("max_body: 1 MB", "max_body", "no size"),
        ("log: {level: verbose}", "log.level", "write one of"),
        ("log: {sample: 2}", "log.sample", "from 0 to 1"),
        ("drain: {delay: 5}", "drain.delay", "such as `15s`"),
        ("ready: {store: yes}", "ready.store", "neither true nor false"),
        ("listen: {address: 127.0.0.1:1, limits: {header_bytes: 1KiB}}", "listen.limits.header_bytes", "from 8192"),
        (
            "listen: {address: 127.0.0.1:1, trusted_proxies: [10.0.0.0/8, all]}",
            "listen.trusted_proxies[1]",
            "no network",
        ),
        ("admin: 127.0.0.1:8080", "admin", "`listen` has the address"),
        ("store: {redis: 'redis://host', outage: {keys: allow}}", "store.outage.keys", "`deny`"),
        ("store: {redis: 'redis://host', outage: {keys: {}}}", "store.outage.keys.known_for", "it is missing"),
        ("store: {redis: 'redis://host', outage: {keys: {known_for: 0s}}}", "store.outage.keys.known_for", "no time"),
        ("keys: {guessing: often}", "keys.guessing", "not a window"),
        ("keys: {guessing: 0/1m}", "keys.guessing", "lets nothing through"),
        ("rate_limit_headers: {reset: date}", "rate_limit_headers.reset", "write one of `unix`, `seconds`"),
        ("errors: {default: {status: 200}}", "errors.default.status", "from 400 to 599"),
        (
            "errors: {default: {headers: {Content-Length: 1}}}",
            "errors.default.headers.Content-Length",
            "belongs to the connection",
        ),
        ("management: {path: '/{a}', roles: a, session: 'unix:s'}", "management.path", "no fixed path"),
        ("management: {path: /, roles: a, session: 'unix:s'}", "management.path", "no fixed path"),
        ("management: {roles: a, session: x}", "management.session", "write `https://host/path`"),
        ("management: {roles: a, session: 'ftp://h/'}", "management.session", "write `https://host/path`"),
        ("management: {roles: a, session: 'https://u:p@h/'}", "management.session", "write `https://host/path`"),
        ("management: {roles: a, session: 'https://h/a#b'}", "management.session", "write `https://host/path`"),
        ("management: {roles: a, session: 'http://app:3000/session'}", "management.session", "travel unencrypted"),
        (
            "base_path: /api\nroutes: {/v1/**: any, GET /v1/keys/mine: any}\nmanagement: {roles: a, session: 'unix:s'}",
            "routes.\"GET /v1/keys/mine\"",
            "served at and above",
        ),
        ("management: {roles: a, session: 'unix:s', create_rate: fast}", "management.create_rate", "no"),
        ("management: {roles: a, session: 'unix:s', grants: {b: c}}", "management.grants.b", "name it in `roles`"),
        (
            "management: {roles: a, session: 'unix:s', redis: {username: u}}",
            "management.redis.username",
            "needs a password",
        ),
        (
            "store: redis://h/3\nmanagement: {roles: a, session: 'unix:s', redis: 'redis://u:p@h'}",
            "management.redis",
            "this is database 0, and the keys are in database 3; write `/3` at its end",
        ),
        (
            "store: redis://h\nmanagement: {roles: a, session: 'unix:s', redis: {url: 'redis://h/1'}}",
            "management.redis.url",
            "this is database 1, and the keys are in database 0",
        ),
        (
            "store: file:k\nmanagement: {roles: a, session: 'unix:s', redis: 'redis://h'}",
            "management.redis",
            "is a file",
        ),
    ]);
}

#[test]
fn streams_and_cors_say_what_to_write() {
    each_has_one_error(&[
        ("streams: {recheck: 0s}", "streams.recheck", "write"),
        ("streams: {max_age: long}", "streams.max_age", "write"),
        ("cors: {origins: []}", "cors.origins", "there is none"),
        ("cors: {origins: ['*', 'https://a']}", "cors.origins[0]", "let it stand alone"),
        ("cors: {origins: app.example.com}", "cors.origins", "write one such as `https://app.example.com`"),
        ("cors: {origins: 'https://a/'}", "cors.origins", "no path"),
        ("cors: {origins: 'https://A'}", "cors.origins", "lower case"),
        ("cors: {origins: 'https://a:443'}", "cors.origins", "no default port"),
        ("cors: {origins: 'https://u@a'}", "cors.origins", "write one such as"),
        ("cors: {preflight: allow}", "cors.preflight", "forward"),
        ("routes: {/a: {any: true, preflight: yes}}", "routes.\"/a\".preflight", "forward"),
    ]);
    let settings = good(
        "streams: {recheck: 1s, max_age: 2h}\ncors: {origins: ['https://a', 'http://localhost:3000'], preflight: forward}\n\
         routes: {/a: any, /b: {any: true, preflight: deny}}",
    );
    let (recheck, max_age) = (Duration::from_secs(1), Duration::from_secs(7200));
    assert_eq!(settings.proxy.streams, Streams { recheck, max_age });
    let origins = ["https://a", "http://localhost:3000"].map(HeaderValue::from_static);
    assert_eq!(settings.proxy.cors, Some(Cors::Origins(origins.into())));
    let preflight: Vec<_> =
        settings.policy.routes.iter().map(|route| (route.pattern.as_str(), route.preflight)).collect();
    assert_eq!(preflight, [("/a", true), ("/b", false)]);
    assert_eq!(good("cors: {origins: '*'}").proxy.cors, Some(Cors::AnyOrigin));
    assert_eq!(good("cors: {preflight: forward}").proxy.cors, None);
}

#[test]
fn the_services_own_probes_are_asked_on_loopback_alone() {
    let with = |probe: &str| format!("probes: {{address: 127.0.0.1:2, app: [{probe}]}}");
    for (probe, path, words) in [
        ("{path: /a}", "probes.app.target", "write one such as `http://127.0.0.1:3000/ok`"),
        ("{target: tcp://127.0.0.1:1}", "probes.app.path", "write where it is asked for"),
        ("{path: a, target: tcp://127.0.0.1:1}", "probes.app.path", "is no path"),
        ("{path: /livez, target: tcp://127.0.0.1:1}", "probes.app.path", "is there already"),
        ("{path: /a, target: http://app:1/}", "probes.app.target", "is not on this machine's loopback"),
        ("{path: /a, target: https://127.0.0.1:1/}", "probes.app.target", "write `http://127.0.0.1:3000/ok`"),
        ("{path: /a, target: tcp://127.0.0.1:1/x}", "probes.app.target", "nothing that can be asked"),
        ("{path: /a, target: tcp://127.0.0.1:1, timeout: 0s}", "probes.app.timeout", "no time at all"),
        ("{path: /a, target: tcp://127.0.0.1:1, headers: {X-A: b}}", "probes.app.headers", "remove them"),
        (
            "{path: /a, target: http://127.0.0.1:1, headers: {'X A': b}}",
            "probes.app.headers.\"X A\"",
            "no name of a header",
        ),
    ] {
        each_has_one_error(&[(&with(probe), path, words)]);
    }
    let settings = good(&with("{path: /a, target: http://localhost:3000, headers: {X-A: [b, c]}, timeout: 3s}"));
    let [probe] = settings.admin.app.as_slice() else { panic!("{:?}", settings.admin.app) };
    assert_eq!((probe.address, probe.timeout), (([127, 0, 0, 1], 3000).into(), Duration::from_secs(3)));
}

#[test]
fn every_default_may_stand() {
    good(
        "mode: enforce\nupstream: {url: http://localhost, h2_streams: 7}\nstore: {redis: 'redis://host', outage: {keys: deny}}\n\
          listen: {address: 127.0.0.1:1, proxy_protocol: false, limits: {body_idle: 30s, idle: 2m, stream_idle: 5m}}",
    );
}

#[test]
fn a_routes_mode_beats_the_configurations_and_a_limit_has_its_own() {
    let modes = |yaml: &str| {
        let policy = good(yaml).policy;
        let routes: Vec<_> = policy.routes.iter().map(|route| (route.pattern.clone(), route.mode.name())).collect();
        (policy.mode.name(), policy.enforces(), routes)
    };
    let routes = "routes: {/a: any, /b: {any: true, mode: enforce}, /c: {any: true, mode: observe}}";
    let of = |a, b, c| [("/a", a), ("/b", b), ("/c", c)].map(|(route, mode)| (route.to_owned(), mode)).to_vec();
    assert_eq!(modes(routes), ("enforce", true, of("enforce", "enforce", "observe")));
    assert_eq!(modes(&format!("mode: observe\n{routes}")), ("observe", true, of("observe", "enforce", "observe")));
    assert!(!modes("mode: observe\nroutes: {/a: any}").1);
    let yaml = "mode: observe\nlimits: {l: {by: ip, windows: 1/s}, m: {by: ip, windows: 1/s, mode: observe}}\ndefaults: {limits: [l, m]}";
    let limits = good(yaml).policy;
    assert_eq!([limits.limits["l"].mode, limits.limits["m"].mode], [Mode::Enforce, Mode::Observe]);
    each_has_one_error(&[
        ("mode: shadow", "mode", "observe"),
        ("routes: {/a: {any: true, mode: off}}", "routes.\"/a\".mode", "observe"),
        ("limits: {l: {by: ip, windows: 1/s, mode: dry}}\ndefaults: {limits: l}", "limits.l.mode", "observe"),
    ]);
}
