//! Redis in its moods, and the store in a file: answers stay quick and closed, and all works again when it does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Answer, AnswerTo as _, Gate, Key, PATIENCE, Stage,
    faults::{Mood, Proxy},
    gate::text,
    until, upstream,
};

/// With the default deadline of 100 ms, for the tests of slowness; the others must not depend on how busy the machine is.
const QUICK_REDIS: &str = "store: {redis: '${REDIS_URL}'}";

const YAML: &str = "
limits: {per-key: {by: key, windows: 1000/1h}}
routes:
  /things: {any: true, limits: [per-key]}
  /public: public
";

/// Far more than the store's deadline of 100 ms, and far less than a client's patience.
const QUICK: Duration = Duration::from_secs(1);

/// The median is: a single answer may be whatever a busy machine makes of it.
fn is_quick(mut took: Vec<Duration>) {
    took.sort_unstable();
    assert!(took[took.len() / 2] < QUICK, "{took:?}");
}

#[test]
fn an_idle_gate_notices_that_redis_hangs() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/public: public}");
    stage.redis.signal("STOP");
    until("it to notice", || (gate.operators("/readyz").status == 503).then_some(()));
    assert_eq!(gate.metric("sidegate_store_up", &[]), 0.0);
    stage.redis.signal("CONT");
    until("readiness", || (gate.operators("/readyz").status == 200).then_some(()));
}

#[tokio::test]
async fn redis_killed_in_the_middle_is_told_quickly_and_public_routes_go_on() {
    let (mut stage, gate, key) = yard(QUICK_REDIS);
    works(&gate, &key).await;
    stage.redis.stop();
    let mut took = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        is_unavailable(&ask(&gate, &key).await);
        took.push(began.elapsed());
        assert_eq!(gate.get("/public").answer().await.status, 200);
    }
    is_quick(took);
    stage.redis.restart();
    works(&gate, &key).await;
}

#[tokio::test]
async fn an_outage_is_said_once_however_many_workers_it_meets() {
    let (mut stage, gate, key) = yard(&format!("workers: 3\n{QUICK_REDIS}"));
    let connected = |times| {
        until("each worker to be connected", || {
            (gate.written().matches("store: connected").count() >= times).then_some(())
        });
    };
    connected(3);
    stage.redis.stop();
    is_unavailable(&ask(&gate, &key).await);
    stage.redis.restart();
    connected(6);
    works(&gate, &key).await;
    let written = gate.written();
    let mut said: Vec<String> = Vec::new();
    for line in written.lines().filter(|line| line.contains("connection lost") || line.contains("out of reach")) {
        let line: Value = serde_json::from_str(line).expect("the log is JSON");
        let field = |name: &str| line.get(name).or_else(|| line.get("fields")?.get(name)).map(Value::to_string);
        said.push(format!("{:?} {:?}", field("message"), field("error")));
    }
    assert!(!said.is_empty(), "{written}");
    for one in &said {
        assert_eq!(said.iter().filter(|other| *other == one).count(), 1, "{said:#?}");
    }
}

#[tokio::test]
async fn redis_down_at_the_start_leaves_the_gate_alive_and_public_routes_open() {
    let mut stage = Stage::set();
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.stop();
    let gate = stage.unready_gate(&format!("{QUICK_REDIS}{YAML}"));
    assert_eq!(gate.operators("/livez").status, 200);
    assert_eq!(gate.operators("/readyz").status, 503);
    is_unavailable(&ask(&gate, &key).await);
    assert_eq!(gate.get("/public").answer().await.status, 200);
    stage.redis.restart();
    works(&gate, &key).await;
}

#[tokio::test]
async fn redis_that_wants_a_password_or_more_rights_is_told_by_check_and_once_by_the_log() {
    for (setting, reason) in [
        (&["CONFIG", "SET", "requirepass", "unknown-to-the-gate"][..], "NOAUTH"),
        (&["ACL", "SETUSER", "default", "-script|load"], "script|load"),
    ] {
        let stage = Stage::set();
        stage.redis.ask::<()>(setting);
        let gate = stage.unready_gate(&format!("workers: 1\n{QUICK_REDIS}{YAML}"));
        let checked = text(&gate.command(&["check"]).stdout);
        assert!(checked.contains("warning: store: ") && checked.contains(reason), "no {reason} in\n{checked}");
        gate.said(reason);
        // Long enough for a few attempts to connect.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let told = gate.written().matches("store: it refuses the connection").count();
        assert_eq!(told, 1, "{}", gate.written());
    }
}

