//! The shared store: one Redis that all sidecars decide in.
//!
//! `RedisStore` is a worker's: its own connection (`connect`), one script call for each batch of questions (`script`,
//! `scripts/decide.lua`), or one for each slot where there are several (`slots`, `cluster`). Folding and gathering questions is left to who calls `decide`; what to do while Redis is away to
//! `fallback` and the gate. `documents` is the command line's way in.

mod cluster;
mod connect;
mod dial;
pub mod documents;
pub mod script;
mod sentinel;
mod settings;
mod slots;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Cmd, cmd};
use tokio::time::{Instant, timeout_at};

pub use documents::RedisDocuments;
pub use settings::{Address, LoginFiles, Sentinels, Settings, Shape, Tls, UrlError};

use self::cluster::{Cluster, slot_of};
use self::connect::{Connection, Link};
use super::StoreError;
use super::fallback::Fallback;
use super::health::StoreHealth;
use super::layout::Layout;
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Question};

/// A call that had less time than this proves nothing about the connection when it gets no answer.
const PATIENCE: Duration = Duration::from_millis(20);

/// One worker's way to the shared store.
#[derive(Debug, Clone)]
pub struct RedisStore {
    way: Way,
    layout: Layout,
    health: Arc<StoreHealth>,
    /// Keys of several slots must not stand in one call: a cluster, or something before one that does not say so.
    slot_by_slot: Arc<AtomicBool>,
    /// Counts where a slot that holds limits alone is out of reach.
    fallback: Option<Arc<Fallback>>,
}

/// Where a call goes.
#[derive(Debug, Clone)]
enum Way {
    One(Connection),
    Cluster(Cluster),
}

impl RedisStore {
    /// Starts to connect in the background. Must be called within the runtime that will use it.
    pub fn start(settings: Settings, health: Arc<StoreHealth>) -> Self {
        let layout = Layout::new(&settings.prefix);
        let slot_by_slot = Arc::new(AtomicBool::new(matches!(settings.shape, Shape::Cluster(_))));
        let way = match settings.shape {
            Shape::Cluster(_) => Way::Cluster(Cluster::start(settings, health.clone())),
            Shape::Node(_) | Shape::Sentinels(_) => Way::One(Connection::start(settings, health.clone())),
        };
        Self { way, layout, health, slot_by_slot, fallback: None }
    }

    /// The same, with what `outage.limits` says done for single slots of a cluster.
    pub fn with_fallback(self, fallback: Arc<Fallback>) -> Self {
        Self { fallback: Some(fallback), ..self }
    }

    /// Answers the questions, in their order, with one command. At most 32 at a time: a longer script holds up everybody.
    ///
    /// A call without an answer may or may not have spent; it is never sent twice. Once this future has been polled the
    /// call may be on its way, and dropping it leaves what it spends spent.
    pub async fn decide(&self, questions: &[Question], deadline: Instant) -> Result<Vec<Answer>, StoreError> {
        self.decide_each(questions, deadline).await.into_iter().collect()
    }

    /// The same with an answer or an error for each: in a cluster a slot that is out of reach harms its own questions alone.
    pub async fn decide_each(&self, questions: &[Question], deadline: Instant) -> Vec<Result<Answer, StoreError>> {
        if questions.is_empty() {
            return Vec::new();
        }
        if !self.slot_by_slot.load(Ordering::Relaxed) {
            match self.ask_slot(0, questions, deadline).await {
                Ok(answers) => return answers.into_iter().map(Ok).collect(),
                // It did nothing: the keys were looked at before the script ran.
                Err(StoreError::Refused(text)) if text.starts_with("CROSSSLOT") => {
                    tracing::info!("store: it takes keys of one slot at a time, and is asked slot by slot from now on");
                    self.slot_by_slot.store(true, Ordering::Relaxed);
                }
                Err(error) => return questions.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        slots::decide(self, questions, deadline).await
    }

    /// Answers questions that one call may carry; where there is no cluster, the slot does not matter.
    async fn ask_slot(&self, slot: u16, questions: &[Question], deadline: Instant) -> Result<Vec<Answer>, StoreError> {
        let call = script::encode(&self.layout, questions);
        let answer = self.run(slot, script::DECIDE, &call, deadline).await?;
        self.health.answered();
        script::decode(questions, &answer.unwrap_or_default())
    }

    async fn run(
        &self,
        slot: u16,
        script: &'static str,
        call: &script::Call,
        deadline: Instant,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.send(slot, Request::Script(script, call), deadline).await
    }

    async fn send(&self, slot: u16, request: Request<'_>, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        match &self.way {
            Way::One(connection) => send(connection, &self.health, request, false, deadline).await,
            Way::Cluster(cluster) => cluster.send(slot, request, deadline).await,
        }
    }

    /// Whose a key is: what stands at `P:at:<sha256 hex>`.
    pub async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Tenant>, StoreError> {
        let key = self.layout.at(digest);
        let get = cmd("GET").arg(&key).take();
        let found = self.send(slot_of(&key), Request::Plain(&get), deadline).await?;
        let Some(found) = found else { return Ok(None) };
        let tenant = std::str::from_utf8(&found).ok().and_then(Tenant::parse);
        tenant.map(Some).ok_or_else(|| StoreError::Broken(format!("what stands at {digest:?} names no tenant")))
    }
}

/// What one call is.
#[derive(Debug, Clone, Copy)]
enum Request<'a> {
    Script(&'static str, &'a script::Call),
    Plain(&'a Cmd),
}

/// Sends a request over one connection, bounds it by the deadline and draws the conclusions from its failure.
async fn send(
    connection: &Connection,
    health: &StoreHealth,
    request: Request<'_>,
    asking: bool,
    deadline: Instant,
) -> Result<Option<Vec<u8>>, StoreError> {
    let link = connection.link(deadline).await?;
    let patient = deadline.saturating_duration_since(Instant::now()) >= PATIENCE;
    let answer = timeout_at(deadline, evaluate(&link, request, asking)).await.unwrap_or(Err(StoreError::Deadline));
    match &answer {
        Ok(_) | Err(StoreError::Broken(_)) => {}
        Err(StoreError::Refused(text)) if cluster::is_direction(text) => {}
        Err(error) => {
            health.failed();
            if casts_doubt(error, patient) {
                connection.doubt(&link);
            }
        }
    }
    answer
}

async fn evaluate(link: &Link, request: Request<'_>, asking: bool) -> Result<Option<Vec<u8>>, StoreError> {
    let (script, call) = match request {
        Request::Plain(command) => return connect::ask_once(&link.connection, command, asking).await,
        Request::Script(script, call) => (script, call),
    };
    let sha = if script == script::DECIDE { link.sha.clone() } else { connect::known_sha() };
    match connect::ask_once(&link.connection, &evalsha(&sha, call), asking).await {
        // The server has lost its scripts (a restart, SCRIPT FLUSH) and thereby done nothing.
        Err(StoreError::Refused(text)) if text.starts_with("NOSCRIPT") => {
            let sha = connect::load_script(&link.connection, script).await?;
            connect::ask_once(&link.connection, &evalsha(&sha, call), asking).await
        }
        answer => answer,
    }
}

fn evalsha(sha: &str, call: &script::Call) -> Cmd {
    let mut evalsha = cmd("EVALSHA").arg(sha).arg(call.keys.len()).arg(&call.keys).arg(&call.blob).take();
    for text in &call.texts {
        evalsha.arg(text.as_ref());
    }
    evalsha
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
