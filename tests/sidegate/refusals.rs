//! A store that answers and refuses: whom that harms, and that the operator is told by log, metric and readiness, and until when.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    AnswerTo as _, Gate, Key, Stage,
    cluster::{Cluster, Server},
    gate::{on_config, text},
    redis::sha256,
    until, whole,
};

const STORE: &str = "store: {redis: '${REDIS_URL}', deadline: 3s, outage: OUTAGE}";

const YAML: &str = "
limits: {per-key: {by: key, windows: 1000/1h}}
routes:
  /things: {any: true, limits: [per-key]}
  /free: any
";

const REFUSES: &str = "store: it answers and refuses";

/// What makes Redis refuse, what mends that, with which word it refuses, and whether what counts nothing is answered meanwhile.
const REFUSALS: [(&[&str], &[&str], &str, bool); 4] = [
    (&["CONFIG", "SET", "maxmemory", "1mb"], &["CONFIG", "SET", "maxmemory", "0"], "OOM", true),
    (
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
        &["CONFIG", "SET", "min-replicas-to-write", "0"],
        "NOREPLICAS",
        true,
    ),
    (&["ACL", "SETUSER", "default", "-evalsha"], &["ACL", "SETUSER", "default", "+evalsha"], "NOPERM", false),
    // Of what a script may not do Redis says so. A count that is there already is changed with this.
    (&["ACL", "SETUSER", "default", "-setrange"], &["ACL", "SETUSER", "default", "+setrange"], "ERR", true),
];

#[tokio::test]
async fn what_redis_refuses_is_told_by_log_metric_and_readiness_until_it_is_served() {
    for (fault, mended, code, reads) in REFUSALS {
        let (stage, gate, key) = yard("{keys: deny, limits: deny}");
        stage.redis.ask::<()>(fault);
        for _ in 0..5 {
            assert_eq!(ask(&gate, "/things", &key).await, 503, "{code}");
            assert_eq!(ask(&gate, "/free", &key).await, if reads { 200 } else { 503 }, "{code}");
        }
        is_told(&gate, code);
        assert_eq!(gate.metric("sidegate_store_breaker_open", &[]), 0.0, "{code}: what can be answered is");
        stage.redis.ask::<()>(mended);
        // Without a request: a gate that is not ready gets none.
        until("readiness", || (gate.operators("/readyz").status == 200).then_some(()));
        assert_eq!(gate.metric("sidegate_store_up", &[]), 1.0);
        assert_eq!(ask(&gate, "/things", &key).await, 200, "{code}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_where_known_keys_pass_it() {
    let (stage, gate, key) = yard("{keys: {known_for: 5m}}");
    stage.redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]);
    assert_eq!(ask(&gate, "/things", &key).await, 200);
    is_told(&gate, "OOM");
}

#[tokio::test]
async fn a_redis_that_cannot_save_is_told_by_its_own_words() {
    let (stage, gate, key) = yard("{keys: deny, limits: deny}");
    stage.redis.fail_to_save();
    assert_eq!(ask(&gate, "/things", &key).await, 503);
    is_told(&gate, "MISCONF");
    stage.redis.ask::<()>(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    until("readiness", || (gate.operators("/readyz").status == 200).then_some(()));
}

/// A Redis that was restarted answers, and refuses until it has read its file.
#[tokio::test]
async fn a_redis_that_loads_its_file_is_told_as_that_and_served_by_as_soon_as_it_is_done() {
    let mut redis = Server::plain(&["--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no"]);
    let stage = Stage::set();
    let gate = stage.gate(&format!("store: {{redis: 'redis://127.0.0.1:{}/0', deadline: 10s}}{YAML}", redis.port));
    let key = gate.new_key(&["--name", "n", "--business", "acme"]);
    let asked = async || gate.get("/things").bearer_auth(&key).answer().await;
    assert_eq!(asked().await.status, 200);
    let fill = "for i = 1, 3000 do redis.call('SET', 'fill' .. i, string.rep('x', 1024)) end";
    redis.ask::<()>(&["EVAL", fill, "0"]);
    redis.ask::<()>(&["SAVE"]);
    redis.kill();
    // Microseconds for each name: minutes of loading, which end when this test says so.
    redis.run_loading(&["--key-load-delay", "50000"]);
    until("the gate to learn of it", || gate.operators("/readyz").text().contains("LOADING").then_some(()));
    let mut took = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(asked().await.denial(), (503, "store_unavailable".to_owned()));
        took.push(began.elapsed());
    }
    // The quickest: what a busy machine adds is nobody's waiting.
    assert!(took.iter().min() < Some(&Duration::from_secs(5)), "it waits for what is refused: {took:?}");
    assert_eq!((gate.operators("/readyz").status, gate.metric("sidegate_store_up", &[])), (503, 0.0));
    assert!(gate.operators("/readyz").text().contains("LOADING"), "{}", gate.operators("/readyz").text());
    redis.ask::<()>(&["CONFIG", "SET", "key-load-delay", "0"]);
    until("readiness", || (gate.operators("/readyz").status == 200).then_some(()));
    assert_eq!(asked().await.status, 200);
}

