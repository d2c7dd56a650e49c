//! Usage of keys and businesses: its layout in the store, and how it is read.
//!
//! Everything expires by itself, and can be written by many sidecars in any order:
//!
//! - `P:{<tenant>}:usage:<subject>:days:<n>`, a hash: `<day>` is the number of requests, `<day>d` that of denials among them, by
//!   days since the epoch, `n = day / 30`; thirty days share a hash, which lives until the last of them is no longer told;
//! - `P:{<tenant>}:usage:<subject>:minutes:<n>`: the same by minutes since the epoch, `n = minute / 60`;
//! - `P:{<tenant>}:usage:last`, a sorted set: the last use of each key, and of the business itself as `*`, in milliseconds;
//! - `P:{global}:usage:since`, a sorted set: since when usage is counted;
//!
//! where a subject is `key:<id>` or `business`. Each worker counts for itself (`tally`), the process adds that up (`ledger`) and
//! sends it with plain commands (`store::redis::usage_writer`), off the path of requests. The embedded store counts no usage.

pub mod batch;
mod counted;
pub mod ledger;
pub mod subject;
pub mod tally;

use std::collections::{BTreeMap, HashMap};

pub use self::batch::Batch;
pub use self::subject::{Count, DAY_MS, DAYS, LAST_DAYS, MINUTES, Span, Subject};

use self::subject::{DAYS_TOGETHER, DENIED, LAST, MINUTE_MS, MINUTES_TOGETHER, SINCE, since_place};
use super::StoreError;
use super::layout::Layout;
use super::redis::key_admin::KeyAdmin;
use crate::keys::Tenant;

/// Members of one set that one command reads.
const PER_COMMAND: usize = 500;

/// The usage of one subject, the oldest first; days and minutes without requests are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Use {
    /// Milliseconds since the Unix epoch, by the store's clock.
    pub last_used_ms: Option<u64>,
    /// By the start of the day (milliseconds since the Unix epoch).
    pub days: BTreeMap<u64, Count>,
    /// By the start of the minute.
    pub minutes: BTreeMap<u64, Count>,
}

/// Reads the usage of one subject.
pub async fn read(key_admin: &KeyAdmin, layout: &Layout, subject: &Subject, now_ms: u64) -> Result<Use, StoreError> {
    let last = key_admin.scores(&[(subject.last(layout), vec![subject.member().to_owned()])]).await?;
    let mut used = Use { last_used_ms: last.into_iter().flatten().next().flatten(), ..Use::default() };
    let (day, minute) = (now_ms / DAY_MS, now_ms / MINUTE_MS);
    let first = day.saturating_sub(DAYS - 1);
    for n in first / DAYS_TOGETHER..=day / DAYS_TOGETHER {
        take(&mut used.days, key_admin.hash(&subject.days(layout, n)).await?, first, DAY_MS);
    }
    let first = minute.saturating_sub(MINUTES - 1);
    for n in first / MINUTES_TOGETHER..=minute / MINUTES_TOGETHER {
        take(&mut used.minutes, key_admin.hash(&subject.minutes(layout, n)).await?, first, MINUTE_MS);
    }
    Ok(used)
}

/// When each of these keys was last used, in their order; `None`: not within `LAST_DAYS`, as far as use was counted.
pub async fn last_used(
    key_admin: &KeyAdmin,
    layout: &Layout,
    keys: &[(&Tenant, &str)],
) -> Result<Vec<Option<u64>>, StoreError> {
    let mut places: Vec<(String, Vec<String>)> = Vec::new();
    let mut place_of: HashMap<&Tenant, usize> = HashMap::new();
    // Keys of one tenant are in one set, which is read with few commands, each short enough not to block Redis.
    let mut asked = Vec::with_capacity(keys.len());
    for (tenant, id) in keys {
        let known = place_of.get(tenant).copied().filter(|place| places[*place].1.len() < PER_COMMAND);
        let place = known.unwrap_or(places.len());
        if known.is_none() {
            places.push((layout.in_slot(&tenant.to_string(), LAST), Vec::new()));
            place_of.insert(tenant, place);
        }
        asked.push((place, places[place].1.len()));
        places[place].1.push((*id).to_owned());
    }
    let scores = key_admin.scores(&places).await?;
    let score = |(place, at): (usize, usize)| scores.get(place).and_then(|of| of.get(at)).copied().flatten();
    Ok(asked.into_iter().map(score).collect())
}

/// Since when usage is counted in this store; `None`: it never was.
pub async fn since(key_admin: &KeyAdmin, layout: &Layout) -> Result<Option<u64>, StoreError> {
    let scores = key_admin.scores(&[(since_place(layout), vec![SINCE.to_owned()])]).await?;
    Ok(scores.into_iter().flatten().next().flatten())
}

/// Adds up a hash's fields; unknown ones are ignored.
fn take(counts: &mut BTreeMap<u64, Count>, hash: HashMap<String, u64>, first: u64, unit_ms: u64) {
    for (field, amount) in hash {
        let (at, denied) = field.strip_suffix(DENIED).map_or((field.as_str(), false), |at| (at, true));
        let Some(at) = at.parse::<u64>().ok().filter(|at| *at >= first) else { continue };
        let count = counts.entry(at * unit_ms).or_default();
        *(if denied { &mut count.denials } else { &mut count.requests }) += amount;
    }
}

impl Use {
    pub fn total(&self) -> Count {
        let sum = |of: fn(&Count) -> u64| self.days.values().map(of).sum();
        Count { requests: sum(|count| count.requests), denials: sum(|count| count.denials) }
    }
}
