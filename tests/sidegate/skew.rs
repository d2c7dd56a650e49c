//! A rollout: two configurations, or two releases, on one Redis at the same time. No window is erased, nothing passes that
//! neither would let pass, and documents keep what one side does not know.

use serde_json::{Value, json};

use crate::support::{Gate, Key, Stage, gate::text, redis::PREFIX};

const HOUR_MS: u64 = 3_600_000;

/// Far from an hour's end, so that no window turns over within the test.
fn stage() -> Stage {
    let stage = Stage::set();
    stage.redis.room(HOUR_MS, 60_000);
    stage
}

/// A gate with these limits, all of them on one route.
fn gate(stage: &Stage, limits: &[(&str, &str)]) -> Gate {
    let named = limits.iter().map(|(name, limit)| format!("  {name}: {{by: key, {limit}}}\n")).collect::<String>();
    let names: Vec<&str> = limits.iter().map(|(name, _)| *name).collect();
    stage.gate(&format!("limits:\n{named}defaults: {{limits: [{}]}}\nroutes: {{/things: any}}\n", names.join(", ")))
}

/// How many of `tries` requests pass.
fn passed(gate: &Gate, key: &Key, tries: usize) -> usize {
    let bearer = format!("Authorization: Bearer {}", key.text);
    let statuses: Vec<u16> = (0..tries).map(|_| gate.raw("GET", "/things", &[bearer.as_bytes()]).status).collect();
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 200).count()
}

/// What is left of each window, by its name; asked without spending.
fn left(gate: &Gate, key: &Key) -> Vec<(String, u64)> {
    let output = gate.command_reading(&["explain", "/things", "--json"], &key.text);
    let told: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
    let windows = told["windows"].as_array().expect("a list").iter();
    windows
        .map(|window| {
            let (limit, length) = (window["name"].as_str().unwrap_or("?"), window["window"].as_str().unwrap_or("?"));
            (format!("{limit} {length}"), window["remaining"].as_u64().expect("it is seen"))
        })
        .collect()
}

fn of(windows: &[(&str, u64)]) -> Vec<(String, u64)> {
    windows.iter().map(|(name, left)| ((*name).to_owned(), *left)).collect()
}

#[test]
fn counts_carry_over_by_equal_duration_and_no_window_is_erased() {
    let stage = stage();
    let old = gate(&stage, &[("per-key", "windows: [6/1h, 100/1d]")]);
    let new = gate(&stage, &[("per-key", "windows: [4/1h, 20/7d]")]);
    let key = stage.redis.mint(json!({"business": "acme"}));
    assert_eq!(passed(&old, &key, 3), 3);
    assert_eq!(left(&new, &key), of(&[("per-key 4/1h", 1), ("per-key 20/7d", 20)]), "what is new starts at 0");
    assert_eq!(passed(&new, &key, 3), 1, "what is not new goes on: 3 of 4 were used");
    assert_eq!(left(&old, &key), of(&[("per-key 6/1h", 2), ("per-key 100/1d", 97)]));
    assert_eq!(passed(&old, &key, 5), 2, "both together never pass the larger limit");
    assert_eq!(passed(&new, &key, 1), 0);
    assert_eq!(left(&old, &key), of(&[("per-key 6/1h", 0), ("per-key 100/1d", 95)]), "the other's writes kept it");
    assert_eq!(left(&new, &key), of(&[("per-key 4/1h", 0), ("per-key 20/7d", 19)]));
}

#[test]
fn another_algorithm_counts_for_itself_and_both_counts_stand() {
    let stage = stage();
    let old = gate(&stage, &[("per-key", "windows: 5/1h")]);
    let new = gate(&stage, &[("per-key", "windows: 5/1h, algorithm: token-bucket")]);
    let key = stage.redis.mint(json!({"business": "acme"}));
    assert_eq!((passed(&old, &key, 3), passed(&new, &key, 3)), (3, 3));
    assert_eq!((passed(&old, &key, 9), passed(&new, &key, 9)), (2, 2), "each admits its limit and no more");
    assert_eq!((passed(&old, &key, 1), passed(&new, &key, 1)), (0, 0));
}