/// (what it is, how it gets so, what it says, what is to be done)
type Door<'a> = (&'a str, &'a [&'a [&'a str]], &'a str, &'a str);

#[tokio::test]
async fn redis_that_lets_nobody_in_is_told_by_what_it_says_and_what_helps() {
    const SECRET: &str = "hunter2-of-the-gate";
    let doors: [Door<'_>; 6] = [
        ("wrong password", &[&["CONFIG", "SET", "requirepass", "another"]], "WRONGPASS", "`store.password`"),
        ("unknown user", &[&["ACL", "SETUSER", "default", ">another"]], "WRONGPASS", "ACL LIST"),
        ("no password is set", &[], "without any password configured", "ACL LIST"),
        (
            "may not load scripts",
            &[&["CONFIG", "SET", "requirepass", SECRET], &["ACL", "SETUSER", "default", "-script|load"]],
            "NOPERM",
            "ACL SETUSER",
        ),
        (
            "max clients",
            &[&["CONFIG", "SET", "requirepass", SECRET], &["CONFIG", "SET", "maxclients", "1"]],
            "max number of clients",
            "maxclients",
        ),
        (
            "a replica",
            &[&["CONFIG", "SET", "requirepass", SECRET], &["REPLICAOF", "127.0.0.1", "1"]],
            "READONLY",
            "sentinels",
        ),
    ];
    for (what, settings, said, helps) in doors {
        let stage = Stage::set();
        // One connection, which none of them ends, and which is the one client that there may be.
        let client = redis::Client::open(stage.redis.url()).expect("the address is valid");
        let mut connection = client.get_connection().expect("Redis is up");
        for setting in settings {
            redis::cmd(setting[0]).arg(&setting[1..]).exec(&mut connection).expect("Redis takes it");
        }
        let store = format!("store: {{redis: '${{REDIS_URL}}', password: {SECRET}}}");
        let gate = stage.unready_gate(&format!("workers: 1\n{store}{YAML}"));
        let line = gate.said("store: it refuses the connection");
        assert!(line.contains("WARN") && line.contains(said) && line.contains(helps), "{what}: {line}");
        let ready = gate.operators("/readyz");
        let code = said.split(' ').next().filter(|word| word.chars().all(char::is_uppercase)).unwrap_or("ERR");
        assert_eq!(
            (ready.status, ready.text()),
            (503, format!("the store refuses the connection: {code}\n")),
            "{what}"
        );
        assert_eq!(gate.metric("sidegate_store_up", &[]), 0.0, "{what}");
        let written = gate.written();
        assert!(!written.contains("out of reach") && !written.contains(SECRET), "{what}: {written}");
    }
}

/// Of another machine Redis says so to who has no password, before it is asked anything, and closes.
#[test]
fn redis_in_protected_mode_is_told_by_what_it_says_and_what_helps() {
    let address = upstream::that_says(b"-DENIED Redis is running in protected mode because it is enabled\r\n");
    let gate = Stage::set().unready_gate(&format!("workers: 1\nstore: {{redis: 'redis://{address}'}}{YAML}"));
    let line = gate.said("store: it refuses the connection");
    assert!(line.contains("DENIED Redis is running") && line.contains("it is in protected mode: give it"), "{line}");
    assert_eq!(gate.operators("/readyz").text(), "the store refuses the connection: DENIED\n");
}

#[tokio::test]
async fn redis_that_may_evict_is_warned_about_by_check_log_and_metric() {
    let stage = Stage::set();
    let good = stage.gate(&format!("{QUICK_REDIS}{YAML}"));
    assert_eq!(good.metric("sidegate_store_may_evict", &[]), 0.0);
    assert!(!text(&good.command(&["check"]).stdout).contains("maxmemory-policy"));
    stage.redis.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let gate = stage.gate(&format!("{QUICK_REDIS}{YAML}"));
    let checked = text(&gate.command(&["check"]).stdout);
    assert!(checked.contains("maxmemory-policy") && checked.contains("allkeys-lru"), "{checked}");
    gate.said("maxmemory-policy");
    assert_eq!(gate.metric("sidegate_store_may_evict", &[]), 1.0);
}

/// The first request of a key makes three trips; where they do not fit into the deadline, it is said before that shows as a 503.
#[tokio::test]
async fn redis_that_is_too_far_away_for_the_deadline_is_warned_about_by_check_and_log() {
    let stage = Stage::set();
    let far = Proxy::before(stage.redis.port());
    far.mood(Mood::Delay(Duration::from_millis(30)));
    let of = |port: u16, deadline: &str| {
        format!("store: {{redis: 'redis://127.0.0.1:{port}/0', deadline: {deadline}}}\n{YAML}")
    };
    let gate = stage.gate(&of(far.port, "100ms"));
    gate.said("a round trip takes");
    let checked = text(&gate.command(&["check"]).stdout);
    assert!(checked.contains("a round trip takes") && checked.contains("raise `store.deadline` above"), "{checked}");
    for near in [of(far.port, "10s"), of(stage.redis.port(), "10s")] {
        gate.configure(&near);
        let checked = text(&gate.command(&["check"]).stdout);
        assert!(checked.contains("is good") && !checked.contains("round trip"), "{checked}");
    }
}

#[tokio::test]
async fn redis_that_hangs_is_given_no_more_than_the_deadline() {
    let (stage, gate, key) = yard(QUICK_REDIS);
    works(&gate, &key).await;
    stage.redis.ask::<()>(&["CLIENT", "PAUSE", "8000", "ALL"]);
    let mut took = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        is_unavailable(&ask(&gate, &key).await);
        took.push(began.elapsed());
    }
    is_quick(took);
    works(&gate, &key).await;
}

