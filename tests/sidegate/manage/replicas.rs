//! `management.wait_replicas`: a key's end is answered when replicas have it, and what is said when they do not confirm it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ADA, YAML, ask, create, sign_in, text, uses};
use crate::support::{
    Stage,
    cluster::{Cluster, Server},
    until,
};

/// Who waits for replicas learns whether they have it; what was done is done either way.
#[tokio::test]
async fn a_keys_end_waits_for_replicas_and_says_when_they_did_not_confirm_it() {
    let stage = Stage::set();
    sign_in(&stage);
    let master = Server::plain(&[]);
    let mut replica = Server::plain(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let linked = |replica: &Server| {
        until("the replica", || {
            replica.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
        });
    };
    linked(&replica);
    let store = format!("store: {{redis: 'redis://127.0.0.1:{}', deadline: 10s}}\n", master.port);
    let gate = stage.gate(&format!("{store}{YAML}  wait_replicas: 1\n"));
    let mut keys = Vec::new();
    for _ in 0..4 {
        keys.push(create(&gate, ADA, "acme").await);
    }
    let revoke = async |key: &Value| ask(&gate, ADA, "DELETE", &format!("/{}", text(key, "id")), Value::Null).await;
    let rotate = async |key: &Value, body: Value| {
        let answer = ask(&gate, ADA, "POST", &format!("/{}/rotate", text(key, "id")), body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    };
    assert_eq!(revoke(&keys[0]).await.status, 204);
    let new = rotate(&keys[1], Value::Null).await;
    assert_eq!(new.get("unconfirmed"), None);

    replica.kill();
    let answer = revoke(&keys[2]).await;
    assert_eq!(answer.denial(), (503, "unconfirmed".to_owned()));
    assert!(answer.text().contains("The key is revoked, but only 0 of 1 replicas"));
    assert_eq!(uses(&gate, &keys[2]).await, 401, "it is revoked all the same");
    let last = rotate(&new, Value::Null).await;
    assert!(text(&last, "unconfirmed").contains("The old key has ended, but only 0 of 1 replicas"), "{last}");
    assert_eq!((uses(&gate, &new).await, uses(&gate, &last).await), (401, 200), "the new key is shown, and works");
    let overlapping = rotate(&keys[3], json!({"overlap": "1h"})).await;
    assert_eq!(overlapping.get("unconfirmed"), None, "nothing has ended that could come back");

    replica.run();
    linked(&replica);
    assert_eq!(revoke(&keys[2]).await.status, 204, "asked again, it waits again");
}

/// A cluster redirects no WAIT: the replicas of the slot's former master would confirm what they never got.
#[tokio::test]
async fn after_a_slot_has_moved_its_new_masters_replicas_are_waited_for() {
    let stage = Stage::set();
    sign_in(&stage);
    let mut cluster = Cluster::start();
    let gate = stage.gate(&format!("store: {}\n{YAML}  wait_replicas: 1\n", cluster.store()));
    let keys = [create(&gate, ADA, "acme").await, create(&gate, ADA, "acme").await];
    let revoke = async |key: &Value| ask(&gate, ADA, "DELETE", &format!("/{}", text(key, "id")), Value::Null).await;
    assert_eq!(revoke(&keys[0]).await.status, 204);
    let (slot, from) = cluster.owner("b:acme");
    let others = ["b:a", "b:b", "b:c", "b:d", "b:e"].map(|tag| cluster.owner(tag).1);
    let to = others.into_iter().find(|to| *to != from).expect("another master");
    cluster.migrate(slot, from, to, Duration::ZERO);
    let replica = cluster.replica_of(to);
    cluster.nodes[replica].kill();
    let answer = revoke(&keys[1]).await;
    assert_eq!(answer.denial(), (503, "unconfirmed".to_owned()));
    assert!(answer.text().contains("only 0 of 1 replicas"), "{}", answer.text());
    assert_eq!(uses(&gate, &keys[1]).await, 401, "it is revoked all the same");
}
