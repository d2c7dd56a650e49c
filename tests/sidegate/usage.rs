//! How much keys are used: counted off the way of requests, sent in batches, read by operators. What was counted is there after
//! a flush, and neither an outage nor the process's end takes it away.

use serde_json::{Value, json};

use crate::support::{
    AnswerTo as _, Gate, Key, Stage,
    client::together,
    cluster::{Cluster, GATE_ACL, GATE_ACL_WITHOUT_USAGE, Server},
    faults::{Mood, Proxy},
    gate::text,
    until,
};

const YAML: &str = "
drain: {delay: 0s}
business: {from: [{header: X-Business-Id}]}
limits: {per-key: {by: key, windows: 20/1d}, per-business: {by: business, windows: 1000/1d}}
routes:
  /things: {any: true, limits: [per-business]}
  /few: {any: true, limits: [per-key]}
  /own: any
  /guarded: guarded
  /public: public
";

const DAY_MS: u64 = 86_400_000;

#[tokio::test]
async fn requests_and_denials_of_two_sidecars_are_added_up() {
    let stage = Stage::set();
    let gates = [stage.gate(YAML), stage.gate(YAML)];
    let [one, two] = [1, 2].map(|_| stage.redis.mint(json!({"business": "acme", "scopes": ["things"]})));
    stage.redis.room(DAY_MS, 60_000);
    let began = stage.redis.now_ms();
    let requests = (0..60).map(|i| gates[i % 2].get("/few").bearer_auth(&one.text));
    let denied = together(requests).await.iter().filter(|answer| answer.status == 429).count();
    assert_eq!(denied, 40);
    let paths = ["/guarded", "/things", "/public", "/nowhere"];
    together((0..40).map(|i| gates[i % 2].get(paths[i / 10]).bearer_auth(&two.text))).await;
    let unknown = gates[0].get("/things").bearer_auth("sg_nobodys").answer().await;
    assert_eq!(unknown.status, 401);

    // What needs no key, and what leads nowhere, is no use of a key.
    let one = becomes(&gates[0], &["keys", "usage", &one.id], 60, 40);
    let two = becomes(&gates[0], &["keys", "usage", &two.id], 20, 10);
    let acme = becomes(&gates[1], &["business", "usage", "acme"], 80, 50);
    assert_eq!((&one["business"]["requests"], &two["business"]["denials"]), (&acme["requests"], &acme["denials"]));
    assert_eq!((sum(&one["minutes"]["requests"]), sum(&one["minutes"]["denials"])), (60, 40));
    let last = one["last_used_at"].as_str().expect("it was used");
    assert!(last >= rfc3339(began).as_str() && last <= rfc3339(stage.redis.now_ms()).as_str(), "{last}");
    let limit = |usage: &Value, name: &str| {
        let limits = usage["limits"].as_array().expect("a list").clone();
        limits.into_iter().find(|limit| limit["name"] == name).expect("it counts")
    };
    assert_eq!(
        (limit(&one, "per-key")["used"].as_u64(), limit(&one, "per-key")["limit"].as_u64()),
        (Some(20), Some(20))
    );
    assert_eq!(limit(&acme, "per-business")["used"], 10);
    assert!(acme["limits"].as_array().is_some_and(|limits| limits.len() == 1), "{acme}");
    let person = text(&gates[0].command(&["keys", "usage", one["id"].as_str().expect("an id")]).stdout);
    assert!(person.contains("in 90 days 60 (40 denied), in 60 minutes 60 (40 denied)"), "{person}");
    let listed = gates[0].json(&["keys", "list", "--json"]);
    let last_used = |key: &Value| key["last_used_at"].is_string();
    assert!(listed["keys"].as_array().is_some_and(|keys| keys.iter().all(last_used)), "{listed}");
}