#[test]
fn a_limit_that_one_side_removed_or_added_is_the_other_sides_alone() {
    let stage = stage();
    let old = gate(&stage, &[("kept", "windows: 6/1h"), ("removed", "windows: 2/1h")]);
    let new = gate(&stage, &[("kept", "windows: 6/1h"), ("added", "windows: 3/1h")]);
    let key = stage.redis.mint(json!({"business": "acme"}));
    assert_eq!(passed(&old, &key, 4), 2, "`removed` still holds where it is configured");
    assert_eq!(passed(&new, &key, 5), 3, "`added` holds where it is");
    assert_eq!(left(&old, &key), of(&[("kept 6/1h", 1), ("removed 2/1h", 0)]), "what was denied was counted in none");
    assert_eq!(left(&new, &key), of(&[("kept 6/1h", 1), ("added 3/1h", 0)]));
}

#[test]
fn two_sides_at_once_never_admit_more_than_the_shared_limit() {
    let stage = stage();
    let gates = [
        gate(&stage, &[("per-key", "windows: [40/1h, 500/1d]")]),
        gate(&stage, &[("per-key", "windows: [40/1h, 900/7d]")]),
    ];
    let key = stage.redis.mint(json!({"business": "acme"}));
    let total: usize = std::thread::scope(|scope| {
        let asked: Vec<_> = gates.iter().map(|gate| scope.spawn(|| passed(gate, &key, 40))).collect();
        asked.into_iter().map(|passed| passed.join().expect("no client panics")).sum()
    });
    assert_eq!(total, 40);
}

/// The bytes of an entry as `decide.lua` packs it.
fn entry(algorithm: u8, duration_ms: u64, mark_ms: u64, used: f64, previous: f64) -> Vec<u8> {
    let numbers = [duration_ms as f64, mark_ms as f64, used, previous];
    [vec![algorithm], numbers.into_iter().flat_map(f64::to_le_bytes).collect()].concat()
}

#[test]
fn what_a_later_release_counts_by_its_own_algorithm_is_kept_until_it_ends() {
    let stage = stage();
    let gate = gate(&stage, &[("per-key", "windows: 5/1h")]);
    let key = stage.redis.mint(json!({"business": "acme"}));
    let bucket = format!("{PREFIX}:{{b:acme}}:count:per-key:{}", key.id);
    assert_eq!(passed(&gate, &key, 1), 1);
    let ours: Vec<u8> = stage.redis.ask(&["GET", &bucket]);
    assert!(!ours.is_empty(), "the bucket is where the test expects it");
    let now = stage.redis.now_ms();
    let (theirs, ended) = (entry(9, 2 * HOUR_MS, now, 0.25, -7.5), entry(9, 1000, now - 5000, 1.0, 1.0));
    write(&stage, &bucket, &[&ours[..], &theirs, &ended].concat());
    assert_eq!(passed(&gate, &key, 9), 4, "our own count goes on beside it");
    let held: Vec<u8> = stage.redis.ask(&["GET", &bucket]);
    assert!(held.ends_with(&theirs), "{held:?}");
    assert_eq!(held.len(), ours.len() + theirs.len(), "what has ended is gone");
    let ttl: u64 = stage.redis.ask(&["PTTL", &bucket]);
    assert!(ttl > 3 * HOUR_MS, "it may count for two durations: {ttl}");
}

#[test]
fn a_bucket_of_a_layout_that_is_not_known_is_neither_written_nor_ignored() {
    let stage = stage();
    let gate = gate(&stage, &[("per-key", "windows: 5/1h")]);
    let key = stage.redis.mint(json!({"business": "acme"}));
    let bucket = format!("{PREFIX}:{{b:acme}}:count:per-key:{}", key.id);
    let later = b"\x02whatever comes later";
    write(&stage, &bucket, later);
    let bearer = format!("Authorization: Bearer {}", key.text);
    let answer = gate.raw("GET", "/things", &[bearer.as_bytes()]);
    assert_eq!(answer.denial(), (503, "store_unavailable".to_owned()), "it cannot be known what is left");
    assert_eq!(stage.redis.ask::<Vec<u8>>(&["GET", &bucket]), later);
    stage.redis.delete(&bucket);
    assert_eq!(passed(&gate, &key, 1), 1);
}

