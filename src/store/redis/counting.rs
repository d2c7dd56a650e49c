//! Counts of use on their way into Redis: plain commands, many together, over connections that no decision uses.
//!
//! Each round begins with what may be done twice (the last use, as a maximum), which proves that the connection lives, the
//! login may write and the slot is here; only then follow additions. An addition that Redis answers with an error has done
//! nothing and is left for another time; one whose answer is lost may have acted and is never sent again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult, Value, pipe};
use tokio::time::timeout;

use super::connect::locate;
use super::dial::{Driver, dial};
use super::errors::store_error;
use super::hash_slot::slot_of;
use super::nodes::any_map;
use super::sentinel::Watchers;
use super::settings::{Address, Settings, Shape};
use super::slot_map::SlotMap;
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::usage::batch::{Batch, Used};
use crate::store::usage::subject::{Count, DAY_MS, LAST_DAYS, SINCE, Span, Subject, since_place};

/// How long a round may take; no request waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Subjects of one round: few enough that Redis is held up no longer than by a decision call.
const TOGETHER: usize = 50;
/// A connection that was kept may be dead, and a cluster may have moved: then once more, with everything looked up anew.
const ATTEMPTS: usize = 2;

/// The process's way to write counts of use.
#[derive(Debug)]
pub struct Counting {
    settings: Settings,
    layout: Layout,
    watchers: Option<Watchers>,
    places: Option<Places>,
    nodes: HashMap<Address, (MultiplexedConnection, Driver)>,
}

/// Where slots live.
#[derive(Debug)]
enum Places {
    One(Address),
    Cluster(SlotMap),
}

/// What became of a batch.
#[derive(Debug)]
pub struct Written {
    /// What has not been counted and may be sent again.
    pub left: Batch,
    /// Counts of which nobody knows whether they were added, and such as Redis will never take.
    pub lost: u64,
    /// The first thing that went wrong.
    pub result: Result<(), StoreError>,
}

impl Counting {
    pub fn new(settings: Settings) -> Self {
        let (layout, watchers) = (Layout::new(&settings.prefix), Watchers::of(&settings));
        Self { settings, layout, watchers, places: None, nodes: HashMap::new() }
    }

    /// Adds a batch to what Redis holds.
    pub async fn write(&mut self, batch: Batch) -> Written {
        let mut written = Written { left: batch, lost: 0, result: Ok(()) };
        for _ in 0..ATTEMPTS {
            let batch = std::mem::take(&mut written.left);
            written.result = self.attempt(batch, &mut written).await;
            match &written.result {
                Err(error) if !error.is_forbidden() => (self.places, self.nodes) = (None, HashMap::new()),
                Err(_) | Ok(()) => break,
            }
        }
        written
    }

    async fn attempt(&mut self, batch: Batch, written: &mut Written) -> Result<(), StoreError> {
        let first_ms = batch.first_ms().unwrap_or_default();
        let mut subjects: Vec<(Subject, Used)> = batch.into_subjects().collect();
        let began = match self.find_places().await {
            Ok(()) => self.mark(first_ms).await,
            Err(error) => Err(error),
        };
        // In a cluster the node that is to be marked may be away while others are not.
        if began.as_ref().is_err_and(|error| error.is_forbidden() || !self.is_cluster()) {
            leave(subjects, written);
            return began;
        }
        if self.is_cluster() {
            // What lives on one node goes together.
            subjects.sort_by_cached_key(|(subject, _)| slot_of(&subject.last(&self.layout)));
        }
        self.rounds(subjects, written).await.and(began)
    }

