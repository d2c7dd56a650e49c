//! The keys and businesses of a store, for key management: to add, find, list and change them. Not on the path of a request;
//! `keyring` decides who may do what.
//!
//! One interface over both stores; what differs is in `in_redis` and `in_file`, and `stored` has the common rules. Documents are
//! changed as JSON, so that members of other services are kept.

mod in_file;
mod in_redis;
mod stored;

use std::sync::Arc;

pub use self::stored::{Bounds, Changed, ChangedBusiness, Edit, Insertion, RegistryError, StoredKey};

use self::in_redis::InRedis;
use super::file::FileStore;
use super::layout::Layout;
use super::members::Members;
use super::redis::RedisDocuments;
use super::redis::key_admin::KeyAdmin;
use super::settings::{Backend, StoreSettings};
use super::{StoreError, redis};
use crate::clock;
use crate::keys::rules::RuleError;
use crate::keys::{Digest, Tenant};

/// A store, opened for key management.
#[derive(Debug)]
pub enum Registry {
    Redis { documents: Box<RedisDocuments>, key_admin: Box<KeyAdmin>, layout: Layout },
    File { store: Arc<FileStore> },
}

/// Which keys to list; both: those of the user within the business.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub business: Option<String>,
    pub user: Option<String>,
    /// Only keys that were created before this time (milliseconds since the Unix epoch).
    pub created_before: Option<u64>,
}

impl Registry {
    /// Opens the configured store, with management's own credentials where there are such.
    pub async fn open(store: &StoreSettings) -> Result<Self, StoreError> {
        match &store.backend {
            Backend::Redis(redis) => Self::connect(store.management_redis.as_ref().unwrap_or(redis)).await,
            Backend::File(file) => Ok(Self::File { store: FileStore::open(file)? }),
        }
    }

    pub async fn connect(settings: &redis::Settings) -> Result<Self, StoreError> {
        let documents = Box::new(RedisDocuments::connect(settings).await?);
        let key_admin = Box::new(KeyAdmin::connect(settings).await?);
        Ok(Self::Redis { documents, key_admin, layout: Layout::new(&settings.prefix) })
    }

