//! How much a key and its business are used, as JSON: the same for the command line and over HTTP.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::peek::Peek;
use crate::clock;
use crate::gate::LimitNow;
use crate::keys::Tenant;
use crate::policy::By;
use crate::store::StoreError;
use crate::store::registry::{Registry, StoredKey};
use crate::store::usage::{self, Count, Subject, Use};

/// What is stored of the use of the key and of its business; `None`: nothing can be.
pub async fn used(registry: &Registry, key: &StoredKey, now_ms: u64) -> Result<(Option<Use>, Option<Use>), StoreError> {
    let Registry::Redis { keeper, layout, .. } = registry else { return Ok((None, None)) };
    let of_business = match &key.tenant {
        Tenant::Business(id) => Some(usage::read(keeper, layout, &Subject::Business(id.clone()), now_ms).await?),
        Tenant::User(_) => None,
    };
    Ok((used_key(registry, key, now_ms).await?, of_business))
}

/// The same of the key alone.
pub async fn used_key(registry: &Registry, key: &StoredKey, now_ms: u64) -> Result<Option<Use>, StoreError> {
    let Registry::Redis { keeper, layout, .. } = registry else { return Ok(None) };
    let subject = Subject::Key { tenant: key.tenant.clone(), id: key.text("id").unwrap_or_default().to_owned() };
    usage::read(keeper, layout, &subject, now_ms).await.map(Some)
}

pub fn document(used: &Use) -> Value {
    let counts = |counts: &BTreeMap<u64, Count>| {
        let one = |(at, count): (&u64, &Count)| json!({"from": clock::rfc3339(*at), "requests": count.requests, "denials": count.denials});
        counts.iter().map(one).collect::<Vec<_>>()
    };
    let total = used.total();
    json!({
        "last_used_at": used.last_used_ms().map(clock::rfc3339),
        "requests": total.requests,
        "denials": total.denials,
        "days": counts(&used.days),
        "minutes": counts(&used.minutes),
    })
}

/// Every window; what is used is null where it cannot be seen from here.
pub fn windows(peek: &Peek, seen: bool) -> Value {
    let one = |now: &LimitNow| {
        json!({
            "limit": now.limit.name,
            "by": by(now.limit.by),
            "window": now.window.to_string(),
            "most": now.window.limit,
            "used": seen.then(|| used_of(now)),
            "remaining": seen.then_some(now.now.remaining),
            "resets_at": seen.then(|| clock::rfc3339(now.now.reset_ms)),
        })
    };
    peek.limits.iter().map(one).collect::<Vec<_>>().into()
}

pub fn used_of(now: &LimitNow) -> u64 {
    now.window.limit.saturating_sub(now.now.remaining)
}

pub fn by(by: By) -> &'static str {
    match by {
        By::Key => "key",
        By::Business => "business",
        By::User => "user",
        By::Ip => "ip",
        By::Global => "global",
    }
}
