//! Usage of a key or a business, and what is left of its limits: one document for the API and the command line.

use std::collections::BTreeMap;

use serde::Serialize;

use super::peek::{Peek, peek, peek_business};
use crate::clock;
use crate::gate::asks::{LimitSource, windows};
use crate::gate::{LimitNow, standing};
use crate::keys::Tenant;
use crate::policy::Policy;
use crate::store::record::{BusinessDocument, KeyDocument};
use crate::store::registry::{Registry, StoredKey};
use crate::store::usage::{self, Count, Subject, Use};
use crate::store::{Store, StoreError};

/// Days as `2026-03-23`, minutes and times as RFC 3339; those without requests are left out. Requests include denials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// `None`: not used, as far as is known.
    pub last_used_at: Option<String>,
    /// By day, the last ninety; `None`: not counted, since the store is a file.
    pub requests: Option<BTreeMap<String, u64>>,
    /// Of the requests, those that were denied.
    pub denials: Option<BTreeMap<String, u64>>,
    /// By minute, the last sixty.
    pub minutes: Option<Minutes>,
    pub limits: Vec<LimitUse>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Minutes {
    pub requests: BTreeMap<String, u64>,
    pub denials: BTreeMap<String, u64>,
}

/// One window of one limit. What is used is `None` where it is not known: with the embedded store counts are in the gate's
/// memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitUse {
    pub name: String,
    /// Whose requests it counts together.
    pub by: &'static str,
    /// `60/1m`.
    pub window: String,
    /// Who says so: `key`, `business`, `plan pro`, `configuration`; not told where nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub limit: u64,
    pub used: Option<u64>,
    pub remaining: Option<u64>,
    pub resets_at: Option<String>,
}

/// A key's usage, and every bucket that counts it, without spending. `seen`: whether the counts in `store` are
/// those of the gates.
pub async fn of_key(
    policy: &Policy,
    store: &Store,
    registry: &Registry,
    key: &StoredKey,
    now_ms: u64,
    seen: bool,
) -> Result<Usage, StoreError> {
    // An unreadable key has no limits to show.
    let limits = match &key.document {
        Ok(_) => limits(policy, &peek(policy, store, key).await?, seen),
        Err(_) => Vec::new(),
    };
    let subject = Subject::Key { tenant: key.tenant.clone(), id: key.text("id").unwrap_or_default().to_owned() };
    let used = read(registry, &subject, now_ms).await?;
    Ok(Usage::new(used.as_ref(), limits))
}

/// A business's usage, and the limits that its keys share, whether or not it has any.
pub async fn of_business(
    policy: &Policy,
    store: &Store,
    registry: &Registry,
    (id, document): (&str, Option<&BusinessDocument>),
    now_ms: u64,
) -> Result<Usage, StoreError> {
    let used = read(registry, &Subject::Business(id.to_owned()), now_ms).await?;
    let now = peek_business(policy, store, id, document).await?;
    let seen = sees_counts(registry);
    let shared = now.iter().map(|now| LimitUse::of(now, seen).said_by(from(policy, now, None, document))).collect();
    Ok(Usage::new(used.as_ref(), shared))
}

/// The usage of the business that a key is bound to; `None`: it is unscoped, or usage is not counted.
pub async fn of_business_of(registry: &Registry, key: &StoredKey, now_ms: u64) -> Result<Option<Usage>, StoreError> {
    let Tenant::Business(id) = &key.tenant else { return Ok(None) };
    let used = read(registry, &Subject::Business(id.clone()), now_ms).await?;
    Ok(used.map(|used| Usage::new(Some(&used), Vec::new())))
}

/// When each of these keys was last used, in their order (milliseconds since the Unix epoch); `None`: usage is not counted.
pub async fn last_used(registry: &Registry, keys: &[StoredKey]) -> Result<Option<Vec<Option<u64>>>, StoreError> {
    let Registry::Redis { key_admin, layout, .. } = registry else { return Ok(None) };
    let asked: Vec<_> = keys.iter().map(|key| (&key.tenant, key.text("id").unwrap_or_default())).collect();
    usage::last_used(key_admin, layout, &asked).await.map(Some)
}

/// Keys that are known not to have been used for a while.
#[derive(Debug)]
pub struct Unused {
    pub keys: Vec<StoredKey>,
    /// Since when usage is counted (milliseconds since the Unix epoch): a key may have been used before.
    pub counted_since_ms: u64,
}

/// Those of `keys` that were not used since `before_ms`; `None`: usage is not counted, or not yet.
///
/// A key without a known use counts from its creation, but not from before counting began: an
/// operator who revokes what is listed must not revoke keys that were used before usage was counted.
pub async fn unused_since(
    registry: &Registry,
    keys: Vec<StoredKey>,
    before_ms: u64,
) -> Result<Option<Unused>, StoreError> {
    let Registry::Redis { key_admin, layout, .. } = registry else { return Ok(None) };
    let Some(counted_since_ms) = usage::since(key_admin, layout).await? else { return Ok(None) };
    let last = last_used(registry, &keys).await?.unwrap_or_default();
    let is_unused = |key: &StoredKey, last: Option<u64>| {
        let created = key.document.as_ref().ok().and_then(|document| document.created_at);
        last.unwrap_or(created.unwrap_or_default().max(counted_since_ms)) < before_ms
    };
    let kept = keys.into_iter().zip(last).filter(|(key, last)| is_unused(key, *last));
    Ok(Some(Unused { keys: kept.map(|(key, _)| key).collect(), counted_since_ms }))
}