#[tokio::test]
async fn what_takes_a_key_away_when_redis_has_no_memory_left_is_said_with_the_refusal() {
    let (stage, gate, key) = yard("{keys: deny}");
    stage.redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]);
    for refused in [&["keys", "revoke", key.id.as_str()][..], &["business", "set", "acme", "--status", "suspended"]] {
        let said = text(&gate.command(refused).stderr);
        assert!(
            said.contains("OOM") && said.contains("keys delete") && said.contains("deny.keys"),
            "{refused:?}: {said}"
        );
    }
    assert!(gate.command(&["keys", "delete", &key.id]).status.success());
    assert_eq!(ask(&gate, "/free", &key).await, 401);
}

#[tokio::test]
async fn one_node_of_a_cluster_is_no_store_and_everybody_says_what_to_write() {
    let cluster = Cluster::start();
    let url = format!("redis://127.0.0.1:{}/0", cluster.nodes[0].port);
    let stage = Stage::set();
    let yaml = format!("store: {{redis: '{url}'}}{YAML}");
    let gate = stage.unready_gate(&yaml);
    let said = gate.said("one node of a cluster");
    assert!(said.contains("WARN") && said.contains("store: {redis: {cluster: ["), "{said}");
    assert_eq!((gate.operators("/readyz").status, gate.metric("sidegate_store_up", &[])), (503, 0.0));
    assert_eq!(gate.get("/free").bearer_auth("sg_unknown").answer().await.status, 503);
    for command in [&["check"][..], &["keys", "list"], &["keys", "create", "--name", "n", "--business", "b"]] {
        let output = gate.command(command);
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(told.contains("one node of a cluster") && told.contains("{cluster: ["), "{command:?}: {told}");
    }
    let named = whole(&format!("store: {}{YAML}", cluster.store()));
    let checked = text(&on_config(&named, &["check"], &stage.environment()).stdout);
    assert!(!checked.contains("one node of a cluster"), "{checked}");
}

