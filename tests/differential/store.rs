//! What `RedisStore` promises beyond the arithmetic: one command a decision, and recovery from whatever befalls Redis.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::Commands;
use sidegate::keys::{Digest, Tenant};
use sidegate::limit::{Algorithm, Answer, Ask, Believed, BucketAsk, Document, Member, Outcome, Question, Windows};
use sidegate::secret::Secret;
use sidegate::store::fallback::Fallback;
use sidegate::store::health::StoreHealth;
use sidegate::store::outage::LimitsOutage;
use sidegate::store::redis::{RedisDocuments, RedisStore, Settings};
use sidegate::store::{Shared, StoreError};
use tokio::time::{Instant, sleep};

use super::server::RedisServer;

pub fn start(settings: Settings) -> (RedisStore, Arc<StoreHealth>) {
    let shared = Shared::new(std::time::Duration::from_millis(100)).expect("the metrics' names are valid");
    let health = shared.health.clone();
    let fallback = Arc::new(Fallback::new(LimitsOutage::Deny, shared.calls.clone()));
    (RedisStore::start(settings, shared, fallback), health)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn bucket(name: &str, windows: &str) -> BucketAsk {
    let windows = Arc::new(Windows::parse([windows]).expect("the test's window is valid"));
    BucketAsk { name: name.into(), algorithm: Algorithm::Fixed, windows, observes: false }
}

/// A question about `acme` with one limit and its business's document.
pub fn question(believed: Believed) -> Question {
    let ask = Ask {
        slot: "b:acme".into(),
        documents: vec![Document { name: "business".into(), believed }].into(),
        buckets: [bucket("count:per-business:acme", "60/1h")].into(),
        ..Ask::default()
    };
    Question { asks: [ask].into(), cost: 1, n: 1 }
}

/// Asks all of these at once.
pub async fn together(store: &RedisStore, questions: &[Question]) -> Vec<Answer> {
    let ask = |question: &Question| {
        let (store, question) = (store.clone(), question.clone());
        tokio::spawn(async move { store.decide(&question, soon()).await.expect("the store answers") })
    };
    let asked: Vec<_> = questions.iter().map(ask).collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.expect("no question panics"));
    }
    answers
}

pub async fn outcome(store: &RedisStore, question: Question) -> Outcome {
    store.decide(&question, soon()).await.expect("the store answers").outcome
}

pub fn remaining(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Spent { granted: 1, windows, .. } => windows[0][0].remaining,
        other => panic!("not spent: {other:?}"),
    }
}

/// Asks until `done` says so; the state of another process has no event to wait for.
async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let end = soon();
    while !done().await {
        assert!(Instant::now() < end, "{what} did not come");
        sleep(Duration::from_millis(10)).await;
    }
}

/// How often each command has been called by clients.
fn calls(redis: &mut redis::Connection) -> HashMap<String, u64> {
    let info: String = redis::cmd("INFO").arg("commandstats").query(redis).expect("INFO works");
    info.lines()
        .filter_map(|line| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
        })
        .collect()
}

#[tokio::test]
async fn a_decision_is_one_command() {
    let server = RedisServer::start();
    let (store, _) = start(server.settings());
    outcome(&store, question(Believed::Absent)).await;
    let mut redis = server.client();
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut redis).expect("CONFIG RESETSTAT works");
    for _ in 0..10 {
        outcome(&store, question(Believed::Absent)).await;
    }
    let costs: Vec<_> = (0..32).map(|i| Question { cost: 1 + i / 2, ..question(Believed::Absent) }).collect();
    together(&store, &costs).await;
    let mut calls = calls(&mut redis);
    calls.retain(|name, _| !name.starts_with("config") && name != "info");
    // All but EVALSHA is what the script itself calls; EXISTS looks whether the absent document is none of another type either.
    let each = ["evalsha", "time", "mget", "exists", "setrange"].map(|name| (name.to_owned(), 11));
    assert_eq!(calls, HashMap::from(each));
}

