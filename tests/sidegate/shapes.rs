//! Redis in every shape: over TLS, with ACL users, behind sentinels, as a cluster.

mod over_tls;
mod under_load;

use std::collections::HashMap;

use crate::support::{
    Answer, AnswerTo as _, Stage,
    client::together,
    cluster::{Cluster, GATE_ACL, KEEPER_ACL, Server, is_master},
    gate::{on_config, text},
    in_repository, until, whole,
};

const YAML: &str = "
limits: {per-business: {by: business, windows: 3/1d}}
routes: {/things: {any: true, limits: [per-business]}, /free: any}
";

/// What people copy into their Redis is what the tests connect with.
#[test]
fn the_shipped_logins_are_those_of_the_tests() {
    for (file, before) in [
        ("README.md", "ACL SETUSER"),
        ("deploy/compose/users.acl", "user"),
        ("deploy/kubernetes/redis/users.acl", "user"),
    ] {
        let text = std::fs::read_to_string(in_repository(file)).expect("it is in the repository");
        for (user, rights) in [("gate", GATE_ACL), ("keys", KEEPER_ACL)] {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{before} {user} ")));
            let words = line.unwrap_or_else(|| panic!("{file} has no `{before} {user}`")).split_whitespace();
            let shipped: Vec<&str> = words.filter(|word| !word.starts_with('>')).collect();
            assert_eq!(shipped, rights.split_whitespace().collect::<Vec<_>>(), "{file}: {user}");
        }
    }
}

#[tokio::test]
async fn the_gates_user_decides_and_cannot_mint_and_the_keepers_user_mints() {
    let stage = Stage::set();
    let redis = Server::plain(&[]);
    redis.user("gate", &format!(">gates-secret {GATE_ACL}"));
    redis.user("keeper", &format!(">keepers-secret {KEEPER_ACL}"));
    redis.user("default", "off");
    let as_user = |user: &str, port: u16| {
        format!(
            "store: {{redis: 'redis://127.0.0.1:{port}', username: {user}, password: {user}s-secret, deadline: 10s}}{YAML}"
        )
    };
    let gate = stage.gate(&as_user("gate", redis.port));
    let arguments = ["keys", "create", "--name", "test", "--business", "acme", "--scopes", "*", "--json"];
    let minted = gate.command(&arguments);
    assert!(!minted.status.success(), "the gate's own user must not mint");
    let told = text(&minted.stderr);
    assert!(["NOPERM", "user `gate`", "`management.redis`"].iter().all(|word| told.contains(word)), "{told}");
    let keeper = whole(&as_user("keeper", redis.port));
    let minted = on_config(&keeper, &arguments, &stage.environment());
    let minted: serde_json::Value = serde_json::from_str(&text(&minted.stdout)).expect("the keeper mints");
    let key = minted["key"].as_str().expect("the document holds the key").to_owned();
    let status = async || gate.get("/things").bearer_auth(&key).answer().await.status;
    assert_eq!((status().await, status().await, status().await, status().await), (200, 200, 200, 429));
    let revoked = on_config(&keeper, &["keys", "revoke", minted["id"].as_str().expect("an id")], &stage.environment());
    assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    assert_eq!(status().await, 401);
    let written = gate.written();
    assert!(!written.contains("s-secret"), "{written}");
}

#[tokio::test]
async fn the_gates_user_may_probe_a_redis_that_refused_its_counts() {
    let stage = Stage::set();
    let redis = Server::plain(&[]);
    redis.user("gate", &format!(">gates-secret {GATE_ACL}"));
    redis.user("keeper", &format!(">keepers-secret {KEEPER_ACL}"));
    let as_user = |user: &str| {
        format!(
            "workers: 1\nstore: {{redis: 'redis://127.0.0.1:{}', username: {user}, password: {user}s-secret, deadline: 10s}}{YAML}",
            redis.port
        )
    };
    let gate = stage.gate(&as_user("gate"));
    let arguments = ["keys", "create", "--name", "test", "--business", "acme", "--scopes", "*", "--json"];
    let minted = on_config(&whole(&as_user("keeper")), &arguments, &stage.environment());
    let minted: serde_json::Value = serde_json::from_str(&text(&minted.stdout)).expect("the keeper mints");
    let key = minted["key"].as_str().expect("the document holds the key");
    let status = async || gate.get("/things").bearer_auth(key).answer().await.status;
    assert_eq!(status().await, 200);
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]);
    assert_eq!((status().await, gate.operators("/readyz").status), (503, 503));
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    // Nobody asks meanwhile: a pod that is not ready gets no requests.
    until("readiness", || (gate.operators("/readyz").status == 200).then_some(()));
    assert_eq!(status().await, 200);
}

