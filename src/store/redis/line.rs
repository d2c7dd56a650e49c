//! A worker's way to the node that has the keys, for the decision script and for look-ups.
//!
//! One call and its failure are `call`'s, a single connection `connect`'s, where a slot lives `cluster`'s. What goes into a call is
//! left to `batch`, a question of several slots to `slots`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Cmd, cmd};
use tokio::time::Instant;

use super::call::{self, Request};
use super::cluster::Cluster;
use super::connect::Connection;
use super::hash_slot::slot_of;
use super::script::{self, Script};
use super::served::{self, Like};
use super::{Settings, Shape, stray};
use crate::keys::Digest;
use crate::limit::{Answer, Question};
use crate::store::calls::Calls;
use crate::store::fallback::Fallback;
use crate::store::health::StoreHealth;
use crate::store::layout::Layout;
use crate::store::probing::Probing;
use crate::store::{Shared, StoreError};

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

    /// Whether keys of several slots must not stand in one call.
    pub(super) fn is_slot_by_slot(&self) -> bool {
        self.slot_by_slot.load(Ordering::Relaxed)
    }

    /// It refused keys of several slots.
    pub(super) fn go_slot_by_slot(&self) {
        tracing::info!("store: it takes keys of one slot at a time, and is asked slot by slot from now on");
        self.slot_by_slot.store(true, Ordering::Relaxed);
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.shared.calls
    }

    /// Answers questions with one command, where one node has all the keys.
    pub(super) async fn ask(&self, questions: &[Question], deadline: Instant) -> Result<Vec<Answer>, StoreError> {
        self.ask_slot(SOME_SLOT, questions, deadline).await
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
        let answer = answer.inspect_err(|error| self.heed(slot, error, || Like::of(slot, questions)))?;
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
        let slot = slot_of(&key);
        let found = self.get(slot, cmd("GET").arg(&key), deadline).await;
        self.shared.calls.looked_up(&found, started.elapsed());
        found.inspect_err(|error| self.heed(slot, error, || Like::Lookup(key)))
    }

    async fn get(&self, slot: u16, get: &Cmd, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        self.send(slot, Request::Plain(get), deadline).await
    }

    /// A hash tag in this slot; where there is one node, any will do.
    fn tag_in(&self, slot: u16) -> String {
        let tags = (0_u32..).map(|number| format!("probe-{number}"));
        let mut fitting = tags.filter(|tag| self.is_one_node() || slot_of(tag) == slot);
        fitting.next().unwrap_or_default()
    }

    /// As whose calls to this slot succeed and fail.
    fn node(&self, slot: u16) -> String {
        match &self.way {
            Way::One(connection) => connection.node().to_owned(),
            Way::Cluster(cluster) => cluster.node(slot),
        }
    }

    /// A call has failed: what refused it is told, and the like of it probed. A lost connection is the supervisor's, and a cluster's
    /// directions are no failure.
    fn heed(&self, slot: u16, error: &StoreError, like: impl FnOnce() -> Like) {
        let begin = |error: &StoreError| Probing::begin(&self.shared.health, &self.node(slot), error);
        let begun = match error {
            StoreError::Refused(text) if call::is_direction(text) => {
                // It was one server when it was connected to.
                let strays = self.is_one_node() && text.starts_with("MOVED");
                strays.then(|| begin(&stray::one_of_a_cluster())).flatten()
            }
            StoreError::Refused(_) | StoreError::Deadline => begin(error),
            StoreError::Unreachable(_) | StoreError::Broken(_) => None,
        };
        if let Some(probing) = begun {
            let (line, like) = (self.clone(), Arc::new(like()));
            served::begin(probing, move || {
                let (line, like) = (line.clone(), like.clone());
                Box::pin(async move { line.ask_like(&like).await })
            });
        }
    }

    async fn ask_like(&self, like: &Like) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.shared.health.probe_deadline();
        match like {
            Like::Lookup(key) => self.get(slot_of(key), cmd("GET").arg(key), deadline).await.map(drop),
            Like::Reading(slot) => self.ask_slot(*slot, &[], deadline).await.map(drop),
            Like::Counting(slot) => {
                let question = served::counted(&self.tag_in(*slot));
                // Twice: a count that is there already is changed by another command than the one that begins it.
                self.ask_slot(*slot, &question, deadline).await?;
                self.ask_slot(*slot, &question, deadline).await.map(drop)
            }
        }
    }

    /// Runs the script without a question.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.shared.health.probe_deadline();
        self.ask(&[], deadline).await.map(drop)
    }

    async fn send(&self, slot: u16, request: Request<'_>, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        match &self.way {
            Way::One(connection) => call::send(connection, &self.shared.health, request, false, deadline).await,
            Way::Cluster(cluster) => cluster.send(slot, request, deadline).await,
        }
    }
}
