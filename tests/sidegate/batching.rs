//! Many requests in few calls: exact all the same, each with its own answer, and nobody's fate tied to another's.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::{Answer, AnswerTo as _, Gate, Key, Redis, Stage, until};

/// One worker, so that all that a test sends meets in the same place, and time to look at what waits.
const YAML: &str = "
workers: 1
store: {redis: \"${REDIS_URL}\", deadline: 10s}
limits: {per-key: {by: key, windows: LIMIT}}
routes:
  /things: {any: true, limits: [per-key]}
  /guarded: {scopes: [things], limits: [per-key]}
";

const DAY_MS: u64 = 86_400_000;

// The test waits for conditions with its own thread.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_on_one_key_pass_exactly_the_limit_in_few_calls() {
    const LIMIT: usize = 9_500;
    let stage = Stage::set();
    let gates = [(); 3].map(|()| gate(&stage, &format!("{LIMIT}/1d")));
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(DAY_MS, 120_000);
    let before = calls(&stage.redis);
    let mut answers: Vec<Answer> = Vec::new();
    // Whether requests meet is no matter of how fast this machine sends them: they are gathered before any is answered.
    while answers.len() < 10_000 {
        let burst = 120.min(10_000 - answers.len());
        hold(&stage.redis);
        let sent: Vec<_> = (0..burst).map(|index| send(&gates[index % 3], &key)).collect();
        until("all to be with the gates, or denied from memory", || {
            let waiting: f64 = gates.iter().map(|gate| gate.metric("sidegate_requests_in_flight", &[])).sum();
            (waiting as usize + sent.iter().filter(|sent| sent.is_finished()).count() >= burst).then_some(())
        });
        release(&stage.redis);
        answers.extend(all(sent).await);
    }
    let calls = calls(&stage.redis) - before;
    assert_eq!(answers.len(), 10_000);
    let mut remaining: Vec<u64> =
        answers.iter().filter(|a| a.status == 200).map(|a| a.number("x-ratelimit-remaining")).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, (0..LIMIT as u64).collect::<Vec<_>>(), "exactly the limit, and each value once");
    let denied: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!(denied.len(), 500);
    assert!(
        denied.iter().all(|answer| answer.number("x-ratelimit-remaining") == 0 && answer.number("retry-after") > 0)
    );
    assert!(calls <= 2000, "{calls} calls for 10,000 requests");
    let counted: f64 = gates.iter().map(|gate| gate.metric("sidegate_store_calls_total", &["op=\"decide\""])).sum();
    assert_eq!(counted as u64, calls, "the metric counts calls, not requests");
    let batches: f64 = gates.iter().map(|gate| gate.metric("sidegate_store_batch_size_count", &[])).sum();
    assert_eq!(batches as u64, calls);
}

