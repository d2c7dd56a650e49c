//! Writes counts of use to Redis: plain commands, many together, over connections that no decision uses.
//!
//! Each round begins with idempotent commands (the last use, as a maximum), which prove that the connection lives, the login may
//! write and the slot is here; only then follow additions. An addition that Redis answers with an error has done nothing and is
//! requeued; one whose reply is lost may have acted and is never sent again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, Value, pipe};
use tokio::time::timeout;

use super::connection::locate_master;
use super::dial::{Driver, dial};
use super::errors::store_error;
use super::hash_slot::slot_of;
use super::plain_client::any_slot_map;
use super::sentinel::SentinelClient;
use super::settings::{Address, Settings, Topology};
use super::slot_map::SlotMap;
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::usage::batch::{Batch, Used};
use crate::store::usage::subject::{Count, DAY_MS, LAST_DAYS, SINCE, Span, Subject, since_place};

/// How long a round may take; no request waits for it.
const ROUND_TIMEOUT: Duration = Duration::from_secs(5);
/// Subjects of one round: few enough that Redis is held up no longer than by a decision call.
const PER_ROUND: usize = 50;
/// A connection that was kept may be dead, and slots may have moved: then once more, with everything looked up anew.
const ATTEMPTS: usize = 2;

/// The process's writer of counts of use.
#[derive(Debug)]
pub struct UsageWriter {
    settings: Settings,
    layout: Layout,
    sentinels: Option<SentinelClient>,
    masters: Option<Masters>,
    connections: HashMap<Address, (MultiplexedConnection, Driver)>,
}

/// The masters that usage is written to.
#[derive(Debug)]
enum Masters {
    One(Address),
    Cluster(SlotMap),
}

/// What became of a batch.
#[derive(Debug)]
pub struct WriteOutcome {
    /// What has not been written and may be sent again.
    pub left: Batch,
    /// Counts of which nobody knows whether they were added, and such as Redis will never take.
    pub lost: u64,
    /// The first thing that went wrong.
    pub result: Result<(), StoreError>,
}

impl UsageWriter {
    pub fn new(settings: Settings) -> Self {
        let (layout, sentinels) = (Layout::new(&settings.prefix), SentinelClient::of(&settings));
        Self { settings, layout, sentinels, masters: None, connections: HashMap::new() }
    }

    /// Adds a batch to what Redis holds.
    pub async fn write(&mut self, batch: Batch) -> WriteOutcome {
        let mut outcome = WriteOutcome { left: batch, lost: 0, result: Ok(()) };
        for _ in 0..ATTEMPTS {
            let batch = std::mem::take(&mut outcome.left);
            outcome.result = self.attempt(batch, &mut outcome).await;
            match &outcome.result {
                Err(error) if !error.is_forbidden() => (self.masters, self.connections) = (None, HashMap::new()),
                Err(_) | Ok(()) => break,
            }
        }
        outcome
    }

    async fn attempt(&mut self, batch: Batch, outcome: &mut WriteOutcome) -> Result<(), StoreError> {
        let first_ms = batch.first_ms().unwrap_or_default();
        let mut subjects: Vec<(Subject, Used)> = batch.into_subjects().collect();
        let marked = match self.find_masters().await {
            Ok(()) => self.mark_since(first_ms).await,
            Err(error) => Err(error),
        };
        // In a cluster the node that is to be marked may be away while others are not.
        if marked.as_ref().is_err_and(|error| error.is_forbidden() || !self.is_cluster()) {
            defer(subjects, outcome);
            return marked;
        }
        if self.is_cluster() {
            // What lives on one node goes together.
            subjects.sort_by_cached_key(|(subject, _)| slot_of(&subject.last(&self.layout)));
        }
        self.rounds(subjects, outcome).await.and(marked)
    }

