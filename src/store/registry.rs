//! The keys and businesses of a store as their keepers see them: to add, to find, to list, to change. Not on the way of a
//! request, and without an opinion on who may do what: that is the `keyring`'s.
//!
//! One face for the command line and for management over both stores; what differs is in `in_redis` and `in_file`.
//! Documents are changed as JSON, so that members of other services survive.

mod in_file;
mod in_redis;

use std::sync::Arc;

use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;

use super::file::FileStore;
use super::layout::Layout;
use super::members::{Members, SUCCESSOR};
use super::record::{KeyDocument, RecordError};
use super::redis::RedisDocuments;
use super::redis::keeper::Keeper;
use super::settings::{Backend, StoreSettings};
use super::{StoreError, redis};
use crate::clock;
use crate::keys::rules::RuleError;
use crate::keys::{Digest, Tenant};

/// A store, opened to keep its keys.
#[derive(Debug)]
pub enum Registry {
    Redis { documents: RedisDocuments, keeper: Box<Keeper>, layout: Layout },
    File { store: Arc<FileStore> },
}

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

/// What is to become of a key that stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    Unchanged,
    Changed(Members),
    Gone,
    /// The key goes on as the first and gets a successor in the same step.
    Replaced {
        old: Members,
        digest: Digest,
        new: Members,
    },
}

/// A key before and after a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    pub before: StoredKey,
    /// `None`: it is gone.
    pub after: Option<StoredKey>,
    pub successor: Option<StoredKey>,
}

/// How many keys of one business may be active, and when that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// `None`: any number.
    pub most: Option<u64>,
    pub now_ms: u64,
}

/// A business before and after a change; no members: there is no document.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangedBusiness {
    pub before: Members,
    pub after: Members,
}

/// Which keys to list; both: those of the user within the business.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub business: Option<String>,
    pub user: Option<String>,
    /// Only keys that were created before this time (milliseconds since the Unix epoch).
    pub created_before: Option<u64>,
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
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error(
        "the business {business} has {most} active keys already, which is the most that one business may have; revoke one first"
    )]
    Full { business: String, most: u64 },
    #[error(
        "the change acts, but only {answered} of {wanted} replicas have confirmed it; after a failover to another it could be lost"
    )]
    Replicas { answered: u64, wanted: u64 },
    #[error("{0}")]
    NotHere(&'static str),
}

impl Registry {
    /// Opens the configured store, with the keepers' own credentials where there are such.
    pub async fn open(store: &StoreSettings) -> Result<Self, StoreError> {
        match &store.backend {
            Backend::Redis(redis) => Self::connect(store.keepers.as_ref().unwrap_or(redis)).await,
            Backend::File(file) => Ok(Self::File { store: FileStore::open(file)? }),
        }
    }

    pub async fn connect(settings: &redis::Settings) -> Result<Self, StoreError> {
        let documents = RedisDocuments::connect(settings).await?;
        let keeper = Box::new(Keeper::connect(settings).await?);
        Ok(Self::Redis { documents, keeper, layout: Layout::new(&settings.prefix) })
    }

    /// The clock that keys end by: the store's, in milliseconds since the Unix epoch.
    pub async fn now_ms(&self) -> Result<u64, StoreError> {
        match self {
            Self::Redis { keeper, .. } => keeper.now_ms().await,
            Self::File { .. } => Ok(clock::now_ms()),
        }
    }

    /// Adds a key. A document without `id` or `created_at` gets them. Doing it twice is the same as doing it once.
    pub async fn insert(&self, digest: &Digest, wanted: Members, bounds: Bounds) -> Result<Insertion, RegistryError> {
        let new = StoredKey::new(*digest, &wanted, bounds.now_ms)?;
        match self {
            Self::Redis { .. } => in_redis::Place::of(self)?.insert(&wanted, new, bounds).await,
            Self::File { store } => in_file::insert(store, &wanted, new, bounds),
        }
    }

    /// The key with this id.
    pub async fn find_id(&self, id: &str) -> Result<Option<StoredKey>, RegistryError> {
        match self {
            Self::Redis { .. } => in_redis::Place::of(self)?.with_id(id).await,
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
            Self::Redis { .. } => in_redis::Place::of(self)?.with_digest(digest).await?,
            Self::File { store } => in_file::all(store)?.into_iter().find(|key| key.digest == *digest),
        };
        found.ok_or(RegistryError::NotFound)
    }