// The test waits for conditions with its own thread.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_go_away_leave_nobody_hanging_and_spend_nothing_before_departure() {
    let stage = Stage::set();
    let gate = gate(&stage, "1000/1d");
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(DAY_MS, 60_000);
    assert_eq!(send(&gate, &key).await.expect("the request is sent").number("x-ratelimit-remaining"), 999);

    hold(&stage.redis);
    let first = send(&gate, &key);
    in_flight(&gate, 1);
    // These gather while the first one's call is in the air.
    let leaving: Vec<_> = (0..20).map(|_| send(&gate, &key)).collect();
    let staying: Vec<_> = (0..10).map(|_| send(&gate, &key)).collect();
    in_flight(&gate, 31);
    // The one that everybody waits for, and some of those that wait.
    first.abort();
    leaving.iter().for_each(JoinHandle::abort);
    in_flight(&gate, 10);
    let late: Vec<_> = (0..5).map(|_| send(&gate, &key)).collect();
    in_flight(&gate, 15);
    release(&stage.redis);

    let answers = all(staying.into_iter().chain(late).collect()).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let mut remaining: Vec<u64> = answers.iter().map(|answer| answer.number("x-ratelimit-remaining")).collect();
    remaining.sort_unstable();
    // The first had left, so what it spent stays spent; the twenty took nothing.
    assert_eq!(remaining, (983..998).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_request_waits_no_longer_than_its_deadline_for_a_call_that_hangs() {
    let stage = Stage::set();
    let gate = stage.gate(&YAML.replace("10s", "200ms").replace("LIMIT", "1000/1d"));
    let key = stage.redis.mint(json!({"business": "acme"}));
    // So short a deadline may pass on a busy machine.
    passes(&gate, &key);
    hold(&stage.redis);
    let began = Instant::now();
    let waiting: Vec<_> = (0..50).map(|_| send(&gate, &key)).collect();
    for answer in all(waiting).await {
        assert_eq!(answer.denial(), (503, "store_unavailable".to_owned()));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    release(&stage.redis);
    passes(&gate, &key);
}

// The test waits for conditions with its own thread.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_of_a_batch_harms_that_one_alone() {
    let stage = Stage::set();
    let gate = gate(&stage, "1000/1d");
    stage.redis.room(DAY_MS, 60_000);
    let keys: Vec<Key> =
        (0..12).map(|i| stage.redis.mint(json!({"business": format!("b{i}"), "scopes": ["things"]}))).collect();
    let guarded = |key: &Key| tokio::spawn(gate.get("/guarded").bearer_auth(&key.text).answer());
    for answer in all(keys.iter().map(&guarded).collect()).await {
        assert_eq!(answer.status, 200);
    }
    // Narrowed, revoked, unreadable, gone, and a count that is none.
    stage.redis.rewrite(&keys[1], json!({"scopes": ["other"]}));
    stage.redis.rewrite(&keys[2], json!({"revoked_at": "2026-03-23T14:30:00Z"}));
    stage.redis.set(&keys[3].document(), "no json");
    stage.redis.delete(&keys[4].document());
    stage.redis.delete(&keys[4].hint());
    let count = format!("sg:{{{}}}:count:per-key:{}", keys[5].tenant, keys[5].id);
    stage.redis.set(&count, "no bucket");

    hold(&stage.redis);
    let before = calls(&stage.redis);
    let first = guarded(&keys[0]);
    in_flight(&gate, 1);
    let others: Vec<_> = keys[1..].iter().map(&guarded).collect();
    in_flight(&gate, 12);
    release(&stage.redis);
    assert_eq!(first.await.expect("the request is sent").status, 200);
    let answers = all(others).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [403, 401, 503, 401, 503, 200, 200, 200, 200, 200, 200]);
    for good in &answers[5..] {
        assert_eq!(good.number("x-ratelimit-remaining"), 998);
    }
    // The first; the rest together; and once or twice more for those that had changed.
    let calls = calls(&stage.redis) - before;
    assert!((3..=5).contains(&calls), "{calls} calls");
}

