//! Limits: all or nothing, the truth in `Retry-After`, cost, overrides and their precedence, and whom each limit counts.

use std::net::IpAddr;
use std::time::Instant;

use serde_json::json;

use crate::support::{Answer, AnswerTo as _, Gate, PATIENCE, Stage, client, gate::text};

#[tokio::test]
async fn a_denial_by_one_window_spends_none_of_the_others() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
rate_limit_headers: {ietf: true}
limits:
  per-key: {by: key, windows: [2/1m, 100/1h]}
  per-business: {by: business, windows: 100/1d}
  tokens: {by: business, windows: 100/1d, algorithm: token-bucket}
  sliding: {by: user, windows: 100/1d, algorithm: sliding-window}
routes: {/things: {any: true, limits: [per-key, per-business, tokens, sliding]}}
",
    );
    let key = stage.redis.mint(json!({"business": "acme", "user": "u_42"}));
    stage.redis.room(60_000, 25_000);
    for expected in [200, 200, 429, 429, 429] {
        assert_eq!(ask(&gate, &key.text).await.status, expected);
    }
    stage.redis.rewrite(&key, json!({"limits": {"per-key": ["100/1m", "100/1h"]}}));
    let answer = once_it_passes(&gate, &key.text).await;
    for name in ["per-key-1m", "per-key-1h", "per-business", "tokens", "sliding"] {
        assert_eq!(left(&answer, name), 97, "{name}: three passed and three were denied");
    }
}

#[tokio::test]
async fn after_the_time_that_a_fixed_window_names_the_same_request_passes() {
    passes_after_the_time_named("fixed-window").await;
}

#[tokio::test]
async fn after_the_time_that_a_sliding_window_names_the_same_request_passes() {
    passes_after_the_time_named("sliding-window").await;
}

#[tokio::test]
async fn after_the_time_that_a_token_bucket_names_the_same_request_passes() {
    passes_after_the_time_named("token-bucket").await;
}

#[tokio::test]
async fn a_request_costs_what_its_route_says() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
limits: {per-key: {by: key, windows: 12/1h}}
defaults: {limits: [per-key]}
routes: {/things: any, /costly: {any: true, cost: 5}}
",
    );
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(3_600_000, 30_000);
    for (path, status, remaining) in
        [("/costly", 200, 7), ("/costly", 200, 2), ("/costly", 429, 2), ("/things", 200, 1), ("/things", 200, 0)]
    {
        let answer = gate.get(path).bearer_auth(&key.text).answer().await;
        assert_eq!((answer.status, answer.number("x-ratelimit-remaining")), (status, remaining), "{path}");
        assert_eq!(answer.headers.contains_key("retry-after"), status == 429);
    }
    stage.redis.rewrite(&key, json!({"limits": {"per-key": "4/1d"}}));
    let never = gate.get("/costly").bearer_auth(&key.text).answer().await;
    assert_eq!((never.status, never.header("retry-after")), (429, None), "no time would let it pass");
}

#[tokio::test]
async fn an_override_of_zero_closes_one_key_without_a_time_to_retry() {
    let (stage, gate) = limited("per-key: {by: key, windows: 60/1h}");
    let key = stage.redis.mint(json!({"business": "acme", "limits": {"per-key": "0/1h"}}));
    let closed = ask(&gate, &key.text).await;
    assert_eq!((closed.status, closed.header("retry-after")), (429, None));
    stage.redis.rewrite(&key, json!({"limits": null}));
    assert_eq!(once_it_passes(&gate, &key.text).await.status, 200);
}

#[tokio::test]
async fn the_key_overrides_the_business_the_plan_and_the_configuration_in_this_order() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
plans: {default: {}, pro: {limits: {shared: 20/1h}}}
limits: {shared: {by: key, windows: 10/1h}}
routes: {/things: {any: true, limits: [shared]}}
",
    );
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(3_600_000, 30_000);
    let limited = async |limit: u64, remaining: u64| {
        let answer = ask(&gate, &key.text).await;
        assert_eq!(answer.number("x-ratelimit-limit"), limit);
        assert_eq!(answer.number("x-ratelimit-remaining"), remaining, "what was used stays used");
    };
    stage.redis.set_business("acme", json!({"plan": "default"}));
    limited(10, 9).await;
    stage.redis.set_business("acme", json!({"plan": "pro"}));
    limited(20, 18).await;
    stage.redis.set_business("acme", json!({"plan": "pro", "limits": {"shared": "30/1h"}}));
    limited(30, 27).await;
    stage.redis.rewrite(&key, json!({"limits": {"shared": ["40/1h"], "nobody-knows": "1/1h"}}));
    limited(40, 36).await;
    stage.redis.rewrite(&key, json!({"limits": {}}));
    limited(30, 25).await;
}

