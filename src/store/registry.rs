//! The keys of a store as their keepers see them: to add, to find, to list, to revoke. Not on the way of a request.
//!
//! One face for the command line and for management over both stores; what differs is in `in_redis` and `in_file`.
//! Documents are changed as JSON, so that members of other services survive.

mod in_file;
mod in_redis;

use std::sync::Arc;

use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use super::StoreError;
use super::file::FileStore;
use super::layout::Layout;
use super::record::{KeyDocument, RecordError};
use super::redis::RedisDocuments;
use crate::clock;
use crate::keys::{Digest, Tenant};

/// A store, opened to keep its keys.
#[derive(Debug)]
pub enum Registry {
    Redis { documents: RedisDocuments, layout: Layout },
    File { store: Arc<FileStore> },
}

/// The members of a document.
pub type Members = Map<String, Value>;

/// A key as a store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredKey {
    pub digest: Digest,
    pub tenant: Tenant,
    /// All members, also those that the contract does not know; empty when the document is no JSON object.
    pub members: Members,
    /// What the gate makes of it.
    pub document: Result<KeyDocument, RecordError>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Insertion {
    Inserted(StoredKey),
    /// The same digest stands there with the same facts; what an interrupted insertion left out has been added.
    AlreadyThere(StoredKey),
}

/// A key that is revoked; `members` hold since when.
#[derive(Debug, Clone, PartialEq)]
pub enum Revocation {
    Revoked(StoredKey),
    AlreadyRevoked(StoredKey),
}

/// Which keys to list; both: those of the user within the business.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub business: Option<String>,
    pub user: Option<String>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum RegistryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the gate could not read this key's document: {0}")]
    Unreadable(#[from] RecordError),
    #[error("the id `{0}` belongs to another key; leave `id` out to get a new one")]
    IdTaken(String),
    #[error("this key stands there already, as `{id}` with another `{member}`; nothing was changed")]
    Differs { id: String, member: String },
    #[error("no key has this id or hint; `sidegate keys list` shows those there are")]
    NotFound,
    #[error("{} keys have the hint `{hint}`; name the one that you mean by its id: {}", ids.len(), ids.join(", "))]
    Ambiguous { hint: String, ids: Vec<String> },
    #[error("the key's document kept changing while it was written; try again")]
    Contended,
}

impl Registry {
    /// Adds a key. A document without `id` or `created_at` gets them. Doing it twice is the same as doing it once.
    pub async fn insert(&self, digest: &Digest, wanted: Members, now_ms: u64) -> Result<Insertion, RegistryError> {
        let (completed, document) = complete(&wanted, now_ms)?;
        let new = StoredKey { digest: *digest, tenant: document.tenant(), members: completed, document: Ok(document) };
        match self {
            Self::Redis { documents, layout } => in_redis::insert(documents, layout, &wanted, new).await,
            Self::File { store } => in_file::insert(store, &wanted, new),
        }
    }

    /// The key with this id, else the one with this hint.
    pub async fn find(&self, name: &str) -> Result<StoredKey, RegistryError> {
        let by_id = match self {
            Self::Redis { documents, layout } => in_redis::with_id(documents, layout, name).await?,
            Self::File { store } => in_file::all(store)?.into_iter().find(|key| key.text("id") == Some(name)),
        };
        match by_id {
            Some(key) => Ok(key),
            None => with_hint(self.list(&Filter::default()).await?, name),
        }
    }

    /// The key whose digest this is.
    pub async fn find_digest(&self, digest: &Digest) -> Result<StoredKey, RegistryError> {
        let found = match self {
            Self::Redis { documents, layout } => in_redis::with_digest(documents, layout, digest).await?,
            Self::File { store } => in_file::all(store)?.into_iter().find(|key| key.digest == *digest),
        };
        found.ok_or(RegistryError::NotFound)
    }

    /// The keys that `filter` asks for, the oldest first.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<StoredKey>, RegistryError> {
        let mut keys = match self {
            Self::Redis { documents, layout } => in_redis::list(documents, layout, filter.business.as_deref()).await?,
            Self::File { store } => in_file::all(store)?,
        };
        keys.retain(|key| filter.fits(key));
        // RFC 3339 in UTC sorts as text.
        keys.sort_by(|a, b| (a.text("created_at"), a.text("id")).cmp(&(b.text("created_at"), b.text("id"))));
        Ok(keys)
    }

    /// Revokes a key that was found. When this returns, every gate that asks this store refuses it.
    pub async fn revoke(&self, key: &StoredKey, now_ms: u64) -> Result<Revocation, RegistryError> {
        let at = clock::rfc3339(now_ms);
        match self {
            Self::Redis { documents, layout } => in_redis::revoke(documents, layout, key, &at).await,
            Self::File { store } => in_file::revoke(store, &key.digest, &at),
        }
    }
}

impl StoredKey {
    /// What stands under the digest in the slot of `tenant`, readable or not.
    fn read(digest: Digest, tenant: Tenant, json: &[u8]) -> Self {
        let document = KeyDocument::parse_in(&tenant, json);
        let members = serde_json::from_slice(json).unwrap_or_default();
        Self { digest, tenant, members, document }
    }

    /// A member that is a text.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.members.get(member).and_then(Value::as_str)
    }

    fn is_revoked(&self) -> bool {
        self.members.contains_key("revoked_at")
    }
}

impl Filter {
    fn fits(&self, key: &StoredKey) -> bool {
        let same = |wanted: &Option<String>, member| wanted.is_none() || key.text(member) == wanted.as_deref();
        same(&self.business, "business") && same(&self.user, "user")
    }
}

/// The document with an id and a creation time, as the gate will read it.
fn complete(wanted: &Members, now_ms: u64) -> Result<(Members, KeyDocument), RegistryError> {
    let mut completed = wanted.clone();
    completed.entry("id").or_insert_with(|| Uuid::new_v4().to_string().into());
    completed.entry("created_at").or_insert_with(|| clock::rfc3339(now_ms).into());
    let document = KeyDocument::parse(json(&completed).as_bytes())?;
    Ok((completed, document))
}

/// What stands there answers an insertion of the same digest: it has all that is wanted, or something else. What it has
/// beyond that (an id given to it, its revocation) is no difference.
fn compare(standing: StoredKey, wanted: &Members) -> Result<Insertion, RegistryError> {
    let other = wanted.iter().find(|(member, value)| standing.members.get(*member) != Some(*value));
    match other {
        None => Ok(Insertion::AlreadyThere(standing)),
        Some((member, _)) => {
            let id = standing.text("id").unwrap_or("?").to_owned();
            Err(RegistryError::Differs { id, member: member.clone() })
        }
    }
}

fn with_hint(keys: Vec<StoredKey>, hint: &str) -> Result<StoredKey, RegistryError> {
    let mut found: Vec<_> = keys.into_iter().filter(|key| key.text("hint") == Some(hint)).collect();
    match found.len() {
        0 | 1 => found.pop().ok_or(RegistryError::NotFound),
        _ => {
            let ids = found.iter().map(|key| key.text("id").unwrap_or("?").to_owned()).collect();
            Err(RegistryError::Ambiguous { hint: hint.to_owned(), ids })
        }
    }
}

fn json(members: &Members) -> String {
    serde_json::to_string(members).expect("a JSON value is always JSON")
}

#[cfg(test)]
mod tests;