#[tokio::test]
async fn the_end_of_the_process_leaves_nothing_behind_and_makes_no_script_call() {
    let stage = Stage::set();
    let mut gate = stage.gate(YAML);
    let key = stage.redis.mint(json!({"business": "acme"}));
    assert_eq!(use_up(&gate, &key, 15).await, 15);
    let before = stage.redis.ask::<String>(&["INFO", "commandstats"]);
    gate.terminate();
    assert!(gate.ended().success());
    let after = stage.redis.ask::<String>(&["INFO", "commandstats"]);
    let scripts = |stats: &str| {
        let of_scripts = stats.lines().filter(|line| line.contains("_eval")).map(|line| line.split(',').next());
        of_scripts.map(|calls| calls.unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(scripts(&before), scripts(&after));
    assert_eq!(used(&gate, &["keys", "usage", &key.id]), (15, 0));
    // Whatever is written about use ends by itself, save since when it is counted.
    let names: Vec<String> = stage.redis.ask(&["KEYS", "*:usage:*"]);
    let lasting = names.iter().filter(|name| stage.redis.ask::<i64>(&["TTL", name]) < 0).count();
    assert_eq!((names.len(), lasting), (6, 1), "{names:?}");
}

#[tokio::test]
async fn what_redis_did_not_take_is_sent_again_and_counted_once() {
    let mut stage = Stage::set();
    // One worker, so that the store is back for every request once it is.
    let mut gate = stage.gate(&format!("workers: 1\n{YAML}"));
    let key = stage.redis.mint(json!({"business": "acme"}));
    assert_eq!(use_up(&gate, &key, 10).await, 10);
    stage.redis.stop();
    let failed = |gate: &Gate| gate.metric("sidegate_store_calls_total", &["op=\"usage\"", "outcome=\"unreachable\""]);
    until("a flush to fail", || (failed(&gate) > 0.0).then_some(()));
    gate.said("use could not be written; it is kept and sent again");
    assert_eq!(gate.get("/own").bearer_auth(&key.text).answer().await.status, 503, "whose key it is, nobody knows now");
    stage.redis.restart();
    let is_back = |gate: &Gate| {
        gate.metric("sidegate_store_up", &[]) > 0.0 && gate.metric("sidegate_store_breaker_open", &[]) < 1.0
    };
    until("the store to be back", || is_back(&gate).then_some(()));
    assert_eq!(use_up(&gate, &key, 5).await, 5);
    gate.terminate();
    assert!(gate.ended().success());
    assert_eq!(used(&gate, &["keys", "usage", &key.id]), (15, 0));
    assert_eq!(used(&gate, &["business", "usage", "acme"]), (15, 0));
}

#[tokio::test]
async fn an_answer_that_is_cut_off_counts_nothing_twice() {
    let stage = Stage::set();
    let proxy = Proxy::before(stage.redis.port());
    // One worker, so that the store is back for every request once it is.
    let store = format!("store: {{redis: 'redis://127.0.0.1:{}', deadline: 10s}}", proxy.port);
    let mut gate = stage.gate(&format!("workers: 1\n{store}{YAML}"));
    let key = stage.redis.mint(json!({"business": "acme"}));
    assert_eq!(use_up(&gate, &key, 10).await, 10);
    proxy.mood(Mood::Cut);
    let calls =
        |outcome: &str| gate.metric("sidegate_store_calls_total", &["op=\"usage\"", &format!("outcome=\"{outcome}\"")]);
    until("a flush to be cut off", || (calls("unreachable") + calls("ok") > 0.0).then_some(()));
    proxy.mood(Mood::Pass);
    until("the store to be back", || (gate.operators("/readyz").status == 200).then_some(()));
    assert_eq!(use_up(&gate, &key, 5).await, 5);
    until("a flush to work", || (calls("ok") > 0.0).then_some(()));
    let lost = gate.metric("sidegate_usage_lost_total", &[]);
    gate.terminate();
    assert!(gate.ended().success());
    let (requests, _) = used(&gate, &["keys", "usage", &key.id]);
    assert!(requests == 15 || (lost > 0.0 && requests < 15), "{requests} with {lost} lost");
}

#[tokio::test]
async fn a_login_that_may_not_write_use_serves_and_says_so_once() {
    let stage = Stage::set();
    let redis = Server::plain(&[]);
    let yaml = |user: &str| {
        let address = format!("redis://127.0.0.1:{}", redis.port);
        format!("store: {{redis: '{address}', username: {user}, password: secret, deadline: 10s}}{YAML}")
    };
    redis.user("old", &format!(">secret {GATE_ACL_WITHOUT_USAGE}"));
    redis.user("new", &format!(">secret {GATE_ACL}"));
    let keeper = stage.gate(&format!("store: {{redis: 'redis://127.0.0.1:{}', deadline: 10s}}{YAML}", redis.port));
    let made = keeper.keys_create(&["--name", "n", "--business", "acme", "--scopes", "*"]);
    let (id, key) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a key"));
    let old = stage.gate(&yaml("old"));
    let asked = async |gate: &Gate| gate.get("/own").bearer_auth(key).answer().await.status;
    assert_eq!(asked(&old).await, 200);
    old.said("use is not counted, since this login may not write it");
    let lost = || old.metric("sidegate_usage_lost_total", &[]);
    until("the loss to be told", || (lost() > 0.0).then_some(()));
    let before = lost();
    assert_eq!(asked(&old).await, 200);
    until("another flush", || (lost() > before).then_some(()));
    assert_eq!(old.written().matches("use is not counted").count(), 1);
    assert_eq!(
        old.metric("sidegate_usage_lost_total", &[]),
        8.0,
        "a day and a minute of a key and of its business, twice"
    );
    let unused = keeper.command(&["keys", "list", "--unused-for", "1d"]);
    assert!(text(&unused.stderr).contains("nobody has counted use"), "{}", text(&unused.stderr));
    let mut new = stage.gate(&yaml("new"));
    assert_eq!(asked(&new).await, 200);
    new.terminate();
    assert!(new.ended().success());
    assert_eq!(used(&keeper, &["keys", "usage", id]), (1, 0));
}

#[tokio::test]
async fn unused_keys_are_those_that_are_known_to_be() {
    let stage = Stage::set();
    let mut gate = stage.gate(YAML);
    let now = stage.redis.now_ms();
    let days_ago = |days: u64| now - days * DAY_MS;
    let created = |days: u64, more: Value| {
        let mut document = json!({"business": "acme", "created_at": rfc3339(days_ago(days))});
        document.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        stage.redis.mint(document)
    };
    let (used_now, used_long_ago, never) = (created(300, json!({})), created(300, json!({})), created(300, json!({})));
    let new = created(10, json!({}));
    let revoked = created(300, json!({"revoked_at": rfc3339(days_ago(200))}));
    let list = |age: &str| gate.command(&["keys", "list", "--json", "--unused-for", age]);
    let unused = |age: &str| {
        let output = list(age);
        let listed: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        let id = |key: &Value| key["id"].as_str().expect("an id").to_owned();
        let mut ids: Vec<String> = listed["keys"].as_array().expect("a list").iter().map(id).collect();
        ids.sort_unstable();
        (ids, text(&output.stderr))
    };
    let ids = |keys: &[&Key]| {
        let mut ids: Vec<String> = keys.iter().map(|key| key.id.clone()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(list("90d").status.code(), Some(1), "who was counted never cannot be told from who was never used");
    let score = |place: &str, ms: u64, member: &str| {
        stage.redis.ask::<()>(&["ZADD", place, &ms.to_string(), member]);
    };
    score("sg:{b:acme}:usage:last", days_ago(100), &used_long_ago.id);
    score("sg:{global}:usage:since", days_ago(20), "since");
    let (listed, said) = unused("90d");
    assert_eq!(listed, ids(&[&used_long_ago]), "a key may have been used before anybody counted");
    assert!(said.contains("use is counted since"), "{said}");
    score("sg:{global}:usage:since", days_ago(200), "since");
    assert_eq!(use_up(&gate, &used_now, 1).await, 1);
    gate.terminate();
    assert!(gate.ended().success());
    let unused = |age: &str| {
        let listed = gate.json(&["keys", "list", "--json", "--unused-for", age]);
        let mut ids: Vec<String> =
            listed["keys"].as_array().expect("a list").iter().map(|key| key["id"].to_string()).collect();
        ids.sort_unstable();
        ids.iter().map(|id| id.trim_matches('"').to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(unused("90d"), ids(&[&used_long_ago, &never]));
    assert_eq!(unused("5d"), ids(&[&used_long_ago, &never, &new]));
    assert_eq!(unused("150d"), ids(&[&never]));
    assert!(!unused("5d").contains(&revoked.id));
    let table = text(&gate.command(&["keys", "list"]).stdout);
    assert!(table.contains("LAST USED") && table.contains(&rfc3339(days_ago(100))), "{table}");
    assert_eq!(gate.command(&["keys", "list", "--unused-for", "500d"]).status.code(), Some(2));
}

#[tokio::test]
async fn a_business_is_counted_by_its_own_and_by_its_owners_keys_and_by_nobody_else() {
    let stage = Stage::set();
    let mut gate = stage.gate(YAML);
    let owner = stage.redis.mint(json!({"user": "u1"}));
    let revoked = stage.redis.mint(json!({"user": "u1", "revoked_at": "2026-03-23T14:30:00Z"}));
    stage.redis.own("u1", "acme");
    let asked = async |key: &Key, business: &str| {
        gate.get("/own").bearer_auth(&key.text).header("X-Business-Id", business).answer().await.status
    };
    assert_eq!((asked(&owner, "acme").await, asked(&owner, "acme").await), (200, 200));
    assert_eq!((asked(&owner, "others").await, asked(&revoked, "others").await), (403, 401));
    assert_eq!(gate.get("/own").bearer_auth(&owner.text).answer().await.status, 200);
    gate.terminate();
    assert!(gate.ended().success());
    assert_eq!(used(&gate, &["keys", "usage", &owner.id]), (4, 1));
    assert_eq!(used(&gate, &["keys", "usage", &revoked.id]), (1, 1));
    assert_eq!(used(&gate, &["business", "usage", "acme"]), (2, 0));
    let others = gate.command(&["business", "usage", "others", "--json"]);
    let usage: Value = serde_json::from_slice(&others.stdout).expect("one JSON document");
    assert_eq!((others.status.code(), sum(&usage["requests"])), (Some(1), 0), "nobody has named it to any effect");
}

#[tokio::test]
async fn on_a_cluster_use_is_counted_slot_by_slot() {
    let cluster = Cluster::start();
    let stage = Stage::set();
    let mut gate = stage.gate(&format!("store: {}{YAML}", cluster.store()));
    let made: Vec<Value> =
        (0..8).map(|n| gate.keys_create(&["--name", "n", "--business", &format!("b{n}"), "--scopes", "*"])).collect();
    for (n, made) in made.iter().enumerate() {
        for _ in 0..=n {
            let key = made["key"].as_str().expect("a key");
            assert_eq!(gate.get("/own").bearer_auth(key).answer().await.status, 200);
        }
    }
    gate.terminate();
    assert!(gate.ended().success());
    for (n, made) in made.iter().enumerate() {
        let id = made["id"].as_str().expect("an id");
        assert_eq!(used(&gate, &["keys", "usage", id]), (n as u64 + 1, 0));
        assert_eq!(used(&gate, &["business", "usage", &format!("b{n}")]), (n as u64 + 1, 0));
    }
    let listed = gate.json(&["keys", "list", "--json"]);
    assert!(listed["keys"].as_array().is_some_and(|keys| keys.iter().all(|key| key["last_used_at"].is_string())));
    assert_eq!(gate.json(&["keys", "list", "--json", "--unused-for", "1d"])["total"], 0);
}

#[tokio::test]
async fn a_file_keeps_no_use_and_says_so() {
    let stage = Stage::set();
    let gate = stage.gate(&format!("store: file:keys.yaml{YAML}"));
    let made = gate.keys_create(&["--name", "n", "--business", "acme", "--scopes", "*"]);
    let id = made["id"].as_str().expect("an id");
    let usage = gate.json(&["keys", "usage", id, "--json"]);
    assert_eq!(
        (&usage["requests"], &usage["last_used_at"], &usage["business"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    let said = text(&gate.command(&["keys", "usage", id]).stdout);
    assert!(said.contains("use is counted in Redis only"), "{said}");
    let unused = gate.command(&["keys", "list", "--unused-for", "1d"]);
    assert!(!unused.status.success() && text(&unused.stderr).contains("never in a file"));
    assert_eq!(gate.json(&["keys", "list", "--json"])["keys"][0]["last_used_at"], Value::Null);
}

/// Uses a key so many times, and says how many passed.
async fn use_up(gate: &Gate, key: &Key, times: usize) -> usize {
    let answers = together((0..times).map(|_| gate.get("/own").bearer_auth(&key.text))).await;
    answers.iter().filter(|answer| answer.status == 200).count()
}

/// Waits until so many requests and denials are told.
fn becomes(gate: &Gate, command: &[&str], requests: u64, denials: u64) -> Value {
    until(&format!("{command:?} to tell {requests} requests"), || {
        let usage = gate.json(&[command, &["--json"]].concat());
        let told = (sum(&usage["requests"]), sum(&usage["denials"]));
        assert!(told.0 <= requests && told.1 <= denials, "{usage}");
        (told == (requests, denials)).then_some(usage)
    })
}

fn used(gate: &Gate, command: &[&str]) -> (u64, u64) {
    let usage = gate.json(&[command, &["--json"]].concat());
    (sum(&usage["requests"]), sum(&usage["denials"]))
}

fn sum(amounts: &Value) -> u64 {
    amounts.as_object().expect("amounts by time").values().filter_map(Value::as_u64).sum()
}

fn rfc3339(ms: u64) -> String {
    sidegate::clock::rfc3339(ms)
}
