//! A gate whose Redis can fail at will, and clients of every kind that ask meanwhile: what happened is checked, printed, bounded.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Answer, AnswerTo as _, Gate, Key, Stage, faults::Proxy};

pub const YAML: &str = "
limits: {per-key: {by: key, windows: 100000/1h}}
routes:
  /things: {scopes: [things:read], limits: [per-key]}
";

pub const DEADLINE: Duration = Duration::from_millis(100);
/// The median of many answers during a fault; most of them are given at once.
pub const TYPICAL: Duration = DEADLINE.saturating_add(Duration::from_millis(50));
/// No answer takes longer, however busy the machine is.
pub const LONGEST: Duration = DEADLINE.saturating_add(Duration::from_secs(2));
pub const RECOVERED: Duration = Duration::from_secs(5);

/// How long each fault lasts, and how many ask at the same time meanwhile.
pub const FAULT: Duration = Duration::from_millis(1500);
pub const ASKING: usize = 4;

/// How often a fault is looked at on a machine that is too busy for the bounds.
pub const TRIES: u32 = 4;

/// A gate that reaches its Redis through a proxy with moods, and one key of each kind, all of which were seen once.
pub struct Scene {
    pub stage: Stage,
    pub proxy: Proxy,
    pub gate: Gate,
    pub good: Key,
    pub revoked: Key,
    pub weak: Key,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Good,
    Revoked,
    /// Without the route's scope.
    Weak,
    Unknown,
}

#[derive(Debug)]
pub struct One {
    pub who: Who,
    pub status: u16,
    pub took: Duration,
}

impl Scene {
    pub async fn set(store: &str) -> Self {
        Self::with(store, YAML).await
    }

    /// `REDIS` in the store's section stands for the proxy.
    pub async fn with(store: &str, yaml: &str) -> Self {
        let stage = Stage::set();
        let proxy = Proxy::before(stage.redis.port());
        let store = if store.is_empty() { "store: {redis: 'REDIS'}" } else { store };
        let store = store.replace("REDIS", &format!("redis://127.0.0.1:{}/0", proxy.port));
        let gate = stage.gate(&format!("{store}{yaml}"));
        let mint = |scope: &str| stage.redis.mint(json!({"business": "acme", "scopes": [scope]}));
        let [good, revoked, weak] = ["things:read", "things:read", "other:read"].map(mint);
        stage.redis.rewrite(&revoked, json!({"revoked_at": "2026-03-23T14:30:00Z"}));
        let scene = Self { stage, proxy, gate, good, revoked, weak };
        for (key, status) in [(&scene.revoked, 401), (&scene.weak, 403), (&scene.good, 200)] {
            scene.answers(key, status).await;
        }
        scene.stage.upstream.take();
        scene
    }

    pub async fn ask(&self, key: &str) -> Answer {
        self.gate.get("/things").bearer_auth(key).answer().await
    }

    /// Asks while the store is well. With the default deadline a busy machine may need a second try.
    pub async fn answers(&self, key: &Key, status: u16) {
        let began = Instant::now();
        while self.ask(&key.text).await.status != status {
            assert!(began.elapsed() < RECOVERED, "a healthy store answers {status}");
        }
    }

    /// Asks for that long, with every kind of key, and checks that nobody passed who may not.
    pub async fn asked_for(&self, time: Duration) -> Vec<One> {
        self.stage.upstream.take();
        let end = Instant::now() + time;
        let asking = (0..ASKING).map(|offset| {
            let request = self.gate.get("/things");
            let keys = [
                (Who::Good, self.good.text.clone()),
                (Who::Revoked, self.revoked.text.clone()),
                (Who::Weak, self.weak.text.clone()),
                (Who::Unknown, "sg_nobody_has_ever_had_this_key".to_owned()),
            ];
            tokio::spawn(async move {
                let mut asked = Vec::new();
                for index in offset..2500 {
                    if Instant::now() >= end {
                        break;
                    }
                    let (who, key) = &keys[index % keys.len()];
                    let request = request.try_clone().expect("a request without a body can be repeated");
                    let began = Instant::now();
                    let answer = request.bearer_auth(key).answer().await;
                    asked.push(One { who: *who, status: answer.status, took: began.elapsed() });
                    // Bounded, so that a fault of a second is not a hundred thousand requests.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                asked
            })
        });
        let mut asked = Vec::new();
        for one in asking.collect::<Vec<_>>() {
            asked.extend(one.await.expect("a request that fails says why itself"));
        }
        let wrong = asked.iter().filter(|one| one.who != Who::Good && one.status == 200).count();
        assert_eq!(wrong, 0, "wrong admissions");
        let admitted = asked.iter().filter(|one| one.status == 200).count();
        assert_eq!(self.stage.upstream.take().len(), admitted, "the upstream sees what was admitted, and nothing else");
        asked
    }

    /// Asks during a fault: all is refused with this status, or as the last answers before the fault.
    pub async fn endured(&self, fault: &str, status: u16) {
        let is_refused = |asked: &[One]| asked.iter().filter(|one| one.status == status).count() * 10 > asked.len() * 9;
        self.asked_during(fault, is_refused).await;
    }

    /// Asks during a fault, until answers were so, and typically as quick as they are to be; all that was answered. A worker that
    /// gets no processor gives the store more time, as it should: a busy machine has several tries.
    pub async fn asked_during(&self, fault: &str, are_so: impl Fn(&[One]) -> bool) -> Vec<One> {
        let (mut all, mut medians) = (Vec::new(), Vec::new());
        for _ in 0..TRIES {
            let asked = self.asked_for(FAULT).await;
            let (median, are_so) = (typical(fault, &asked), are_so(&asked));
            all.extend(asked);
            medians.push((median, are_so));
            if are_so && median < TYPICAL {
                return all;
            }
        }
        panic!("{fault}: how long answers took, and whether they were as they should be: {medians:?}");
    }

    pub async fn recovers(&self, fault: &str) {
        let began = Instant::now();
        // On every worker, not by chance on one.
        let mut in_a_row = 0;
        while in_a_row < 20 {
            let answer =
                self.gate.raw("GET", "/things", &[format!("Authorization: Bearer {}", self.good.text).as_bytes()]);
            in_a_row = if answer.status == 200 { in_a_row + 1 } else { 0 };
            assert!(began.elapsed() < RECOVERED, "{fault}: no recovery");
        }
        println!("{fault}: recovered in {:?}, twenty answers on all workers included", began.elapsed());
    }
}

/// The median of how long answers took, none of which may take too long; prints what there is to say of them.
fn typical(fault: &str, asked: &[One]) -> Duration {
    let mut took: Vec<_> = asked.iter().map(|one| one.took).collect();
    took.sort_unstable();
    let [median, p99] = [50, 99].map(|part| took[(took.len() * part / 100).min(took.len() - 1)]);
    let longest = took[took.len() - 1];
    let beyond = took.iter().filter(|took| **took > DEADLINE + Duration::from_millis(10)).count();
    println!(
        "{fault}: {} answers, 0 wrong admissions, median {median:?}, p99 {p99:?}, longest {longest:?}, {beyond} beyond the deadline + 10 ms",
        took.len()
    );
    assert!(longest < LONGEST, "{fault}: {longest:?}");
    median
}
