//! Keeping keys in the embedded store's file.

use serde_json::Value;

use super::{Insertion, Members, RegistryError, Revocation, StoredKey, compare, json};
use crate::keys::Digest;
use crate::store::StoreError;
use crate::store::file::{Contents, FileStore, tenant_of};

pub fn insert(store: &FileStore, wanted: &Members, new: StoredKey) -> Result<Insertion, RegistryError> {
    store.edit(|contents| {
        let mut standing = keys(contents);
        if let Some(at) = standing.iter().position(|key| key.digest == new.digest) {
            return Ok((compare(standing.swap_remove(at), wanted)?, false));
        }
        if let Some(id) = new.text("id").filter(|id| standing.iter().any(|key| key.text("id") == Some(id))) {
            return Err(RegistryError::IdTaken(id.to_owned()));
        }
        contents.push(&new.digest, &new.members).map_err(StoreError::Broken)?;
        Ok((Insertion::Inserted(new), true))
    })
}

pub fn all(store: &FileStore) -> Result<Vec<StoredKey>, RegistryError> {
    Ok(keys(&store.contents()?))
}

pub fn revoke(store: &FileStore, digest: &Digest, at: &str) -> Result<Revocation, RegistryError> {
    store.edit(|contents| {
        let standing = keys(contents).into_iter().find(|key| key.digest == *digest);
        let mut key = standing.ok_or(RegistryError::NotFound)?;
        if key.is_revoked() {
            return Ok((Revocation::AlreadyRevoked(key), false));
        }
        contents.set_absent(digest, "revoked_at", at);
        key.members.insert("revoked_at".to_owned(), Value::from(at));
        let key = StoredKey::read(key.digest, key.tenant, json(&key.members).as_bytes());
        Ok((Revocation::Revoked(key), true))
    })
}

/// Entries that belong to nobody are no keys; the store has said so when it read them.
fn keys(contents: &Contents) -> Vec<StoredKey> {
    let read = |(digest, members): (Digest, Members)| {
        Some(StoredKey::read(digest, tenant_of(&members)?, json(&members).as_bytes()))
    };
    contents.entries().filter_map(read).collect()
}
