//! The script against the arithmetic in Rust, and the store's promises, on a real `redis-server`.

mod far;
mod give_back;
mod model;
mod server;
mod store;

use std::collections::BTreeMap;

use redis::Commands;
use sidegate::limit::{Bucket, Outcome};
use sidegate::store::layout::Layout;
use sidegate::store::redis::script::{self, CLOCK_LINE, DECIDE};

use self::model::{BUCKETS, DOCUMENTS, Dice, Model, SLOTS, Value};
use self::server::RedisServer;

/// A multiple of every duration in use, so that the sequences begin at a boundary.
const START: u64 = 1_774_224_000_000;

/// Buckets expire on multiples of this, at least one after their end.
const SLACK_MS: u64 = 60_000;

/// The production script with the clock of the test in place of Redis's.
fn script_with_test_clock(redis: &mut redis::Connection) -> String {
    let script = DECIDE.replace(CLOCK_LINE, "local now = tonumber(ARGV[#ARGV])\n");
    redis::cmd("SCRIPT").arg("LOAD").arg(script).query(redis).expect("the script compiles")
}

/// One Redis and one model that are changed alike.
struct Pair {
    redis: redis::Connection,
    sha: String,
    layout: Layout,
    model: Model,
    /// By slot and name, how long the buckets that the script has written were to live from then on.
    lifetimes: BTreeMap<(String, String), u64>,
}

impl Pair {
    fn set(&mut self, slot: &str, name: &str, value: Option<Value>) {
        let key = self.layout.in_slot(slot, name);
        let place = (slot.to_owned(), name.to_owned());
        self.lifetimes.remove(&place);
        let _: u32 = self.redis.del(&key).expect("DEL works");
        match &value {
            None => drop(self.model.values.remove(&place)),
            Some(Value::List) => drop(self.redis.rpush::<_, _, u32>(&key, "x").expect("RPUSH works")),
            Some(Value::Text(bytes)) => self.redis.set::<_, _, ()>(&key, bytes).expect("SET works"),
        }
        if let Some(value) = value {
            self.model.values.insert(place, value);
        }
    }

    fn disturb(&mut self, dice: &mut Dice, now_ms: u64) {
        let slot = dice.pick(&SLOTS);
        match dice.below(3) {
            0 => {
                let value = dice.value(true, now_ms);
                self.set(slot, dice.pick(&BUCKETS), value);
            }
            1 => {
                let value = dice.value(false, now_ms);
                self.set(slot, dice.pick(&DOCUMENTS), value);
            }
            _ => {
                let key = self.layout.in_slot(slot, "businesses");
                let _: u32 = self.redis.sadd(&key, "acme").expect("SADD works");
                self.model.members.insert((slot.to_owned(), "acme".to_owned()));
            }
        }
    }

    /// Asks both the same and compares the answers, the stored bytes and their expiry.
    fn ask_both(&mut self, dice: &mut Dice, now_ms: u64, place: &str) {
        let questions = dice.questions(&self.model, now_ms);
        let call = script::encode(&self.layout, &questions);
        let command = at_time(&call, &self.sha, now_ms);
        let answer: Vec<u8> = command.query(&mut self.redis).unwrap_or_else(|error| panic!("{place}: {error}"));
        let answers =
            script::decode(&questions, &answer).unwrap_or_else(|error| panic!("{place}: {error}: {answer:?}"));
        let before = self.model.values.clone();
        for (question, answer) in questions.iter().zip(answers) {
            let expected = self.model.decide(question, now_ms);
            assert_eq!(wordless(answer.outcome), expected, "{place}, at {now_ms}: {question:#?}\nbefore: {before:?}");
            assert_eq!(answer.now_ms, now_ms, "{place}");
        }
        self.compare_buckets(&before, now_ms, place);
    }

