//! A worker's connection to Redis and its supervisor, which connects ahead of need, reconnects after a loss, and backs off.
//!
//! The connection itself (`pipeline`) knows nothing of replies that stopped, or of a master that became a replica; so calls
//! report such faults here, and the supervisor, which also drives the connection's I/O, replaces it. A late reply is no reason: a
//! Redis that forks is silent for a moment, and every worker of every sidecar would log in again just then. It is read when it
//! comes, and dropped (`pipeline`); only a connection that stays silent is given up. The supervisor is an ordinary tokio task
//! (`tokio::spawn`, since all of it is `Send`), which a current-thread runtime runs on its own thread, with or without a
//! `LocalSet`. Dropping the last `Connection` ends the task and closes the socket.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::{Value, cmd};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::StoreHealth;
use super::cluster_check;
use super::dial::dial_pipeline;
use super::jitter::jitter;
use super::pipeline::{Driver, Pipeline};
use super::round_trip;
use super::script::{self, Script};
use super::sentinel::{self, SentinelClient};
use super::settings::{Address, Settings, Topology};
use super::stall::{Liveness, StallDetector, idle_and_silent};
use super::worker_lag;
use crate::store::layout::Layout;
use crate::store::{StoreError, refusal};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// After the loss of a connection that lasted this long, requests wait for the next one. After one that did not, they fail at
/// once until there is a better one.
const STABLE_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Connection {
    state: watch::Receiver<State>,
    faults: mpsc::UnboundedSender<(u64, Fault)>,
    node: Arc<str>,
}

/// What a call reports of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No reply came in time; one may still come.
    Timeout,
    /// Only another connection can do better.
    Unusable,
}

#[derive(Debug, Clone)]
enum State {
    /// The first attempt, or the first after a loss: worth waiting for.
    Connecting,
    Up(Arc<Link>),
    Down(StoreError),
}

/// A connection that has answered the decision script.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) pipeline: Pipeline,
    /// What SCRIPT LOAD returned.
    pub(super) sha: String,
    /// Which of the supervisor's connections this is, so that a late report does not hit its successor.
    generation: u64,
}

impl Connection {
    /// Starts to connect in the background. Must be called within a tokio runtime.
    pub(super) fn start(settings: Settings, health: Arc<StoreHealth>) -> Self {
        let (publisher, state) = watch::channel(State::Connecting);
        let (faults, reported) = mpsc::unbounded_channel();
        let sentinels = SentinelClient::of(&settings);
        let target = settings.topology.to_string();
        let node: Arc<str> = target.as_str().into();
        let supervisor =
            Supervisor { settings, target, node: node.clone(), sentinels, health, publisher, reported, generation: 0 };
        tokio::spawn(supervisor.run());
        Self { state, faults, node }
    }

    /// The node that health knows its calls by.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// The connection as it stands; while it is being made, waits for it until `deadline`.
    pub(super) async fn link(&self, deadline: Instant) -> Result<Arc<Link>, StoreError> {
        if let Some(settled) = settled(&self.state.borrow()) {
            return settled;
        }
        let mut state = self.state.clone();
        let settled_state =
            async { state.wait_for(|state| !matches!(state, State::Connecting)).await.map(|state| settled(&state)) };
        match worker_lag::until(deadline, settled_state).await {
            Some(Ok(settled)) => settled.unwrap_or(Err(StoreError::Deadline)),
            Some(Err(_)) => Err(StoreError::Unreachable("the connection's supervisor has ended".to_owned())),
            None => Err(StoreError::Deadline),
        }
    }

    /// Lets the supervisor replace this link's connection, at once or if it stays silent, unless it already has.
    pub(super) fn report(&self, link: &Link, fault: Fault) {
        // A supervisor that is gone has closed the connection already.
        let _ = self.faults.send((link.generation, fault));
    }
}