#[tokio::test]
async fn the_store_says_what_the_documents_are_now_and_counts_nothing() {
    let server = RedisServer::start();
    let (store, _) = start(server.settings());
    let mut redis = server.client();
    redis.set::<_, _, ()>("sg:{b:acme}:business", "{}").expect("SET works");
    let found = Bytes::from_static(b"{}");
    for believed in [Believed::Unknown, Believed::Absent, Believed::Is(Bytes::from_static(b""))] {
        assert_eq!(outcome(&store, question(believed)).await, Outcome::Stale(vec![vec![Some(found.clone())]]));
    }
    assert_eq!(remaining(&outcome(&store, question(Believed::Is(found))).await), 59);
    redis.del::<_, ()>("sg:{b:acme}:business").expect("DEL works");
    let gone = outcome(&store, question(Believed::Is(Bytes::from_static(b"{}")))).await;
    assert_eq!(gone, Outcome::Stale(vec![vec![None]]));
}

#[tokio::test]
async fn an_expired_question_and_one_of_no_member_spend_nothing() {
    let server = RedisServer::start();
    let (store, _) = start(server.settings());
    let mut expired = question(Believed::Absent);
    expired.asks.change(|asks| asks[0].not_after_ms = Some(1));
    assert_eq!(outcome(&store, expired).await, Outcome::Expired);
    let mut member = question(Believed::Absent);
    member
        .asks
        .change(|asks| asks[0].member = Some(Box::new(Member { set: "businesses".into(), member: "acme".into() })));
    assert_eq!(outcome(&store, member.clone()).await, Outcome::Refused);
    server.client().sadd::<_, _, ()>("sg:{b:acme}:businesses", "acme").expect("SADD works");
    assert_eq!(remaining(&outcome(&store, member).await), 59);
}

#[tokio::test]
async fn a_value_of_the_wrong_type_harms_its_question_alone() {
    let server = RedisServer::start();
    let (store, health) = start(server.settings());
    let mut redis = server.client();
    let other = |slot: &str| {
        let mut question = question(Believed::Absent);
        question.asks.change(|asks| asks[0].slot = slot.into());
        question
    };
    redis.rpush::<_, _, ()>("sg:{b:list}:count:per-business:acme", "x").expect("RPUSH works");
    redis.set::<_, _, ()>("sg:{b:text}:count:per-business:acme", "x").expect("SET works");
    redis.rpush::<_, _, ()>("sg:{b:document}:business", "x").expect("RPUSH works");
    redis.set::<_, _, ()>("sg:{b:set}:businesses", "x").expect("SET works");
    let mut set = other("b:set");
    set.asks.change(|asks| asks[0].member = Some(Box::new(Member { set: "businesses".into(), member: "acme".into() })));
    let questions = [other("b:list"), other("b:text"), other("b:document"), set, other("b:good")];
    let answers = together(&store, &questions).await;
    for (answer, name) in answers.iter().zip(["list", "text", "document", "set"]) {
        let Outcome::Broken(text) = &answer.outcome else { panic!("{name}: {:?}", answer.outcome) };
        assert!(text.contains(&format!("sg:{{b:{name}}}:")), "{text}");
    }
    assert_eq!(remaining(&answers[4].outcome), 59);
    assert!(health.is_up());
}

#[tokio::test]
async fn a_store_that_lost_its_scripts_answers_the_same_request() {
    let server = RedisServer::start();
    let (store, health) = start(server.settings());
    assert_eq!(remaining(&outcome(&store, question(Believed::Absent)).await), 59);
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.client()).expect("SCRIPT FLUSH works");
    assert_eq!(remaining(&outcome(&store, question(Believed::Absent)).await), 58);
    assert!(health.is_up());
}