    /// The keys that `filter` asks for, the oldest first.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<StoredKey>, RegistryError> {
        let mut keys = match self {
            Self::Redis { .. } => in_redis::Place::of(self)?.list(filter.business.as_deref()).await?,
            Self::File { store } => in_file::all(store)?,
        };
        keys.retain(|key| filter.fits(key));
        sort(&mut keys);
        Ok(keys)
    }

    /// All keys of these tenants, the oldest first. Nothing else is looked at.
    pub async fn list_of(&self, tenants: &[Tenant]) -> Result<Vec<StoredKey>, RegistryError> {
        let mut keys = Vec::new();
        match self {
            Self::Redis { .. } => {
                for tenant in tenants {
                    keys.extend(in_redis::Place::of(self)?.list_of(tenant).await?);
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

    /// Changes a key that was found into what `decide` makes of it, whatever has become of it meanwhile: all of it in one
    /// step. When this returns, every gate that asks this store decides by it.
    pub async fn change(
        &self,
        key: &StoredKey,
        bounds: Bounds,
        decide: impl Fn(&StoredKey) -> Result<Fate, RuleError>,
    ) -> Result<Changed, RegistryError> {
        match self {
            Self::Redis { .. } => in_redis::Place::of(self)?.change(key, bounds, &decide).await,
            Self::File { store } => in_file::change(store, key, bounds, &decide),
        }
    }

    /// Returns when this many replicas hold the key as it is now, its end included.
    pub async fn wait_for_replicas(&self, key: &StoredKey, wanted: u64) -> Result<(), RegistryError> {
        let Self::Redis { keeper, layout, .. } = self else {
            return Err(RegistryError::NotHere("a file has no replicas; leave `--wait-replicas` out"));
        };
        in_redis::Place::of(self)?.rewrite(key).await?;
        match keeper.wait(&layout.keys(&key.tenant), wanted).await? {
            answered if answered >= wanted => Ok(()),
            answered => Err(RegistryError::Replicas { answered, wanted }),
        }
    }

    /// The members of a business's document; none where there is no document.
    pub async fn business(&self, id: &str) -> Result<Option<Members>, RegistryError> {
        match self {
            Self::Redis { .. } => in_redis::Place::of(self)?.business(id).await,
            Self::File { store } => Ok(store.contents()?.business(id)),
        }
    }

    /// The ids of all businesses that have a document.
    pub async fn businesses(&self) -> Result<Vec<String>, RegistryError> {
        match self {
            Self::Redis { .. } => in_redis::Place::of(self)?.businesses().await,
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
            Self::Redis { .. } => in_redis::Place::of(self)?.change_business(id, &change).await,
            Self::File { store } => in_file::change_business(store, id, &change),
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

    pub fn is_revoked(&self) -> bool {
        self.members.contains_key("revoked_at")
    }

    /// Whether it counts towards the maximum of its business: not when it is revoked or expired, nor when it was rotated
    /// and ends soon.
    pub fn is_active(&self, now_ms: u64) -> bool {
        let Ok(document) = &self.document else { return false };
        let was_rotated = document.expires_at.is_some() && self.text(SUCCESSOR).is_some();
        !document.revoked && !was_rotated && document.expires_at.is_none_or(|end| now_ms < end)
    }

    /// A document with an id and a creation time, as the gate will read it.
    fn new(digest: Digest, wanted: &Members, now_ms: u64) -> Result<Self, RegistryError> {
        let mut members = wanted.clone();
        members.entry("id").or_insert_with(|| Uuid::new_v4().to_string().into());
        members.entry("created_at").or_insert_with(|| clock::rfc3339(now_ms).into());
        let document = KeyDocument::parse(json(&members).as_bytes())?;
        Ok(Self { digest, tenant: document.tenant(), members, document: Ok(document) })
    }

    /// The same key with other members. What the gate cannot read is not made of what it can.
    fn with(&self, members: Members) -> Result<Self, RegistryError> {
        let document = KeyDocument::parse_in(&self.tenant, json(&members).as_bytes());
        match document {
            Err(error) if self.document.is_ok() => Err(error.into()),
            document => Ok(Self { digest: self.digest, tenant: self.tenant.clone(), members, document }),
        }
    }
}

impl Bounds {
    /// Whether `growth` more active keys fit beside `standing`.
    fn check(&self, tenant: &Tenant, standing: &[StoredKey], growth: u64) -> Result<(), RegistryError> {
        let Some(most) = self.applies_to(tenant) else { return Ok(()) };
        let active = standing.iter().filter(|key| key.is_active(self.now_ms)).count() as u64;
        if active + growth <= most {
            return Ok(());
        }
        let (Tenant::Business(business) | Tenant::User(business)) = tenant;
        Err(RegistryError::Full { business: business.clone(), most })
    }

    /// The maximum is a business's: a key that is bound to none is its user's.
    fn applies_to(&self, tenant: &Tenant) -> Option<u64> {
        self.most.filter(|_| matches!(tenant, Tenant::Business(_)))
    }
}

impl Fate {
    /// The key and its successor as they will be.
    fn apply(self, before: &StoredKey, now_ms: u64) -> Result<Changed, RegistryError> {
        let (after, successor) = match self {
            Self::Unchanged => (Some(before.clone()), None),
            Self::Changed(members) => (Some(before.with(members)?), None),
            Self::Gone => (None, None),
            Self::Replaced { old, digest, new } => {
                (Some(before.with(old)?), Some(StoredKey::new(digest, &new, now_ms)?))
            }
        };
        Ok(Changed { before: before.clone(), after, successor })
    }
}

impl Changed {
    /// How many more keys are active by it.
    fn growth(&self, now_ms: u64) -> u64 {
        let active = |key: Option<&StoredKey>| u64::from(key.is_some_and(|key| key.is_active(now_ms)));
        (active(self.after.as_ref()) + active(self.successor.as_ref())).saturating_sub(active(Some(&self.before)))
    }

    pub fn is_unchanged(&self) -> bool {
        self.after.as_ref() == Some(&self.before) && self.successor.is_none()
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

fn json(members: &Members) -> String {
    serde_json::to_string(members).expect("a JSON value is always JSON")
}

#[cfg(test)]
mod tests;
