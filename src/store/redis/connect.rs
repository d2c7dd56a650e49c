//! A worker's connection to Redis and the supervisor that keeps it: connects ahead of need, again after a loss, and backs off.
//!
//! The connection itself (`pipe`) knows nothing of answers that stopped, or of a master that became a replica; so whatever makes
//! it doubtful is reported here, and the supervisor, which also moves its bytes, replaces it. An answer that is late is no reason:
//! a Redis that forks is silent for a moment, and every worker of every sidecar would log in again just then. It is read when it
//! comes, and dropped (`pipe`); only a connection that stays silent is given up. It is an ordinary tokio task
//! (`tokio::spawn`, since all of it is `Send`), which a current-thread runtime runs on its own thread, with or without a
//! `LocalSet`. Dropping the last `Connection` ends the task and closes the socket.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::{Value, cmd};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::StoreHealth;
use super::dial::dial_pipe;
use super::distance;
use super::lateness;
use super::pipe::{Driver, Pipe};
use super::script::{self, Script};
use super::sentinel::{self, Watchers};
use super::settings::{Address, Settings, Shape};
use super::stray;
use crate::store::layout::Layout;
use crate::store::{StoreError, refusal};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// How long a connection that owes an answer may say nothing at all. Longer than most forks and slow scripts hold a Redis up, and
/// short enough that a server that went without a word is replaced well within the 5 s that a failover may take.
const SILENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether such a connection has spoken again.
const LISTEN: Duration = Duration::from_millis(50);

/// A connection that lasted this long was good: its loss is made up for soon, while requests wait. One that did not is
/// not worth waiting for: requests fail at once until there is a better one.
const PROVEN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(super) struct Connection {
    state: watch::Receiver<State>,
    doubts: mpsc::UnboundedSender<(u64, Doubt)>,
    node: Arc<str>,
}

/// What a call says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// No answer came in time; one may be on its way.
    Late,
    /// Only another connection can do better.
    Useless,
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
    pub(super) pipe: Pipe,
    /// What SCRIPT LOAD returned.
    pub(super) sha: String,
    /// Which of the supervisor's connections this is, so that a late doubt does not hit its successor.
    generation: u64,
}

impl Connection {
    /// Starts to connect in the background. Must be called within a tokio runtime.
    pub(super) fn start(settings: Settings, health: Arc<StoreHealth>) -> Self {
        let (tell, state) = watch::channel(State::Connecting);
        let (doubts, doubted) = mpsc::unbounded_channel();
        let watchers = Watchers::of(&settings);
        let place = settings.shape.to_string();
        let node: Arc<str> = place.as_str().into();
        let supervisor =
            Supervisor { settings, place, node: node.clone(), watchers, health, tell, doubted, generation: 0 };
        tokio::spawn(supervisor.run());
        Self { state, doubts, node }
    }

    /// As whose its calls succeed and fail.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// The connection as it stands; while it is being made, waits for it until `deadline`.
    pub(super) async fn link(&self, deadline: Instant) -> Result<Arc<Link>, StoreError> {
        if let Some(settled) = settled(&self.state.borrow()) {
            return settled;
        }
        let mut state = self.state.clone();
        let told =
            async { state.wait_for(|state| !matches!(state, State::Connecting)).await.map(|state| settled(&state)) };
        match lateness::until(deadline, told).await {
            Some(Ok(settled)) => settled.unwrap_or(Err(StoreError::Deadline)),
            Some(Err(_)) => Err(StoreError::Unreachable("the connection's supervisor has ended".to_owned())),
            None => Err(StoreError::Deadline),
        }
    }

