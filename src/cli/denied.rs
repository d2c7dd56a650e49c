//! Whom `deny.keys` names and the store does not have: a slip in an id denies nobody, and nothing else would say so.

use crate::config::Settings;
use crate::keys::tenant::comparable_id;
use crate::policy::DeniedKey;
use crate::store::registry::{Registry, RegistryError};
use crate::store::settings::Backend;

/// A warning for each of them, by its place: what stands there may be a key. Asked with the gate's own login; where that does not
/// get an answer nothing is said, since the list acts without one.
pub async fn strangers(settings: &Settings) -> Vec<String> {
    let denied = &settings.policy.deny.keys;
    if denied.is_empty() {
        return Vec::new();
    }
    let registry = match &settings.store.backend {
        Backend::Redis(redis) => Registry::connect(redis).await,
        Backend::File(_) => Registry::open(&settings.store).await,
    };
    let Ok(registry) = registry else { return Vec::new() };
    let mut warnings = Vec::new();
    for (index, key) in denied.iter().enumerate() {
        if matches!(is_known(&registry, key).await, Ok(false)) {
            let what = if key.id.is_some() { "id" } else { "SHA-256" };
            warnings.push(format!(
                "deny.keys[{index}]: no key in the store has this {what}, so that it denies nobody; `sidegate keys list` shows the ids"
            ));
        }
    }
    warnings
}

async fn is_known(registry: &Registry, key: &DeniedKey) -> Result<bool, RegistryError> {
    if let Some(id) = &key.id {
        // The store finds an id by its bytes, and the gate compares it without case where it is a UUID.
        let (compared, upper) = (comparable_id(id), id.to_ascii_uppercase());
        for spelt in [id, &*compared, &*upper].into_iter().filter(|spelt| comparable_id(spelt) == compared) {
            if registry.find_id(spelt).await?.is_some() {
                return Ok(true);
            }
        }
    }
    match registry.find_digest(&key.digest).await {
        Ok(_) => Ok(true),
        Err(RegistryError::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