#[tokio::test]
async fn a_key_cannot_override_a_limit_that_it_shares() {
    let (stage, gate) = limited("per-business: {by: business, windows: 60/1h}");
    let key = stage.redis.mint(json!({"business": "acme", "limits": {"per-business": "9000/1h"}}));
    assert_eq!(ask(&gate, &key.text).await.number("x-ratelimit-limit"), 60);
}

#[tokio::test]
async fn each_limit_counts_whom_it_names() {
    for (by, together) in [
        // Which of these share one count with `acme`'s key of user u_1 at 127.0.0.1: another key of both, another user's
        // key, another business's key of the same user, and the same key from another address.
        ("key", [false, false, false, true]),
        ("business", [true, true, false, true]),
        ("user", [true, false, true, true]),
        ("ip", [true, true, true, false]),
        ("global", [true, true, true, true]),
    ] {
        let (stage, gate) = limited(&format!("some: {{by: {by}, windows: 2/1d}}"));
        stage.redis.room(86_400_000, 30_000);
        let key = |business: &str, user: &str| stage.redis.mint(json!({"business": business, "user": user})).text;
        let first = key("acme", "u_1");
        for status in [200, 200, 429] {
            assert_eq!(ask(&gate, &first).await.status, status, "by {by}");
        }
        let others = [key("acme", "u_1"), key("acme", "u_2"), key("umbrella", "u_1"), first];
        for (index, (other, together)) in others.iter().zip(together).enumerate() {
            let from = [127, 0, 0, if index == 3 { 2 } else { 1 }];
            let client = client::http(&[]).local_address(IpAddr::from(from)).build().expect("loopback can be bound");
            let answer = client.get(gate.url("/things")).bearer_auth(other).answer().await;
            assert_eq!(answer.status, if together { 429 } else { 200 }, "by {by}, {index}");
        }
    }
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_and_an_ipv6_client_is_its_network() {
    let stage = Stage::set();
    let yaml = |trusted: &str| {
        format!(
            "
listen: {{address: '127.0.0.1:0', trusted_proxies: [{trusted}]}}
limits: {{signup: {{by: ip, windows: 1/1d}}}}
routes: {{/signup: {{public: true, limits: [signup]}}}}
"
        )
    };
    stage.redis.room(86_400_000, 30_000);
    let trusting = stage.gate(&yaml("127.0.0.0/8"));
    for (client, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.1", 429),
        ("192.0.2.2", 200),
        ("192.0.2.3, 192.0.2.2", 429),
        ("192.0.2.99, 192.0.2.4, 127.0.0.9", 200),
        ("192.0.2.4", 429),
        ("2001:db8:1:2::1", 200),
        ("2001:db8:1:2::ffff", 429),
        ("2001:db8:1:3::1", 200),
    ] {
        let answer = trusting.get("/signup").header("X-Forwarded-For", client).answer().await;
        assert_eq!(answer.status, status, "{client}");
    }
    let wary = stage.gate(&yaml(""));
    for (client, status) in [("198.51.100.1", 200), ("198.51.100.2", 429)] {
        let answer = wary.get("/signup").header("X-Forwarded-For", client).answer().await;
        assert_eq!(answer.status, status, "{client} says an untrusted peer");
    }
}

#[tokio::test]
async fn where_a_limit_stands_is_told_on_denials_and_on_the_upstreams_own_errors() {
    let (stage, gate) = limited("per-key: {by: key, windows: 60/1h}");
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(3_600_000, 30_000);
    for (status, remaining) in [(404, 59), (500, 58), (204, 57)] {
        stage.upstream.respond_with(status, &[("X-RateLimit-Limit", "5"), ("X-RateLimit-Remaining", "4")], "");
        let answer = ask(&gate, &key.text).await;
        assert_eq!((answer.status, stands(&answer)), (status, (60, remaining)));
    }
    stage.redis.set_business("acme", json!({"status": "suspended"}));
    let answer = ask(&gate, &key.text).await;
    assert_eq!((answer.status, stands(&answer)), (403, (60, 57)), "a refusal by standing spends nothing");
    stage.upstream.echo();
    let public = gate.get("/public").answer().await;
    assert!(!public.headers.contains_key("x-ratelimit-limit"));
    let unauthenticated = gate.get("/things").answer().await;
    assert!(!unauthenticated.headers.contains_key("x-ratelimit-limit"));
}

#[tokio::test]
async fn the_headers_describe_the_window_with_the_least_remaining() {
    let (stage, gate) = limited("per-key: {by: key, windows: [100/1m, 5/1h]}");
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(3_600_000, 30_000);
    let answer = ask(&gate, &key.text).await;
    assert_eq!(stands(&answer), (5, 4));
    let now = stage.redis.now_ms() / 1000;
    assert_eq!(answer.number("x-ratelimit-reset"), (now / 3600 + 1) * 3600);
}

/// What a fixed window counts to has no bound that anybody meets; the others measure in milliseconds too.
#[tokio::test]
async fn a_month_has_room_for_millions_in_a_fixed_window() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
plans: {default: {}, pro: {limits: {month: 9000000000/30d}}}
limits:
  month: {by: business, windows: 1000000/30d}
  sliding: {by: key, windows: 400000/30d, algorithm: sliding-window}
routes: {/month: {any: true, limits: [month]}, /sliding: {any: true, limits: [sliding]}}
",
    );
    let key = stage.redis.mint(json!({"business": "acme", "limits": {"sliding": "2000000/30d"}}));
    stage.redis.room(30 * 86_400_000, 30_000);
    let left = async |path: &str| stands(&gate.get(path).bearer_auth(&key.text).answer().await);
    assert_eq!(left("/month").await, (1_000_000, 999_999));
    stage.redis.set_business("acme", json!({"plan": "pro"}));
    assert_eq!(left("/month").await, (9_000_000_000, 8_999_999_998));
    stage.redis.set_business("acme", json!({"limits": {"month": "800000000000000/30d"}}));
    assert_eq!(left("/month").await, (800_000_000_000_000, 799_999_999_999_997));
    assert_eq!(left("/sliding").await, (400_000, 399_999), "what it cannot count has no effect");
    let labels = ["in=\"key\"", "what=\"limit\""];
    assert_eq!(gate.metric("sidegate_unknown_names_total", &labels), 1.0, "and is told");
    gate.said("the limit `sliding`: `2000000/30d` is too large");
    let refused = gate.command(&["keys", "update", &key.id, "--limit", "sliding=2000000/30d"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("too large"), "{refused:?}");
}

