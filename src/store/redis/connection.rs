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
use super::pipeline::{Driver, Pipeline};
use super::round_trip;
use super::script::{self, Script};
use super::sentinel::{self, SentinelClient};
use super::settings::{Address, Settings, Topology};
use super::worker_lag;
use crate::store::layout::Layout;
use crate::store::{StoreError, refusal};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// How long a connection that owes a reply may send nothing at all. Longer than most forks and slow scripts hold a Redis up, and
/// short enough that a server that went away silently is replaced well within the 5 s that a failover may take.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// How often such a connection is checked for new bytes.
const STALL_CHECK_EVERY: Duration = Duration::from_millis(50);

/// How long a connection may be without a reply before the server is asked for the time: otherwise an idle gate would notice a
/// server that hangs only at its next request.
const IDLE: Duration = Duration::from_secs(5);
/// How long that answer may take before the connection counts as one that owes a reply.
const LATE: Duration = Duration::from_secs(1);

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

/// Asks the server for the time whenever the connection has been idle for a while, and returns when no answer comes. Any answer
/// counts, an error too: the login may lack the command.
async fn idle_and_silent(pipeline: &Pipeline) {
    let mut reads = pipeline.reads();
    loop {
        sleep(IDLE + jitter(IDLE)).await;
        let before = std::mem::replace(&mut reads, pipeline.reads());
        if reads != before {
            continue;
        }
        let time = cmd("TIME");
        if timeout(LATE, pipeline.query::<Value>(&time)).await.is_err() {
            return;
        }
        reads = pipeline.reads();
    }
}

/// Finds a connection that is dead: how much it had read when a deadline was missed (`Driver::read_progress`), and when that was.
#[derive(Debug, Default)]
struct StallDetector(Option<(u32, Instant)>);

/// What is known of a connection since a deadline was missed.
#[derive(Debug, PartialEq, Eq)]
enum Liveness {
    Unknown,
    Alive,
    Stalled,
}

impl StallDetector {
    /// A reply did not come in time; where one is still owed, `progress` shows whether anything was read in between.
    fn deadline_missed(&mut self, progress: Option<u32>, now: Instant) -> Liveness {
        if self.0.map(|(seen, _)| seen) != progress {
            self.0 = progress.map(|seen| (seen, now));
        }
        if self.0.is_none() { Liveness::Alive } else { Liveness::Unknown }
    }

    /// When to check whether anything was read.
    async fn next_check(&self) {
        match self.0 {
            Some(_) => sleep(STALL_CHECK_EVERY).await,
            None => std::future::pending().await,
        }
    }

    /// Once something was read, the next missed deadline counts anew.
    fn check(&mut self, progress: Option<u32>, now: Instant) -> Liveness {
        match self.0 {
            Some((seen, since)) if progress == Some(seen) && now.saturating_duration_since(since) < STALLED_AFTER => {
                Liveness::Unknown
            }
            Some((seen, _)) if progress == Some(seen) => Liveness::Stalled,
            Some(_) | None => {
                self.0 = None;
                Liveness::Alive
            }
        }
    }
}

/// How long to wait before the next attempt: any part of `most`, so that workers that lost a connection at the same moment do not
/// reconnect at the same moment.
pub(super) fn jitter(most: Duration) -> Duration {
    // Without randomness, half.
    let drawn = getrandom::u32().unwrap_or(u32::MAX / 2);
    most.mul_f64(f64::from(drawn) / f64::from(u32::MAX))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_given_up_when_it_owes_an_answer_and_says_nothing() {
        let now = Instant::now();
        let mut stall = StallDetector::default();
        assert_eq!(stall.deadline_missed(None, now), Liveness::Alive, "the answer has come meanwhile");
        assert_eq!(stall.deadline_missed(Some(7), now), Liveness::Unknown);
        assert_eq!(stall.deadline_missed(Some(7), now + STALLED_AFTER / 2), Liveness::Unknown);
        assert_eq!(stall.check(Some(7), now + STALLED_AFTER / 2), Liveness::Unknown);
        assert_eq!(stall.check(Some(7), now + STALLED_AFTER), Liveness::Stalled, "since the first");
    }

    #[test]
    fn whatever_is_said_in_between_begins_the_wait_anew() {
        let (now, later) = (Instant::now(), Instant::now() + STALLED_AFTER / 2);
        let mut stall = StallDetector::default();
        stall.deadline_missed(Some(7), now);
        assert_eq!(stall.deadline_missed(Some(8), later), Liveness::Unknown);
        assert_eq!(stall.check(Some(8), now + STALLED_AFTER), Liveness::Unknown);
        for progress in [Some(9), None] {
            stall.deadline_missed(Some(8), later);
            assert_eq!(stall.check(progress, later + STALLED_AFTER), Liveness::Alive);
            assert_eq!(stall.0, None);
        }
    }

    #[test]
    fn delays_differ_and_are_never_longer_than_the_most() {
        let delays: Vec<_> = (0..100).map(|_| jitter(FIRST_BACKOFF)).collect();
        assert!(delays.iter().all(|delay| *delay <= FIRST_BACKOFF));
        assert!(delays.iter().max() > delays.iter().min());
    }
}
