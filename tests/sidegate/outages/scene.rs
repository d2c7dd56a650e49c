//! A gate whose Redis can fail at will, and clients of every kind that ask meanwhile: what happened is checked, printed, bounded.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::{
    Answer, AnswerTo as _, Gate, Stage,
    faults::Proxy,
    figures::{DEADLINE, Figures},
    load::{Ask, Load, One, Who, every_kind, good},
};

pub const YAML: &str = "
limits: {per-key: {by: key, windows: 100000/1h, algorithm: token-bucket}}
routes:
  /things: {scopes: [things:read], limits: [per-key]}
";

/// No answer takes longer, however busy the machine is.
pub const LONGEST: Duration = DEADLINE.saturating_add(Duration::from_secs(2));
pub const RECOVERED: Duration = Duration::from_secs(5);

/// How long each fault lasts, and how many ask at the same time meanwhile.
pub const FAULT: Duration = Duration::from_millis(1500);
const ASKING: usize = 4;

/// A gate that reaches its Redis through a proxy with moods, and keys of each kind, all of which were seen once.
pub struct Scene {
    pub stage: Stage,
    pub proxy: Proxy,
    pub gate: Gate,
    pub yaml: String,
    pub keys: Vec<Ask>,
    pub good: String,
}

/// A fault, and those who ask from before it until all is well again.
pub struct Fault {
    pub name: &'static str,
    pub load: Load,
    pub began: Instant,
}

impl Scene {
    pub async fn set(store: &str) -> Self {
        Self::with(store, YAML).await
    }

    /// For what fails no request, however busy the machine is.
    pub async fn patient() -> Self {
        Self::set("store: {redis: 'REDIS', deadline: 5s}").await
    }

    /// `REDIS` in the store's section stands for the proxy.
    pub async fn with(store: &str, yaml: &str) -> Self {
        let stage = Stage::set();
        let proxy = Proxy::before(stage.redis.port());
        let store = if store.is_empty() { "store: {redis: 'REDIS'}" } else { store };
        let store = store.replace("REDIS", &format!("redis://127.0.0.1:{}/0", proxy.port));
        let yaml = format!("{store}{yaml}");
        let gate = stage.gate(&yaml);
        let keys = every_kind(&gate, "acme").await;
        let good = good(&keys).key.clone();
        stage.upstream.take();
        Self { stage, proxy, gate, yaml, keys, good }
    }

    pub async fn ask(&self, key: &str) -> Answer {
        self.gate.get("/things").bearer_auth(key).answer().await
    }

    /// Asks while the store is well. With the default deadline a busy machine may need a second try.
    pub async fn answers(&self, key: &str, status: u16) {
        let began = Instant::now();
        while self.ask(key).await.status != status {
            assert!(began.elapsed() < RECOVERED, "a healthy store answers {status}");
        }
    }

    /// Clients with keys of every kind ask from now on; what is done next is the fault.
    pub async fn fault(&self, name: &'static str) -> Fault {
        self.stage.upstream.take();
        let load = Load::of(&self.keys, &self.gate, ASKING);
        load.answered(10 * ASKING).await;
        Fault { name, load, began: Instant::now() }
    }

    /// The fault is over: all works again by itself. Returns what those who asked were answered.
    pub fn recovers(&self, fault: Fault) -> Vec<One> {
        let over = Instant::now();
        let passed = self.passes_again();
        let asked = fault.load.end();
        Figures::of(&asked, fault.began, over).report(fault.name);
        let admitted = asked.iter().filter(|one| one.status == 200).count() + passed;
        assert_eq!(self.stage.upstream.take().len(), admitted, "the upstream sees what was admitted, and nothing else");
        asked
    }

    /// On every worker, not by chance on one. Returns how many were admitted on the way.
    pub fn passes_again(&self) -> usize {
        let began = Instant::now();
        let (mut in_a_row, mut passed) = (0, 0);
        while in_a_row < 20 {
            let answer = self.gate.raw("GET", "/things", &[format!("Authorization: Bearer {}", self.good).as_bytes()]);
            (in_a_row, passed) = if answer.status == 200 { (in_a_row + 1, passed + 1) } else { (0, passed) };
            assert!(began.elapsed() < RECOVERED, "no recovery");
        }
        passed
    }
}

impl Fault {
    /// It lasts, and nobody passes: the good key's requests find no store.
    pub async fn refuses_all(&self) {
        let asked = self.lasts().await;
        let other = asked.iter().find(|one| one.status == 200 || (one.who == Who::Good && one.status != 503));
        assert!(other.is_none(), "{}: {other:?}", self.name);
    }

    /// It lasts, and the good key is refused; a late answer may come to a gate that is late itself, or a whole one before a broken one.
    pub async fn refuses(&self) {
        self.lasts().await;
        self.load.missed().await;
    }

    /// What is asked meanwhile.
    pub async fn lasts(&self) -> Vec<One> {
        let from = Instant::now();
        sleep(FAULT).await;
        self.load.since(from)
    }
}

/// What takes its time and harms nobody.
pub fn fails_no_request(asked: &[One]) {
    let failed: Vec<_> = asked.iter().filter(|one| one.who == Who::Good && one.status != 200).collect();
    assert!(failed.is_empty(), "no request fails: {failed:?}");
}