#[tokio::test]
async fn the_ietf_fields_name_every_window_on_request() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
rate_limit_headers: {x: false, reset: seconds, ietf: true}
limits: {per-key: {by: key, windows: [20/1m, 200/1h]}, per-business: {by: business, windows: 500/1d}}
routes: {/things: {any: true, limits: [per-key, per-business]}}
",
    );
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(60_000, 25_000);
    stage.upstream.respond_with(200, &THEIRS, "");
    let answer = ask(&gate, &key.text).await;
    assert!(!answer.headers.contains_key("x-ratelimit-limit"), "{answer:?}");
    assert_eq!(answer.headers.get_all("ratelimit").iter().count(), 1, "{answer:?}");
    let policy = r#""per-key-1m";q=20;w=60, "per-key-1h";q=200;w=3600, "per-business";q=500;w=86400"#;
    assert_eq!(answer.header("ratelimit-policy"), Some(policy));
    for (name, remaining, longest) in [("per-key-1m", 19, 60), ("per-key-1h", 199, 3600), ("per-business", 499, 86_400)]
    {
        assert_eq!(left(&answer, name), remaining);
        assert!((1..=longest).contains(&parameter(&answer, name, "t")), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn the_services_own_limit_headers_never_stand_beside_the_gates() {
    let key = json!({"business": "acme"});
    for (settings, own) in [("{}", 3), ("{ietf: true}", 5), ("{x: false}", 0), ("{x: false, ietf: true}", 2)] {
        let stage = Stage::set();
        let gate = stage.gate(&format!(
            "rate_limit_headers: {settings}\nlimits: {{per-key: {{by: key, windows: 1/1h}}}}\n\
             errors: {{rate_limited: {{headers: {{RateLimit-Policy: 'worded;q={{limit}}'}}}}}}\n\
             routes: {{/things: {{any: true, limits: [per-key]}}, /unlimited: public}}"
        ));
        let key = stage.redis.mint(key.clone()).text;
        stage.upstream.respond_with(200, &THEIRS, "");
        stage.redis.room(3_600_000, 30_000);
        let answer = ask(&gate, &key).await;
        let stand = |(name, _): &&(&str, &str)| answer.headers.contains_key(*name);
        assert_eq!((answer.status, THEIRS.iter().filter(stand).count()), (200, own), "{settings}: {answer:?}");
        assert!(answer.headers.values().all(|value| value != "999"), "{settings}: {answer:?}");
        // What the configuration's words say of a denial is no service's.
        let denied = ask(&gate, &key).await;
        let policy = if settings.contains("ietf") { "\"per-key\";q=1;w=3600" } else { "worded;q=1" };
        assert_eq!((denied.status, denied.header("ratelimit-policy")), (429, Some(policy)), "{settings}");
        let unlimited = gate.get("/unlimited").answer().await;
        assert!(THEIRS.iter().all(|(name, value)| unlimited.header(name) == Some(value)), "{unlimited:?}");
    }
}

#[tokio::test]
async fn retry_after_names_no_earlier_time_than_the_ietf_field_of_the_window_that_denied() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
rate_limit_headers: {ietf: true}
limits:
  sliding: {by: key, windows: 6/1m, algorithm: sliding-window}
  tokens: {by: key, windows: 6/1m, algorithm: token-bucket}
routes: {/sliding: {any: true, limits: [sliding]}, /tokens: {any: true, limits: [tokens]}}
",
    );
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(60_000, 25_000);
    for name in ["sliding", "tokens"] {
        let path = format!("/{name}");
        for _ in 0..6 {
            assert_eq!(gate.get(&path).bearer_auth(&key.text).answer().await.status, 200);
        }
        let denied = gate.get(&path).bearer_auth(&key.text).answer().await;
        assert_eq!(denied.status, 429, "{name}");
        assert_eq!(parameter(&denied, name, "t"), denied.number("retry-after"), "{denied:?}");
        // When it is full again is another matter.
        let full = denied.number("x-ratelimit-reset") - stage.redis.now_ms() / 1000;
        assert!(full > denied.number("retry-after"), "{denied:?}");
    }
}

