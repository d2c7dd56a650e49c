//! The same where the gate's login may not mint, and on a cluster.

use serde_json::Value;

use super::{YAML, Yard, member};
use crate::support::{
    Stage,
    cluster::{Cluster, GATE_ACL, KEEPER_ACL, Server},
    gate::text,
};

#[tokio::test]
async fn keys_are_kept_with_their_own_login_where_the_gates_may_not_mint() {
    let stage = Stage::set();
    let redis = Server::plain(&[]);
    redis.user("gate", &format!(">gates-secret {GATE_ACL}"));
    redis.user("keeper", &format!(">keepers-secret {KEEPER_ACL}"));
    redis.user("default", "off");
    let port = redis.port;
    let yaml = |login: &str| {
        format!(
            "store: {{redis: 'redis://127.0.0.1:{port}', username: gate, password: gates-secret, deadline: 10s}}
routes: {{/any: any}}
management: {{path: /v1/keys, session: 'http://127.0.0.1:9/', roles: [admin], redis: {login}}}\n"
        )
    };
    for login in
        ["{username: keeper, password: keepers-secret}", &format!("'redis://keeper:keepers-secret@127.0.0.1:{port}'")]
    {
        let yard = Yard { gate: stage.gate(&yaml(login)), stage: Stage::set() };
        let key = yard.gate.keys_create(&["--name", "n", "--business", "acme", "--scopes", "*"]);
        assert_eq!(yard.status("/any", &key).await, 200);
        let verified = yard.gate.command_reading(&["keys", "verify"], member(&key, "key"));
        assert!(verified.status.success(), "{}", text(&verified.stderr));
        let new = yard.gate.json(&["keys", "rotate", member(&key, "id"), "--json"]);
        assert_eq!((yard.status("/any", &key).await, yard.status("/any", &new).await), (401, 200));
        yard.works(&["keys", "usage", member(&new, "id")]);
        yard.works(&["keys", "delete", member(&new, "id"), "--wait-replicas", "0"]);
        yard.works(&["business", "set", "acme", "--status", "active"]);
        yard.works(&["keys", "audit"]);
    }
}

#[tokio::test]
async fn on_a_cluster_the_same_rules_hold_slot_by_slot() {
    let cluster = Cluster::start();
    let stage = Stage::set();
    let yard = Yard { gate: stage.gate(&format!("store: {}\n{YAML}", cluster.store())), stage: Stage::set() };
    let create = ["keys", "create", "--name", "n", "--business", "acme", "--scopes", "*", "--json"];
    let made: Vec<Value> = (0..10).map(|_| yard.gate.json(&create)).collect();
    assert!(yard.fails(&create).1.contains("10 active keys"));
    let any = async |key: &Value| yard.status("/any", key).await;
    let new = yard.gate.json(&["keys", "rotate", member(&made[0], "id"), "--json"]);
    assert_eq!((any(&made[0]).await, any(&new).await), (401, 200));
    yard.works(&["keys", "revoke", member(&new, "id"), "--wait-replicas", "1"]);
    assert_eq!(any(&new).await, 401);
    yard.works(&["keys", "delete", member(&made[1], "id")]);
    assert_eq!(any(&made[1]).await, 401);
    yard.works(&["business", "set", "acme", "--status", "suspended"]);
    assert_eq!(any(&made[2]).await, 403);
    assert_eq!(yard.gate.json(&["keys", "list", "--json"])["total"], 10);
    assert_eq!(yard.gate.json(&["business", "list", "--json"])["total"], 1);
    let usage = yard.gate.json(&["keys", "usage", member(&made[3], "id"), "--reset", "per-key", "--json"]);
    assert_eq!(usage["limits"].as_array().map(Vec::len), Some(2));
    let audit = yard.gate.json(&["keys", "audit", "--json"]);
    assert_eq!(audit["changes"].as_array().map(Vec::len), Some(15));
}
