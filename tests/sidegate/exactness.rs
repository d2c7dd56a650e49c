//! Exact, immediate, and cheap: what N sidecars promise together, and what one request costs Redis.

use serde_json::json;

use crate::support::{AnswerTo as _, Stage, client::together};

const SHARED: &str = "
limits: {per-business: {by: business, windows: 60/1h}}
routes:
  /things/**: {scopes: [things], limits: [per-business]}
";

#[tokio::test]
async fn two_sidecars_and_two_keys_of_one_business_admit_exactly_the_limit() {
    let stage = Stage::set();
    let gates = [stage.gate(SHARED), stage.gate(SHARED)];
    let keys = [1, 2].map(|_| stage.redis.mint(json!({"business": "acme", "scopes": ["things"]})).text);
    stage.redis.room(3_600_000, 60_000);
    let requests = (0..200).map(|i| gates[i % 2].get("/things").bearer_auth(&keys[i / 2 % 2]));
    let answers = together(requests).await;
    let passed: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    let mut remaining: Vec<u64> = passed.iter().map(|answer| answer.number("x-ratelimit-remaining")).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, (0..60).collect::<Vec<u64>>(), "each value once");
    assert_eq!(answers.iter().filter(|answer| answer.status == 429).count(), 140);
    assert_eq!(stage.upstream.seen().len(), 60);
}

#[tokio::test]
async fn every_algorithm_admits_exactly_the_limit_under_concurrency() {
    let stage = Stage::set();
    let key = stage.redis.mint(json!({"business": "acme"})).text;
    // So long a window that none ends or refills by one while the test runs.
    stage.redis.room(86_400_000, 60_000);
    for algorithm in ["fixed-window", "sliding-window", "token-bucket"] {
        let yaml = format!(
            "limits: {{{algorithm}: {{by: business, windows: 20/1d, algorithm: {algorithm}}}}}
routes: {{/things: {{any: true, limits: [{algorithm}]}}}}"
        );
        let gates = [stage.gate(&yaml), stage.gate(&yaml)];
        let answers = together((0..60).map(|i| gates[i % 2].get("/things").bearer_auth(&key))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 20, "{algorithm}");
    }
}

#[tokio::test]
async fn a_steady_request_makes_exactly_one_call_to_redis() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
workers: 1
plans: {pro: {limits: {per-business: 5000/1m}}}
limits:
  per-key: {by: key, windows: [1000/1s, 2000/10s]}
  per-business: {by: business, windows: 5000/1h}
routes:
  /things/**: {scopes: [things], limits: [per-key, per-business]}
  /unlimited: things
",
    );
    stage.redis.set_business("acme", json!({"plan": "pro"}));
    let key = stage.redis.mint(json!({"business": "acme", "user": "u_42", "scopes": ["things"]})).text;
    // The worker's record is warm after the first request.
    for path in ["/things", "/unlimited"] {
        assert_eq!(gate.get(path).bearer_auth(&key).answer().await.status, 200);
        let mut watch = stage.redis.watch();
        for request in 1..=20 {
            assert_eq!(gate.get(path).bearer_auth(&key).answer().await.status, 200);
            let calls = watch.calls();
            assert_eq!(calls.len(), 1, "{path}, request {request}: {calls:?}");
        }
    }
}