fn settled(state: &State) -> Option<Result<Arc<Link>, StoreError>> {
    match state {
        State::Connecting => None,
        State::Up(link) => Some(Ok(link.clone())),
        State::Down(error) => Some(Err(error.clone())),
    }
}

struct Supervisor {
    settings: Settings,
    /// Where it is connected to, or last was: for the log.
    target: String,
    /// Stays the same whichever master the sentinels name.
    node: Arc<str>,
    sentinels: Option<SentinelClient>,
    health: Arc<StoreHealth>,
    publisher: watch::Sender<State>,
    reported: mpsc::UnboundedReceiver<(u64, Fault)>,
    generation: u64,
}

impl Supervisor {
    /// Until the last `Connection` is dropped.
    async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        while !self.publisher.is_closed() {
            self.generation += 1;
            // One that ended soon waits out its backoff: otherwise two workers would wake each other for ever.
            let mut ended_soon = false;
            match self.connect().await {
                Ok((link, driver, address)) => {
                    let since = Instant::now();
                    let pipeline = link.pipeline.clone();
                    self.announce_up(Arc::new(link), &address);
                    let Some(why) = self.watch(driver, &pipeline, &address).await else { return };
                    if since.elapsed() >= STABLE_AFTER {
                        self.announce_lost(&why);
                        backoff = FIRST_BACKOFF;
                    } else {
                        self.announce_down(why);
                        ended_soon = true;
                    }
                }
                Err(error) => self.announce_down(error),
            }
            tokio::select! {
                () = sleep(jitter(backoff)) => backoff = (backoff * 2).min(LONGEST_BACKOFF),
                // Another worker has connected: this attempt is worth waiting for.
                () = self.health.reconnected(), if !ended_soon => drop(self.publisher.send_replace(State::Connecting)),
                () = self.publisher.closed() => return,
            }
        }
    }

    async fn connect(&mut self) -> Result<(Link, Driver, Address), StoreError> {
        let address = locate_master(&self.settings.topology, self.sentinels.as_mut()).await?;
        let (pipeline, driver, Prepared { sha, eviction, round_trip }) = prepare(&self.settings, &address).await?;
        if let Some(warning) = round_trip::warning(round_trip, self.health.probe_deadline())
            && self.is_news("far away")
        {
            tracing::warn!(redis = %address, "store: {warning}");
        }
        if self.health.evicts(&address.to_string(), eviction.is_some())
            && let Some(policy) = eviction
        {
            tracing::warn!(redis = %address, policy, "store: {MAY_EVICT}");
        }
        Ok((Link { pipeline, sha, generation: self.generation }, driver, address))
    }

    /// Why the connection has to be replaced; `None` when nobody needs it any more.
    async fn watch(&mut self, mut driver: Driver, pipeline: &Pipeline, address: &Address) -> Option<StoreError> {
        let Self { publisher, reported, generation, sentinels, health, node, .. } = self;
        let stalls = health.stalls();
        let unreachable = |why: &str| Some(StoreError::Unreachable(why.to_owned()));
        let mut moved = pin!(master_changed(sentinels.as_mut(), address));
        let mut stall = StallDetector::default();
        let mut idle = pin!(idle_and_silent(pipeline));
        loop {
            tokio::select! {
                () = &mut idle => {
                    stall.deadline_missed(driver.read_progress(), Instant::now());
                    idle.set(idle_and_silent(pipeline));
                }
                why = driver.ended() => return Some(why).filter(|_| !publisher.is_closed()),
                fault = reported.recv() => match fault {
                    Some((of, Fault::Unusable)) if of == *generation => {
                        return unreachable("it gave an answer that only another connection can mend");
                    }
                    Some((of, Fault::Timeout)) if of == *generation => {
                        if health.stalls() != stalls {
                            return unreachable("it gave no answer in time, and another had been silent for too long");
                        }
                        if stall.deadline_missed(driver.read_progress(), Instant::now()) == Liveness::Alive {
                            health.answered(node);
                        }
                    }
                    Some(_) => {}
                    None => return None,
                },
                () = stall.next_check() => match stall.check(driver.read_progress(), Instant::now()) {
                    Liveness::Unknown => {}
                    // Set here, since there may be no call before it is up again.
                    Liveness::Alive => health.answered(node),
                    Liveness::Stalled => {
                        // The other workers need not find that out each for itself.
                        health.stalled();
                        return unreachable("it was silent for too long");
                    }
                },
                () = &mut moved => return unreachable("the sentinels name another master"),
            }
        }
    }

    fn announce_up(&mut self, link: Arc<Link>, address: &Address) {
        self.target = address.to_string();
        tracing::info!(redis = %self.target, "store: connected");
        self.publisher.send_replace(State::Up(link));
        // Last, so that a probe that waits for this uses this connection.
        self.health.connected(&self.node);
    }

    fn announce_lost(&self, why: &StoreError) {
        self.failed();
        if self.is_news("connection lost") {
            tracing::warn!(redis = %self.target, %why, "store: connection lost, connecting again");
        }
        self.publisher.send_replace(State::Connecting);
    }

    /// A node that left the cluster is of no interest any more.
    fn failed(&self) {
        if !self.publisher.is_closed() {
            self.health.failed(&self.node);
        }
    }

    /// Logged when the reason changes, not at every attempt.
    fn announce_down(&self, error: StoreError) {
        if !self.publisher.is_closed() {
            self.health.not_connected(&self.node, &error);
        }
        let news = !matches!(&*self.publisher.borrow(), State::Down(known) if *known == error);
        if news {
            if self.is_news(&error.to_string()) {
                match &error {
                    StoreError::Refused(text) => {
                        let advice = refusal::advice(text);
                        tracing::warn!(redis = %self.target, error = text, advice, "store: it refuses the connection");
                    }
                    _ => tracing::warn!(redis = %self.target, %error, "store: out of reach"),
                }
            }
            self.publisher.send_replace(State::Down(error));
        }
    }

    /// Whether no worker has logged this of the target within a minute.
    fn is_news(&self, what: &str) -> bool {
        self.health.log.is_news(&format!("{}: {what}", self.target), Instant::now().into_std())
    }
}