#[tokio::test]
async fn a_key_is_looked_up_at_its_digest() {
    let server = RedisServer::start();
    let (store, _) = start(server.settings());
    let digest = Digest::of("sg_key");
    assert_eq!(store.lookup(&digest, soon()).await, Ok(None));
    let key = format!("sg:at:{}", digest.to_hex());
    server.client().set::<_, _, ()>(&key, "u:u_42").expect("SET works");
    assert_eq!(store.lookup(&digest, soon()).await, Ok(Some(Tenant::User("u_42".to_owned()))));
    server.client().set::<_, _, ()>(&key, "nobody").expect("SET works");
    assert!(matches!(store.lookup(&digest, soon()).await, Err(StoreError::Broken(_))));
    server.client().del::<_, ()>(&key).expect("DEL works");
    server.client().rpush::<_, _, ()>(&key, "x").expect("RPUSH works");
    assert!(matches!(store.lookup(&digest, soon()).await, Err(StoreError::Broken(_))));
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let mut server = RedisServer::start();
    let (store, health) = start(server.settings());
    outcome(&store, question(Believed::Absent)).await;
    server.kill();
    until("the loss", || async { !health.is_up() }).await;
    let unreachable = || async {
        let asked = Instant::now();
        let answer = store.decide(&question(Believed::Absent), soon()).await;
        matches!(answer, Err(StoreError::Unreachable(_))) && asked.elapsed() < Duration::from_millis(500)
    };
    until("a refusal without waiting", unreachable).await;
    assert!(!health.is_up());
    server.restart();
    until("the return", || async { health.is_up() }).await;
    assert_eq!(remaining(&outcome(&store, question(Believed::Absent)).await), 59);
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_no_more_than_the_deadline() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
    let port = silent.local_addr().expect("a bound socket has an address").port();
    let (store, health) = start(Settings::from_url(&format!("redis://127.0.0.1:{port}")).expect("a valid address"));
    let mut late = Vec::new();
    for _ in 0..5 {
        let deadline = Instant::now() + Duration::from_millis(100);
        let answer = store.decide(&question(Believed::Absent), deadline).await;
        // Later ones may be told that nobody could be connected to.
        assert!(matches!(answer, Err(StoreError::Deadline | StoreError::Unreachable(_))), "{answer:?}");
        late.push(deadline.elapsed());
    }
    // What a busy machine adds to one of them says nothing.
    assert!(late.iter().min() < Some(&Duration::from_millis(100)), "{late:?}");
    assert!(!health.is_up());
}

#[tokio::test]
async fn a_paused_server_is_given_up_and_found_again() {
    let server = RedisServer::start();
    let (store, health) = start(server.settings());
    outcome(&store, question(Believed::Absent)).await;
    // Longer than a busy worker is given beyond its deadline.
    redis::cmd("CLIENT").arg("PAUSE").arg(2500).exec(&mut server.client()).expect("CLIENT PAUSE works");
    let deadline = Instant::now() + Duration::from_millis(100);
    assert_eq!(store.decide(&question(Believed::Absent), deadline).await, Err(StoreError::Deadline));
    until("the doubt", || async { !health.is_up() }).await;
    until("the return", || async { health.is_up() }).await;
    assert!(remaining(&outcome(&store, question(Believed::Absent)).await) >= 57);
}

#[tokio::test]
async fn a_master_that_became_a_replica_is_left_until_it_is_one_again() {
    let server = RedisServer::start();
    let (store, health) = start(server.settings());
    outcome(&store, question(Believed::Absent)).await;
    let mut redis = server.client();
    let replica_of = |redis: &mut redis::Connection, host: &str, port: &str| {
        redis::cmd("REPLICAOF").arg(host).arg(port).exec(redis).expect("REPLICAOF works");
    };
    replica_of(&mut redis, "127.0.0.1", "1");
    let refused = store.decide(&question(Believed::Absent), soon()).await;
    assert!(matches!(&refused, Err(StoreError::Refused(text)) if text.contains("READONLY")), "{refused:?}");
    assert!(!health.is_up());
    replica_of(&mut redis, "NO", "ONE");
    until("the return", || async { health.is_up() }).await;
    assert_eq!(remaining(&outcome(&store, question(Believed::Absent)).await), 58);
}