    fn in_redis(&self) -> Result<InRedis<'_>, RegistryError> {
        match self {
            Self::Redis { documents, key_admin, layout } => Ok(InRedis { documents, key_admin, layout }),
            Self::File { .. } => Err(RegistryError::NotHere("this needs Redis, and the store is a file")),
        }
    }

    /// Whether the sentinels, where there are any, still name the master that this writes to: an old master that was cut off
    /// takes writes and loses them. An error if none of them answers.
    pub async fn follows_master(&self) -> Result<bool, StoreError> {
        let Self::Redis { documents, key_admin, .. } = self else { return Ok(true) };
        let master = key_admin.master_now().await?;
        Ok(master.is_none_or(|master| documents.sends_to(&master) && key_admin.sends_to(&master)))
    }

    /// The clock by which keys expire: the store's, in milliseconds since the Unix epoch.
    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        match self {
            Self::Redis { key_admin, .. } => key_admin.now_ms("").await,
            Self::File { .. } => Ok(clock::now_ms()),
        }
    }

    /// The same where this tenant's keys are judged: an end that is to act at once must not be later than that clock.
    pub async fn now_ms_of(&self, tenant: &Tenant) -> Result<u64, StoreError> {
        match self {
            Self::Redis { key_admin, layout, .. } => key_admin.now_ms(&layout.keys(tenant)).await,
            Self::File { .. } => Ok(clock::now_ms()),
        }
    }

    /// Adds a key. A document without `id` or `created_at` gets them. Idempotent.
    pub async fn insert(&self, digest: &Digest, wanted: Members, bounds: Bounds) -> Result<Insertion, RegistryError> {
        let new = StoredKey::new(*digest, &wanted, bounds.now_ms)?;
        match self {
            Self::Redis { .. } => self.in_redis()?.insert(&wanted, new, bounds).await,
            Self::File { store } => in_file::insert(store, &wanted, new, bounds),
        }
    }

    /// What stands already where an insertion of `new` would write.
    pub async fn standing(&self, new: &StoredKey) -> Result<Option<StoredKey>, RegistryError> {
        match self {
            Self::Redis { .. } => self.in_redis()?.standing(new).await,
            Self::File { store } => Ok(in_file::all(store)?.into_iter().find(|key| key.digest == new.digest)),
        }
    }

    /// The key with this id.
    pub async fn find_id(&self, id: &str) -> Result<Option<StoredKey>, RegistryError> {
        match self {
            Self::Redis { .. } => self.in_redis()?.with_id(id).await,
            Self::File { store } => Ok(in_file::all(store)?.into_iter().find(|key| key.text("id") == Some(id))),
        }
    }

    /// The key with this id, else the one with this hint.
    pub async fn find(&self, name: &str) -> Result<StoredKey, RegistryError> {
        match self.find_id(name).await? {
            Some(key) => Ok(key),
            None => with_hint(self.list(&Filter::default()).await?, name),
        }
    }

    /// The key whose digest this is.
    pub async fn find_digest(&self, digest: &Digest) -> Result<StoredKey, RegistryError> {
        let found = match self {
            Self::Redis { .. } => self.in_redis()?.with_digest(digest).await?,
            Self::File { store } => in_file::all(store)?.into_iter().find(|key| key.digest == *digest),
        };
        found.ok_or(RegistryError::NotFound)
    }

    /// The keys that `filter` asks for, the oldest first.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<StoredKey>, RegistryError> {
        let mut keys = match self {
            Self::Redis { .. } => self.in_redis()?.list(filter.business.as_deref()).await?,
            Self::File { store } => in_file::all(store)?,
        };
        keys.retain(|key| filter.fits(key));
        sort(&mut keys);
        Ok(keys)
    }

    /// All keys of these tenants, the oldest first; other tenants' are not read.
    pub async fn list_of(&self, tenants: &[Tenant]) -> Result<Vec<StoredKey>, RegistryError> {
        let mut keys = Vec::new();
        match self {
            Self::Redis { .. } => {
                for tenant in tenants {
                    keys.extend(self.in_redis()?.list_of(tenant).await?);
                }
            }
            Self::File { store } => {
                keys = in_file::all(store)?;
                keys.retain(|key| tenants.contains(&key.tenant));
            }
        }
        sort(&mut keys);
        Ok(keys)
    }

    /// Changes a key atomically into what `decide` makes of its current document. When this returns, every gate that asks this
    /// store decides by it.
    pub async fn change(
        &self,
        key: &StoredKey,
        bounds: Bounds,
        decide: impl Fn(&StoredKey) -> Result<Edit, RuleError>,
    ) -> Result<Changed, RegistryError> {
        match self {
            Self::Redis { .. } => self.in_redis()?.change(key, bounds, &decide).await,
            Self::File { store } => in_file::change(store, key, bounds, &decide),
        }
    }

    /// Returns once this many replicas hold the key's current document.
    pub async fn wait_for_replicas(&self, key: &StoredKey, wanted: u64) -> Result<(), RegistryError> {
        let Self::Redis { key_admin, layout, .. } = self else {
            return Err(RegistryError::NotHere("a file has no replicas; leave `--wait-replicas` out"));
        };
        // A key that is gone was deleted over this connection.
        let rewritten = self.in_redis()?.rewrite(key).await?;
        let node = rewritten.unwrap_or_else(|| key_admin.serving(&layout.keys(&key.tenant)));
        match key_admin.wait(&node, wanted).await? {
            answered if answered >= wanted => Ok(()),
            answered => Err(RegistryError::Replicas { answered, wanted }),
        }
    }

    /// The members of a business's document; none where there is no document.
    pub async fn business(&self, id: &str) -> Result<Option<Members>, RegistryError> {
        match self {
            Self::Redis { .. } => self.in_redis()?.business(id).await,
            Self::File { store } => Ok(store.contents()?.business(id)),
        }
    }

    /// The ids of all businesses that have a document.
    pub async fn businesses(&self) -> Result<Vec<String>, RegistryError> {
        match self {
            Self::Redis { .. } => self.in_redis()?.businesses().await,
            Self::File { store } => Ok(store.contents()?.businesses()),
        }
    }

    /// Changes a business's document.
    pub async fn change_business(
        &self,
        id: &str,
        change: impl Fn(&Members) -> Members,
    ) -> Result<ChangedBusiness, RegistryError> {
        match self {
            Self::Redis { .. } => self.in_redis()?.change_business(id, &change).await,
            Self::File { store } => in_file::change_business(store, id, &change),
        }
    }
}

impl Filter {
    fn fits(&self, key: &StoredKey) -> bool {
        let same = |wanted: &Option<String>, member| wanted.is_none() || key.text(member) == wanted.as_deref();
        let created = || key.document.as_ref().ok().and_then(|document| document.created_at);
        let is_old = self.created_before.is_none_or(|end| created().is_none_or(|created| created < end));
        same(&self.business, "business") && same(&self.user, "user") && is_old
    }
}

/// The oldest first. RFC 3339 in UTC sorts as text.
fn sort(keys: &mut [StoredKey]) {
    keys.sort_by(|a, b| (a.text("created_at"), a.text("id")).cmp(&(b.text("created_at"), b.text("id"))));
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

#[cfg(test)]
mod tests;