#[tokio::test]
async fn the_reset_can_be_told_in_seconds() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
rate_limit_headers: {reset: seconds}
limits: {per-key: {by: key, windows: 20/1m}}
routes: {/things: {any: true, limits: [per-key]}}
",
    );
    let key = stage.redis.mint(json!({"business": "acme"}));
    assert!((1..=60).contains(&ask(&gate, &key.text).await.number("x-ratelimit-reset")));
}

/// What a service says that counts for itself.
const THEIRS: [(&str, &str); 5] = [
    ("x-ratelimit-limit", "999"),
    ("x-ratelimit-remaining", "999"),
    ("x-ratelimit-reset", "999"),
    ("ratelimit", "999"),
    ("ratelimit-policy", "999"),
];

/// A gate with one limit, called as its configuration begins, on `/things`, and a public route beside it.
fn limited(limit: &str) -> (Stage, Gate) {
    let name = limit.split(':').next().expect("split yields at least one part");
    let stage = Stage::set();
    let gate = stage.gate(&format!(
        "
limits: {{{limit}}}
routes: {{/things: {{any: true, limits: [{name}]}}, /public: public}}
"
    ));
    (stage, gate)
}

/// Asks until a raised limit acts: a denial is remembered for up to a tenth of a second.
async fn once_it_passes(gate: &Gate, key: &str) -> Answer {
    let began = Instant::now();
    loop {
        let answer = ask(gate, key).await;
        if answer.status != 429 {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "the raised limit does not act");
    }
}

async fn ask(gate: &Gate, key: &str) -> Answer {
    gate.get("/things").bearer_auth(key).answer().await
}

async fn passes_after_the_time_named(algorithm: &str) {
    let stage = Stage::set();
    for (windows, cost) in [("3/2s", 1), ("4/2s", 3), ("[2/1s, 3/3s]", 1)] {
        let gate = stage.gate(&format!(
            "
limits: {{short: {{by: key, windows: {windows}, algorithm: {algorithm}}}}}
routes: {{/things: {{any: true, cost: {cost}, limits: [short]}}}}
"
        ));
        let key = stage.redis.mint(json!({"business": "acme"})).text;
        for round in 0..2 {
            let denied = denied(&gate, &key).await;
            let wait = denied.number("retry-after");
            assert!(wait >= 1, "{algorithm} {windows}");
            stage.redis.wait_until(stage.redis.now_ms() + wait * 1000);
            let answer = ask(&gate, &key).await;
            assert_eq!(answer.status, 200, "{algorithm} {windows}, round {round}, {wait} s after {denied:?}");
        }
    }
}

/// Asks until a request is denied.
async fn denied(gate: &Gate, key: &str) -> Answer {
    for _ in 0..200 {
        let answer = ask(gate, key).await;
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("200 requests passed");
}

fn stands(answer: &Answer) -> (u64, u64) {
    let value = |name| answer.headers.get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(value("x-ratelimit-limit").len(), 1, "{answer:?}");
    assert_eq!(value("x-ratelimit-remaining").len(), 1, "{answer:?}");
    (answer.number("x-ratelimit-limit"), answer.number("x-ratelimit-remaining"))
}

/// What `RateLimit` says is left of this window.
fn left(answer: &Answer, window: &str) -> u64 {
    parameter(answer, window, "r")
}

fn parameter(answer: &Answer, window: &str, parameter: &str) -> u64 {
    let field = answer.header("ratelimit").unwrap_or_else(|| panic!("no RateLimit in {answer:?}"));
    let item = field.split(", ").find_map(|item| item.strip_prefix(&format!("\"{window}\";")));
    let value = item.and_then(|item| item.split(';').find_map(|pair| pair.strip_prefix(&format!("{parameter}="))));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {parameter} of {window} in {field}"))
}