#[tokio::test]
async fn an_exhausted_bucket_costs_ten_calls_a_second_and_a_raised_limit_acts_at_once() {
    let stage = Stage::set();
    let gate = gate(&stage, "3/1d");
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(DAY_MS, 60_000);
    let status = async || gate.get("/things").bearer_auth(&key.text).answer().await.status;
    for expected in [200, 200, 200, 429] {
        assert_eq!(status().await, expected);
    }
    let (began, before, mut requests) = (Instant::now(), calls(&stage.redis), 0);
    while began.elapsed() < Duration::from_secs(1) {
        let answer = gate.get("/things").bearer_auth(&key.text).answer().await;
        assert_eq!(answer.status, 429);
        assert_eq!((answer.number("x-ratelimit-limit"), answer.number("x-ratelimit-remaining")), (3, 0));
        assert!(answer.number("retry-after") >= 1);
        requests += 1;
    }
    let tenths = u64::try_from(began.elapsed().as_millis() / 100).expect("about ten");
    let asked = calls(&stage.redis) - before;
    // Two are asked about at once, one when the first tenth begins.
    assert!(asked <= tenths + 3, "{asked} calls for {requests} requests in {:?}", began.elapsed());

    // A hundred milliseconds, and as much as a busy machine adds to the quickest of several times.
    let at_once = Duration::from_millis(200);
    let mut took = Vec::new();
    for limit in [5, 7, 9, 11, 13] {
        stage.redis.rewrite(&key, json!({"limits": {"per-key": format!("{limit}/1d")}}));
        let raised = Instant::now();
        while status().await == 429 {}
        took.push(raised.elapsed());
        assert_eq!((status().await, status().await), (200, 429));
    }
    assert!(took.iter().min() < Some(&at_once), "a raised limit acts after {took:?}");

    took.clear();
    for _ in 0..5 {
        stage.redis.rewrite(&key, json!({"revoked_at": "2026-03-23T14:30:00Z"}));
        let revoked = Instant::now();
        loop {
            match status().await {
                401 => break,
                other => assert_eq!(other, 429, "nothing is let in"),
            }
        }
        took.push(revoked.elapsed());
        stage.redis.rewrite(&key, json!({"revoked_at": null}));
        assert_eq!(status().await, 429, "it is exhausted still");
    }
    assert!(took.iter().min() < Some(&at_once), "a revocation acts after {took:?}");
}

#[tokio::test]
async fn a_denial_from_memory_ends_with_the_window() {
    let stage = Stage::set();
    let gate = gate(&stage, "2/2s");
    let key = stage.redis.mint(json!({"business": "acme"}));
    let mut rounds = 0;
    while rounds < 2 {
        stage.redis.room(2000, 1500);
        let end = stage.redis.now_ms() / 2000 * 2000 + 2000;
        let (mut asked, mut passed) = (0, 0);
        while stage.redis.now_ms() < end {
            let answer = send(&gate, &key).await.expect("the request is sent");
            // The last one may have been answered in the next window.
            let here = answer.number("x-ratelimit-reset") == end / 1000;
            asked += usize::from(here);
            passed += usize::from(here && answer.status == 200);
        }
        // A machine that stood still asked too little for the window to say no.
        if asked < 3 {
            stage.redis.wait_until(end + 2000);
            continue;
        }
        rounds += 1;
        assert_eq!(passed, 2);
        assert_eq!(send(&gate, &key).await.expect("the request is sent").status, 200, "at the window's end");
        stage.redis.wait_until(end + 2000);
    }
}

fn gate(stage: &Stage, windows: &str) -> Gate {
    stage.gate(&YAML.replace("LIMIT", windows))
}

/// A request on its way; on a connection of its own while others are.
fn send(gate: &Gate, key: &Key) -> JoinHandle<Answer> {
    tokio::spawn(gate.get("/things").bearer_auth(&key.text).answer())
}

/// Waits until a request passes.
fn passes(gate: &Gate, key: &Key) {
    let key = format!("Authorization: Bearer {}", key.text);
    until("a request to pass", || (gate.raw("GET", "/things", &[key.as_bytes()]).status == 200).then_some(()));
}

async fn all<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("a request that fails says why itself"));
    }
    results
}

/// From now on Redis takes decision calls and does not answer them, until released; everything else it answers.
fn hold(redis: &Redis) {
    redis.ask::<()>(&["CLIENT", "PAUSE", "60000", "WRITE"]);
}

fn release(redis: &Redis) {
    redis.ask::<()>(&["CLIENT", "UNPAUSE"]);
}

/// Waits until so many requests are with the gate.
fn in_flight(gate: &Gate, requests: usize) {
    until(&format!("{requests} requests in flight"), || {
        (gate.metric("sidegate_requests_in_flight", &[]) as usize == requests).then_some(())
    });
}

/// How many decision calls Redis has answered.
fn calls(redis: &Redis) -> u64 {
    let info: String = redis.ask(&["INFO", "commandstats"]);
    let figures = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    figures.and_then(|figures| figures.split(',').next()?.parse().ok()).unwrap_or_default()
}
