//! Key management in the embedded store's file; every change holds its lock.

use super::stored::{Bounds, Changed, ChangedBusiness, Edit, Insertion, RegistryError, StoredKey, compare, json};
use crate::keys::rules::RuleError;
use crate::keys::{Digest, Tenant};
use crate::store::StoreError;
use crate::store::file::{Contents, FileStore, tenant_of};
use crate::store::members::Members;

pub fn insert(store: &FileStore, wanted: &Members, new: StoredKey, bounds: Bounds) -> Result<Insertion, RegistryError> {
    store.edit(|contents| {
        let mut standing = keys(contents);
        if let Some(at) = standing.iter().position(|key| key.digest == new.digest) {
            return Ok((compare(standing.swap_remove(at), &new, wanted)?, false));
        }
        add(contents, &standing, &new)?;
        bounds.check(&new.tenant, &of_tenant(&standing, &new.tenant), u64::from(new.is_active(bounds.now_ms)))?;
        Ok((Insertion::Inserted(new), true))
    })
}

pub fn all(store: &FileStore) -> Result<Vec<StoredKey>, RegistryError> {
    Ok(keys(&store.contents()?))
}

pub fn change(
    store: &FileStore,
    key: &StoredKey,
    bounds: Bounds,
    decide: &impl Fn(&StoredKey) -> Result<Edit, RuleError>,
) -> Result<Changed, RegistryError> {
    store.edit(|contents| {
        let standing = keys(contents);
        let before = standing.iter().find(|standing| standing.digest == key.digest).ok_or(RegistryError::NotFound)?;
        let changed = decide(before)?.apply(before, bounds.now_ms)?;
        match changed.growth(bounds.now_ms) {
            0 => {}
            growth => bounds.check(&before.tenant, &of_tenant(&standing, &before.tenant), growth)?,
        }
        match &changed.after {
            Some(after) => contents.replace(&key.digest, &after.members).map_err(StoreError::Broken)?,
            None => contents.remove(&key.digest),
        }
        if let Some(successor) = &changed.successor {
            add(contents, &standing, successor)?;
        }
        let is_changed = !changed.is_unchanged();
        Ok((changed, is_changed))
    })
}

pub fn change_business(
    store: &FileStore,
    id: &str,
    change: &impl Fn(&Members) -> Members,
) -> Result<ChangedBusiness, RegistryError> {
    store.edit(|contents| {
        let before = contents.business(id).unwrap_or_default();
        let after = change(&before);
        contents.set_business(id, &after).map_err(StoreError::Broken)?;
        Ok((ChangedBusiness { before, after }, true))
    })
}

fn add(contents: &mut Contents, standing: &[StoredKey], new: &StoredKey) -> Result<(), RegistryError> {
    if let Some(id) = new.text("id").filter(|id| standing.iter().any(|key| key.text("id") == Some(id))) {
        return Err(RegistryError::IdTaken(id.to_owned()));
    }
    contents.push(&new.digest, &new.members).map_err(StoreError::Broken)?;
    Ok(())
}

/// Entries without a tenant are skipped; the store has warned of them when it read the file.
fn keys(contents: &Contents) -> Vec<StoredKey> {
    let read = |(digest, members): (Digest, Members)| {
        Some(StoredKey::read(digest, tenant_of(&members)?, json(&members).as_bytes()))
    };
    contents.entries().filter_map(read).collect()
}

fn of_tenant(keys: &[StoredKey], tenant: &Tenant) -> Vec<StoredKey> {
    keys.iter().filter(|key| key.tenant == *tenant).cloned().collect()
}
