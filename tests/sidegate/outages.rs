//! Each way in which Redis can fail, under load: nobody is let in who should not be, answers stay within the deadline, and all
//! works again by itself. What each fault did is printed (`benches/faults` makes a table of it).

mod known;
mod refusing;
mod scene;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::support::{AnswerTo as _, Gate, Port, Stage, faults::Mood, figures::Figures, until};

use self::scene::{FAULT, RECOVERED, Scene, fails_no_request};

#[tokio::test]
async fn a_server_that_is_stopped() {
    let scene = Scene::set("").await;
    let fault = scene.fault("kill -STOP, then -CONT").await;
    scene.stage.redis.signal("STOP");
    fault.refuses_all().await;
    scene.stage.redis.signal("CONT");
    scene.recovers(fault);
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_with_its_file() {
    let mut scene = Scene::set("").await;
    let fault = scene.fault("kill -9, restarted with its file").await;
    scene.stage.redis.stop();
    fault.refuses_all().await;
    scene.stage.redis.restart();
    scene.recovers(fault);
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_empty() {
    let mut scene = Scene::set("").await;
    let fault = scene.fault("kill -9, restarted empty, the good key written again").await;
    scene.stage.redis.kill();
    fault.refuses_all().await;
    scene.stage.redis.restart();
    let began = Instant::now();
    while scene.ask(&scene.good).await.status == 503 {
        assert!(began.elapsed() < RECOVERED);
    }
    for _ in 0..20 {
        assert_eq!(scene.ask(&scene.good).await.status, 401, "what the store does not hold does not pass");
    }
    scene.stage.redis.mint_as(&scene.good, json!({"business": "acme"}));
    scene.recovers(fault);
}

#[tokio::test]
async fn a_server_that_is_down_when_the_gate_starts() {
    let mut scene = Scene::set("").await;
    scene.stage.redis.stop();
    scene.gate = scene.stage.unready_gate(&scene.yaml);
    let fault = scene.fault("down when the gate starts").await;
    fault.refuses_all().await;
    scene.stage.redis.restart();
    scene.recovers(fault);
}

#[tokio::test]
async fn a_server_that_is_paused() {
    let scene = Scene::set("").await;
    let fault = scene.fault("CLIENT PAUSE").await;
    // Writes alone, as each script call may be: a pause of all holds what ends it too.
    scene.stage.redis.ask::<()>(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    fault.refuses_all().await;
    scene.stage.redis.ask::<()>(&["CLIENT", "UNPAUSE"]);
    scene.recovers(fault);
}

#[tokio::test]
async fn a_network_that_swallows_everything() {
    let scene = Scene::set("").await;
    let fault = scene.fault("blackhole").await;
    scene.proxy.mood(Mood::Silent);
    fault.refuses_all().await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers(fault);
}

/// As a Redis is that forks: each answer comes, late, and is nobody else's.
#[tokio::test]
async fn a_server_that_stalls_for_a_moment_keeps_its_connections() {
    let scene = Scene::set("").await;
    let connected = || scene.gate.written().matches("store: connected").count();
    let before = connected();
    for _ in 0..3 {
        // Nobody is let in who should not be, while answers are missed and when they come.
        let fault = scene.fault("a stall of 0.4 s").await;
        scene.proxy.mood(Mood::Silent);
        sleep(Duration::from_millis(400)).await;
        scene.proxy.mood(Mood::Pass);
        scene.recovers(fault);
    }
    assert_eq!(connected(), before, "nobody connects again for a moment's silence");
}

/// Too short to open the breaker; the requests that were refused for it are told of all the same.
#[tokio::test]
async fn a_stall_that_opens_no_breaker_is_told_of_once() {
    let scene = Scene::set("").await;
    for _ in 0..2 {
        scene.proxy.mood(Mood::Silent);
        assert_eq!(scene.ask(&scene.good).await.status, 503);
        scene.proxy.mood(Mood::Pass);
        scene.passes_again();
    }
    let said = scene.gate.said("calls missed their deadline");
    assert!(said.contains("WARN") && said.contains("calls"), "{said}");
    assert_eq!(scene.gate.written().matches("calls missed their deadline").count(), 1);
    assert!(!scene.gate.written().contains("breaker open"));
}

#[tokio::test]
async fn a_server_that_is_gone_without_a_word_is_left_within_the_time_of_a_failover() {
    let scene = Scene::set("").await;
    let fault = scene.fault("gone without a word, new connections pass").await;
    scene.proxy.forget();
    scene.recovers(fault);
}

#[tokio::test]
async fn a_server_that_accepts_and_never_speaks() {
    let scene = Scene::set("").await;
    let fault = scene.fault("accepts and never speaks").await;
    scene.proxy.mood(Mood::Silent);
    scene.proxy.sever();
    fault.refuses_all().await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers(fault);
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
        lines.recv_timeout(Duration::from_secs(20)).expect("the gate connects");
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
    let fault = scene.fault("+200 ms").await;
    // Each way.
    scene.proxy.mood(Mood::Delay(Duration::from_millis(100)));
    fault.refuses().await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers(fault);
}

#[tokio::test]
async fn answers_that_are_cut_in_the_middle() {
    let scene = Scene::set("").await;
    let fault = scene.fault("each answer cut in the middle").await;
    scene.proxy.mood(Mood::Cut);
    fault.refuses().await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers(fault);
}

#[tokio::test]
async fn answers_that_are_garbled() {
    let scene = Scene::set("").await;
    let fault = scene.fault("each answer garbled").await;
    scene.proxy.mood(Mood::Garble);
    fault.refuses().await;
    scene.proxy.mood(Mood::Pass);
    scene.recovers(fault);
}

#[tokio::test]
async fn commands_and_answers_that_arrive_byte_by_byte() {
    let scene = Scene::patient().await;
    let fault = scene.fault("everything byte by byte").await;
    scene.proxy.mood(Mood::Trickle);
    fault.lasts().await;
    scene.proxy.mood(Mood::Pass);
    fails_no_request(&scene.recovers(fault));
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_and_a_master_again() {
    let scene = Scene::set("").await;
    let fault = scene.fault("READONLY, the master is a replica meanwhile").await;
    let nowhere = Port::reserve();
    scene.stage.redis.ask::<()>(&["REPLICAOF", "127.0.0.1", &nowhere.number.to_string()]);
    fault.refuses_all().await;
    scene.stage.redis.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    scene.recovers(fault);
}

/// Nothing is written for these requests, so that no write tells.
#[test]
fn a_master_that_becomes_a_replica_where_nothing_is_counted() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/things: any}");
    let bearer = format!("Authorization: Bearer {}", stage.redis.mint(json!({"business": "acme"})).text);
    let ask = || gate.raw("GET", "/things", &[bearer.as_bytes()]).status;
    until("the key to pass", || (ask() == 200).then_some(()));
    let nowhere = Port::reserve();
    stage.redis.ask::<()>(&["REPLICAOF", "127.0.0.1", &nowhere.number.to_string()]);
    for _ in 0..20 {
        assert_eq!(ask(), 503, "whether the key still stands the new master knows");
    }
    assert_eq!(gate.operators("/readyz").status, 503);
    stage.redis.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    until("the key to pass again", || (ask() == 200).then_some(()));
}

#[tokio::test]
async fn scripts_that_are_flushed_again_and_again() {
    let scene = Scene::patient().await;
    let fault = scene.fault("SCRIPT FLUSH, fifty times").await;
    for _ in 0..50 {
        scene.stage.redis.ask::<()>(&["SCRIPT", "FLUSH"]);
        sleep(FAULT / 50).await;
    }
    fails_no_request(&scene.recovers(fault));
}

#[tokio::test]
async fn the_breaker_is_told_once_and_answers_are_quick_while_it_is_open() {
    let scene = Scene::set("").await;
    assert_eq!(scene.gate.metric("sidegate_store_breaker_open", &[]), 0.0);
    scene.proxy.mood(Mood::Silent);
    let open = |wanted| move |gate: &Gate| (gate.metric("sidegate_store_breaker_open", &[]) == wanted).then_some(());
    while open(1.0)(&scene.gate).is_none() {
        assert_eq!(scene.ask(&scene.good).await.denial(), (503, "store_unavailable".to_owned()));
    }
    let fault = scene.fault("the breaker is open").await;
    fault.refuses_all().await;
    let asked = fault.load.end();
    Figures::bounded(&asked, Duration::from_millis(1), fault.began, Instant::now()).report(fault.name);
    assert_eq!(scene.gate.operators("/readyz").status, 503);
    assert_eq!(scene.gate.metric("sidegate_store_up", &[]), 0.0);
    scene.proxy.mood(Mood::Pass);
    // Without a request: a probe finds out.
    until("the breaker to close", || open(0.0)(&scene.gate));
    scene.passes_again();
    let log = scene.gate.written();
    let told = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    let (opened, closed) = (told("breaker open"), told("breaker closed"));
    assert!((1..=3).contains(&opened) && opened == closed, "once per change: {opened} and {closed}");
}
