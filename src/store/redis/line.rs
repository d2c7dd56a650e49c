//! Calls to Redis: the decision script or a look-up, once, within a deadline, to the node that has the keys.
//!
//! Draws the conclusions from a failure (health, whether the connection is doubtful) and counts the call. What goes into a
//! call is left to `batch`, a single connection to `connect`, where a slot lives to `cluster`, several slots to `slots`.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Cmd, cmd};
use tokio::time::Instant;

use super::cluster::{self, Cluster, slot_of};
use super::connect::{self, Connection, Link};
use super::script::{self, Script};
use super::served::{self, Like};
use super::{Settings, Shape, lateness, slots, stray};
use crate::keys::Digest;
use crate::limit::{Answer, Question};
use crate::store::fallback::Fallback;
use crate::store::health::StoreHealth;
use crate::store::layout::Layout;
use crate::store::refusal::Probing;
use crate::store::{Shared, StoreError};

/// A call that had less time than this proves nothing about the connection when it gets no answer.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often one call loads the script again: a flush may fall between the loading and the call.
const RELOADS: usize = 5;

/// Any slot: where there is one node it has them all.
const SOME_SLOT: u16 = 0;

#[derive(Debug, Clone)]
pub(super) struct Line {
    way: Way,
    layout: Layout,
    shared: Shared,
    /// Keys of several slots must not stand in one call: a cluster, or something before one that does not say so.
    slot_by_slot: Arc<AtomicBool>,
    fallback: Arc<Fallback>,
}

/// Where a call goes.
#[derive(Debug, Clone)]
enum Way {
    One(Connection),
    Cluster(Cluster),
}

/// What one call is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    Script(Script, &'a script::Call),
    Plain(&'a Cmd),
}

impl Line {
    pub(super) fn start(settings: Settings, shared: Shared, fallback: Arc<Fallback>) -> Self {
        let layout = Layout::new(&settings.prefix);
        let slot_by_slot = Arc::new(AtomicBool::new(matches!(settings.shape, Shape::Cluster(_))));
        let way = match settings.shape {
            Shape::Cluster(_) => Way::Cluster(Cluster::start(settings, shared.health.clone())),
            Shape::Node(_) | Shape::Member(_) | Shape::Sentinels(_) => {
                Way::One(Connection::start(settings, shared.health.clone()))
            }
        };
        Self { way, layout, shared, slot_by_slot, fallback }
    }

    /// Waits while the connection is being made, at most until `deadline`. In a cluster each call waits for its own.
    pub(super) async fn ready(&self, deadline: Instant) -> Result<(), StoreError> {
        match &self.way {
            Way::One(connection) => connection.link(deadline).await.map(drop),
            Way::Cluster(_) => Ok(()),
        }
    }

    pub(super) fn is_one_node(&self) -> bool {
        matches!(self.way, Way::One(_))
    }