    /// Has the supervisor replace this link's connection, at once or if it stays silent, unless it already has.
    pub(super) fn doubt(&self, link: &Link, doubt: Doubt) {
        // A supervisor that is gone has closed the connection already.
        let _ = self.doubts.send((link.generation, doubt));
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
    /// Where it is connected to, or last was, as a person is told.
    place: String,
    /// The same for ever, wherever the sentinels lead.
    node: Arc<str>,
    /// Those who know which node is the master, where there are such.
    watchers: Option<Watchers>,
    health: Arc<StoreHealth>,
    tell: watch::Sender<State>,
    doubted: mpsc::UnboundedReceiver<(u64, Doubt)>,
    generation: u64,
}

impl Supervisor {
    /// Until the last `Connection` is dropped.
    async fn run(mut self) {
        let mut backoff = FIRST_BACKOFF;
        while !self.tell.is_closed() {
            self.generation += 1;
            // One that ended soon is not tried again before its time: two workers would wake each other for ever.
            let mut ended_soon = false;
            match self.connect().await {
                Ok((link, driver, address)) => {
                    let since = Instant::now();
                    self.announce_up(Arc::new(link), &address);
                    let Some(why) = self.watch(driver, &address).await else { return };
                    if since.elapsed() >= PROVEN {
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
                () = sleep(some_of(backoff)) => backoff = (backoff * 2).min(LONGEST_BACKOFF),
                // Another has got through: this attempt is worth waiting for.
                () = self.health.revived(), if !ended_soon => drop(self.tell.send_replace(State::Connecting)),
                () = self.tell.closed() => return,
            }
        }
    }

    async fn connect(&mut self) -> Result<(Link, Driver, Address), StoreError> {
        let address = locate(&self.settings.shape, self.watchers.as_mut()).await?;
        let (pipe, driver, Prepared { sha, eviction, round_trip }) = prepare(&self.settings, &address).await?;
        if let Some(doubt) = distance::doubt(round_trip, self.health.probe_deadline())
            && self.is_news("far away")
        {
            tracing::warn!(redis = %address, "store: {doubt}");
        }
        if self.health.evicts(&address.to_string(), eviction.is_some())
            && let Some(policy) = eviction
        {
            tracing::warn!(redis = %address, policy, "store: {MAY_EVICT}");
        }
        Ok((Link { pipe, sha, generation: self.generation }, driver, address))
    }

    /// Why the connection has to be replaced; `None` when nobody needs it any more.
    async fn watch(&mut self, mut driver: Driver, address: &Address) -> Option<StoreError> {
        let Self { tell, doubted, generation, watchers, health, node, .. } = self;
        let silences = health.silences();
        let doubtful = |why: &str| Some(StoreError::Unreachable(why.to_owned()));
        let mut moved = pin!(another_master(watchers.as_mut(), address));
        let mut silence = Silence::default();
        loop {
            tokio::select! {
                why = driver.ended() => return Some(why).filter(|_| !tell.is_closed()),
                doubt = doubted.recv() => match doubt {
                    Some((of, Doubt::Useless)) if of == *generation => {
                        return doubtful("it gave an answer that only another connection can mend");
                    }
                    Some((of, Doubt::Late)) if of == *generation => {
                        if health.silences() != silences {
                            return doubtful("it gave no answer in time, and another had been silent for too long");
                        }
                        if silence.late(driver.awaits(), Instant::now()) == Heard::Answers {
                            health.answered(node);
                        }
                    }
                    Some(_) => {}
                    None => return None,
                },
                () = silence.looked_at() => match silence.look(driver.awaits(), Instant::now()) {
                    Heard::Nothing => {}
                    // Nobody may ask again before it is said to be well.
                    Heard::Answers => health.answered(node),
                    Heard::NothingForTooLong => {
                        // The other workers need not find that out each for itself.
                        health.fell_silent();
                        return doubtful("it was silent for too long");
                    }
                },
                () = &mut moved => return doubtful("the sentinels name another master"),
            }
        }
    }

    fn announce_up(&mut self, link: Arc<Link>, address: &Address) {
        self.place = address.to_string();
        tracing::info!(redis = %self.place, "store: connected");
        self.tell.send_replace(State::Up(link));
        // Told last: who probes then does so over this connection.
        self.health.connected(&self.node);
    }

    fn announce_lost(&self, why: &StoreError) {
        self.failed();
        if self.is_news("connection lost") {
            tracing::warn!(redis = %self.place, %why, "store: connection lost, connecting again");
        }
        self.tell.send_replace(State::Connecting);
    }

    /// Nobody asks any more about a node that has left.
    fn failed(&self) {
        if !self.tell.is_closed() {
            self.health.failed(&self.node);
        }
    }

    /// Logged when the reason changes, not at every attempt.
    fn announce_down(&self, error: StoreError) {
        if !self.tell.is_closed() {
            self.health.not_connected(&self.node, &error);
        }
        let news = !matches!(&*self.tell.borrow(), State::Down(known) if *known == error);
        if news {
            if self.is_news(&error.to_string()) {
                match &error {
                    StoreError::Refused(said) => {
                        let advice = refusal::advice(said);
                        tracing::warn!(redis = %self.place, error = said, advice, "store: it refuses the connection");
                    }
                    _ => tracing::warn!(redis = %self.place, %error, "store: out of reach"),
                }
            }
            self.tell.send_replace(State::Down(error));
        }
    }

    /// Whether no worker has said this of the place within a minute.
    fn is_news(&self, what: &str) -> bool {
        self.health.said.is_news(&format!("{}: {what}", self.place), Instant::now().into_std())
    }
}

/// A connection that may be dead: what it had said when an answer was missed, and since when it is listened to.
#[derive(Debug, Default)]
struct Silence(Option<(u32, Instant)>);

/// What has come since an answer was missed.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Answers,
    NothingForTooLong,
}

impl Silence {
    /// An answer did not come in time; where one is still owed, `awaits` tells whether anything was said in between.
    fn late(&mut self, awaits: Option<u32>, now: Instant) -> Heard {
        if self.0.map(|(said, _)| said) != awaits {
            self.0 = awaits.map(|said| (said, now));
        }
        if self.0.is_none() { Heard::Answers } else { Heard::Nothing }
    }

