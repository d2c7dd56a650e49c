//! How much keys and businesses are used: what stands in the store about it, how it is written in batches, how it is read.
//!
//! One hash per subject for thirty days and one for an hour, which end by themselves, so that nobody has to clean up:
//!
//! - `P:{<tenant>}:usage:<subject>:days:<n>`: `<day>:requests`, `<day>:denials`, by days since the epoch, `n = day / 30`;
//! - `P:{<tenant>}:usage:<subject>:minutes:<n>`: the same by minutes since the epoch, `n = minute / 60`;
//!
//! where a subject is `key:<id>` or `business`. Writing is adding, with plain commands, in any order, by any number of
//! sidecars; a flush that is lost loses its counts and nothing else. The embedded file keeps none: its gate is one process,
//! and what it counts ends with it.

use std::collections::{BTreeMap, HashMap};

use super::StoreError;
use super::layout::Layout;
use super::redis::keeper::Keeper;
use crate::keys::Tenant;

/// For how many days use is told.
pub const DAYS: u64 = 90;
/// For how many minutes use is told.
pub const MINUTES: u64 = 60;
const DAYS_TOGETHER: u64 = 30;
const MINUTES_TOGETHER: u64 = 60;
const DAY_MS: u64 = 86_400_000;
const MINUTE_MS: u64 = 60_000;
/// A hash outlives its last day or minute by what is still told of it.
const DAYS_LAST_S: u64 = (DAYS + DAYS_TOGETHER + 1) * 86_400;
const MINUTES_LAST_S: u64 = 2 * 3600 + 60;

const REQUESTS: &str = "requests";
const DENIALS: &str = "denials";

/// Whose use is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    Key { tenant: Tenant, id: String },
    Business(String),
}

/// What happened to one subject within one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub requests: u64,
    /// Of these, the ones that were denied.
    pub denials: u64,
}

/// What a sidecar has counted since it flushed last: by subject and by the minute (since the epoch, by the store's clock).
pub type Batch = HashMap<(Subject, u64), Count>;

/// A plain command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `HINCRBY name field amount`
    Add { name: String, field: String, amount: u64 },
    /// `EXPIRE name seconds`
    End { name: String, seconds: u64 },
}

/// What is known of the use of one subject, the oldest first; days and minutes without requests are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Use {
    /// By the start of the day (milliseconds since the Unix epoch).
    pub days: BTreeMap<u64, Count>,
    /// By the start of the minute.
    pub minutes: BTreeMap<u64, Count>,
}

/// What to send for a batch.
pub fn commands(layout: &Layout, batch: &Batch) -> Vec<Command> {
    let mut commands = Vec::with_capacity(batch.len() * 6);
    for ((subject, minute), count) in batch {
        let day = minute * MINUTE_MS / DAY_MS;
        let places = [
            (subject.days(layout, day / DAYS_TOGETHER), day, DAYS_LAST_S),
            (subject.minutes(layout, minute / MINUTES_TOGETHER), *minute, MINUTES_LAST_S),
        ];
        for (name, at, seconds) in places {
            for (kind, amount) in [(REQUESTS, count.requests), (DENIALS, count.denials)] {
                if amount > 0 {
                    commands.push(Command::Add { name: name.clone(), field: format!("{at}:{kind}"), amount });
                }
            }
            commands.push(Command::End { name, seconds });
        }
    }
    commands
}

/// Adds what was counted to what the store holds.
pub async fn flush(keeper: &Keeper, layout: &Layout, batch: &Batch) -> Result<(), StoreError> {
    keeper.count(&commands(layout, batch)).await
}

/// What the store holds of one subject.
pub async fn read(keeper: &Keeper, layout: &Layout, subject: &Subject, now_ms: u64) -> Result<Use, StoreError> {
    let mut used = Use::default();
    let (day, minute) = (now_ms / DAY_MS, now_ms / MINUTE_MS);
    let first = day.saturating_sub(DAYS - 1);
    for n in first / DAYS_TOGETHER..=day / DAYS_TOGETHER {
        take(&mut used.days, keeper.hash(&subject.days(layout, n)).await?, first, DAY_MS);
    }
    let first = minute.saturating_sub(MINUTES - 1);
    for n in first / MINUTES_TOGETHER..=minute / MINUTES_TOGETHER {
        take(&mut used.minutes, keeper.hash(&subject.minutes(layout, n)).await?, first, MINUTE_MS);
    }
    Ok(used)
}

/// Fields that are none of ours are left alone.
fn take(counts: &mut BTreeMap<u64, Count>, hash: HashMap<String, u64>, first: u64, unit_ms: u64) {
    for (field, amount) in hash {
        let Some((at, kind)) = field.split_once(':') else { continue };
        let Some(at) = at.parse::<u64>().ok().filter(|at| *at >= first) else { continue };
        let count = counts.entry(at * unit_ms).or_default();
        match kind {
            REQUESTS => count.requests += amount,
            DENIALS => count.denials += amount,
            _ => {}
        }
    }
}

impl Use {
    /// When it was last used, as exactly as it is known: the minute within the last hour, else the day; `None`: not within
    /// the days that are told.
    pub fn last_used_ms(&self) -> Option<u64> {
        let last = |counts: &BTreeMap<u64, Count>| counts.last_key_value().map(|(at, _)| *at);
        last(&self.minutes).or_else(|| last(&self.days))
    }

    pub fn total(&self) -> Count {
        let sum = |of: fn(&Count) -> u64| self.days.values().map(of).sum();
        Count { requests: sum(|count| count.requests), denials: sum(|count| count.denials) }
    }
}

impl Command {
    pub fn name(&self) -> &str {
        match self {
            Self::Add { name, .. } | Self::End { name, .. } => name,
        }
    }
}

impl Subject {
    /// The minute of a moment, as a batch counts it.
    pub fn minute(now_ms: u64) -> u64 {
        now_ms / MINUTE_MS
    }

    fn days(&self, layout: &Layout, n: u64) -> String {
        self.place(layout, &format!("days:{n}"))
    }

    fn minutes(&self, layout: &Layout, n: u64) -> String {
        self.place(layout, &format!("minutes:{n}"))
    }

    fn place(&self, layout: &Layout, part: &str) -> String {
        match self {
            Self::Key { tenant, id } => layout.in_slot(tenant, &format!("usage:key:{id}:{part}")),
            Self::Business(id) => layout.in_slot(super::layout::business_slot(id), &format!("usage:business:{part}")),
        }
    }
}