#[tokio::test]
async fn a_rotated_password_file_is_read_at_the_next_connection() {
    let stage = Stage::set();
    let redis = Server::plain(&[]);
    redis.user("gate", &format!(">first {GATE_ACL}"));
    redis.user("killer", "on nopass ~* &* +@all");
    let file = redis.write("password", "first\n");
    let gate = stage.gate(&format!(
        "store: {{redis: 'redis://127.0.0.1:{}', username: gate, password: '${{file:{file}}}', deadline: 10s}}
workers: 1{YAML}",
        redis.port
    ));
    let key = "sg_nobodys-key-at-all-but-a-key-in-form";
    assert_eq!(gate.get("/free").bearer_auth(key).answer().await.status, 401);
    redis.user("gate", ">second <first");
    redis.write("password", "second\n");
    redis.ask::<u32>(&["CLIENT", "KILL", "USER", "gate"]);
    until("the loss and the return", || {
        let back = gate.written().matches("store: connected").count() == 2;
        (back && gate.operators("/readyz").status == 200).then_some(())
    });
    assert_eq!(gate.get("/free").bearer_auth(key).answer().await.status, 401);
}

#[tokio::test]
async fn a_cluster_counts_exactly_and_gives_back_what_a_later_slot_denies() {
    let stage = Stage::set();
    let cluster = Cluster::start();
    let limits = ["fixed-window", "sliding-window", "token-bucket"].map(|algorithm| {
        format!(
            "  all-{algorithm}: {{by: global, windows: 5/1d, algorithm: {algorithm}}}
  own-{algorithm}: {{by: business, windows: 20/1d, algorithm: {algorithm}}}\n"
        )
    });
    let routes = ["fixed-window", "sliding-window", "token-bucket"].map(|algorithm| {
        format!(
            "  /both/{algorithm}: {{any: true, limits: [own-{algorithm}, all-{algorithm}]}}
  /own/{algorithm}: {{any: true, limits: [own-{algorithm}]}}\n"
        )
    });
    let yaml = format!("store: {}\nlimits:\n{}routes:\n{}", cluster.store(), limits.concat(), routes.concat());
    let gates = [stage.gate(&yaml), stage.gate(&yaml)];
    let key = gates[0].new_key(&["--name", "test", "--business", "acme", "--scopes", "*"]);
    for algorithm in ["fixed-window", "sliding-window", "token-bucket"] {
        let ask = |path: &'static str, count| {
            together(
                (0..count)
                    .map(move |i| (i, format!("/{path}/{algorithm}")))
                    .map(|(i, path)| gates[i % 2].get(&path).bearer_auth(&key)),
            )
        };
        let passed = |answers: &[Answer]| answers.iter().filter(|answer| answer.status == 200).count();
        let answers = ask("both", 12).await;
        assert_eq!(passed(&answers), 5, "{algorithm}");
        assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status)), "{algorithm}");
        assert_eq!(passed(&ask("own", 30).await), 15, "{algorithm}: the business got back what all together denied");
        assert_eq!(passed(&ask("both", 4).await), 0, "{algorithm}");
    }
    // Keys of the store, wherever they stand, are found by their keepers.
    for business in ["umbrella", "initech", "hooli"] {
        gates[0].new_key(&["--name", "test", "--business", business, "--scopes", "*"]);
    }
    let listed: serde_json::Value =
        serde_json::from_slice(&gates[0].command(&["keys", "list", "--json"]).stdout).expect("a list is JSON");
    assert_eq!(listed["total"], 4);
    let acme = listed["keys"].as_array().and_then(|keys| keys.iter().find(|key| key["business"] == "acme"));
    let id = acme.and_then(|key| key["id"].as_str()).expect("the key is listed");
    assert!(gates[0].command(&["keys", "revoke", id]).status.success());
    assert_eq!(gates[1].get("/own/fixed-window").bearer_auth(&key).answer().await.status, 401);
}