    pub(super) fn health(&self) -> &Arc<StoreHealth> {
        &self.shared.health
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// Answers the questions of so many requests, each for itself: in a cluster a slot that is out of reach harms those alone
    /// that need it. With one command where one node has all the keys.
    ///
    /// A call without an answer may or may not have spent; it is never sent twice.
    pub(super) async fn call(
        &self,
        questions: &[Question],
        requests: usize,
        started: Instant,
        deadline: Instant,
    ) -> Vec<Result<Answer, StoreError>> {
        if !self.slot_by_slot.load(Ordering::Relaxed) {
            let answers = self.ask_slot(SOME_SLOT, questions, deadline).await;
            self.shared.calls.decided(&answers, requests, started.elapsed());
            match answers {
                Ok(answers) => return answers.into_iter().map(Ok).collect(),
                // It did nothing: the keys were looked at before the script ran.
                Err(StoreError::Refused(text)) if text.starts_with("CROSSSLOT") => {
                    tracing::info!("store: it takes keys of one slot at a time, and is asked slot by slot from now on");
                    self.slot_by_slot.store(true, Ordering::Relaxed);
                }
                Err(error) => return questions.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        let answers = slots::decide(self, questions, deadline).await;
        let whole = answers.iter().cloned().collect();
        self.shared.calls.decided(&whole, requests, started.elapsed());
        answers
    }

    /// Answers questions that one call may carry; where there is no cluster, the slot does not matter.
    pub(super) async fn ask_slot(
        &self,
        slot: u16,
        questions: &[Question],
        deadline: Instant,
    ) -> Result<Vec<Answer>, StoreError> {
        let call = script::encode(&self.layout, questions);
        let answer = self.run(slot, Script::Decide, &call, deadline).await;
        let answer = answer.inspect_err(|error| self.heed(error, || Like::of(slot, questions)))?;
        script::decode(questions, &answer.unwrap_or_default())
    }

    pub(super) async fn run(
        &self,
        slot: u16,
        script: Script,
        call: &script::Call,
        deadline: Instant,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.send(slot, Request::Script(script, call), deadline).await
    }

    /// What stands at `P:at:<sha256 hex>`.
    pub(super) async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        let started = Instant::now();
        let key = self.layout.at(digest);
        let found = self.get(slot_of(&key), cmd("GET").arg(&key), deadline).await;
        self.shared.calls.looked_up(&found, started.elapsed());
        found.inspect_err(|error| self.heed(error, || Like::Lookup(key)))
    }

    pub(super) async fn get(&self, slot: u16, get: &Cmd, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        self.send(slot, Request::Plain(get), deadline).await
    }

    /// A hash tag in this slot; where there is one node, any will do.
    pub(super) fn tag_in(&self, slot: u16) -> String {
        let tags = (0_u32..).map(|number| format!("probe-{number}"));
        let mut fitting = tags.filter(|tag| self.is_one_node() || slot_of(tag) == slot);
        fitting.next().unwrap_or_default()
    }

    /// A call has failed: what refused it is told, and the like of it probed. A lost connection is the supervisor's, and a cluster's
    /// directions are no failure.
    fn heed(&self, error: &StoreError, like: impl FnOnce() -> Like) {
        let begun = match error {
            StoreError::Refused(text) if cluster::is_direction(text) => {
                // It was one server when it was connected to.
                let strays = self.is_one_node() && text.starts_with("MOVED");
                strays.then(|| Probing::begin(&self.shared.health, &stray::one_of_a_cluster())).flatten()
            }
            StoreError::Refused(_) | StoreError::Deadline => Probing::begin(&self.shared.health, error),
            StoreError::Unreachable(_) | StoreError::Broken(_) => None,
        };
        if let Some(probing) = begun {
            served::begin(self.clone(), like(), probing);
        }
    }

    /// Runs the script without a question.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.shared.health.probe_deadline();
        self.ask_slot(SOME_SLOT, &[], deadline).await.map(drop)
    }

    async fn send(&self, slot: u16, request: Request<'_>, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        match &self.way {
            Way::One(connection) => send(connection, &self.shared.health, request, false, deadline).await,
            Way::Cluster(cluster) => cluster.send(slot, request, deadline).await,
        }
    }
}

/// Sends a request over one connection, bounds it by the deadline and draws the conclusions from its failure.
pub(super) async fn send(
    connection: &Connection,
    health: &StoreHealth,
    request: Request<'_>,
    asking: bool,
    deadline: Instant,
) -> Result<Option<Vec<u8>>, StoreError> {
    let link = connection.link(deadline).await?;
    let sent = Instant::now();
    let answer = lateness::until(deadline, evaluate(&link, request, asking)).await.unwrap_or(Err(StoreError::Deadline));
    match &answer {
        Ok(_) if matches!(request, Request::Script(Script::Decide, _)) => health.answered(connection.node()),
        Ok(_) | Err(StoreError::Broken(_)) => {}
        Err(StoreError::Refused(text)) if cluster::is_direction(text) => {}
        Err(error) => {
            health.failed(connection.node());
            if casts_doubt(error, sent.elapsed() >= PATIENCE) {
                connection.doubt(&link);
            }
        }
    }
    answer
}

async fn evaluate(link: &Link, request: Request<'_>, asking: bool) -> Result<Option<Vec<u8>>, StoreError> {
    let (script, call) = match request {
        Request::Plain(command) => return link.pipe.call(asking, |to| command.write_packed_command(to)).await,
        Request::Script(script, call) => (script, call),
    };
    let mut sha = Cow::from(match script {
        Script::Decide => &link.sha,
        Script::GiveBack => connect::known_sha(),
    });
    for _ in 0..RELOADS {
        match link.pipe.call(asking, |to| call.write_evalsha(&sha, to)).await {
            // The server has lost its scripts (a restart, SCRIPT FLUSH) and thereby done nothing.
            Err(StoreError::Refused(text)) if text.starts_with("NOSCRIPT") => {
                sha = connect::load_script(&link.pipe, script).await?.into();
            }
            answer => return answer,
        }
    }
    link.pipe.call(asking, |to| call.write_evalsha(&sha, to)).await
}

/// Whether another connection might do better: it broke, it is silent, its master became a replica, its login ended.
fn casts_doubt(error: &StoreError, patient: bool) -> bool {
    match error {
        StoreError::Unreachable(_) => true,
        StoreError::Deadline => patient,
        StoreError::Refused(text) => {
            ["READONLY", "NOAUTH", "WRONGPASS", "MASTERDOWN"].iter().any(|code| text.contains(code))
        }
        StoreError::Broken(_) => false,
    }
}
