//! A Redis that answers and refuses, under load. What else is known of it then (log, metric, readiness) is `refusals`' to test.

use crate::support::until;

use super::scene::Scene;

/// Else who can be read would be counted by each process for itself.
const NOTHING_UNCOUNTED: &str = "store: {redis: 'REDIS', outage: {limits: deny}}";

#[tokio::test]
async fn a_server_that_loads_its_file() {
    let mut scene = Scene::set("").await;
    let redis = &scene.stage.redis;
    redis.ask::<()>(&["CONFIG", "SET", "rdbcompression", "no"]);
    redis.ask::<()>(&["EVAL", "for i = 1, 3000 do redis.call('SET', 'fill' .. i, string.rep('x', 1024)) end", "0"]);
    let fault = scene.fault("LOADING, after a restart").await;
    scene.stage.redis.stop();
    // Microseconds for each name: minutes of loading, which end when this test says so.
    let slowly = ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"];
    scene.stage.redis.restart_with(&slowly);
    fault.refuses_all().await;
    let redis = &scene.stage.redis;
    redis.ask::<()>(&["CONFIG", "SET", "key-load-delay", "0"]);
    until("the file to be loaded", || {
        redis.ask::<String>(&["INFO", "persistence"]).contains("\nloading:0").then_some(())
    });
    scene.recovers(fault);
}

#[tokio::test]
async fn a_server_without_memory() {
    refuses("OOM, maxmemory is reached", &["CONFIG", "SET", "maxmemory", "1mb"], &["CONFIG", "SET", "maxmemory", "0"])
        .await;
}

#[tokio::test]
async fn a_server_without_enough_replicas() {
    let name = "min-replicas-to-write";
    refuses("NOREPLICAS, too few of them", &["CONFIG", "SET", name, "1"], &["CONFIG", "SET", name, "0"]).await;
}

#[tokio::test]
async fn a_user_who_may_no_longer_call_scripts() {
    let change = |rule| ["ACL", "SETUSER", "default", rule];
    refuses("NOPERM, an ACL user loses a right", &change("-evalsha"), &change("+evalsha")).await;
}

#[tokio::test]
async fn a_server_that_cannot_save() {
    let scene = Scene::set(NOTHING_UNCOUNTED).await;
    let fault = scene.fault("MISCONF, a save failed").await;
    scene.stage.redis.fail_to_save();
    fault.refuses_all().await;
    scene.stage.redis.ask::<()>(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    scene.recovers(fault);
}

async fn refuses(name: &'static str, begin: &[&str], end: &[&str]) {
    let scene = Scene::set(NOTHING_UNCOUNTED).await;
    let fault = scene.fault(name).await;
    scene.stage.redis.ask::<()>(begin);
    fault.refuses_all().await;
    scene.stage.redis.ask::<()>(end);
    scene.recovers(fault);
}