    /// Sends all subjects, so many at a time, save those of nodes that turn out to be away.
    async fn rounds(&mut self, subjects: Vec<(Subject, Used)>, written: &mut Written) -> Result<(), StoreError> {
        let (mut result, mut away) = (Ok(()), HashSet::new());
        let mut rest = subjects.into_iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let address = self.address(&first.last(&self.layout));
            let mut round = Vec::new();
            while round.len() < TOGETHER
                && let Some(next) = rest.next_if(|(next, _)| self.address(&next.last(&self.layout)) == address)
            {
                round.push(next);
            }
            let sent = match &address {
                Some(address) if away.contains(address) => {
                    leave(round, written);
                    continue;
                }
                Some(address) => self.round(address, round, written).await,
                None => {
                    leave(round, written);
                    Err(StoreError::Unreachable("CLUSTERDOWN no master serves the slot".to_owned()))
                }
            };
            if let Err(error) = sent {
                let ends = error.is_forbidden() || !self.is_cluster();
                result = result.and(Err(error));
                if ends {
                    break;
                }
                away.extend(address);
            }
        }
        leave(rest, written);
        result
    }

    /// Since when use is counted here: whoever comes first says it.
    async fn mark(&mut self, first_ms: u64) -> Result<(), StoreError> {
        let place = since_place(&self.layout);
        let Some(address) = self.address(&place) else { return Ok(()) };
        let mut mark = pipe();
        mark.cmd("ZADD").arg(place).arg("NX").arg(first_ms).arg(SINCE);
        first_failure(self.send(&address, mark).await?)
    }

    /// The subjects of one node: first what proves that it takes them, then the additions.
    async fn round(
        &mut self,
        address: &Address,
        subjects: Vec<(Subject, Used)>,
        written: &mut Written,
    ) -> Result<(), StoreError> {
        let proved = self.send(address, self.last_uses(&subjects)).await.and_then(first_failure);
        if let Err(error) = proved {
            leave(subjects, written);
            return Err(error);
        }
        let (additions, fields) = self.additions(&subjects);
        match self.send(address, additions).await {
            Ok(answers) => take_back(subjects, &fields, answers, written),
            Err(error) => {
                written.lost += subjects.iter().map(|(_, used)| used.counts.len() as u64).sum::<u64>();
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
        let answers = timeout(PATIENCE, commands.query_async::<Vec<RedisResult<Value>>>(&mut connection)).await;
        let answers = match answers {
            Ok(answers) => answers.map_err(|error| store_error(&error)),
            Err(_) => Err(StoreError::Deadline),
        };
        if answers.is_err() {
            self.nodes.remove(address);
        }
        let one = |answer: RedisResult<Value>| answer.map(drop).map_err(|error| store_error(&error));
        Ok(answers?.into_iter().map(one).collect())
    }

    async fn find_places(&mut self) -> Result<(), StoreError> {
        if self.places.is_some() {
            return Ok(());
        }
        self.places = Some(match &self.settings.shape {
            Shape::Cluster(addresses) => Places::Cluster(any_map(&self.settings, addresses).await?),
            shape => Places::One(locate(shape, self.watchers.as_mut()).await?),
        });
        Ok(())
    }

    fn is_cluster(&self) -> bool {
        matches!(self.places, Some(Places::Cluster(_)))
    }

    fn address(&self, name: &str) -> Option<Address> {
        match self.places.as_ref()? {
            Places::One(address) => Some(address.clone()),
            Places::Cluster(map) => map.master(slot_of(name)).cloned(),
        }
    }

    async fn node(&mut self, address: &Address) -> Result<MultiplexedConnection, StoreError> {
        if let Some((connection, _)) = self.nodes.get(address) {
            return Ok(connection.clone());
        }
        let (connection, driver) = dial(&self.settings, address).await?;
        self.nodes.insert(address.clone(), (connection.clone(), driver));
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

fn leave(subjects: impl IntoIterator<Item = (Subject, Used)>, written: &mut Written) {
    for (subject, used) in subjects {
        written.lost += written.left.take(subject, used);
    }
}

/// Something else may stand where a last use should: that proves as much as an answer.
fn first_failure(answers: Vec<Result<(), StoreError>>) -> Result<(), StoreError> {
    answers.into_iter().filter(|answer| !matches!(answer, Err(StoreError::Broken(_)))).collect()
}

/// Leaves what was answered with an error for another time, save what can never be added.
fn take_back(
    subjects: Vec<(Subject, Used)>,
    fields: &[Option<Field>],
    answers: Vec<Result<(), StoreError>>,
    written: &mut Written,
) -> Result<(), StoreError> {
    let mut result = Ok(());
    for (field, answer) in fields.iter().zip(answers) {
        let (Some(Field { index, span, count }), Err(error)) = (*field, answer) else { continue };
        let Some((subject, used)) = subjects.get(index) else { continue };
        if is_no_count(&error) {
            written.lost += 1;
            continue;
        }
        result = result.and(Err(error));
        let used = Used { last_ms: used.last_ms, counts: vec![(span, count)] };
        written.lost += written.left.take(subject.clone(), used);
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