/// What a connection has learned before it decides.
pub(super) struct Prepared {
    /// The decision script's.
    sha: String,
    /// The policy by which the node evicts; `None`: it does not, or the user may not ask.
    pub(super) eviction: Option<String>,
    /// The shortest of those that were made: a server may take its time for once.
    pub(super) round_trip: Duration,
}

/// Connects and runs the script once, without a question, so that what readiness says is true of decisions.
pub(super) async fn prepare(
    settings: &Settings,
    address: &Address,
) -> Result<(Pipeline, Driver, Prepared), StoreError> {
    let (pipeline, mut driver) = dial_pipeline(settings, address).await?;
    let prepared = async {
        let (pipeline, role) = (&pipeline, cmd("ROLE"));
        let standalone = async {
            let query = |command| async move { pipeline.query(&command).await };
            if settings.topology.is_standalone() {
                cluster_check::refuse_cluster_member(&settings.prefix, query).await
            } else {
                Ok(())
            }
        };
        // Together: a round trip may be a large part of the time that there is.
        let (role, standalone) = tokio::join!(pipeline.query(&role), standalone);
        standalone?;
        master_only(role)?;
        let began = Instant::now();
        let sha = load_script(pipeline, Script::Decide).await?;
        let loaded = Instant::now();
        try_script(pipeline, &sha).await?;
        let tried = Instant::now();
        let eviction = eviction(pipeline).await;
        let round_trip = (loaded - began).min(tried - loaded).min(tried.elapsed());
        Ok(Prepared { sha, eviction, round_trip })
    };
    let prepared = {
        let mut prepared = pin!(timeout(settings.connect_timeout, prepared));
        tokio::select! {
            prepared = &mut prepared => prepared,
            // By then everything that was asked is answered, perhaps with why the server closed the connection.
            ended = driver.ended() => match prepared.await {
                Ok(Ok(_)) => Ok(Err(ended)),
                refused => refused,
            },
        }
    };
    // No request's deadline: whoever waits for this connection is to be told that there is none.
    let late = || StoreError::Unreachable(format!("no answer within {:?}", settings.connect_timeout));
    Ok((pipeline, driver, prepared.unwrap_or_else(|_| Err(late()))?))
}