    /// When to look whether anything was said.
    async fn looked_at(&self) {
        match self.0 {
            Some(_) => sleep(LISTEN).await,
            None => std::future::pending().await,
        }
    }

    /// Once something was said, the next answer that is missed counts anew.
    fn look(&mut self, awaits: Option<u32>, now: Instant) -> Heard {
        match self.0 {
            Some((said, since)) if awaits == Some(said) && now.saturating_duration_since(since) < SILENCE => {
                Heard::Nothing
            }
            Some((said, _)) if awaits == Some(said) => Heard::NothingForTooLong,
            Some(_) | None => {
                self.0 = None;
                Heard::Answers
            }
        }
    }
}

/// How long to wait before the next attempt: any part of `most`, so that those who lost a connection at the same moment do not
/// come back at the same moment.
pub(super) fn some_of(most: Duration) -> Duration {
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
pub(super) async fn prepare(settings: &Settings, address: &Address) -> Result<(Pipe, Driver, Prepared), StoreError> {
    let (pipe, mut driver) = dial_pipe(settings, address).await?;
    let prepared = async {
        let (pipe, role) = (&pipe, cmd("ROLE"));
        let alone = async {
            let ask = |command| async move { pipe.ask(&command).await };
            if settings.shape.is_one_server() {
                stray::refuse_one_of_a_cluster(&settings.prefix, ask).await
            } else {
                Ok(())
            }
        };
        // Together: a round trip may be a large part of the time that there is.
        let (role, alone) = tokio::join!(pipe.ask(&role), alone);
        alone?;
        master_only(role)?;
        let began = Instant::now();
        let sha = load_script(pipe, Script::Decide).await?;
        let loaded = Instant::now();
        try_script(pipe, &sha).await?;
        let tried = Instant::now();
        let eviction = eviction(pipe).await;
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
    Ok((pipe, driver, prepared.unwrap_or_else(|_| Err(late()))?))
}

/// What a node that evicts means.
pub(super) const MAY_EVICT: &str =
    "maxmemory-policy is not noeviction, so that keys, revocations and counts may vanish";

/// A store that evicts forgets counts, keys and revocations. A user that may not ask is not warned.
async fn eviction(pipe: &Pipe) -> Option<String> {
    let info = pipe.ask::<String>(cmd("INFO").arg("memory")).await.ok()?;
    let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
    policy.filter(|policy| *policy != "noeviction").map(str::to_owned)
}

/// Where the master is, as far as anybody knows.
pub(super) async fn locate(shape: &Shape, watchers: Option<&mut Watchers>) -> Result<Address, StoreError> {
    match (shape, watchers) {
        (_, Some(watchers)) => watchers.master().await,
        (shape, None) => {
            let first = shape.addresses().first().cloned();
            first.ok_or_else(|| StoreError::Unreachable("no address is configured".to_owned()))
        }
    }
}

/// Returns when the sentinels name another master than `address`. While none of them answers, what works is kept.
async fn another_master(watchers: Option<&mut Watchers>, address: &Address) {
    let Some(watchers) = watchers else { return std::future::pending().await };
    loop {
        sleep(sentinel::EVERY).await;
        if watchers.master().await.is_ok_and(|master| master != *address) {
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
pub(super) fn known_sha() -> &'static str {
    GIVE_BACK_SHA.get().map_or("0000000000000000000000000000000000000000", String::as_str)
}

pub(super) async fn load_script(pipe: &Pipe, script: Script) -> Result<String, StoreError> {
    let sha: String = pipe.ask(cmd("SCRIPT").arg("LOAD").arg(script.text())).await?;
    if script == Script::GiveBack {
        GIVE_BACK_SHA.get_or_init(|| sha.clone());
    }
    Ok(sha)
}

async fn try_script(pipe: &Pipe, sha: &str) -> Result<(), StoreError> {
    let nothing = script::encode(&Layout::new(""), &[]);
    let answer: Vec<u8> = pipe.call(false, |commands| nothing.write_evalsha(sha, commands)).await?;
    script::decode(&[], &answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_given_up_when_it_owes_an_answer_and_says_nothing() {
        let now = Instant::now();
        let mut silence = Silence::default();
        assert_eq!(silence.late(None, now), Heard::Answers, "the answer has come meanwhile");
        assert_eq!(silence.late(Some(7), now), Heard::Nothing);
        assert_eq!(silence.late(Some(7), now + SILENCE / 2), Heard::Nothing);
        assert_eq!(silence.look(Some(7), now + SILENCE / 2), Heard::Nothing);
        assert_eq!(silence.look(Some(7), now + SILENCE), Heard::NothingForTooLong, "since the first");
    }

    #[test]
    fn whatever_is_said_in_between_begins_the_wait_anew() {
        let (now, later) = (Instant::now(), Instant::now() + SILENCE / 2);
        let mut silence = Silence::default();
        silence.late(Some(7), now);
        assert_eq!(silence.late(Some(8), later), Heard::Nothing);
        assert_eq!(silence.look(Some(8), now + SILENCE), Heard::Nothing);
        for awaits in [Some(9), None] {
            silence.late(Some(8), later);
            assert_eq!(silence.look(awaits, later + SILENCE), Heard::Answers);
            assert_eq!(silence.0, None);
        }
    }

    #[test]
    fn delays_differ_and_are_never_longer_than_the_most() {
        let delays: Vec<_> = (0..100).map(|_| some_of(FIRST_BACKOFF)).collect();
        assert!(delays.iter().all(|delay| *delay <= FIRST_BACKOFF));
        assert!(delays.iter().max() > delays.iter().min());
    }
}