#[tokio::test]
async fn a_flushed_script_does_not_fail_a_request() {
    // One worker, which works: the first flush does not meet another that is just connecting.
    let (stage, gate, key) = yard("workers: 1");
    works(&gate, &key).await;
    for _ in 0..3 {
        stage.redis.ask::<()>(&["SCRIPT", "FLUSH"]);
        assert_eq!(ask(&gate, &key).await.status, 200);
    }
}

#[tokio::test]
async fn one_bad_document_harms_one_key() {
    let (stage, gate, good) = yard("");
    let bad = stage.redis.mint(json!({"business": "acme"}));
    for value in ["", "no json", "[]", "{}", "{\"id\": 7}", "null", "\u{0}"] {
        stage.redis.set(&bad.document(), value);
        is_closed(&stage, &gate, &bad, value).await;
        assert_eq!(ask(&gate, &good).await.status, 200, "beside {value:?}");
        stage.upstream.take();
    }
    stage.redis.delete(&bad.document());
    stage.redis.ask::<()>(&["SADD", &bad.document(), "a set"]);
    is_closed(&stage, &gate, &bad, "a set").await;
    assert_eq!(ask(&gate, &good).await.status, 200);
    stage.upstream.take();
    stage.redis.set(&bad.hint(), "no tenant");
    is_closed(&stage, &gate, &bad, "no tenant").await;
}

/// As under a processor quota, or behind a thousand handshakes: the deadline passes while Redis's answer lies in the socket.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_was_held_up_takes_in_the_answer_that_is_there() {
    let deadline = Duration::from_secs(2);
    let (stage, gate, key) = yard("workers: 1\nstore: {redis: '${REDIS_URL}', deadline: 2s}");
    works(&gate, &key).await;
    stage.redis.signal("STOP");
    let began = Instant::now();
    let asked = tokio::spawn(gate.get("/things").bearer_auth(&key.text).answer());
    until("a request to be at the gate", || (gate.metric("sidegate_requests_in_flight", &[]) > 0.0).then_some(()));
    // And its call at the store.
    tokio::time::sleep(deadline / 8).await;
    gate.signal("STOP");
    stage.redis.signal("CONT");
    tokio::time::sleep_until((began + deadline * 5 / 4).into()).await;
    gate.signal("CONT");
    assert_eq!(asked.await.expect("a request that fails says why itself").status, 200);
    let blamed = gate.metric("sidegate_store_calls_total", &["op=\"decide\"", "outcome=\"deadline\""]);
    assert_eq!(blamed, 0.0, "the store was quick");
}

