//! What the store says of a configuration: whether it answers, as it does to a gate, and whether what is denied is there.

use crate::config::Settings;
use crate::keys::tenant::is_uuid;
use crate::store::StoreError;
use crate::store::redis;
use crate::store::registry::Registry;
use crate::store::settings::Backend;

/// That a store does not answer is no mistake in the configuration.
pub fn warnings(settings: &Settings) -> Vec<String> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    runtime.block_on(async {
        let doubt = match of_redis(settings).await {
            Ok(doubt) => doubt,
            Err(problem) => return vec![format!("store: {problem}")],
        };
        let doubt = doubt.map(|doubt| format!("store: {doubt}"));
        doubt.into_iter().chain(denied_in_vain(settings).await).collect()
    })
}

/// What is doubtful of the store, or why no gate would get an answer.
async fn of_redis(settings: &Settings) -> Result<Option<String>, String> {
    let Backend::Redis(redis) = &settings.store.backend else { return Ok(None) };
    let meanwhile = if settings.policy.enforces() { "answer 503" } else { "pass as `store_unavailable`" };
    let words = |error: StoreError| format!("{error}; keyed routes {meanwhile} until that is mended");
    redis::rehearse(redis).await.map_err(words)
}

/// Ids of `deny.keys` that no key has. Others than UUIDs are not repeated: such a text may be a key itself.
async fn denied_in_vain(settings: &Settings) -> Option<String> {
    let denied = &settings.policy.deny.key_ids;
    let mut named: Vec<_> = denied.iter().filter(|id| is_uuid(id)).collect();
    if named.is_empty() {
        return None;
    }
    named.sort_unstable();
    let registry = Registry::open(&settings.store).await.ok()?;
    let mut in_vain = Vec::new();
    for id in named {
        // It denies a key whose id another service wrote in upper case, too.
        let is_there = registry.find_id(id).await.ok()?.is_some()
            || registry.find_id(&id.to_ascii_uppercase()).await.ok()?.is_some();
        if !is_there {
            in_vain.push(format!("`{id}`"));
        }
    }
    (!in_vain.is_empty()).then(|| format!("deny.keys: no key has the id {}", in_vain.join(", ")))
}