/// What a node that evicts means.
pub(super) const MAY_EVICT: &str =
    "maxmemory-policy is not noeviction, so that keys, revocations and counts may vanish";

/// A store that evicts forgets counts, keys and revocations. A user that may not ask is not warned.
async fn eviction(pipeline: &Pipeline) -> Option<String> {
    let info = pipeline.query::<String>(cmd("INFO").arg("memory")).await.ok()?;
    let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
    policy.filter(|policy| *policy != "noeviction").map(str::to_owned)
}

/// Where the master is, as far as anybody knows.
pub(super) async fn locate_master(
    topology: &Topology,
    sentinels: Option<&mut SentinelClient>,
) -> Result<Address, StoreError> {
    match (topology, sentinels) {
        (_, Some(sentinels)) => sentinels.master().await,
        (topology, None) => {
            let first = topology.addresses().first().cloned();
            first.ok_or_else(|| StoreError::Unreachable("no address is configured".to_owned()))
        }
    }
}

/// Returns when the sentinels name another master than `address`. While none of them answers, what works is kept.
async fn master_changed(sentinels: Option<&mut SentinelClient>, address: &Address) {
    let Some(sentinels) = sentinels else { return std::future::pending().await };
    loop {
        sleep(sentinel::EVERY).await;
        if sentinels.master().await.is_ok_and(|master| master != *address) {
            return;
        }
    }
}

/// A replica answers with what was true, and a revocation must act at once: only a master decides. Takes ROLE's answer.
pub(super) fn master_only(role: Result<Vec<Value>, StoreError>) -> Result<(), StoreError> {
    match role {
        Ok(role) => match role.first() {
            Some(Value::BulkString(role)) if role != b"master" => {
                Err(StoreError::Refused("READONLY this is a replica, which may not decide".to_owned()))
            }
            _ => Ok(()),
        },
        // A user without the right to ask: writes will tell. LOADING and the like come back with the next command. Before a
        // login nothing else is worth asking: what is longer than a login breaks the connection then, and that hides the reason.
        Err(StoreError::Refused(text)) if !text.starts_with("NOAUTH") => Ok(()),
        Err(error) => Err(error),
    }
}

/// What SCRIPT LOAD once said of the script that gives back: a connection that works need not ask again.
static GIVE_BACK_SHA: OnceLock<String> = OnceLock::new();

/// Before it was loaded for the first time, one that no server knows.
pub(super) fn give_back_sha() -> &'static str {
    GIVE_BACK_SHA.get().map_or("0000000000000000000000000000000000000000", String::as_str)
}

pub(super) async fn load_script(pipeline: &Pipeline, script: Script) -> Result<String, StoreError> {
    let sha: String = pipeline.query(cmd("SCRIPT").arg("LOAD").arg(script.text())).await?;
    if script == Script::GiveBack {
        GIVE_BACK_SHA.get_or_init(|| sha.clone());
    }
    Ok(sha)
}

async fn try_script(pipeline: &Pipeline, sha: &str) -> Result<(), StoreError> {
    let nothing = script::encode(&Layout::new(""), &[]);
    let answer: Vec<u8> = pipeline.call(false, |commands| nothing.write_evalsha(sha, commands)).await?;
    script::decode(&[], &answer).map(drop)
}