/// Every window of every limit that a peek has seen. `seen`: whether its counts are those of the gates.
pub fn limits(policy: &Policy, peek: &Peek, seen: bool) -> Vec<LimitUse> {
    let (key, business) = (peek.document.as_deref(), peek.business.as_deref());
    peek.limits.iter().map(|now| LimitUse::of(now, seen).said_by(from(policy, now, key, business))).collect()
}

/// Who says how large the limit is, by name.
fn from(policy: &Policy, now: &LimitNow, key: Option<&KeyDocument>, business: Option<&BusinessDocument>) -> String {
    match windows(&now.limit, key, business, standing::plan(policy, business)).1 {
        LimitSource::Key => "key".to_owned(),
        LimitSource::Business => "business".to_owned(),
        LimitSource::Plan => {
            let plans = policy.plans.as_ref();
            let named = business.and_then(|business| business.plan.as_deref());
            let known = |name: &&str| plans.is_some_and(|plans| plans.iter().any(|(known, _)| known == name));
            format!("plan {}", named.filter(known).unwrap_or("default"))
        }
        LimitSource::Configuration => "configuration".to_owned(),
    }
}

impl LimitUse {
    pub fn of(now: &LimitNow, seen: bool) -> Self {
        Self {
            name: now.limit.name.clone(),
            by: now.limit.by.name(),
            window: now.window.to_string(),
            from: None,
            limit: now.window.limit,
            used: seen.then(|| now.window.limit.saturating_sub(now.now.remaining)),
            remaining: seen.then_some(now.now.remaining),
            resets_at: seen.then(|| clock::rfc3339(now.now.reset_ms)),
        }
    }

    fn said_by(self, from: String) -> Self {
        Self { from: Some(from), ..self }
    }
}

impl Usage {
    fn new(used: Option<&Use>, limits: Vec<LimitUse>) -> Self {
        let by_day = |of: fn(&Count) -> u64| used.map(|used| amounts(&used.days, of, day));
        let minutes = |used: &Use| Minutes {
            requests: amounts(&used.minutes, requests, clock::rfc3339),
            denials: amounts(&used.minutes, denials, clock::rfc3339),
        };
        Self {
            last_used_at: used.and_then(|used| used.last_used_ms).map(clock::rfc3339),
            requests: by_day(requests),
            denials: by_day(denials),
            minutes: used.map(minutes),
            limits,
        }
    }

    /// The sum of all days; `None`: not counted.
    pub fn total(&self) -> Option<Count> {
        let sum = |amounts: &BTreeMap<String, u64>| amounts.values().sum();
        Some(Count { requests: sum(self.requests.as_ref()?), denials: sum(self.denials.as_ref()?) })
    }
}

async fn read(registry: &Registry, subject: &Subject, now_ms: u64) -> Result<Option<Use>, StoreError> {
    match registry {
        Registry::Redis { key_admin, layout, .. } => usage::read(key_admin, layout, subject, now_ms).await.map(Some),
        Registry::File { .. } => Ok(None),
    }
}

fn sees_counts(registry: &Registry) -> bool {
    matches!(registry, Registry::Redis { .. })
}

fn amounts(counts: &BTreeMap<u64, Count>, of: fn(&Count) -> u64, written: fn(u64) -> String) -> BTreeMap<String, u64> {
    counts.iter().map(|(at, count)| (written(*at), of(count))).filter(|(_, amount)| *amount > 0).collect()
}

fn requests(count: &Count) -> u64 {
    count.requests
}

fn denials(count: &Count) -> u64 {
    count.denials
}

/// `2026-03-23`.
fn day(ms: u64) -> String {
    clock::rfc3339(ms).chars().take_while(|character| *character != 'T').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_days_and_minutes_and_says_what_nobody_counts() {
        let count = |requests, denials| Count { requests, denials };
        let used = Use {
            last_used_ms: Some(1_774_276_200_999),
            days: BTreeMap::from([(1_774_224_000_000, count(3, 1)), (1_774_137_600_000, count(2, 0))]),
            minutes: BTreeMap::from([(1_774_276_200_000, count(1, 1))]),
        };
        let document = serde_json::to_value(Usage::new(Some(&used), Vec::new())).expect("it is plain data");
        let expected = serde_json::json!({
            "last_used_at": "2026-03-23T14:30:00Z",
            "requests": {"2026-03-22": 2, "2026-03-23": 3},
            "denials": {"2026-03-23": 1},
            "minutes": {"requests": {"2026-03-23T14:30:00Z": 1}, "denials": {"2026-03-23T14:30:00Z": 1}},
            "limits": [],
        });
        assert_eq!(document, expected);
        let nothing = Usage::new(None, Vec::new());
        assert_eq!((nothing.last_used_at.clone(), nothing.requests.clone(), nothing.total()), (None, None, None));
    }
}
