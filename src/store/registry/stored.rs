//! Keys and businesses in key management, their changes and errors, and the rules that are common to both stores.

use std::collections::BTreeSet;

use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;

use crate::clock;
use crate::keys::rules::RuleError;
use crate::keys::{Digest, Tenant};
use crate::store::StoreError;
use crate::store::members::{Members, SUCCESSOR};
use crate::store::record::{KeyDocument, RecordError};

/// A key as a store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredKey {
    pub digest: Digest,
    pub tenant: Tenant,
    /// All members, unknown ones included; empty when the document is no JSON object.
    pub members: Members,
    /// The document as the gate parses it.
    pub document: Result<KeyDocument, RecordError>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Insertion {
    Inserted(StoredKey),
    /// The same digest exists with the same members; what an interrupted insertion left out has been added.
    AlreadyThere(StoredKey),
}

/// A change to an existing key.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    Unchanged,
    Changed(Members),
    Deleted,
    /// The key gets the members `old`, and a successor in the same step.
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
    /// `None`: it was deleted.
    pub after: Option<StoredKey>,
    pub successor: Option<StoredKey>,
}

/// The maximum of active keys of one business, and the current time.
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
    #[error("the business `{id}` stands there already, with another `{member}`; nothing was changed")]
    BusinessDiffers { id: String, member: &'static str },
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

impl StoredKey {
    /// From the document under the digest in the slot of `tenant`, readable or not.
    pub(super) fn read(digest: Digest, tenant: Tenant, json: &[u8]) -> Self {
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

    /// Whether it counts towards the maximum of its business: not if it is revoked or expired, nor if it was rotated and is in
    /// its overlap.
    pub fn is_active(&self, now_ms: u64) -> bool {
        let Ok(document) = &self.document else { return false };
        let was_rotated = document.expires_at.is_some() && self.text(SUCCESSOR).is_some();
        !document.revoked && !was_rotated && document.expires_at.is_none_or(|end| now_ms < end)
    }

    /// The members of `wanted` that mean something else here than in `new`, which is made of them. `null` means absence, save
    /// that of `revoked_at`.
    pub fn differing<'w>(&self, new: &Self, wanted: &'w Members) -> Vec<&'w str> {
        let differs = |member: &str, value: &Value| match self.members.get(member) {
            Some(standing) if value.is_null() && member != "revoked_at" => !standing.is_null(),
            Some(standing) => standing != value && !self.means_the_same(new, member),
            None if member == "revoked_at" => true,
            None => !value.is_null() && !self.means_the_same(new, member),
        };
        wanted.iter().filter(|(member, value)| differs(member, value)).map(|(member, _)| member.as_str()).collect()
    }

    /// One list of scopes in another order, or one end in another time zone, is no difference.
    fn means_the_same(&self, other: &Self, member: &str) -> bool {
        let (Ok(one), Ok(other)) = (&self.document, &other.document) else { return false };
        let scopes = |document: &KeyDocument| document.scopes.iter().cloned().collect::<BTreeSet<_>>();
        // What a change writes has whole seconds.
        let end = |document: &KeyDocument| document.expires_at.map(|at| at / 1000);
        match member {
            "scopes" => scopes(one) == scopes(other),
            "created_at" => one.created_at == other.created_at,
            "expires_at" => end(one) == end(other),
            "limits" => one.limits == other.limits,
            "allow_addresses" => one.allow_addresses == other.allow_addresses,
            _ => false,
        }
    }

    /// A new key, with an id and a creation time.
    pub(in crate::store) fn new(digest: Digest, wanted: &Members, now_ms: u64) -> Result<Self, RegistryError> {
        let mut members = wanted.clone();
        members.entry("id").or_insert_with(|| Uuid::new_v4().to_string().into());
        members.entry("created_at").or_insert_with(|| clock::rfc3339(now_ms).into());
        let document = KeyDocument::parse(json(&members).as_bytes())?;
        Ok(Self { digest, tenant: document.tenant(), members, document: Ok(document) })
    }

    /// The same key with other members. An error if that would make a readable document unreadable.
    pub(in crate::store) fn with(&self, members: Members) -> Result<Self, RegistryError> {
        let document = KeyDocument::parse_in(&self.tenant, json(&members).as_bytes());
        match document {
            Err(error) if self.document.is_ok() => Err(error.into()),
            document => Ok(Self { digest: self.digest, tenant: self.tenant.clone(), members, document }),
        }
    }
}

impl Bounds {
    /// Whether `growth` more active keys fit beside `standing`.
    pub(super) fn check(&self, tenant: &Tenant, standing: &[StoredKey], growth: u64) -> Result<(), RegistryError> {
        let Some(most) = self.applies_to(tenant) else { return Ok(()) };
        let active = standing.iter().filter(|key| key.is_active(self.now_ms)).count() as u64;
        if active + growth <= most {
            return Ok(());
        }
        let (Tenant::Business(business) | Tenant::User(business)) = tenant;
        Err(RegistryError::Full { business: business.clone(), most })
    }

    /// The maximum, if the tenant is a business: unscoped keys have none.
    pub(super) fn applies_to(&self, tenant: &Tenant) -> Option<u64> {
        self.most.filter(|_| matches!(tenant, Tenant::Business(_)))
    }
}

impl Edit {
    /// The key and its successor after the change.
    pub(super) fn apply(self, before: &StoredKey, now_ms: u64) -> Result<Changed, RegistryError> {
        let (after, successor) = match self {
            Self::Unchanged => (Some(before.clone()), None),
            Self::Changed(members) => (Some(before.with(members)?), None),
            Self::Deleted => (None, None),
            Self::Replaced { old, digest, new } => {
                (Some(before.with(old)?), Some(StoredKey::new(digest, &new, now_ms)?))
            }
        };
        Ok(Changed { before: before.clone(), after, successor })
    }
}

impl Changed {
    /// How many more keys are active after it.
    pub(super) fn growth(&self, now_ms: u64) -> u64 {
        let active = |key: Option<&StoredKey>| u64::from(key.is_some_and(|key| key.is_active(now_ms)));
        (active(self.after.as_ref()) + active(self.successor.as_ref())).saturating_sub(active(Some(&self.before)))
    }

    pub fn is_unchanged(&self) -> bool {
        self.after.as_ref() == Some(&self.before) && self.successor.is_none()
    }
}

/// The result of inserting a digest that exists: the existing key, if it has all members that are wanted; others that it has
/// beyond that (a generated id, a revocation) make no difference.
pub(super) fn compare(standing: StoredKey, new: &StoredKey, wanted: &Members) -> Result<Insertion, RegistryError> {
    match standing.differing(new, wanted).first() {
        None => Ok(Insertion::AlreadyThere(standing)),
        Some(member) => Err(RegistryError::differs(&standing, member)),
    }
}

impl RegistryError {
    pub(in crate::store) fn differs(standing: &StoredKey, member: &str) -> Self {
        Self::Differs { id: standing.text("id").unwrap_or("?").to_owned(), member: member.to_owned() }
    }
}

pub(super) fn json(members: &Members) -> String {
    serde_json::to_string(members).expect("a JSON value is always JSON")
}