/// The clocks of a cluster's nodes differ, and each judges the keys that it holds.
#[tokio::test]
async fn a_key_that_is_rotated_without_overlap_ends_by_the_clock_of_its_own_node() {
    let (stage, cluster) = (Stage::set(), Cluster::start());
    let gate = stage.gate(&format!("store: {}\nroutes: {{/free: any}}", cluster.store()));
    let first =
        cluster.nodes.iter().position(|node| is_master(node) && node.try_ask::<u64>(&["EXISTS", "{06S}"]).is_ok());
    let tag = |i: &u32| cluster.owner(&format!("b:acme-{i}"));
    let business = (0..).find(|i| Some(tag(i).1) != first).expect("numbers do not end");
    let key = gate.keys_create(&["--name", "test", "--business", &format!("acme-{business}"), "--scopes", "*"]);
    let node = &cluster.nodes[tag(&business).1];
    let asked = |node: &Server| {
        let info: String = node.ask(&["INFO", "commandstats"]);
        let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_time:calls="));
        line.and_then(|rest| rest.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let before = asked(node);
    gate.json(&["keys", "rotate", key["id"].as_str().expect("an id"), "--json"]);
    assert!(asked(node) > before, "that node was asked for its time");
    let text = key["key"].as_str().expect("the key is shown");
    assert_eq!(gate.get("/free").bearer_auth(text).answer().await.status, 401);
}

/// What calls itself no cluster and yet refuses keys of several slots, as proxies before clusters do.
#[tokio::test]
async fn a_server_that_refuses_several_slots_is_asked_slot_by_slot() {
    let stage = Stage::set();
    let redis = Server::plain(&["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]);
    redis.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until("the slots to be served", || {
        redis.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
    });
    // Each as the user that it is meant to be: the gate may also give back.
    redis.user("gate", &format!(">gates-secret {GATE_ACL}"));
    redis.user("keeper", &format!(">keepers-secret {KEEPER_ACL}"));
    let as_user = |user: &str| {
        format!(
            "store: {{redis: 'redis://127.0.0.1:{}', username: {user}, password: {user}s-secret, deadline: 10s}}
limits: {{own: {{by: business, windows: 9/1d}}, all: {{by: global, windows: 3/1d}}}}
routes: {{/both: {{any: true, limits: [own, all]}}, /own: {{any: true, limits: [own]}}}}",
            redis.port
        )
    };
    let gate = stage.gate(&as_user("gate"));
    let arguments = ["keys", "create", "--name", "test", "--business", "acme", "--scopes", "*", "--json"];
    let minted = on_config(&whole(&as_user("keeper")), &arguments, &stage.environment());
    let minted: serde_json::Value = serde_json::from_str(&text(&minted.stdout)).expect("the keeper mints");
    let key = minted["key"].as_str().expect("the document holds the key").to_owned();
    let mut passed = 0;
    for _ in 0..5 {
        passed += usize::from(gate.get("/both").bearer_auth(&key).answer().await.status == 200);
    }
    assert_eq!(passed, 3);
    let answer = gate.get("/own").bearer_auth(&key).answer().await;
    assert_eq!((answer.status, answer.number("x-ratelimit-remaining")), (200, 5));
}

fn linked(replica: &Server) {
    until("the replica", || {
        replica.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
    });
}

fn settled(sentinels: &[Server]) {
    for sentinel in sentinels {
        until("the sentinels to know each other and the replica", || {
            let known: HashMap<String, String> = sentinel.ask(&["SENTINEL", "MASTER", "main"]);
            (known["num-other-sentinels"] == "2" && known["num-slaves"] == "1").then_some(())
        });
    }
}