#[tokio::test]
async fn a_cluster_of_one_master_is_one_server_until_it_has_another() {
    let alone = Server::plain(&["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]);
    alone.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until("it to serve", || alone.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(()));
    let stage = Stage::set();
    let gate = stage.gate(&format!("store: {{redis: 'redis://127.0.0.1:{}/0'}}{YAML}", alone.port));
    let key = gate.new_key(&["--name", "n", "--business", "acme"]);
    let asked = async |path: &str, key: &str| gate.get(path).bearer_auth(key).answer().await.status;
    let stranger = "sg_that-nobody-has";
    assert_eq!((asked("/things", &key).await, asked("/free", stranger).await), (200, 401));
    // Another one has joined, and has the slot in which the stranger is looked for.
    let other = Server::plain(&["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]);
    alone.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]);
    let id: String = other.ask(&["CLUSTER", "MYID"]);
    let slot: u64 = alone.ask(&["CLUSTER", "KEYSLOT", &format!("sg:at:{}", sha256(stranger))]);
    until("they to have met", || alone.try_ask::<()>(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]).ok());
    assert_eq!(asked("/free", stranger).await, 503);
    gate.said("one node of a cluster");
    assert_eq!((gate.operators("/readyz").status, gate.metric("sidegate_store_up", &[])), (503, 0.0));
}

#[tokio::test]
async fn a_cluster_with_a_node_out_of_reach_is_not_up_and_its_gates_stay_ready_for_the_others() {
    let stage = Stage::set();
    let mut cluster = Cluster::start();
    let gate = stage.gate(&format!("workers: 1\nstore: {}\nroutes: {{/things: any}}", cluster.store()));
    let dead = cluster.owner("b:business-0").1;
    let businesses = (0..40).map(|index| format!("business-{index}"));
    let elsewhere = businesses.skip(1).find(|business| cluster.owner(&format!("b:{business}")).1 != dead);
    let [gone, served] = ["business-0", &elsewhere.expect("forty businesses are spread over all masters")]
        .map(|business| gate.new_key(&["--name", "n", "--business", business]));
    let asked = async |key: &str| gate.get("/things").bearer_auth(key).answer().await.status;
    // Where their tenants are looked up may be the dead one: they are known from now on.
    assert_eq!((asked(&gone).await, asked(&served).await), (200, 200));
    let replica = cluster.replica_of(dead);
    cluster.nodes[replica].kill();
    cluster.nodes[dead].kill();
    assert_eq!(asked(&gone).await, 503);
    for _ in 0..20 {
        assert_eq!(asked(&served).await, 200);
        assert_eq!(gate.metric("sidegate_store_up", &[]), 0.0, "a part of it is out of reach");
        assert_eq!(gate.operators("/readyz").status, 200, "who takes itself away takes the other keys along");
    }
    cluster.nodes[dead].run();
    until("the store to be up", || (gate.metric("sidegate_store_up", &[]) > 0.0).then_some(()));
    assert_eq!(asked(&served).await, 200);
}

#[tokio::test]
async fn a_cluster_whose_every_node_refuses_counts_is_no_more_ready_than_one_server() {
    let (stage, cluster) = (Stage::set(), Cluster::start());
    let store = format!("store: {{redis: {{cluster: ['redis://127.0.0.1:{}']}}, deadline: 5s}}", cluster.nodes[0].port);
    let gate = stage.gate(&format!("workers: 1\n{store}{YAML}"));
    // A key at each master.
    let mut keys: std::collections::BTreeMap<usize, String> = Default::default();
    for business in (0..60).map(|index| format!("business-{index}")) {
        let owner = cluster.owner(&format!("b:{business}")).1;
        keys.entry(owner).or_insert_with(|| gate.new_key(&["--name", "n", "--business", &business]));
    }
    let asked = async |path: &str, key: &str| gate.get(path).bearer_auth(key).answer().await.status;
    for key in keys.values() {
        assert_eq!((asked("/things", key).await, asked("/free", key).await), (200, 200));
    }
    let told = || (gate.operators("/readyz").status, gate.metric("sidegate_store_up", &[]));
    assert_eq!(told(), (200, 1.0));
    let mut left = keys.len();
    for (&node, key) in &keys {
        cluster.nodes[node].ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        assert_eq!((asked("/free", key).await, asked("/things", key).await), (200, 503));
        left -= 1;
        assert_eq!(told(), (if left > 0 { 200 } else { 503 }, 0.0), "{left} count");
        // That its documents are still read says nothing of it.
        assert_eq!(asked("/free", key).await, 200);
        assert_eq!(told(), (if left > 0 { 200 } else { 503 }, 0.0), "{left} count");
    }
    assert_eq!(gate.operators("/readyz").text(), "the store answers and refuses: OOM\n");
    // Without a request: a gate that is not ready gets none.
    let first = *keys.keys().next().expect("a cluster has masters");
    cluster.nodes[first].ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    until("readiness", || (gate.operators("/readyz").status == 200).then_some(()));
    assert_eq!(gate.metric("sidegate_store_up", &[]), 0.0, "the others refuse still");
    keys.keys().for_each(|&node| cluster.nodes[node].ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]));
    until("the store to be up", || (gate.metric("sidegate_store_up", &[]) > 0.0).then_some(()));
}

