//! What works but may not be meant, each with exactly one warning; and what looks like it and has none.

use super::{good, whole};

#[test]
fn what_may_not_be_meant_is_a_warning() {
    for (given, words) in [
        ("admin: 0.0.0.0:9900", "keep it on loopback"),
        ("upstream: http://app:3000", "travel unencrypted"),
        (
            "routes: {/v1/**: any, GET /v1/a: any}",
            "answers 405 to every other method, which `/v1/**` would have served",
        ),
        ("routes: {'GET /v1/{x}': any, 'POST /v1/{y}': any, 'PUT,GET /v1/a': any}", "answers 405 to POST"),
        ("routes: {/a: {any: true, cost: 5}}", "its cost plays no part"),
        (
            "limits: {l: {by: key, windows: [10/1s, 5/1m, 50/1h]}}\nroutes: {/a: {any: true, limits: l}}",
            "limits.l.windows: `10/1s` never acts, since `5/1m` lets no more through",
        ),
        (
            "limits: {l: {by: ip, windows: 5/1m}}\nplans: {default: {limits: {l: 9/1m}}}\nroutes: {/a: {public: true, limits: l}}",
            "plans.default.limits.l: only public routes have this limit",
        ),
        (
            "store: {redis: 'redis://h', outage: {limits: {local: {share: 1/4}}}}\nlimits: {l: {by: key, windows: 10/1d}}\n\
             routes: {/a: {any: true, cost: 5, limits: l}, /b: {any: true, cost: 2, limits: l}}",
            "one request costs 5, and 1/4 of `l` (10/1d) is 2",
        ),
        ("store: {redis: 'redis://h', outage: {keys: {known_for: 5m}}}", "write `ready: {store: false}`"),
        (
            "base_path: /api/v1\nroutes: {/a: any, 'GET /api/v1/b/{id}': any}",
            "routes.\"GET /api/v1/b/{id}\": `base_path` stands before every route, so that this one is `/api/v1/api/v1/b/{id}`",
        ),
        (
            "upstreams: {default: {url: http://localhost, identity: {X-A: '{user}'}}, rt: http://localhost:1}",
            "upstreams.rt: `default` is told who calls and this service is not",
        ),
        (
            "upstreams: {default: http://localhost, rt: {url: http://localhost:1, identity: {X-A: '{user}'}}}",
            "upstreams.default: `rt` is told who calls",
        ),
        (
            "limits: {l: {by: business, windows: [20/1s, 10000/1d]}}\nplans: {pro: {limits: {l: 20/1m}}}\n\
             routes: {/a: {any: true, limits: l}}",
            "plans.pro.limits.l: this replaces all windows of the limit, so that `10000/1d` does not hold here; add one of 1d",
        ),
        (
            "mode: observe\nupstream: {url: http://localhost, identity: {X-A: '{user}'}}",
            "upstream.identity: in observe mode, too, copies of x-a that come in do not reach the service",
        ),
    ] {
        let warnings = good(given).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{given}\n{warnings:?}");
    }
    for given in [
        "store: {redis: 'redis://h', outage: {keys: {known_for: 5m}}}\nready: {store: false}",
        "mode: observe\nstore: {redis: 'redis://h', outage: {keys: {known_for: 5m}}}",
        "base_path: /api\nroutes: {/apis: any, /v1/api: any}",
        "upstreams: {default: {url: http://localhost, identity: {X-A: '{user}'}}, rt: {url: http://localhost:1, identity: {}}}",
        "limits: {l: {by: key, windows: [20/1s, 60/1m]}}\nplans: {pro: {limits: {l: [90/1m, 30/1s]}}, low: {limits: {l: 10/1m}}}\n\
         routes: {/a: {any: true, limits: l}}",
        "mode: observe",
    ] {
        assert_eq!(good(given).warnings, Vec::<String>::new(), "{given}");
    }
    assert!(whole("").contains("127.0.0.1:3000"));
}