    /// Sends all subjects, so many at a time, save those of nodes that turn out to be unreachable.
    async fn rounds(&mut self, subjects: Vec<(Subject, Used)>, outcome: &mut WriteOutcome) -> Result<(), StoreError> {
        let (mut result, mut unreachable) = (Ok(()), HashSet::new());
        let mut rest = subjects.into_iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let address = self.address(&first.last(&self.layout));
            let mut round = Vec::new();
            while round.len() < PER_ROUND
                && let Some(next) = rest.next_if(|(next, _)| self.address(&next.last(&self.layout)) == address)
            {
                round.push(next);
            }
            let sent = match &address {
                Some(address) if unreachable.contains(address) => {
                    defer(round, outcome);
                    continue;
                }
                Some(address) => self.round(address, round, outcome).await,
                None => {
                    defer(round, outcome);
                    Err(StoreError::Unreachable("CLUSTERDOWN no master serves the slot".to_owned()))
                }
            };
            if let Err(error) = sent {
                let ends = error.is_forbidden() || !self.is_cluster();
                result = result.and(Err(error));
                if ends {
                    break;
                }
                unreachable.extend(address);
            }
        }
        defer(rest, outcome);
        result
    }

    /// Since when use is counted here: whoever comes first says it.
    async fn mark_since(&mut self, first_ms: u64) -> Result<(), StoreError> {
        let place = since_place(&self.layout);
        let Some(address) = self.address(&place) else { return Ok(()) };
        let mut mark = pipe();
        mark.cmd("ZADD").arg(place).arg("NX").arg(first_ms).arg(SINCE);
        first_error(self.send(&address, mark).await?)
    }

    /// The subjects of one node: first what proves that it takes them, then the additions.
    async fn round(
        &mut self,
        address: &Address,
        subjects: Vec<(Subject, Used)>,
        outcome: &mut WriteOutcome,
    ) -> Result<(), StoreError> {
        let proved = self.send(address, self.last_uses(&subjects)).await.and_then(first_error);
        if let Err(error) = proved {
            defer(subjects, outcome);
            return Err(error);
        }
        let (additions, fields) = self.additions(&subjects);
        match self.send(address, additions).await {
            Ok(answers) => requeue_failed(subjects, &fields, answers, outcome),
            Err(error) => {
                outcome.lost += subjects.iter().map(|(_, used)| used.counts.len() as u64).sum::<u64>();
                Err(error)
            }
        }
    }

    fn last_uses(&self, subjects: &[(Subject, Used)]) -> Pipeline {
        let (mut commands, mut trimmed) = (pipe(), BTreeSet::new());
        for (subject, used) in subjects {
            let place = subject.last(&self.layout);
            commands.cmd("ZADD").arg(&place).arg("GT").arg(used.last_ms).arg(subject.member());
            if trimmed.insert(place.clone()) {
                let oldest = used.last_ms.saturating_sub(LAST_DAYS * DAY_MS);
                commands.cmd("ZREMRANGEBYSCORE").arg(&place).arg("-inf").arg(format!("({oldest}"));
                commands.cmd("EXPIRE").arg(&place).arg((LAST_DAYS + 1) * DAY_MS / 1000);
            }
        }
        commands
    }

    /// The commands, and what each of them adds; `None` where it adds nothing.
    fn additions(&self, subjects: &[(Subject, Used)]) -> (Pipeline, Vec<Option<Field>>) {
        let (mut commands, mut fields) = (pipe(), Vec::new());
        for (index, (subject, used)) in subjects.iter().enumerate() {
            for (span, Count { requests, denials }) in used.counts.iter().copied() {
                let (name, field, seconds) = subject.place(&self.layout, span);
                if requests > 0 {
                    commands.cmd("HINCRBY").arg(&name).arg(&field).arg(requests);
                    fields.push(Some(Field { index, span, count: Count { requests, denials: 0 } }));
                }
                if denials > 0 {
                    commands.cmd("HINCRBY").arg(&name).arg(Subject::denied(&field)).arg(denials);
                    fields.push(Some(Field { index, span, count: Count { requests: 0, denials } }));
                }
                commands.cmd("EXPIRE").arg(&name).arg(seconds);
                fields.push(None);
            }
        }
        (commands, fields)
    }

    /// The answers one by one; an error: nobody knows what was done.
    async fn send(
        &mut self,
        address: &Address,
        mut commands: Pipeline,
    ) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let mut connection = self.node(address).await?;
        commands.ignore_errors();
        let answers = timeout(ROUND_TIMEOUT, commands.query_async::<Vec<RedisResult<Value>>>(&mut connection)).await;
        let answers = match answers {
            Ok(answers) => answers.map_err(|error| store_error(&error)),
            Err(_) => Err(StoreError::Deadline),
        };
        if answers.is_err() {
            self.connections.remove(address);
        }
        let one = |answer: RedisResult<Value>| answer.map(drop).map_err(|error| store_error(&error));
        Ok(answers?.into_iter().map(one).collect())
    }

    async fn find_masters(&mut self) -> Result<(), StoreError> {
        if let (Some(sentinels), Some(Masters::One(address))) = (self.sentinels.as_mut(), &self.masters)
            // While none of them answers, what works is kept.
            && sentinels.master().await.is_ok_and(|master| master != *address)
        {
            // An old master that was cut off takes counts and loses them.
            (self.masters, self.connections) = (None, HashMap::new());
        }
        if self.masters.is_some() {
            return Ok(());
        }
        self.masters = Some(match &self.settings.topology {
            Topology::Cluster(addresses) => Masters::Cluster(any_slot_map(&self.settings, addresses).await?),
            topology => Masters::One(locate_master(topology, self.sentinels.as_mut()).await?),
        });
        Ok(())
    }

    fn is_cluster(&self) -> bool {
        matches!(self.masters, Some(Masters::Cluster(_)))
    }

    fn address(&self, name: &str) -> Option<Address> {
        match self.masters.as_ref()? {
            Masters::One(address) => Some(address.clone()),
            Masters::Cluster(map) => map.master(slot_of(name)).cloned(),
        }
    }

    async fn node(&mut self, address: &Address) -> Result<MultiplexedConnection, StoreError> {
        if let Some((connection, _)) = self.connections.get(address) {
            return Ok(connection.clone());
        }
        let (connection, driver) = dial(&self.settings, address).await?;
        self.connections.insert(address.clone(), (connection.clone(), driver));
        Ok(connection)
    }
}

