//! Giving back: what one slot spent and another denied returns to the window it came from, and to no other.

use redis::Commands;
use sidegate::limit::bucket::Entry;
use sidegate::limit::{Algorithm, Bucket};
use sidegate::store::redis::script::GIVE_BACK;

use super::server::RedisServer;

const MARK: u64 = 1_774_224_000_000;
const DURATION: u64 = 60_000;
const KEY: &str = "sg:{b:acme}:count:l:acme";

fn entry(algorithm: Algorithm, mark_ms: u64, used: u64, previous: u64) -> Entry {
    Entry { algorithm, duration_ms: DURATION, mark_ms, used, previous }
}

/// What stands there after `amount`, spent at `MARK`, was given back.
fn given_back(redis: &mut redis::Connection, algorithm: u64, amount: u64, entry: Entry) -> Entry {
    let other = Entry { duration_ms: 1000, ..entry };
    let bytes = Bucket { entries: vec![other, entry] }.encode();
    redis.set_ex::<_, _, ()>(KEY, bytes, 100).expect("SETEX works");
    let blob = rmp_serde::to_vec(&[[1, algorithm, DURATION, MARK, amount]]).expect("numbers are representable");
    let mut call = redis::cmd("EVAL");
    call.arg(GIVE_BACK).arg(1).arg(KEY).arg(blob).exec(redis).expect("the script runs");
    let left: u64 = redis.ttl(KEY).expect("TTL works");
    assert!((90..=100).contains(&left), "the bucket ends when it would have: {left}");
    let stored: Vec<u8> = redis.get(KEY).expect("GET works");
    let [kept, changed] = Bucket::decode(&stored).expect("the script writes buckets").entries[..] else {
        panic!("two entries stay two");
    };
    assert_eq!(kept, other, "another window is not touched");
    changed
}

#[test]
fn what_is_given_back_returns_to_the_window_it_was_spent_in() {
    use Algorithm::{Fixed, Sliding, Token};
    let server = RedisServer::start();
    let mut redis = server.client();
    let next = MARK + DURATION;
    for (number, algorithm, before, after) in [
        (0, Fixed, (MARK, 5, 0), (MARK, 2, 0)),
        (0, Fixed, (MARK, 2, 0), (MARK, 0, 0)),
        (0, Fixed, (next, 5, 0), (next, 5, 0)),
        (1, Sliding, (MARK, 5, 9), (MARK, 2, 9)),
        (1, Sliding, (next, 5, 9), (next, 5, 6)),
        (1, Sliding, (next + DURATION, 5, 9), (next + DURATION, 5, 9)),
        (2, Token, (MARK + 7, 5 * DURATION, 0), (MARK + 7, 2 * DURATION, 0)),
        (2, Token, (MARK + 7, DURATION, 0), (MARK + 7, 0, 0)),
    ] {
        let of = |(mark, used, previous)| entry(algorithm, mark, used, previous);
        assert_eq!(given_back(&mut redis, number, 3, of(before)), of(after), "{algorithm:?} {before:?}");
    }
}

#[test]
fn nothing_is_given_back_where_nothing_or_something_else_stands() {
    let server = RedisServer::start();
    let mut redis = server.client();
    let blob = rmp_serde::to_vec(&[[1, 0, DURATION, MARK, 3]]).expect("numbers are representable");
    let run = |redis: &mut redis::Connection| {
        redis::cmd("EVAL").arg(GIVE_BACK).arg(1).arg(KEY).arg(&blob).exec(redis).expect("the script runs");
    };
    run(&mut redis);
    assert!(!redis.exists::<_, bool>(KEY).expect("EXISTS works"));
    redis.rpush::<_, _, ()>(KEY, "x").expect("RPUSH works");
    run(&mut redis);
    assert_eq!(redis.llen::<_, u64>(KEY).expect("LLEN works"), 1);
    redis.set::<_, _, ()>(KEY, "no bucket").expect("SET works");
    run(&mut redis);
    assert_eq!(redis.get::<_, String>(KEY).expect("GET works"), "no bucket");
}
