//! Clients that ask while something is done to what stands behind the gate, and what they were answered.
//!
//! They have a thread, a runtime and connections of their own, so that nothing which a test does meanwhile delays an answer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use reqwest::RequestBuilder;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use super::{
    AnswerTo as _, Gate, PATIENCE, client,
    redis::{key_text, sha256},
    until,
};

/// Between two requests of a client, so that a fault of a second is not a hundred thousand of them.
const PAUSE: Duration = Duration::from_millis(4);

const PATH: &str = "/things";

/// What is wrong with the key of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Good,
    Revoked,
    Expired,
    /// Without the route's scope.
    Weak,
    /// Its own limit is used up.
    Spent,
    Unknown,
}

#[derive(Debug, Clone)]
pub struct Ask {
    pub who: Who,
    pub key: String,
}

/// One request, and what was answered.
#[derive(Debug, Clone, Copy)]
pub struct One {
    pub who: Who,
    pub status: u16,
    pub asked: Instant,
    pub took: Duration,
}

impl Who {
    /// What the gate answers while the store is well.
    fn status(self) -> u16 {
        match self {
            Self::Good => 200,
            Self::Revoked | Self::Expired | Self::Unknown => 401,
            Self::Weak => 403,
            Self::Spent => 429,
        }
    }
}

impl One {
    pub fn answered(&self) -> Instant {
        self.asked + self.took
    }
}

/// A key of each kind, of this business, each seen once by the gate; every other request is the good one's. The gate's `/things`
/// has the scope `things:read` and a limit `per-key`, which had better be a token bucket: other windows end at midnight.
pub async fn every_kind(gate: &Gate, business: &str) -> Vec<Ask> {
    let past = "2026-03-23T14:30:00Z";
    let kinds = [
        (Who::Good, json!({})),
        (Who::Revoked, json!({"revoked_at": past})),
        (Who::Expired, json!({"expires_at": past})),
        (Who::Weak, json!({"scopes": ["other:read"]})),
        (Who::Spent, json!({"limits": {"per-key": "1/1d"}})),
    ];
    let mut asks = vec![Ask { who: Who::Unknown, key: key_text() }];
    let mut lines = Vec::new();
    for (who, changes) in kinds {
        let key = key_text();
        let mut line = json!({"sha256": sha256(&key), "name": "n", "business": business, "scopes": ["things:read"]});
        super::redis::merge(&mut line, changes);
        lines.push(line);
        asks.push(Ask { who, key });
    }
    gate.keys_import(&lines);
    for Ask { who, key } in &asks {
        let began = Instant::now();
        // With the default deadline a busy machine may need a second try, and who has spent nothing passes once.
        while gate.get(PATH).bearer_auth(key).answer().await.status != who.status() {
            assert!(began.elapsed() < PATIENCE, "{who:?} is not answered {} by a healthy store", who.status());
        }
    }
    let good = good(&asks).clone();
    asks.into_iter().filter(|ask| ask.who != Who::Good).flat_map(|ask| [good.clone(), ask]).collect()
}

pub fn good(asks: &[Ask]) -> &Ask {
    asks.iter().find(|ask| ask.who == Who::Good).expect("there is a good one")
}

/// Clients that ask without end, and what they were answered.
pub struct Load {
    thread: JoinHandle<()>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    answers: Mutex<Vec<One>>,
}

impl Load {
    pub fn start(gate: &Gate, key: &str, clients: usize) -> Self {
        Self::on(PATH, gate, key, clients)
    }

    pub fn on(path: &str, gate: &Gate, key: &str, clients: usize) -> Self {
        Self::asking(path, gate, &[Ask { who: Who::Good, key: key.to_owned() }], clients)
    }

    /// Each client asks these in turn, and no two begin with the same.
    pub fn of(asks: &[Ask], gate: &Gate, clients: usize) -> Self {
        Self::asking(PATH, gate, asks, clients)
    }

    fn asking(path: &str, gate: &Gate, asks: &[Ask], clients: usize) -> Self {
        let state = Arc::new(State::default());
        let (url, asks, shared) = (gate.url(path), asks.to_vec(), state.clone());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                let http = client::http(&[]).build().expect("the client's settings are valid");
                let mut set = JoinSet::new();
                for first in 0..clients {
                    let turns = asks.clone().into_iter().cycle().skip(first);
                    set.spawn(ask_in_turn(http.get(&url), turns, shared.clone()));
                }
                while let Some(ended) = set.join_next().await {
                    ended.expect("a request that fails says why itself");
                }
            });
        });
        Self { thread, state }
    }

    /// How often a good key was answered so.
    pub fn count(&self, status: u16) -> usize {
        self.state.answers().iter().filter(|one| one.who == Who::Good && one.status == status).count()
    }

    /// What was asked from this moment on, and is answered.
    pub fn since(&self, moment: Instant) -> Vec<One> {
        self.state.answers().iter().filter(|one| one.asked >= moment).copied().collect()
    }

    pub async fn passed(&self, count: usize) {
        self.until(&format!("{count} answers 200"), || self.count(200) >= count).await;
    }

    pub async fn refused(&self) {
        self.until("20 answers 429", || self.count(429) >= 20).await;
    }

    /// Until the store has failed one.
    pub async fn missed(&self) {
        self.until("an answer 503", || self.count(503) > 0).await;
    }

    /// Until so many of whatever kind were answered, in whatever way.
    pub async fn answered(&self, count: usize) {
        self.until("any answers", || self.state.answers().len() >= count).await;
    }

    async fn until(&self, what: &str, came: impl Fn() -> bool) {
        let began = Instant::now();
        while !came() {
            assert!(began.elapsed() < PATIENCE, "{what} did not come");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// What is asked is answered first.
    pub fn end(self) -> Vec<One> {
        self.state.ended.store(true, Ordering::Relaxed);
        until("the last answers", || self.thread.is_finished().then_some(()));
        self.thread.join().expect("a request that fails says why itself");
        self.state.answers().clone()
    }
}

impl State {
    fn answers(&self) -> MutexGuard<'_, Vec<One>> {
        self.answers.lock().expect("no client panics")
    }
}

async fn ask_in_turn(request: RequestBuilder, turns: impl Iterator<Item = Ask>, state: Arc<State>) {
    for Ask { who, key } in turns {
        if state.ended.load(Ordering::Relaxed) {
            break;
        }
        let request = request.try_clone().expect("a request without a body can be repeated");
        let asked = Instant::now();
        let status = request.bearer_auth(key).answer().await.status;
        state.answers().push(One { who, status, asked, took: asked.elapsed() });
        sleep(PAUSE).await;
    }
}