/// What one command adds, and to which subject of its round.
#[derive(Debug, Clone, Copy)]
struct Field {
    index: usize,
    span: Span,
    count: Count,
}

fn defer(subjects: impl IntoIterator<Item = (Subject, Used)>, outcome: &mut WriteOutcome) {
    for (subject, used) in subjects {
        outcome.lost += outcome.left.take(subject, used);
    }
}

/// Something else may stand where a last use should: that proves as much as an answer.
fn first_error(answers: Vec<Result<(), StoreError>>) -> Result<(), StoreError> {
    answers.into_iter().filter(|answer| !matches!(answer, Err(StoreError::Broken(_)))).collect()
}

/// Requeues what was answered with an error, save what can never be added.
fn requeue_failed(
    subjects: Vec<(Subject, Used)>,
    fields: &[Option<Field>],
    answers: Vec<Result<(), StoreError>>,
    outcome: &mut WriteOutcome,
) -> Result<(), StoreError> {
    let mut result = Ok(());
    for (field, answer) in fields.iter().zip(answers) {
        let (Some(Field { index, span, count }), Err(error)) = (*field, answer) else { continue };
        let Some((subject, used)) = subjects.get(index) else { continue };
        if is_no_count(&error) {
            outcome.lost += 1;
            continue;
        }
        result = result.and(Err(error));
        let used = Used { last_ms: used.last_ms, counts: vec![(span, count)] };
        outcome.lost += outcome.left.take(subject.clone(), used);
    }
    result
}

/// Whether something else stands where a count should.
fn is_no_count(error: &StoreError) -> bool {
    match error {
        StoreError::Broken(_) => true,
        StoreError::Refused(text) => text.starts_with("ERR"),
        StoreError::Unreachable(_) | StoreError::Deadline => false,
    }
}
