//! After a failover management writes to the new master, though the old one goes on and takes writes.

use serde_json::Value;

use super::{ADA, YAML, ask, create, sign_in, text, uses};
use crate::support::{Gate, Stage, cluster::Server, until};

/// A master, what was its replica, and a sentinel that names one of them.
struct Failover {
    _stage: Stage,
    gate: Gate,
    old: Server,
    new: Server,
    sentinel: Server,
}

impl Failover {
    fn ready() -> Self {
        let stage = Stage::set();
        sign_in(&stage);
        let old = Server::plain(&["--repl-diskless-sync-delay", "0"]);
        let new = Server::plain(&["--replicaof", "127.0.0.1", &old.port.to_string()]);
        until("the replica", || {
            new.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
        });
        let sentinel = Server::sentinel(old.port, &[]);
        let gate = stage.gate(&format!(
            "store: {{redis: {{sentinels: ['redis://127.0.0.1:{}'], master: main}}, deadline: 10s}}\n{YAML}",
            sentinel.port
        ));
        Self { _stage: stage, gate, old, new, sentinel }
    }

    /// The old master was cut off from the others: it still believes that it is one.
    fn happens(&self) {
        until("the replica to have everything", || {
            let names = |server: &Server| server.ask::<u64>(&["DBSIZE"]);
            (names(&self.new) == names(&self.old)).then_some(())
        });
        self.new.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
        self.sentinel.ask::<()>(&["SENTINEL", "REMOVE", "main"]);
        self.sentinel.ask::<()>(&["SENTINEL", "MONITOR", "main", "127.0.0.1", &self.new.port.to_string(), "2"]);
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_after_a_failover_is_revoked_on_the_new_master() {
    let mut failover = Failover::ready();
    let (one, two) = (create(&failover.gate, ADA, "acme").await, create(&failover.gate, ADA, "acme").await);
    assert_eq!(uses(&failover.gate, &one).await, 200);
    failover.happens();
    let revoke =
        async |key: &Value| ask(&failover.gate, ADA, "DELETE", &format!("/{}", text(key, "id")), Value::Null).await;
    assert_eq!(revoke(&one).await.status, 204);
    let documents: Vec<String> = failover.new.ask(&["KEYS", "sg:{b:acme}:key:*"]);
    let standing = documents.iter().map(|name| failover.new.ask::<String>(&["GET", name]));
    assert_eq!(standing.filter(|document| document.contains("revoked_at")).count(), 1);
    while uses(&failover.gate, &one).await != 401 {
        // The workers follow within two seconds.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let third = create(&failover.gate, ADA, "acme").await;
    assert_eq!(uses(&failover.gate, &third).await, 200);
    failover.sentinel.kill();
    let revoke =
        async |key: &Value| ask(&failover.gate, ADA, "DELETE", &format!("/{}", text(key, "id")), Value::Null).await;
    assert_eq!(revoke(&two).await.denial(), (503, "store_unavailable".to_owned()), "nobody says who is the master");
}

#[tokio::test]
async fn use_is_counted_on_the_new_master_after_a_failover() {
    let failover = Failover::ready();
    let key = create(&failover.gate, ADA, "acme").await;
    let counted = |server: &Server| !server.ask::<Vec<String>>(&["KEYS", "sg:*:usage:key:*"]).is_empty();
    let used_until_counted = async |server: &Server| {
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        while !counted(server) {
            assert!(std::time::Instant::now() < deadline, "it is counted elsewhere");
            assert_eq!(uses(&failover.gate, &key).await, 200);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    used_until_counted(&failover.old).await;
    failover.happens();
    for name in failover.new.ask::<Vec<String>>(&["KEYS", "sg:*:usage:*"]) {
        failover.new.ask::<()>(&["DEL", &name]);
    }
    used_until_counted(&failover.new).await;
}
