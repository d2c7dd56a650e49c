//! Redis changes while it is asked: a replica takes over, a slot moves, a master dies. Nobody is admitted wrongly, and what each
//! did to those who asked is printed (`benches/faults` makes a table of it).

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::{
    AnswerTo as _, Gate, PATIENCE, Stage,
    cluster::{Cluster, Server, is_master},
    figures::Figures,
    load::{Load, One, Who, every_kind},
};

use super::{linked, settled};

/// Redis counts what it acknowledged; what a master had not passed on when it died is lost by design, so here it has.
#[tokio::test]
async fn a_failover_is_followed_within_five_seconds_and_admits_nobody_wrongly() {
    const LIMIT: usize = 2000;
    let stage = Stage::set();
    let mut master = Server::plain(&[]);
    let replica = Server::plain(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    linked(&replica);
    let sentinels: Vec<Server> = (0..3).map(|_| Server::sentinel(master.port, &[])).collect();
    settled(&sentinels);
    let urls: Vec<String> = sentinels.iter().map(|sentinel| format!("'redis://127.0.0.1:{}'", sentinel.port)).collect();
    let gate = limited(&stage, &format!("{{redis: {{sentinels: [{}], master: main}}}}", urls.join(", ")), LIMIT);
    let load = Load::of(&every_kind(&gate, "acme").await, &gate, 8);
    load.passed(200).await;
    let began = Instant::now();
    master.ask::<()>(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    assert_eq!(master.ask::<u32>(&["WAIT", "1", "5000"]), 1);
    master.kill();
    let new = replica.port.to_string();
    while sentinels[0].ask::<Vec<String>>(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"])[1] != new {
        assert!(began.elapsed() < PATIENCE, "no failover");
        sleep(Duration::from_millis(10)).await;
    }
    let switched = Instant::now();
    let before = load.count(200);
    load.passed(before + 1).await;
    assert!(switched.elapsed() < Duration::from_secs(5), "{:?}", switched.elapsed());
    load.refused().await;
    reported("Sentinel failover", &load.end(), began, switched, LIMIT);
}

#[tokio::test]
async fn a_slot_is_moved_under_load_and_nobody_is_admitted_wrongly() {
    const LIMIT: usize = 2000;
    let stage = Stage::set();
    let cluster = Cluster::start();
    let gate = limited(&stage, &cluster.store_within("100ms"), LIMIT);
    let load = Load::of(&every_kind(&gate, "acme").await, &gate, 8);
    load.passed(200).await;
    let (slot, from) = cluster.owner("b:acme");
    let (_, to) = ["b:a", "b:b", "b:c", "b:d", "b:e"]
        .map(|tag| cluster.owner(tag))
        .into_iter()
        .find(|(_, to)| *to != from)
        .expect("another master");
    let began = Instant::now();
    cluster.migrate(slot, from, to, Duration::from_secs(1));
    let moved = Instant::now();
    let before = load.count(200);
    load.passed(before + 1).await;
    assert_eq!(cluster.owner("b:acme").1, to);
    load.refused().await;
    reported("a slot moved, half moved for a second", &load.end(), began, moved, LIMIT);
}

#[tokio::test]
async fn a_master_that_dies_harms_its_own_slots_alone_until_its_replica_takes_over() {
    let stage = Stage::set();
    let mut cluster = Cluster::start();
    let gate = stage.gate(&format!(
        "workers: 1
store: {}
limits: {{all: {{by: global, windows: 100000/1d}}}}
routes: {{/things: any, /counted: {{any: true, limits: [all]}}}}",
        cluster.store()
    ));
    let (_, doomed) = cluster.owner("global");
    let businesses: Vec<String> = (0..40).map(|index| format!("business-{index}")).collect();
    let owned = |by_doomed: bool| {
        let owner = |business: &&String| (cluster.owner(&format!("b:{business}")).1 == doomed) == by_doomed;
        businesses.iter().find(owner).expect("forty businesses are spread over all masters")
    };
    let key = gate.new_key(&["--name", "test", "--business", owned(true), "--scopes", "*"]);
    let elsewhere = gate.new_key(&["--name", "test", "--business", owned(false), "--scopes", "*"]);
    let status = async |path: &str, key: &str| gate.get(path).bearer_auth(key).answer().await.status;
    // Where their tenants are looked up may be the doomed one; the worker knows them from now on.
    assert_eq!((status("/things", &key).await, status("/counted", &elsewhere).await), (200, 200));
    let unlimited = 1_000_000;
    let quick = limited(&stage, &cluster.store_within("100ms"), unlimited);
    let [harmed, served] = [true, false].map(async |by_doomed| {
        let load = Load::of(&every_kind(&quick, owned(by_doomed)).await, &quick, 4);
        load.passed(100).await;
        load
    });
    let (harmed, served) = (harmed.await, served.await);
    let replica = cluster.replica_of(doomed);
    let killed = Instant::now();
    cluster.nodes[doomed].kill();
    let mut promoted = None;
    while status("/things", &key).await != 200 {
        assert_eq!(status("/things", &elsewhere).await, 200, "another master's slots are served all the time");
        // The limit of all stands in a dead slot: `outage.limits: local` holds for that one alone.
        assert_eq!(status("/counted", &elsewhere).await, 200);
        assert!(killed.elapsed() < PATIENCE, "no failover");
        promoted = promoted.or_else(|| is_master(&cluster.nodes[replica]).then(Instant::now));
        sleep(Duration::from_millis(10)).await;
    }
    let promoted = promoted.unwrap_or_else(Instant::now);
    let before = harmed.count(200);
    harmed.passed(before + 20).await;
    reported("a cluster's master dies: keys in its slots", &harmed.end(), killed, promoted, unlimited);
    reported("a cluster's master dies: keys in other slots", &served.end(), killed, promoted, unlimited);
}

/// A gate that lets each business pass so often.
fn limited(stage: &Stage, store: &str, limit: usize) -> Gate {
    stage.gate(&format!(
        "store: {store}
limits:
  per-key: {{by: key, windows: 1000000/1d, algorithm: token-bucket}}
  per-business: {{by: business, windows: {limit}/1d}}
routes: {{/things: {{scopes: [things:read], limits: [per-key, per-business]}}}}"
    ))
}

/// Prints the figures, and checks that no more passed than the limit, and no fewer than were counted for sure.
fn reported(fault: &str, asked: &[One], began: Instant, over: Instant, limit: usize) {
    let good = |status: u16| asked.iter().filter(|one| one.who == Who::Good && one.status == status).count();
    let (admitted, unknown) = (good(200), good(503));
    let mut figures = Figures::of(asked, began, over);
    figures.wrong += admitted.saturating_sub(limit);
    figures.report(fault);
    assert!(good(429) == 0 || admitted + unknown >= limit, "{admitted} admitted of {limit}, {unknown} unknown");
    let other = asked.iter().find(|one| one.who == Who::Good && ![200, 429, 503].contains(&one.status));
    assert!(other.is_none(), "{other:?}");
}