/// Whoever is not counted is judged by a master's word too: one that was demoted goes on answering by what was true then.
#[tokio::test]
async fn a_master_that_became_a_replica_decides_nothing_where_it_would_have_written_nothing() {
    let server = RedisServer::start();
    let mut redis = server.client();
    let mut command = |words: &[&str]| {
        redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut redis).expect("the server does it")
    };
    let rights = "on >pw resetchannels -@all +auth +role +time +script|load +evalsha +get +mget +exists +sismember ~sg:* \
                  (+set +setrange ~sg:{*}:count:*)";
    command(&["ACL", "SETUSER", "gate", "on", ">pw"]);
    let acl: Vec<&str> = ["ACL", "SETUSER", "gate"].into_iter().chain(rights_of(rights)).collect();
    command(&acl);
    let login = Settings { username: Some("gate".to_owned()), password: Some(Secret::new("pw")), ..server.settings() };
    let (store, _) = start(login);
    let reading = Question { cost: 0, ..question(Believed::Absent) };
    let exhausted = Question { cost: 61, ..question(Believed::Absent) };
    let mut without_limit = question(Believed::Absent);
    without_limit.asks.change(|asks| asks[0].buckets.clear());
    let mut stale = without_limit.clone();
    stale.asks.change(|asks| asks[0].documents[0].believed = Believed::Unknown);
    for (name, asked) in [("cost 0", reading), ("over", exhausted), ("free", without_limit), ("stale", stale)] {
        until("the master", || async { store.decide(&asked, soon()).await.is_ok() }).await;
        command(&["CONFIG", "SET", "maxmemory", "1"]);
        let passed = store.decide(&asked, soon()).await;
        assert!(passed.is_ok(), "{name}: nothing is written, so that a full server serves it: {passed:?}");
        command(&["CONFIG", "SET", "maxmemory", "0"]);
        command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        let passed = store.decide(&asked, soon()).await;
        assert!(passed.is_ok(), "{name}: nor need it be replicated: {passed:?}");
        command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        command(&["REPLICAOF", "127.0.0.1", "1"]);
        let refused = store.decide(&asked, soon()).await;
        assert!(matches!(&refused, Err(StoreError::Refused(text)) if text.contains("READONLY")), "{name}: {refused:?}");
        command(&["REPLICAOF", "NO", "ONE"]);
    }
    assert_eq!(command(&["DBSIZE"]), redis::Value::Int(0), "nothing is written to find it out");
}

