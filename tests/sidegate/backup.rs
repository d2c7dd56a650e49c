//! A snapshot of Redis, and what it brings back, by the steps that the README gives (`Backup and restore`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    AnswerTo as _, Gate, Stage, client::printed_by, cluster::Server, gate::text, in_repository, until,
};

const YAML: &str = "
limits: {per-business: {by: business, windows: 3/1d}}
routes: {/things: {any: true, limits: [per-business]}, /free: any}
";

fn gate_on(stage: &Stage, redis: &Server) -> Gate {
    stage.gate(&format!("store: {{redis: 'redis://127.0.0.1:{}', deadline: 10s}}{YAML}", redis.port))
}

/// A key of `acme`, as the document that shows it.
fn key(gate: &Gate, name: &str) -> Value {
    gate.keys_create(&["--name", name, "--business", "acme", "--scopes", "*"])
}

fn works(gate: &Gate, arguments: &[&str]) {
    let output = gate.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
}

async fn status(gate: &Gate, key: &Value) -> u16 {
    gate.get("/free").bearer_auth(key["key"].as_str().expect("a key is text")).answer().await.status
}

/// Redis's own client, as a person writes it.
fn redis_cli(redis: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &redis.port.to_string()]).args(arguments).stdin(Stdio::null());
    printed_by(&mut command, "redis-cli comes with redis-server")
}

/// The README's steps, once Redis has ended.
fn restore(redis: &mut Server, folder: &Path, snapshot: &Path) {
    fs::rename(folder.join("appendonlydir"), folder.join("appendonlydir.before")).expect("Redis kept its log there");
    fs::copy(snapshot, folder.join("dump.rdb")).expect("the snapshot can be copied");
    redis.run_with(&["--appendonly", "no"]);
    redis_cli(redis, &["CONFIG", "SET", "appendonly", "yes"]);
    until("the log to be written", || {
        let state = redis_cli(redis, &["INFO", "persistence"]);
        let says = |line| state.lines().any(|said| said.trim() == line);
        let ended = says("aof_rewrite_in_progress:0") && says("aof_rewrite_scheduled:0");
        (ended && says("aof_last_bgrewrite_status:ok")).then_some(())
    });
    // Redis ends instead of answering.
    let mut shutdown = Command::new("redis-cli");
    shutdown.args(["-p", &redis.port.to_string(), "SHUTDOWN"]).stdin(Stdio::null());
    shutdown.output().expect("redis-cli comes with redis-server");
    redis.kill();
    redis.run();
}

#[tokio::test]
async fn a_snapshot_is_restored_into_a_redis_that_keeps_a_log_and_brings_back_what_was_revoked_since() {
    let stage = Stage::set();
    let mut redis = Server::start(&["--port", "{port}", "--appendonly", "yes"]);
    let (_, folder): (String, String) = redis.ask(&["CONFIG", "GET", "dir"]);
    let folder = PathBuf::from(folder);
    let gate = gate_on(&stage, &redis);
    let keys = ["stays", "revoked later", "deleted later"].map(|name| key(&gate, name));
    let id = |of: usize| keys[of]["id"].as_str().expect("an id is text");
    works(&gate, &["business", "set", "acme", "--limit", "per-business=7/1d"]);

    let snapshot = folder.join("keys.rdb");
    redis_cli(&redis, &["--rdb", &snapshot.display().to_string()]);
    works(&gate, &["keys", "revoke", id(1)]);
    works(&gate, &["keys", "delete", id(2)]);
    let late = key(&gate, "made later");
    redis.kill();
    restore(&mut redis, &folder, &snapshot);

    let gate = gate_on(&stage, &redis);
    for key in &keys {
        assert_eq!(status(&gate, key).await, 200, "{}", key["name"]);
    }
    assert_eq!(status(&gate, &late).await, 401);
    let business = gate.json(&["business", "show", "acme", "--json"]);
    assert_eq!(business["limits"]["per-business"][0], "7/1d", "{business}");

    // Ended again, they stay so: the log is kept as before.
    works(&gate, &["keys", "revoke", id(1)]);
    works(&gate, &["keys", "delete", id(2)]);
    redis.kill();
    redis.run();
    let gate = gate_on(&stage, &redis);
    for (key, expected) in keys.iter().zip([200, 401, 401]) {
        assert_eq!(status(&gate, key).await, expected, "{}", key["name"]);
    }
}

#[test]
fn the_readme_gives_these_steps() {
    let readme = fs::read_to_string(in_repository("README.md")).expect("the README can be read");
    let steps = [
        "--rdb keys.rdb",
        "mv appendonlydir appendonlydir.before",
        "keys.rdb dump.rdb",
        "--appendonly no",
        "CONFIG SET appendonly yes",
        "aof_rewrite_(in_progress|scheduled):0",
        "redis-cli SHUTDOWN",
    ];
    let mut rest = readme.as_str();
    for step in steps {
        let at = rest.find(step).unwrap_or_else(|| panic!("README.md does not say `{step}`, or not in this order"));
        rest = &rest[at + step.len()..];
    }
}