#[tokio::test]
async fn a_bad_business_document_harms_that_business_alone() {
    let (stage, gate, key) = yard("");
    let other = stage.redis.mint(json!({"business": "umbrella"}));
    assert_eq!(ask(&gate, &key).await.status, 200);
    stage.redis.set("sg:{b:acme}:business", "no json");
    stage.upstream.take();
    is_closed(&stage, &gate, &key, "no json").await;
    assert_eq!(ask(&gate, &other).await.status, 200);
}

#[tokio::test]
async fn keys_and_counts_can_live_in_a_file_beside_one_process() {
    let stage = Stage::set();
    let gate = stage.gate(&format!("store: 'file:sidegate-keys.yaml'\n{}", YAML.replace("1000/1h", "3/1d")));
    stage.redis.room(86_400_000, 30_000);
    // The file is read again within a second.
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let created: Value = gate.keys_create(&["--name", "test", "--business", "acme", "--scopes", "*"]);
        let key = created["key"].as_str().expect("the key is shown at creation").to_owned();
        let status = async || gate.get("/things").bearer_auth(&key).answer().await.status;
        let began = Instant::now();
        while status().await == 401 {
            assert!(began.elapsed() < PATIENCE, "the new key is not found");
        }
        found.push(began.elapsed());
        assert_eq!((status().await, status().await, status().await), (200, 200, 429));
        let revoked = gate.command(&["keys", "revoke", created["id"].as_str().expect("a key has an id")]);
        assert!(revoked.status.success(), "{revoked:?}");
        let began = Instant::now();
        while status().await != 401 {
            assert!(began.elapsed() < PATIENCE, "the revoked key still works");
        }
        lost.push(began.elapsed());
    }
    for took in [found, lost] {
        assert!(took.iter().min() < Some(&Duration::from_millis(1500)), "{took:?}");
    }
}

#[test]
fn a_second_process_on_one_file_warns_that_each_counts_for_itself() {
    const WARNING: &str = "another process serves by this file too";
    let stage = Stage::set();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let yaml = format!("store: 'file:{}'\n{YAML}", folder.path().join("keys.yaml").display());
    let first = stage.gate(&yaml);
    let created = first.keys_create(&["--name", "test", "--business", "acme", "--scopes", "*"]);
    assert!(created["key"].is_string(), "who only keeps keys serves nobody");
    let second = stage.gate(&yaml);
    second.said(WARNING);
    assert!(!first.written().contains(WARNING), "{}", first.written());
    drop((first, second));
    let third = stage.gate(&yaml);
    assert!(!third.written().contains(WARNING), "those before it are gone");
}

fn yard(settings: &str) -> (Stage, Gate, Key) {
    let stage = Stage::set();
    let gate = stage.gate(&format!("{settings}{YAML}"));
    let key = stage.redis.mint(json!({"business": "acme"}));
    (stage, gate, key)
}

async fn ask(gate: &Gate, key: &Key) -> Answer {
    gate.get("/things").bearer_auth(&key.text).answer().await
}

fn is_unavailable(answer: &Answer) {
    assert_eq!(answer.denial(), (503, "store_unavailable".to_owned()));
    assert!(answer.number("retry-after") >= 1);
}

/// Not served, since nobody can say what it says; and the upstream saw nothing.
async fn is_closed(stage: &Stage, gate: &Gate, key: &Key, value: &str) {
    let answer = ask(gate, key).await;
    assert_eq!(answer.denial(), (503, "store_unavailable".to_owned()), "{value:?}: {answer:?}");
    assert!(stage.upstream.seen().is_empty(), "{value:?}");
}

/// Works now, or finds its way back by itself.
async fn works(gate: &Gate, key: &Key) {
    until("readiness", || (gate.operators("/readyz").status == 200).then_some(()));
    // Each worker has a connection of its own, which may take a moment longer than the one that readiness looks at.
    let began = Instant::now();
    while ask(gate, key).await.status != 200 {
        assert!(began.elapsed() < PATIENCE, "ready, but not working");
    }
}