/// Words, save that a selector in parentheses is one.
fn rights_of(rights: &str) -> impl Iterator<Item = &str> {
    let (plain, selector) = rights.split_at(rights.find('(').unwrap_or(rights.len()));
    plain.split_whitespace().chain([selector])
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_repeated() {
    let server = RedisServer::with(&["--requirepass", "right-secret"]);
    let with = |password: Option<&str>| Settings { password: password.map(Secret::new), ..server.settings() };
    for wrong in [Some("wrong-secret"), None] {
        let (store, _) = start(with(wrong));
        let refused =
            || async { matches!(store.decide(&question(Believed::Absent), soon()).await, Err(StoreError::Refused(_))) };
        until("the refusal", refused).await;
        let error =
            store.decide(&question(Believed::Absent), soon()).await.expect_err("a wrong password opens nothing");
        let said = format!("{error} {error:?} {store:?}");
        assert!(!said.contains("secret"), "{said}");
        let error = RedisDocuments::connect(&with(wrong)).await.map(drop);
        let read = match error {
            Err(error) => format!("{error} {error:?}"),
            // Without a password the connection stands, and its first command is refused.
            Ok(()) => "NOAUTH".to_owned(),
        };
        assert!(!read.contains("secret"), "{read}");
    }
    let (store, _) = start(with(Some("right-secret")));
    assert_eq!(remaining(&outcome(&store, question(Believed::Absent)).await), 59);
}

#[tokio::test]
async fn documents_are_read_written_and_listed() {
    let server = RedisServer::start();
    let documents = RedisDocuments::connect(&server.settings()).await.expect("the server is there");
    assert_eq!(documents.get("sg:id:1").await, Ok(None));
    assert_eq!(documents.compare_and_set("sg:id:1", b"", b"x").await, Ok(false));
    documents.set("sg:id:1", b"old").await.expect("SET works");
    assert_eq!(documents.compare_and_set("sg:id:1", b"older", b"new").await, Ok(false));
    assert_eq!(documents.compare_and_set("sg:id:1", b"old", b"new").await, Ok(true));
    assert_eq!(documents.set_absent("sg:id:1", b"x").await, Ok(false));
    assert_eq!(documents.set_absent("sg:id:2", b"x").await, Ok(true));
    let keys = ["sg:id:1", "sg:id:0", "sg:id:2"].map(str::to_owned);
    let found = [Some("new"), None, Some("x")].map(|text| text.map(Bytes::from));
    assert_eq!(documents.mget(&keys).await, Ok(found.to_vec()));
    for index in 0..1200 {
        documents.sadd("sg:{b:acme}:keys", &format!("{index:04}")).await.expect("SADD works");
    }
    documents.srem("sg:{b:acme}:keys", "0000").await.expect("SREM works");
    let members = documents.sscan("sg:{b:acme}:keys").await.expect("SSCAN works");
    assert_eq!(members, (1..1200).map(|index| format!("{index:04}")).collect::<Vec<_>>());
    assert_eq!(documents.scan("sg:id:*").await, Ok(vec!["sg:id:1".to_owned(), "sg:id:2".to_owned()]));
    assert_eq!(documents.delete("sg:id:1").await, Ok(true));
    assert_eq!(documents.delete("sg:id:1").await, Ok(false));
}

#[tokio::test]
async fn sidecars_that_share_a_limit_admit_exactly_it() {
    let server = RedisServer::start();
    let stores: Vec<RedisStore> = (0..4).map(|_| start(server.settings()).0).collect();
    let mut asked = tokio::task::JoinSet::new();
    for index in 0..200 {
        let store = stores[index % stores.len()].clone();
        asked.spawn(async move { outcome(&store, question(Believed::Absent)).await });
    }
    let mut left = Vec::new();
    while let Some(outcome) = asked.join_next().await {
        match outcome.expect("no question panics") {
            Outcome::Spent { granted: 0, .. } => {}
            admitted => left.push(remaining(&admitted)),
        }
    }
    left.sort_unstable();
    assert_eq!(left, (0..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_store_refuses_and_spends_nothing() {
    let server = RedisServer::start();
    let (store, health) = start(server.settings());
    assert_eq!(remaining(&outcome(&store, question(Believed::Absent)).await), 59);
    let mut redis = server.client();
    let maxmemory = |redis: &mut redis::Connection, size: &str| {
        redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(size).exec(redis).expect("CONFIG SET works");
    };
    maxmemory(&mut redis, "1");
    let refused = store.decide(&question(Believed::Absent), soon()).await;
    assert!(matches!(&refused, Err(StoreError::Refused(text)) if text.contains("OOM")), "{refused:?}");
    assert!(!health.is_up());
    maxmemory(&mut redis, "0");
    assert_eq!(remaining(&outcome(&store, question(Believed::Absent)).await), 58);
    // Its probe comes through.
    let up = async {
        while !health.is_up() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), up).await.expect("it is up again");
}

#[tokio::test]
async fn a_user_with_the_least_rights_can_decide() {
    let server = RedisServer::start();
    let rules = "on >pw resetkeys ~sg:* -@all +auth +select +evalsha +script|load +get +mget +exists +set +setrange +sismember +time";
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg("gate").arg(rules.split(' ').collect::<Vec<_>>());
    acl.exec(&mut server.client()).expect("ACL SETUSER works");
    let login = Settings { username: Some("gate".to_owned()), password: Some(Secret::new("pw")), ..server.settings() };
    let (store, health) = start(login);
    assert_eq!(remaining(&outcome(&store, question(Believed::Absent)).await), 59);
    assert!(health.is_up());
    redis::cmd("ACL")
        .arg("SETUSER")
        .arg("gate")
        .arg("-setrange")
        .exec(&mut server.client())
        .expect("ACL SETUSER works");
    let refused = store.decide(&question(Believed::Absent), soon()).await;
    assert!(matches!(&refused, Err(StoreError::Refused(_))), "{refused:?}");
}
