//! What passes while Redis is away, by what the configuration says: known keys, limits that each process counts for itself.

use std::time::Instant;

use serde_json::json;

use crate::support::{Answer, AnswerTo as _, faults::Mood, load::Who};

use super::scene::{RECOVERED, Scene, fails_no_request};

const KNOWN: &str = "store: {redis: 'REDIS', outage: {keys: {known_for: 5m}, limits: LIMITS}}";

#[tokio::test]
async fn known_keys_pass_an_outage_and_nobody_else_does() {
    let mut scene = Scene::set(&KNOWN.replace("LIMITS", "local")).await;
    // Each process counts for itself meanwhile, from nothing.
    scene.keys.retain(|ask| ask.who != Who::Spent);
    let redis = &scene.stage.redis;
    let [revoked_meanwhile, deleted, expiring, suspended, never_seen] =
        ["acme", "acme", "acme", "suspended", "acme"].map(|business| redis.mint(json!({"business": business})));
    redis.rewrite(&expiring, json!({"expires_at": rfc3339_in(redis.now_ms(), 2)}));
    for key in [&revoked_meanwhile, &deleted, &expiring, &suspended] {
        scene.answers(&key.text, 200).await;
    }
    redis.rewrite(&revoked_meanwhile, json!({"revoked_at": "2026-03-23T14:30:00Z"}));
    redis.delete(&deleted.document());
    redis.set_business("suspended", json!({"status": "suspended"}));
    for (key, status) in [(&revoked_meanwhile, 401), (&deleted, 401), (&suspended, 403)] {
        scene.answers(&key.text, status).await;
    }
    redis.wait_until(redis.now_ms() / 1000 * 1000 + 3000);

    let fault = scene.fault("blackhole, known keys pass").await;
    scene.proxy.mood(Mood::Silent);
    fault.lasts().await;
    for (key, statuses) in [
        (&revoked_meanwhile, &[503][..]),
        (&deleted, &[503]),
        (&expiring, &[401, 503]),
        (&suspended, &[403]),
        (&never_seen, &[503]),
    ] {
        let status = scene.ask(&key.text).await.status;
        assert!(statuses.contains(&status), "{status} is not among {statuses:?}");
    }
    let logged = scene.gate.logged(r#""sidegate.decision":"allowed","sidegate.basis":"known_for""#);
    assert_eq!(logged["sidegate.business"], "acme");

    scene.proxy.mood(Mood::Pass);
    fails_no_request(&scene.recovers(fault));
}

#[tokio::test]
async fn unscoped_keys_reach_what_was_confirmed_for_them_during_an_outage() {
    let store = "store: {redis: 'REDIS', deadline: 1s, outage: {keys: {known_for: 5m}}}";
    let scene = Scene::set(&format!("{store}\nbusiness: {{from: [{{query: business}}]}}")).await;
    let redis = &scene.stage.redis;
    let key = redis.mint(json!({"business": null, "user": "u_42"}));
    ["mine", "lost", "unconfirmed"].iter().for_each(|business| redis.own("u_42", business));
    let ask = async |business: &str| {
        scene.gate.get(&format!("/things?business={business}")).bearer_auth(&key.text).answer().await.status
    };
    assert_eq!((ask("mine").await, ask("lost").await, ask("theirs").await), (200, 200, 403));
    redis.ask::<()>(&["SREM", "sg:{u:u_42}:businesses", "lost"]);
    assert_eq!(ask("lost").await, 403);
    scene.proxy.mood(Mood::Silent);
    assert_eq!(ask("mine").await, 200);
    for business in ["lost", "theirs", "unconfirmed"] {
        assert_eq!(ask(business).await, 503, "{business}");
    }
}

#[tokio::test]
async fn keys_are_known_no_longer_than_configured() {
    let scene = Scene::set("store: {redis: 'REDIS', outage: {keys: {known_for: 2s}}}").await;
    scene.proxy.mood(Mood::Silent);
    let began = Instant::now();
    assert_eq!(scene.ask(&scene.good).await.status, 200);
    while scene.ask(&scene.good).await.status == 200 {
        assert!(began.elapsed() < RECOVERED, "it is known for ever");
    }
    assert_eq!(scene.ask(&scene.good).await.denial(), (503, "store_unavailable".to_owned()));
}

#[tokio::test]
async fn limits_during_an_outage_are_what_the_configuration_says() {
    let yaml = "
limits: {per-key: {by: key, windows: 8/1d}}
routes:
  /things: {scopes: [things:read], limits: [per-key]}
";
    for (limits, passing, remaining, after) in [
        ("local", 8, Some(7), 429),
        ("{local: {share: 1/4}}", 2, Some(1), 429),
        ("allow", 12, None, 200),
        ("deny", 0, None, 503),
    ] {
        let scene = Scene::with(&KNOWN.replace("LIMITS", limits), yaml).await;
        scene.stage.redis.room(86_400_000, 30_000);
        scene.proxy.mood(Mood::Silent);
        for count in 0..12 {
            let answer = scene.ask(&scene.good).await;
            assert_eq!(answer.status, if count < passing { 200 } else { after }, "{limits}, the {count}th");
            if count == 0 {
                let told = answer.header("x-ratelimit-remaining").map(|text| text.parse::<u64>().expect("a number"));
                assert_eq!(told, remaining, "{limits}");
            }
            if answer.status == 429 {
                assert!(answer.number("retry-after") >= 1);
            }
        }
    }
}

/// A share that is smaller than what one request costs lets one pass, and headers say what holds meanwhile.
#[tokio::test]
async fn a_share_has_room_for_one_request_and_headers_say_the_limit_in_force() {
    let yaml = "
limits: {per-key: {by: key, windows: 10/1d}}
routes:
  /things: {scopes: [things:read], limits: [per-key], cost: 5}
rate_limit_headers: {x: true, ietf: true}
";
    let scene = Scene::with(&KNOWN.replace("LIMITS", "{local: {share: 1/4}}"), yaml).await;
    scene.stage.redis.room(86_400_000, 30_000);
    scene.proxy.mood(Mood::Silent);
    let told = |answer: &Answer| ["limit", "remaining"].map(|part| answer.number(&format!("x-ratelimit-{part}")));
    let first = scene.ask(&scene.good).await;
    assert_eq!((first.status, told(&first)), (200, [5, 0]));
    assert!(first.header("ratelimit-policy").is_some_and(|policy| policy.contains("q=5")), "{:?}", first.headers);
    let second = scene.ask(&scene.good).await;
    assert_eq!((second.status, told(&second)), (429, [5, 0]));
    assert!(second.number("retry-after") >= 1, "it says when");
}

fn rfc3339_in(now_ms: u64, seconds: u64) -> String {
    sidegate::clock::rfc3339(now_ms + seconds * 1000)
}
