//! Limits that observe: they count, deny nobody, and say whom they would deny.

use serde_json::json;

use super::{WOULD_DENY, Yard};
use crate::support::{AnswerTo as _, Stage, client, cluster::Cluster};

#[tokio::test]
async fn a_limit_that_observes_denies_nobody_and_says_whom_it_would() {
    let Yard { stage, gate, key } = &Yard::set(
        "
rate_limit_headers: {ietf: true}
limits:
  per-key: {by: key, windows: 5/1d}
  tight: {by: business, windows: 2/1d, mode: observe}
  sliding: {by: user, windows: 3/1d, mode: observe, algorithm: sliding-window}
routes: {/things: {any: true, limits: [tight, per-key, sliding]}}
",
    );
    stage.redis.room(86_400_000, 30_000);
    let mut told = Vec::new();
    for expected in [200, 200, 200, 200, 200, 429, 429] {
        let answer = gate.get("/things").bearer_auth(&key.text).answer().await;
        assert_eq!(answer.status, expected);
        assert_eq!(answer.number("x-ratelimit-limit"), 5, "clients see what is enforced");
        let policy = answer.header("ratelimit-policy").expect("it is configured").to_owned();
        assert!(policy.contains("per-key") && !policy.contains("tight"), "{policy}");
        told.extend(stage.upstream.take().pop().map(|seen| seen.header(WOULD_DENY).map(str::to_owned)));
    }
    let limited = || Some("rate_limited".to_owned());
    assert_eq!(told, [None, None, limited(), limited(), limited()]);
    for (limit, outcome, times) in [
        ("tight", "observed", 3.0),
        ("sliding", "observed", 2.0),
        ("tight", "over", 0.0),
        ("per-key", "over", 2.0),
        ("per-key", "observed", 0.0),
    ] {
        let labels = [format!("limit=\"{limit}\""), format!("outcome=\"{outcome}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert_eq!(gate.metric("sidegate_limit_checks_total", &labels), times, "{limit} {outcome}");
    }
    assert_eq!(gate.metric("sidegate_requests_total", &["decision=\"observed\""]), 3.0);
    assert_eq!(gate.metric("sidegate_requests_total", &["decision=\"denied\""]), 2.0);
}

/// What an enforced limit denies is counted in none that observes: it would report others over what one alone has used up.
#[tokio::test]
async fn what_is_denied_is_counted_by_no_limit_that_observes() {
    let Yard { stage, gate, key } = &Yard::set(
        "
limits: {per-key: {by: key, windows: 1/1d}, shared: {by: business, windows: 3/1d, mode: observe}}
routes: {/things: {any: true, limits: [shared, per-key]}}
",
    );
    stage.redis.room(86_400_000, 30_000);
    for _ in 0..10 {
        gate.get("/things").bearer_auth(&key.text).answer().await;
    }
    stage.upstream.take();
    let mut told = Vec::new();
    for _ in 0..3 {
        let other = stage.redis.mint(json!({"business": "acme"}));
        assert_eq!(gate.get("/things").bearer_auth(&other.text).answer().await.status, 200);
        told.push(stage.upstream.only().header(WOULD_DENY).map(str::to_owned));
    }
    assert_eq!(told, [None, None, Some("rate_limited".to_owned())]);
}

#[tokio::test]
async fn on_a_cluster_what_a_later_slot_denies_is_given_back_to_limits_that_observe() {
    let (stage, cluster) = (Stage::set(), Cluster::start());
    for algorithm in ["fixed-window", "sliding-window", "token-bucket"] {
        let gate = stage.gate(&format!(
            "
store: {}
limits:
  own-{algorithm}: {{by: business, windows: 20/1d, algorithm: {algorithm}, mode: observe}}
  all-{algorithm}: {{by: global, windows: 5/1d}}
routes:
  /both: {{any: true, limits: [own-{algorithm}, all-{algorithm}]}}
  /own: {{any: true, limits: [own-{algorithm}]}}
",
            cluster.store()
        ));
        let key = gate.new_key(&["--name", "test", "--business", "acme", "--scopes", "*"]);
        let answers = client::together((0..12).map(|_| gate.get("/both").bearer_auth(&key))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 5);
        assert!(stage.upstream.take().iter().all(|seen| seen.header(WOULD_DENY).is_none()), "{algorithm}");
        client::together((0..18).map(|_| gate.get("/own").bearer_auth(&key))).await;
        let within = stage.upstream.take().iter().filter(|seen| seen.header(WOULD_DENY).is_none()).count();
        assert_eq!(within, 15, "{algorithm}: of 20, five are spent");
    }
}

/// Exactly as many as the limit would have let pass, however many come at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_observes_is_exact_under_concurrency() {
    let Yard { stage, gate, key } = &Yard::set(
        "
limits: {tight: {by: key, windows: 20/1d, mode: observe}, wide: {by: key, windows: 1000/1d}}
routes: {/things: {any: true, limits: [tight, wide]}}
",
    );
    stage.redis.room(86_400_000, 30_000);
    for answer in client::together((0..100).map(|_| gate.get("/things").bearer_auth(&key.text))).await {
        assert_eq!(answer.status, 200);
    }
    let within = stage.upstream.take().iter().filter(|seen| seen.header(WOULD_DENY).is_none()).count();
    assert_eq!(within, 20);
}