/// As Redis leaves it whose clock was a day ahead for a moment.
#[test]
fn a_window_that_was_begun_a_day_from_now_begins_anew() {
    let stage = stage();
    for (number, algorithm) in [(0, "fixed-window"), (1, "sliding-window"), (2, "token-bucket")] {
        let gate = gate(&stage, &[("per-key", &format!("windows: 5/1h, algorithm: {algorithm}"))]);
        let key = stage.redis.mint(json!({"business": "acme"}));
        let bucket = format!("{PREFIX}:{{b:acme}}:count:per-key:{}", key.id);
        let tomorrow = stage.redis.now_ms() / HOUR_MS * HOUR_MS + 24 * HOUR_MS;
        let used = if algorithm == "token-bucket" { 5 * HOUR_MS } else { 5 };
        write(&stage, &bucket, &[vec![1], entry(number, HOUR_MS, tomorrow, used as f64, 0.0)].concat());
        stage.redis.ask::<()>(&["PEXPIRE", &bucket, &(26 * HOUR_MS).to_string()]);
        assert_eq!(passed(&gate, &key, 9), 5, "{algorithm}");
        let ttl: u64 = stage.redis.ask(&["PTTL", &bucket]);
        assert!(ttl < 3 * HOUR_MS, "{algorithm}: it ends when the window does: {ttl}");
    }
}

/// Bytes are no argument of `redis.ask`, which takes text.
fn write(stage: &Stage, name: &str, bytes: &[u8]) {
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:03}")).collect();
    stage.redis.ask::<()>(&["EVAL", &format!("redis.call('SET', KEYS[1], '{escaped}')"), "1", name]);
}

#[test]
fn documents_of_a_later_release_are_read_and_keep_what_is_not_known_here() {
    let stage = Stage::set();
    let gate =
        stage.gate("limits: {per-key: {by: key, windows: 50/1h}}\ndefaults: {limits: [per-key]}\nplans: {pro: {}, free: {}}\nroutes: {/things: any}");
    let later = json!({"region": {"allowed": ["eu", 7]}, "quota_class": "b", "since": 1.5});
    let mut document = later.clone();
    document["business"] = "acme".into();
    let key = stage.redis.mint(document);
    stage.redis.set_business("acme", json!({"plan": "pro", "tier": {"x": [1]}, "limits": {"a-later-limit": "5/1m"}}));
    assert_eq!(passed(&gate, &key, 1), 1);

    let stored =
        |name: &str| -> Value { serde_json::from_str(&stage.redis.ask::<String>(&["GET", name])).expect("JSON") };
    let keeps = |document: &Value, what: &str| {
        for (member, value) in later.as_object().expect("an object") {
            assert_eq!(
                (&document[member], document.get(member).is_some()),
                (value, true),
                "{member} after {what}: {document}"
            );
        }
    };
    let run = |arguments: &[&str]| {
        let output = gate.command(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    for change in [&["--name", "other"][..], &["--limit", "per-key=9/1m"], &["--expires", "2099-01-01T00:00:00Z"]] {
        run(&[&["keys", "update", &key.id], change].concat());
        keeps(&stored(&key.document()), "update");
    }
    let rotated: Value =
        serde_json::from_str(&run(&["keys", "rotate", &key.id, "--overlap", "1h", "--json"])).expect("JSON");
    keeps(&stored(&key.document()), "rotate");
    let successor = rotated["id"].as_str().expect("it has an id");
    let place: String = stage.redis.ask(&["GET", &format!("{PREFIX}:id:{successor}")]);
    let (tenant, digest) = place.split_once(' ').expect("a tenant and a digest");
    keeps(&stored(&format!("{PREFIX}:{{{tenant}}}:key:{digest}")), "rotate, in the successor");
    run(&["keys", "revoke", &key.id]);
    keeps(&stored(&key.document()), "revoke");
    run(&["business", "set", "acme", "--plan", "free"]);
    let business = stored(&format!("{PREFIX}:{{b:acme}}:business"));
    assert_eq!((&business["tier"], &business["limits"]), (&json!({"x": [1]}), &json!({"a-later-limit": "5/1m"})));
}
