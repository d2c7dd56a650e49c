//! Gates whose own clocks are wrong: what a request is decided by is the store's clock, while it answers and while it is away.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::support::{Answer, Gate, Key, PATIENCE, Preloaded, Stage, until, whole, within};

const HOUR: i64 = 3600;
const DAY_MS: u64 = 86_400_000;

/// Sets the wall clock of whoever loads it, and the uptime where that is asked for: by so many seconds, from the moment on that
/// a file is there.
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
    int is_wrong = clock == CLOCK_REALTIME || (clock == CLOCK_BOOTTIME && getenv("WRONG_UPTIME"));
    if (result == 0 && wrong && is_wrong && (!from || access(from, F_OK) == 0)) time->tv_sec += atol(wrong);
    return result;
}
"#;

struct Shim(Preloaded);

impl Shim {
    fn build() -> Self {
        Self(Preloaded::build(SHIM))
    }

    /// A gate whose clock is wrong in this way.
    fn gate(&self, stage: &Stage, yaml: &str, wrong: Wrong) -> Gate {
        let set = |name: &str, value: String| (name.to_owned(), value);
        let mut environment = stage.environment();
        environment.push(self.0.variable());
        let (Wrong::Always(by) | Wrong::Set(by) | Wrong::Suspended(by)) = wrong;
        environment.push(set("WRONG_BY", by.to_string()));
        if !matches!(wrong, Wrong::Always(_)) {
            environment.push(set("WRONG_FROM", self.event().display().to_string()));
        }
        if matches!(wrong, Wrong::Suspended(_)) {
            environment.push(set("WRONG_UPTIME", "1".to_owned()));
        }
        let gate = Gate::start(&whole(yaml), environment).ready();
        let wrong_now = if matches!(wrong, Wrong::Always(_)) { by } else { 0 };
        assert_eq!(wrong_by(&gate.said("\"listening\"")), Some(wrong_now), "the shim is loaded");
        gate
    }

    /// What happens to the clocks happens now; `work` makes the gate write lines, until they show it.
    fn happens(&self, gate: &Gate, work: impl Fn()) {
        std::fs::write(self.event(), "").expect("the folder is writable");
        until("the wall clock to be set", || {
            work();
            gate.written().lines().any(|line| wrong_by(line).is_some_and(|by| by != 0)).then_some(())
        });
    }

    fn event(&self) -> PathBuf {
        self.0.file("event")
    }

    fn three(&self, stage: &Stage, yaml: &str) -> [Gate; 3] {
        [-HOUR, 0, HOUR].map(|by| self.gate(stage, yaml, Wrong::Always(by)))
    }
}

/// By how many seconds a clock is wrong.
#[derive(Clone, Copy)]
enum Wrong {
    /// The wall clock, from the start.
    Always(i64),
    /// The wall clock is set while the gate runs.
    Set(i64),
    /// The machine is suspended: only the monotonic clock stands still.
    Suspended(i64),
}

/// By how many hours, in seconds, the time of a log line is wrong.
fn wrong_by(line: &str) -> Option<i64> {
    let line: Value = serde_json::from_str(line).ok()?;
    let written: jiff::Timestamp = line["timestamp"].as_str()?.parse().ok()?;
    let hours = (written.as_second() - now_s()) as f64 / HOUR as f64;
    Some(hours.round() as i64 * HOUR)
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

#[test]
fn what_was_known_before_the_machine_was_suspended_is_that_much_older() {
    let (mut stage, shim) = (Stage::set(), Shim::build());
    let gate = shim.gate(&stage, KNOWN, Wrong::Suspended(HOUR));
    let key = known_in_an_outage(&mut stage, &gate);
    shim.happens(&gate, || drop(ask(&gate, &key)));
    assert_eq!(ask(&gate, &key).status, 503, "an hour is longer than it may be known");
}

#[test]
fn what_is_known_is_not_forgotten_where_the_wall_clock_is_set() {
    for by in [-HOUR, HOUR] {
        let (mut stage, shim) = (Stage::set(), Shim::build());
        let gate = shim.gate(&stage, KNOWN, Wrong::Set(by));
        let key = known_in_an_outage(&mut stage, &gate);
        shim.happens(&gate, || drop(ask(&gate, &key)));
        assert_eq!(ask(&gate, &key).status, 200, "the clock was set by {by} s");
    }
}

/// A key that passes while the store is away.
fn known_in_an_outage(stage: &mut Stage, gate: &Gate) -> Key {
    let key = stage.redis.mint(json!({"business": "acme"}));
    until("the key to be known", || (ask(gate, &key).status == 200).then_some(()));
    stage.redis.kill();
    assert_eq!(ask(gate, &key).status, 200);
    key
}

#[test]
fn who_guessed_keys_waits_no_longer_where_the_wall_clock_is_set_back() {
    let (stage, shim) = (Stage::set(), Shim::build());
    let gate = shim.gate(&stage, "keys: {guessing: 3/1m}\nroutes: {/things: any}", Wrong::Set(-2 * HOUR));
    let guess = || gate.raw("GET", "/things", &[b"Authorization: Bearer sg_a_guess"]);
    until("the address to be slowed", || (guess().status == 429).then_some(()));
    shim.happens(&gate, || drop(guess()));
    let answer = ask(&gate, &stage.redis.mint(json!({"business": "acme"})));
    assert!(answer.status == 200 || answer.number("retry-after") <= 60, "{answer:?}");
}

const SIGNUP: &str = "limits: {signup: {by: ip, windows: 2/1h}}\nroutes: {/signup: {public: true, limits: [signup]}}";

#[test]
fn while_the_store_is_away_windows_are_where_it_had_them() {
    for wrong in [Wrong::Always(HOUR), Wrong::Set(-2 * HOUR)] {
        let (mut stage, shim) = (Stage::set(), Shim::build());
        let gate = shim.gate(&stage, SIGNUP, wrong);
        let sign_up = || gate.raw("GET", "/signup", &[]);
        assert_eq!(sign_up().status, 200);
        stage.redis.kill();
        until("the address to be over its limit", || (sign_up().status == 429).then_some(()));
        if matches!(wrong, Wrong::Set(_)) {
            shim.happens(&gate, || drop(sign_up()));
        }
        let answer = sign_up();
        let end_s = i64::try_from(answer.number("x-ratelimit-reset")).expect("it is not that late");
        assert!(end_s <= now_s() + HOUR + 1, "this hour ends within an hour: {answer:?}");
        assert!(answer.status == 200 || answer.number("retry-after") <= 3600, "{answer:?}");
    }
}

#[test]
fn a_file_counts_anew_where_the_wall_clock_is_set_back() {
    let (stage, shim) = (Stage::set(), Shim::build());
    let gate = shim.gate(&stage, &format!("store: file:keys.yaml\n{SIGNUP}"), Wrong::Set(-4 * HOUR));
    let sign_up = || gate.raw("GET", "/signup", &[]);
    until("the address to be over its limit", || (sign_up().status == 429).then_some(()));
    shim.happens(&gate, || drop(sign_up()));
    let answer = sign_up();
    assert!(answer.status == 200 || answer.number("retry-after") <= 3600, "{answer:?}");
}
