//! A worker's Redis client: sends the decision script and look-ups to the node that has the keys, over one connection or into a
//! cluster.
//!
//! One call and its failure are left to `call`, a single connection to `connection`, the node of a slot to `cluster`, what goes
//! into a call to `batch`, a question of several slots to `slots`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Cmd, cmd};
use tokio::time::Instant;

use super::call::{self, Command};
use super::cluster::Cluster;
use super::connection::Connection;
use super::hash_slot::slot_of;
use super::probe::{self, ProbeKind};
use super::script::{self, Script};
use super::{Settings, Topology, cluster_check};
use crate::keys::Digest;
use crate::limit::{Answer, Question};
use crate::store::calls::Calls;
use crate::store::fallback::Fallback;
use crate::store::health::StoreHealth;
use crate::store::layout::Layout;
use crate::store::probing::ProbeGuard;
use crate::store::{Shared, StoreError};

/// Any slot: where there is one node it has them all.
const SOME_SLOT: u16 = 0;

#[derive(Debug, Clone)]
pub(super) struct Client {
    connections: Connections,
    layout: Layout,
    shared: Shared,
    /// Keys of several slots must not stand in one call: a cluster, or something before one that does not say so.
    slot_by_slot: Arc<AtomicBool>,
    fallback: Arc<Fallback>,
}

/// Where a call goes.
#[derive(Debug, Clone)]
enum Connections {
    One(Connection),
    Cluster(Cluster),
}

impl Client {
    pub(super) fn start(settings: Settings, shared: Shared, fallback: Arc<Fallback>) -> Self {
        let layout = Layout::new(&settings.prefix);
        let slot_by_slot = Arc::new(AtomicBool::new(matches!(settings.topology, Topology::Cluster(_))));
        let connections = match settings.topology {
            Topology::Cluster(_) => Connections::Cluster(Cluster::start(settings, shared.health.clone())),
            Topology::Node(_) | Topology::Member(_) | Topology::Sentinels(_) => {
                Connections::One(Connection::start(settings, shared.health.clone()))
            }
        };
        Self { connections, layout, shared, slot_by_slot, fallback }
    }

    /// Waits while the connection is being made, at most until `deadline`. In a cluster each call waits for its own.
    pub(super) async fn ready(&self, deadline: Instant) -> Result<(), StoreError> {
        match &self.connections {
            Connections::One(connection) => connection.link(deadline).await.map(drop),
            Connections::Cluster(_) => Ok(()),
        }
    }

    pub(super) fn is_one_node(&self) -> bool {
        matches!(self.connections, Connections::One(_))
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
    pub(super) fn switch_to_slot_by_slot(&self) {
        tracing::info!("store: it takes keys of one slot at a time, and is asked slot by slot from now on");
        self.slot_by_slot.store(true, Ordering::Relaxed);
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.shared.calls
    }

    /// Answers questions with one command, where one node has all the keys.
    pub(super) async fn decide(&self, questions: &[Question], deadline: Instant) -> Result<Vec<Answer>, StoreError> {
        self.decide_in_slot(SOME_SLOT, questions, deadline).await
    }

    /// Answers questions that one call may carry; where there is no cluster, the slot does not matter.
    pub(super) async fn decide_in_slot(
        &self,
        slot: u16,
        questions: &[Question],
        deadline: Instant,
    ) -> Result<Vec<Answer>, StoreError> {
        let call = script::encode(&self.layout, questions);
        let answer = self.run(slot, Script::Decide, &call, deadline).await;
        let answer = answer.inspect_err(|error| self.probe_after(slot, error, || ProbeKind::of(slot, questions)))?;
        script::decode(questions, &answer.unwrap_or_default())
    }

    pub(super) async fn run(
        &self,
        slot: u16,
        script: Script,
        call: &script::Call<'_>,
        deadline: Instant,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.send(slot, Command::Script(script, call), deadline).await
    }

    /// What stands at `P:at:<sha256 hex>`.
    pub(super) async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        let started = Instant::now();
        let key = self.layout.at(digest);
        let slot = slot_of(&key);
        let found = self.get(slot, cmd("GET").arg(&key), deadline).await;
        self.shared.calls.looked_up(&found, started.elapsed());
        found.inspect_err(|error| self.probe_after(slot, error, || ProbeKind::Lookup(key)))
    }

    async fn get(&self, slot: u16, get: &Cmd, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        self.send(slot, Command::Plain(get), deadline).await
    }

    /// The node that health knows calls to this slot by.
    fn node(&self, slot: u16) -> String {
        match &self.connections {
            Connections::One(connection) => connection.node().to_owned(),
            Connections::Cluster(cluster) => cluster.node(slot),
        }
    }

    /// Whether the node is no master any more, and no other took over this slot.
    fn has_left(&self, node: &str, slot: u16) -> bool {
        match &self.connections {
            Connections::One(_) => false,
            Connections::Cluster(cluster) => cluster.has_left(node, slot),
        }
    }

    /// After a failed call: probes the node with a call of the same kind until it is served, or the node has left its cluster. A lost
    /// connection is the supervisor's task, and a cluster's redirects are no failure.
    fn probe_after(&self, slot: u16, error: &StoreError, kind: impl FnOnce() -> ProbeKind) {
        let node = self.node(slot);
        let begin = |error: &StoreError| ProbeGuard::begin(&self.shared.health, &node, error);
        let guard = match error {
            StoreError::Refused(text) if call::is_redirect(text) => {
                // It was a standalone server when it was connected to.
                let is_cluster = self.is_one_node() && text.starts_with("MOVED");
                is_cluster.then(|| begin(&cluster_check::cluster_member_error())).flatten()
            }
            StoreError::Refused(_) | StoreError::Deadline => begin(error),
            StoreError::Unreachable(_) | StoreError::Broken(_) => None,
        };
        if let Some(guard) = guard {
            let probed = Arc::new((self.clone(), kind(), node));
            probe::spawn(guard, move || {
                let probed = probed.clone();
                Box::pin(async move {
                    let (client, kind, node) = &*probed;
                    // A slot without a master is probed as long as the node that refused it serves others: nothing else would
                    // learn soon that it is served again.
                    if client.has_left(node, slot) { Ok(()) } else { client.run_probe(kind).await }
                })
            });
        }
    }

    async fn run_probe(&self, kind: &ProbeKind) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.shared.health.probe_deadline();
        match kind {
            ProbeKind::Lookup(key) => self.get(slot_of(key), cmd("GET").arg(key), deadline).await.map(drop),
            ProbeKind::Read(slot) => self.decide_in_slot(*slot, &[], deadline).await.map(drop),
            ProbeKind::Count { slot, tag } => {
                let question = probe::counting_question(tag);
                // Twice: a count that is there already is changed by another command than the one that begins it.
                self.decide_in_slot(*slot, &question, deadline).await?;
                self.decide_in_slot(*slot, &question, deadline).await.map(drop)
            }
        }
    }

    /// Runs the script without a question.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.shared.health.probe_deadline();
        self.decide(&[], deadline).await.map(drop)
    }

    async fn send(&self, slot: u16, command: Command<'_>, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        match &self.connections {
            Connections::One(connection) => call::send(connection, &self.shared.health, command, false, deadline).await,
            Connections::Cluster(cluster) => cluster.send(slot, command, deadline).await,
        }
    }
}