#[tokio::test]
async fn a_connection_that_is_there_again_closes_the_breaker_at_once() {
    let (mut stage, gate, key) = yard("{keys: deny, limits: deny}");
    let mut waited = Vec::new();
    for _ in 0..3 {
        stage.redis.stop();
        until("the breaker to open", || {
            gate.raw("GET", "/free", &[format!("Authorization: Bearer {}", key.text).as_bytes()]);
            (gate.metric("sidegate_store_breaker_open", &[]) > 0.0).then_some(())
        });
        // Until probes are as rare as they become: nothing tells of them.
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.redis.restart();
        waited.push(until("the breaker to close, and the log to say so", || {
            let log = gate.written();
            let since_open = log.rsplit("breaker open").next().unwrap_or_default();
            let first = |what: &str| since_open.lines().skip(1).find(|line| line.contains(what)).map(seconds);
            first("breaker closed").zip(first("store: connected")).map(|(closed, up)| closed - up)
        }));
    }
    // The median: what a busy machine adds to one of them says nothing. A probe of its own accord comes up to a second later.
    waited.sort_by(f64::total_cmp);
    assert!(waited[1] < 0.3, "{waited:?}");
}

/// Of the day, at which this line was logged.
fn seconds(line: &str) -> f64 {
    let at: Value = serde_json::from_str(line).expect("a log line is JSON");
    let at = at["timestamp"].as_str().expect("each has one").to_owned();
    let parts = at[11..26].split(':').map(|part| part.parse::<f64>().expect("a number"));
    parts.fold(0.0, |sum, part| sum * 60.0 + part)
}

#[tokio::test]
async fn a_master_that_no_sentinel_knows_is_told_in_their_words() {
    let master = Server::plain(&[]);
    let sentinel = Server::sentinel(master.port, &[]);
    let store = format!("store: {{redis: {{sentinels: ['redis://127.0.0.1:{}'], master: nosuch}}}}", sentinel.port);
    let environment = Stage::set().environment();
    let checked = text(&on_config(&whole(&format!("{store}{YAML}")), &["check"], &environment).stdout);
    assert!(checked.contains("No such master"), "{checked}");
}

#[test]
fn a_query_in_the_address_of_redis_is_named() {
    let yaml = whole(&format!("store: 'redis://127.0.0.1:6379/0?protocol=resp3'{YAML}"));
    let said =
        text(&on_config(&yaml, &["check"], &[("UPSTREAM_URL".to_owned(), "http://127.0.0.1:1".to_owned())]).stderr);
    assert!(said.contains("what follows the `?` is not read"), "{said}");
}

/// The log has the server's own words once, the others say what it is.
fn is_told(gate: &Gate, code: &str) {
    let said = gate.said(REFUSES);
    assert!(said.contains("WARN") && said.contains(&format!("\"{code} ")), "{said}");
    assert_eq!(gate.written().matches(REFUSES).count(), 1, "{}", gate.written());
    let ready = gate.operators("/readyz");
    assert_eq!((ready.status, ready.text()), (503, format!("the store answers and refuses: {code}\n")));
    assert_eq!(gate.metric("sidegate_store_up", &[]), 0.0, "{code}");
    assert!(gate.metric("sidegate_store_calls_total", &["outcome=\"refused\""]) > 0.0, "{code}");
}

fn yard(outage: &str) -> (Stage, Gate, Key) {
    let stage = Stage::set();
    let gate = stage.gate(&format!("workers: 2\n{}{YAML}", STORE.replace("OUTAGE", outage)));
    let key = stage.redis.mint(json!({"business": "acme"}));
    // Both workers are to have seen it.
    for _ in 0..8 {
        assert_eq!(gate.raw("GET", "/things", &[format!("Authorization: Bearer {}", key.text).as_bytes()]).status, 200);
    }
    (stage, gate, key)
}

async fn ask(gate: &Gate, path: &str, key: &Key) -> u16 {
    gate.get(path).bearer_auth(&key.text).answer().await.status
}
