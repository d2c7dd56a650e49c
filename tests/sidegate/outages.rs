//! Each way in which Redis can fail, under load: nobody is let in who should not be, answers stay within the deadline, and all
//! works again by itself. What each fault did is printed (`cargo test outages -- --nocapture`).

mod scene;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Answer, AnswerTo as _, Gate, PATIENCE, Port, Stage, faults::Mood, until};

use self::scene::{FAULT, One, RECOVERED, Scene, TRIES, Who};

#[tokio::test]
async fn a_server_that_is_stopped() {
    let scene = Scene::set("").await;
    scene.stage.redis.signal("STOP");
    scene.endured("kill -STOP", 503).await;
    scene.stage.redis.signal("CONT");
    scene.recovers("kill -STOP").await;
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_empty() {
    let mut scene = Scene::set("").await;
    scene.stage.redis.kill();
    scene.endured("kill -9", 503).await;
    scene.stage.redis.restart();
    let began = Instant::now();
    while scene.ask(&scene.good.text).await.status == 503 {
        assert!(began.elapsed() < RECOVERED);
    }
    println!("restart, empty: recovered in {:?}", began.elapsed());
    for _ in 0..20 {
        assert_eq!(scene.ask(&scene.good.text).await.status, 401, "what the store does not hold does not pass");
    }
    scene.stage.redis.mint_as(&scene.good.text, json!({"business": "acme"}));
    scene.recovers("kill -9").await;
}

#[tokio::test]
async fn a_server_that_is_paused() {
    let scene = Scene::set("").await;
    // Nobody can end it before its time.
    let pause = FAULT * (TRIES + 1);
    let over = Instant::now() + pause;
    scene.stage.redis.ask::<()>(&["CLIENT", "PAUSE", &pause.as_millis().to_string(), "ALL"]);
    scene.endured("CLIENT PAUSE", 503).await;
    tokio::time::sleep_until(over.into()).await;
    scene.recovers("CLIENT PAUSE").await;
}

#[tokio::test]
async fn a_network_that_swallows_everything() {
    let scene = Scene::set("").await;
    scene.proxy.mood(Mood::Silent);
    scene.endured("blackhole", 503).await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers("blackhole").await;
}

/// As a Redis is that forks: each answer comes, late, and is nobody else's.
#[tokio::test]
async fn a_server_that_stalls_for_a_moment_keeps_its_connections() {
    let scene = Scene::set("workers: 2\nstore: {redis: 'REDIS'}").await;
    let connected = || scene.gate.written().matches("store: connected").count();
    until("both workers to be connected", || (connected() == 2).then_some(()));
    for _ in 0..3 {
        scene.proxy.mood(Mood::Silent);
        // Nobody is let in who should not be, while answers are missed and when they come.
        scene.asked_for(Duration::from_millis(400)).await;
        scene.proxy.mood(Mood::Pass);
        scene.asked_for(Duration::from_millis(100)).await;
        scene.recovers("a stall").await;
    }
    assert_eq!(connected(), 2, "nobody connects again for a moment's silence");
}

/// Too short to open the breaker; the requests that were refused for it are told of all the same.
#[tokio::test]
async fn a_stall_that_opens_no_breaker_is_told_of_once() {
    let scene = Scene::set("store: {redis: 'REDIS', deadline: 500ms}").await;
    for _ in 0..2 {
        scene.proxy.mood(Mood::Silent);
        assert_eq!(scene.ask(&scene.good.text).await.status, 503);
        scene.proxy.mood(Mood::Pass);
        scene.recovers("a stall").await;
    }
    let said = scene.gate.said("calls missed their deadline");
    assert!(said.contains("WARN") && said.contains("calls"), "{said}");
    assert_eq!(scene.gate.written().matches("calls missed their deadline").count(), 1);
    assert!(!scene.gate.written().contains("breaker open"));
}

#[tokio::test]
async fn a_server_that_is_gone_without_a_word_is_left_within_the_time_of_a_failover() {
    let scene = Scene::set("").await;
    scene.proxy.forget();
    scene.recovers("gone without a word").await;
}

#[tokio::test]
async fn a_server_that_accepts_and_never_speaks() {
    let scene = Scene::set("").await;
    scene.proxy.mood(Mood::Silent);
    scene.proxy.sever();
    scene.endured("accepted, silent", 503).await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers("accepted, silent").await;
}

/// What a connection is prepared with takes longer than it may: whoever asks then is told, and the worker goes on.
#[tokio::test]
async fn a_server_that_lets_in_and_then_is_silent() {
    let stage = Stage::set();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound listener has an address").port();
    let (tell, lines) = mpsc::channel();
    // Detached: it waits for connections until the test program ends.
    thread::spawn(move || {
        for line in listener.incoming().map_while(Result::ok) {
            let _ = tell.send(());
            thread::spawn(move || let_in(line));
        }
    });
    let gate = stage.unready_gate(&format!(
        "workers: 1\nstore: {{redis: 'redis://127.0.0.1:{port}/0', outage: {{limits: deny}}}}\n\
         limits: {{signup: {{by: ip, windows: 100/1h}}}}\nroutes: {{/signup: {{public: true, limits: [signup]}}}}"
    ));
    // Worker and counting connect; each again when that has failed.
    for _ in 0..4 {
        lines.recv_timeout(PATIENCE).expect("the gate connects");
    }
    for _ in 0..3 {
        let asked = gate.get("/signup").timeout(scene::LONGEST).answer().await;
        assert_eq!(asked.status, 503, "{}", asked.text());
    }
}

/// Answers what a client says of itself, and nothing after that.
fn let_in(mut line: TcpStream) {
    let mut said = [0; 4096];
    while let Ok(read @ 1..) = line.read(&mut said) {
        let said = String::from_utf8_lossy(&said[..read]);
        if said.matches("SETINFO").count() == 0
            || line.write_all("+OK\r\n".repeat(said.matches('*').count()).as_bytes()).is_err()
        {
            break;
        }
    }
    thread::sleep(Duration::from_secs(60));
}

#[tokio::test]
async fn answers_that_take_longer_than_the_deadline() {
    let scene = Scene::set("").await;
    // Both ways, and more than a second besides, which a worker that was late itself gives the store.
    scene.proxy.mood(Mood::Delay(Duration::from_millis(600)));
    scene.endured("+1.2 s", 503).await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers("+1.2 s").await;
}

#[tokio::test]
async fn answers_that_are_cut_in_the_middle() {
    let scene = Scene::set("").await;
    scene.proxy.mood(Mood::Cut);
    scene.endured("cut in the middle", 503).await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers("cut in the middle").await;
}

#[tokio::test]
async fn answers_that_are_garbled() {
    let scene = Scene::set("").await;
    scene.proxy.mood(Mood::Garble);
    scene.endured("garbled", 503).await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers("garbled").await;
}

#[tokio::test]
async fn commands_and_answers_that_arrive_byte_by_byte() {
    let scene = Scene::set("store: {redis: 'REDIS', deadline: 5s}").await;
    scene.proxy.mood(Mood::Trickle);
    nobody_fails(&scene.asked_during("byte by byte", |_| true).await);
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_and_a_master_again() {
    let scene = Scene::set("").await;
    let nowhere = Port::reserve();
    scene.stage.redis.ask::<()>(&["REPLICAOF", "127.0.0.1", &nowhere.number.to_string()]);
    scene.endured("READONLY", 503).await;
    scene.stage.redis.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    scene.recovers("READONLY").await;
}

#[tokio::test]
async fn scripts_that_are_flushed_again_and_again() {
    let scene = Scene::set("store: {redis: 'REDIS', deadline: 5s}").await;
    let flushing = async {
        loop {
            scene.stage.redis.ask::<()>(&["SCRIPT", "FLUSH"]);
            tokio::time::sleep(FAULT / 50).await;
        }
    };
    tokio::select! {
        () = flushing => {}
        asked = scene.asked_during("SCRIPT FLUSH", |_| true) => nobody_fails(&asked),
    }
}

fn nobody_fails(asked: &[One]) {
    let failed: Vec<_> = asked.iter().filter(|one| one.who == Who::Good && one.status != 200).collect();
    assert!(failed.is_empty(), "no request fails: {failed:?}");
}

#[tokio::test]
async fn the_breaker_is_told_once_and_answers_are_quick_while_it_is_open() {
    // So long that no busy machine takes as long by itself.
    const DEADLINE: Duration = Duration::from_secs(1);
    let scene = Scene::set("store: {redis: 'REDIS', deadline: 1s}").await;
    assert_eq!(scene.gate.metric("sidegate_store_breaker_open", &[]), 0.0);
    scene.proxy.mood(Mood::Silent);
    let open = |wanted| move |gate: &Gate| (gate.metric("sidegate_store_breaker_open", &[]) == wanted).then_some(());
    while open(1.0)(&scene.gate).is_none() {
        assert_eq!(scene.ask(&scene.good.text).await.denial(), (503, "store_unavailable".to_owned()));
    }
    let mut took = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        assert_eq!(scene.ask(&scene.good.text).await.status, 503);
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!("breaker open: median {:?}, p99 {:?}, seen by a client of a debug build", took[100], took[198]);
    assert!(took[100] < DEADLINE / 2, "nothing waits for the store: {:?}", took[100]);
    assert_eq!(scene.gate.operators("/readyz").status, 503);
    assert_eq!(scene.gate.metric("sidegate_store_up", &[]), 0.0);
    scene.proxy.mood(Mood::Pass);
    // Without a request: a probe finds out.
    until("the breaker to close", || open(0.0)(&scene.gate));
    scene.recovers("breaker").await;
    let opened = until("each change to be told", || {
        let log = scene.gate.written();
        let told = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        (told("breaker open") == told("breaker closed")).then_some(told("breaker open"))
    });
    assert!((1..=3).contains(&opened), "once per change: {opened}");
}

const KNOWN: &str = "store: {redis: 'REDIS', outage: {keys: {known_for: 5m}, limits: LIMITS}}";

#[tokio::test]
async fn known_keys_pass_an_outage_and_nobody_else_does() {
    let scene = Scene::set(&KNOWN.replace("LIMITS", "local")).await;
    let redis = &scene.stage.redis;
    let [revoked_meanwhile, deleted, expiring, suspended, never_seen] =
        ["acme", "acme", "acme", "suspended", "acme"].map(|business| redis.mint(json!({"business": business})));
    let end_ms = redis.now_ms() / 1000 * 1000 + 6000;
    redis.rewrite(&expiring, json!({"expires_at": sidegate::clock::rfc3339(end_ms)}));
    for key in [&revoked_meanwhile, &deleted, &expiring, &suspended] {
        scene.answers(key, 200).await;
    }
    redis.rewrite(&revoked_meanwhile, json!({"revoked_at": "2026-03-23T14:30:00Z"}));
    redis.delete(&deleted.document());
    redis.set_business("suspended", json!({"status": "suspended"}));
    for (key, status) in [(&revoked_meanwhile, 401), (&deleted, 401), (&suspended, 403)] {
        scene.answers(key, status).await;
    }
    redis.wait_until(end_ms);

    scene.proxy.mood(Mood::Silent);
    let good = |asked: &[One]| asked.iter().filter(|one| one.who == Who::Good).count();
    let asked = scene.asked_during("known_for", |asked| good(asked) > 10).await;
    assert!(asked.iter().all(|one| one.who != Who::Good || one.status == 200), "known keys pass");
    for (key, statuses) in [
        (&revoked_meanwhile, &[503][..]),
        (&deleted, &[503]),
        (&expiring, &[401, 503]),
        (&suspended, &[403]),
        (&never_seen, &[503]),
    ] {
        let status = scene.ask(&key.text).await.status;
        assert!(statuses.contains(&status), "{status} is not among {statuses:?}");
    }
    let logged = scene.gate.logged(r#""sidegate.decision":"allowed","sidegate.basis":"known_for""#);
    assert_eq!(logged["sidegate.business"], "acme");

    scene.proxy.mood(Mood::Pass);
    scene.recovers("known_for").await;
}

#[tokio::test]
async fn unscoped_keys_reach_what_was_confirmed_for_them_during_an_outage() {
    let store = "store: {redis: 'REDIS', deadline: 2s, outage: {keys: {known_for: 5m}}}";
    let scene = Scene::set(&format!("{store}\nbusiness: {{from: [{{query: business}}]}}")).await;
    let redis = &scene.stage.redis;
    let key = redis.mint(json!({"business": null, "user": "u_42"}));
    ["mine", "lost", "unconfirmed"].iter().for_each(|business| redis.own("u_42", business));
    let ask = async |business: &str| {
        scene.gate.get(&format!("/things?business={business}")).bearer_auth(&key.text).answer().await.status
    };
    assert_eq!((ask("mine").await, ask("lost").await, ask("theirs").await), (200, 200, 403));
    redis.ask::<()>(&["SREM", "sg:{u:u_42}:businesses", "lost"]);
    assert_eq!(ask("lost").await, 403);
    scene.proxy.mood(Mood::Silent);
    assert_eq!(ask("mine").await, 200);
    for business in ["lost", "theirs", "unconfirmed"] {
        assert_eq!(ask(business).await, 503, "{business}");
    }
}

#[tokio::test]
async fn keys_are_known_no_longer_than_configured() {
    let scene = Scene::set("store: {redis: 'REDIS', outage: {keys: {known_for: 5s}}}").await;
    scene.answers(&scene.good, 200).await;
    scene.proxy.mood(Mood::Silent);
    let began = Instant::now();
    assert_eq!(scene.ask(&scene.good.text).await.status, 200);
    while scene.ask(&scene.good.text).await.status == 200 {
        assert!(began.elapsed() < RECOVERED * 2, "it is known for ever");
    }
    assert_eq!(scene.ask(&scene.good.text).await.denial(), (503, "store_unavailable".to_owned()));
}

#[tokio::test]
async fn limits_during_an_outage_are_what_the_configuration_says() {
    let yaml = "
limits: {per-key: {by: key, windows: 8/1d}}
routes:
  /things: {scopes: [things:read], limits: [per-key]}
";
    for (limits, passing, remaining, after) in [
        ("local", 8, Some(7), 429),
        ("{local: {share: 1/4}}", 2, Some(1), 429),
        ("allow", 12, None, 200),
        ("deny", 0, None, 503),
    ] {
        let scene = Scene::with(&KNOWN.replace("LIMITS", limits), yaml).await;
        scene.stage.redis.room(86_400_000, 30_000);
        scene.proxy.mood(Mood::Silent);
        for count in 0..12 {
            let answer = scene.ask(&scene.good.text).await;
            assert_eq!(answer.status, if count < passing { 200 } else { after }, "{limits}, the {count}th");
            if count == 0 {
                let told = answer.header("x-ratelimit-remaining").map(|text| text.parse::<u64>().expect("a number"));
                assert_eq!(told, remaining, "{limits}");
            }
            if answer.status == 429 {
                assert!(answer.number("retry-after") >= 1);
            }
        }
    }
}

/// A share that is smaller than what one request costs lets one pass, and headers say what holds meanwhile.
#[tokio::test]
async fn a_share_has_room_for_one_request_and_headers_say_the_limit_in_force() {
    let yaml = "
limits: {per-key: {by: key, windows: 10/1d}}
routes:
  /things: {scopes: [things:read], limits: [per-key], cost: 5}
rate_limit_headers: {x: true, ietf: true}
";
    let scene = Scene::with(&KNOWN.replace("LIMITS", "{local: {share: 1/4}}"), yaml).await;
    scene.stage.redis.room(86_400_000, 30_000);
    scene.proxy.mood(Mood::Silent);
    let told = |answer: &Answer| ["limit", "remaining"].map(|part| answer.number(&format!("x-ratelimit-{part}")));
    let first = scene.ask(&scene.good.text).await;
    assert_eq!((first.status, told(&first)), (200, [5, 0]));
    assert!(first.header("ratelimit-policy").is_some_and(|policy| policy.contains("q=5")), "{:?}", first.headers);
    let second = scene.ask(&scene.good.text).await;
    assert_eq!((second.status, told(&second)), (429, [5, 0]));
    assert!(second.number("retry-after") >= 1, "it says when");
}