    fn compare_buckets(&mut self, before: &BTreeMap<(String, String), Value>, now_ms: u64, place: &str) {
        for (slot, name) in SLOTS.iter().flat_map(|slot| BUCKETS.map(|name| (*slot, name))) {
            let key = self.layout.in_slot(slot, name);
            let at = (slot.to_owned(), name.to_owned());
            let held = self.model.values.get(&at);
            if held == Some(&Value::List) {
                continue;
            }
            let stored: Option<Vec<u8>> = self.redis.get(&key).expect("GET works");
            assert_eq!(stored.map(Value::Text).as_ref(), held, "{place}: {key}");
            if let Some(Value::Text(bytes)) = held
                && before.get(&at) != held
            {
                let earlier = match before.get(&at) {
                    Some(Value::Text(earlier)) => earlier,
                    _ => &Vec::new(),
                };
                let left: i64 = self.redis.pttl(&key).expect("PTTL works");
                self.compare_expiry(at, earlier, &bytes.clone(), now_ms, left, place);
            }
        }
    }

    /// A bucket that changed in place lives as long as it was to live; one whose length or last minute changed, anew. The
    /// server's own clock hardly moves while that of the test leaps, so what is left is what was given.
    fn compare_expiry(
        &mut self,
        at: (String, String),
        earlier: &[u8],
        bytes: &[u8],
        now_ms: u64,
        left: i64,
        place: &str,
    ) {
        let expiry = |bytes: &[u8]| {
            let ends = Bucket::decode(bytes).expect("the model writes buckets").ends_ms();
            (ends / SLACK_MS + 2) * SLACK_MS
        };
        let in_place = earlier.len() == bytes.len() && expiry(earlier) == expiry(bytes);
        let held = self.lifetimes.get(&at).copied();
        // The test put it there, and without an end.
        if in_place && left == -1 && held.is_none() {
            return;
        }
        // Between several questions of one call it may have been another one, and so be written anew all the same.
        let lifetimes = [Some(expiry(bytes) - now_ms), held.filter(|_| in_place)];
        let is_left = |lifetime: &u64| i64::try_from(*lifetime).is_ok_and(|ms| (ms - 30_000..=ms).contains(&left));
        let Some(lifetime) = lifetimes.into_iter().flatten().find(is_left) else {
            panic!("{place}: {at:?} expires in {left}, not in one of {lifetimes:?}")
        };
        self.lifetimes.insert(at, lifetime);
    }
}

/// What the model answers too: it does not say why something is broken.
fn wordless(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Broken(_) => Outcome::Broken(String::new()),
        other => other,
    }
}

#[test]
fn the_script_and_the_arithmetic_in_rust_never_differ() {
    let server = RedisServer::start();
    for seed in 1..=60_u64 {
        let mut redis = server.client();
        redis::cmd("FLUSHALL").exec(&mut redis).expect("FLUSHALL works");
        let sha = script_with_test_clock(&mut redis);
        let mut pair =
            Pair { redis, sha, layout: Layout::new("sg"), model: Model::default(), lifetimes: BTreeMap::new() };
        let mut dice = Dice::new(seed, seed % 2 == 0);
        let mut now_ms = START;
        for step in 0..300 {
            now_ms = dice.step(now_ms);
            if dice.once_in(6) {
                pair.disturb(&mut dice, now_ms);
            }
            pair.ask_both(&mut dice, now_ms, &format!("seed {seed}, step {step}"));
        }
    }
}

/// The call as the gate makes it, and behind its arguments what the clock of these tests shows.
fn at_time(call: &script::Call, sha: &str, now_ms: u64) -> redis::Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(sha).arg(call.arguments().collect::<Vec<_>>()).arg(now_ms);
    command
}

#[test]
fn a_call_of_more_numbers_than_luas_stack_holds_is_answered() {
    let server = RedisServer::start();
    let mut redis = server.client();
    let sha = script_with_test_clock(&mut redis);
    let mut dice = Dice::new(1, false);
    let mut model = Model::default();
    let questions: Vec<_> = (0..500).flat_map(|_| dice.questions(&model, START)).collect();
    let call = script::encode(&Layout::new("sg"), &questions);
    let answer: Vec<u8> = at_time(&call, &sha, START).query(&mut redis).expect("the script answers");
    for (question, answer) in questions.iter().zip(script::decode(&questions, &answer).expect("answers")) {
        assert_eq!(wordless(answer.outcome), model.decide(question, START), "{question:#?}");
    }
}
