//! Gates whose own clocks are wrong: what a request is decided by is the store's clock, while it answers and while it is away.

use std::{
    path::PathBuf,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Gate, Key, PATIENCE, Stage, client, until, whole, within};

const HOUR: i64 = 3600;
const DAY_MS: u64 = 86_400_000;

/// Sets the wall clock of whoever loads it: by so many seconds, from the moment on that a file is there.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    const char *wrong = getenv("WRONG_BY"), *from = getenv("WRONG_FROM");
    if (result == 0 && wrong && clock == CLOCK_REALTIME && (!from || access(from, F_OK) == 0)) time->tv_sec += atol(wrong);
    return result;
}
"#;

struct Shim {
    folder: TempDir,
}

impl Shim {
    fn build() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::write(folder.path().join("shim.c"), SHIM).expect("the folder is writable");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"]).current_dir(&folder);
        client::printed_by(&mut cc, "`apt-get install gcc`: Rust links with it too");
        Self { folder }
    }

    /// A gate whose clock is wrong by so many seconds, at once or from the moment on that there is such a file.
    fn gate(&self, stage: &Stage, yaml: &str, by: i64, from: Option<PathBuf>) -> Gate {
        let mut environment = stage.environment();
        let library = self.folder.path().join("shim.so").display().to_string();
        environment.extend([("LD_PRELOAD".to_owned(), library), ("WRONG_BY".to_owned(), by.to_string())]);
        let wrong_now = if from.is_none() { by } else { 0 };
        environment.extend(from.map(|file| ("WRONG_FROM".to_owned(), file.display().to_string())));
        let gate = Gate::start(&whole(yaml), environment).ready();
        let said: Value = serde_json::from_str(&gate.said("\"listening\"")).expect("a log line is JSON");
        let written: jiff::Timestamp = said["timestamp"].as_str().expect("it has a time").parse().expect("RFC 3339");
        assert!((written.as_second() - now_s() - wrong_now).abs() < 60, "the shim is loaded: {said}");
        gate
    }

    fn three(&self, stage: &Stage, yaml: &str) -> [Gate; 3] {
        [-HOUR, 0, HOUR].map(|by| self.gate(stage, yaml, by, None))
    }
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_secs()).expect("it is not that late")
}

fn ask(gate: &Gate, key: &Key) -> Answer {
    gate.raw("GET", "/things", &[format!("Authorization: Bearer {}", key.text).as_bytes()])
}

/// A key that ends in so many milliseconds, by the store's clock, and when that is.
fn ending(stage: &Stage, in_ms: u64) -> (Key, u64) {
    let end_s = (stage.redis.now_ms() + in_ms) / 1000;
    let end = jiff::Timestamp::from_second(i64::try_from(end_s).expect("it is not that late")).expect("a time");
    (stage.redis.mint(json!({"business": "acme", "expires_at": end.to_string()})), end_s * 1000)
}

#[test]
fn gates_with_wrong_clocks_share_one_limit_exactly() {
    let (stage, shim) = (Stage::set(), Shim::build());
    stage.redis.room(DAY_MS, 60_000);
    let yaml = "limits: {daily: {by: key, windows: 10/1d}}\nroutes: {/things: {any: true, limits: [daily]}}";
    let gates = shim.three(&stage, yaml);
    let key = stage.redis.mint(json!({"business": "acme"}));
    let answers: Vec<Answer> = (0..20).flat_map(|_| gates.iter().map(|gate| ask(gate, &key))).collect();
    let passed = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(passed, 10, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status)));
    let resets: Vec<u64> = answers.iter().map(|answer| answer.number("x-ratelimit-reset")).collect();
    let (first, last) = (resets.iter().min(), resets.iter().max());
    assert!(last.zip(first).is_some_and(|(last, first)| last - first <= 60), "{resets:?}");
}

#[test]
fn a_key_ends_by_the_stores_clock() {
    let (stage, shim) = (Stage::set(), Shim::build());
    let gates = shim.three(&stage, "routes: {/things: any}");
    let (key, end) = ending(&stage, 5000);
    for gate in &gates {
        let answer = ask(gate, &key);
        assert!(answer.status == 200 || stage.redis.now_ms() >= end, "{answer:?}");
    }
    stage.redis.wait_until(end + 1);
    for gate in &gates {
        assert_eq!(ask(gate, &key).status, 401);
    }
}

const KNOWN: &str = "store: {redis: '${REDIS_URL}', outage: {keys: {known_for: 5m}}}\nroutes: {/things: any}";

#[test]
fn while_the_store_is_away_a_key_ends_by_the_clock_that_it_had() {
    let (mut stage, shim) = (Stage::set(), Shim::build());
    let gates = shim.three(&stage, KNOWN);
    // As long as it takes this machine to have it known everywhere, and a little.
    let known = [8000, 20_000, 50_000].into_iter().find_map(|in_ms| {
        let (key, end) = ending(&stage, in_ms);
        for gate in &gates {
            until("the key to be known", || {
                (ask(gate, &key).status == 200 || stage.redis.now_ms() >= end).then_some(())
            });
        }
        (stage.redis.now_ms() + 1000 < end).then_some((key, end))
    });
    let (key, end) = known.expect("a key is known to three gates within a minute");
    stage.redis.kill();
    // The store's clock is this machine's.
    let now_ms = || u64::try_from(now_s()).expect("it is after 1970") * 1000;
    for gate in &gates {
        let answer = ask(gate, &key);
        assert!(answer.status == 200 || now_ms() >= end, "{answer:?}");
    }
    within(PATIENCE * 2, "the key to end", || (now_ms() > end + 1000).then_some(()));
    for gate in &gates {
        assert_eq!(ask(gate, &key).status, 401, "it has ended");
    }
}

/// As it looks to a machine that was suspended: its wall clock goes on at once, its monotonic clock has stood still.
#[test]
fn what_was_known_before_the_machine_stood_still_is_as_old_as_the_wall_clock_says() {
    let (mut stage, shim) = (Stage::set(), Shim::build());
    let asleep = shim.folder.path().join("asleep");
    let gate = shim.gate(&stage, KNOWN, HOUR, Some(asleep.clone()));
    let key = stage.redis.mint(json!({"business": "acme"}));
    until("the key to be known", || (ask(&gate, &key).status == 200).then_some(()));
    stage.redis.kill();
    assert_eq!(ask(&gate, &key).status, 200);
    std::fs::write(&asleep, "").expect("the folder is writable");
    assert_eq!(ask(&gate, &key).status, 503, "an hour is longer than it may be known");
}
