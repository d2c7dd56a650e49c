//! Keys and businesses kept by the rules: the one place through which the command line and management over HTTP change them.
//!
//! What may be is decided by `keys` and by the role of who asks; `registry` makes it so in one step; `audit` keeps who did it.
//! A door reads what somebody wants, calls one function here, and words what comes back. What exists elsewhere comes in by `import`.

pub mod import;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::audit::{self, Action, Actor, Record};
use super::members::{Members, SUCCESSOR};
use super::record::{KeyDocument, RecordError};
use super::registry::{Bounds, Changed, ChangedBusiness, Edit, Filter, Insertion, Registry, RegistryError, StoredKey};
use super::{StoreError, settings};
use crate::clock;
use crate::keys::change::{self, BusinessChange, Change, ValidBusinessChange, ValidChange};
use crate::keys::creation::{KeyRequest, ValidKey};
use crate::keys::mint::{MintError, hint, mint};
use crate::keys::rules::{Required, RuleError, Rules, check_id};
use crate::keys::{Digest, Format, FormatError, Formats};
use crate::limit::Windows;
use crate::policy::Scopes;
use crate::secret::Secret;

/// An opened store and the rules by which its keys are kept.
#[derive(Debug)]
pub struct Keyring {
    pub formats: Formats,
    pub rules: Rules,
    pub registry: Registry,
    unrecorded: Mutex<Option<StoreError>>,
}

/// What somebody may give to a key.
#[derive(Debug, Clone, Copy)]
pub enum Granting<'a> {
    Everything,
    /// No more than these scopes, and what they imply.
    UpTo {
        granted: &'a [String],
        scopes: &'a Scopes,
    },
}

/// Who asks, and what they may give.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    pub actor: &'a Actor,
    pub granting: Granting<'a>,
    /// Milliseconds since the Unix epoch: `Registry::now_ms`.
    pub now_ms: u64,
}

/// A new key, which nobody can read back.
#[derive(Debug)]
pub struct Minted {
    pub key: Secret,
    pub stored: StoredKey,
    pub document: KeyDocument,
}

/// A key and its successor.
#[derive(Debug)]
pub struct Rotated {
    pub predecessor: StoredKey,
    pub successor: Minted,
}

/// Whether a key was revoked by this, or before it.
#[derive(Debug, Clone, PartialEq)]
pub enum Revocation {
    Revoked(StoredKey),
    AlreadyRevoked(StoredKey),
}

#[derive(Debug, Error)]
pub enum KeyringError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Mint(#[from] MintError),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("the minted key exists already; the system's randomness is broken")]
    NotNew,
}

impl Keyring {
    pub fn new(formats: Formats, rules: Rules, registry: Registry) -> Self {
        Self { formats, rules, registry, unrecorded: Mutex::default() }
    }

    /// Opens the store with management's own credentials where there are such.
    pub async fn open(store: &settings::StoreSettings, formats: Formats, rules: Rules) -> Result<Self, StoreError> {
        Ok(Self::new(formats, rules, Registry::open(store).await?))
    }

    /// Whether a key that is wanted obeys the rules and is no more than the asker may give; nothing is made.
    pub fn check(&self, wanted: KeyRequest, requester: Requester<'_>) -> Result<(), RuleError> {
        let valid = self.rules.validate(wanted, requester.now_ms)?;
        requester.granting.check(&valid.scopes)
    }

    /// Mints a key that obeys the rules and stores its digest. `prefix` picks the format; without it the first.
    pub async fn create(
        &self,
        wanted: KeyRequest,
        prefix: Option<&str>,
        requester: Requester<'_>,
    ) -> Result<Minted, KeyringError> {
        let valid = self.rules.validate(wanted, requester.now_ms)?;
        requester.granting.check(&valid.scopes)?;
        let format = self.formats.to_mint(prefix)?;
        let key = mint(&self.formats, format, getrandom::fill)?;
        let members = members_of(&document_of(valid, hint(key.expose(), format), requester.now_ms));
        let insertion = self.registry.insert(&Digest::of(key.expose()), members, self.bounds(requester.now_ms)).await?;
        let Insertion::Inserted(stored) = insertion else { return Err(KeyringError::NotNew) };
        self.record(requester, Action::KeyCreated, &stored, (&Members::new(), &stored.members)).await;
        minted(key, stored)
    }

    /// Changes a key's name, scopes, end, limits or addresses. It acts on the next request.
    pub async fn update(
        &self,
        key: &StoredKey,
        change: Change,
        requester: Requester<'_>,
    ) -> Result<Changed, RegistryError> {
        self.update_by(&self.rules, key, change, requester).await
    }

    async fn update_by(
        &self,
        rules: &Rules,
        key: &StoredKey,
        change: Change,
        requester: Requester<'_>,
    ) -> Result<Changed, RegistryError> {
        let change = rules.validate_change(change, requester.now_ms)?;
        requester.granting.check(change.scopes.as_deref().unwrap_or_default())?;
        let decide = |before: &StoredKey| Ok(Edit::Changed(changed(before, &change)?));
        let changed = self.registry.change(key, self.bounds(requester.now_ms), decide).await?;
        self.record_change(requester, Action::KeyUpdated, &changed).await;
        Ok(changed)
    }

    /// Revokes a key: it stays, is listed, and is refused. When this returns, every gate that asks this store refuses it.
    pub async fn revoke(&self, key: &StoredKey, requester: Requester<'_>) -> Result<Revocation, RegistryError> {
        let at = clock::rfc3339(requester.now_ms);
        let decide = |before: &StoredKey| {
            if before.is_revoked() {
                return Ok(Edit::Unchanged);
            }
            let mut members = before.members.clone();
            members.insert("revoked_at".to_owned(), at.as_str().into());
            Ok(Edit::Changed(members))
        };
        let changed = self.registry.change(key, self.bounds(requester.now_ms), decide).await?;
        if changed.is_unchanged() {
            return Ok(Revocation::AlreadyRevoked(changed.before));
        }
        self.record_change(requester, Action::KeyRevoked, &changed).await;
        Ok(Revocation::Revoked(changed.after.unwrap_or(changed.before)))
    }

    /// Removes a key: nothing is left of it but the audit.
    pub async fn delete(&self, key: &StoredKey, requester: Requester<'_>) -> Result<StoredKey, RegistryError> {
        let changed = self.registry.change(key, self.bounds(requester.now_ms), |_| Ok(Edit::Deleted)).await?;
        self.record_change(requester, Action::KeyDeleted, &changed).await;
        Ok(changed.before)
    }

    /// Replaces a key by one with the same rights and a new id. The old one goes on for `overlap` (`24h`; none by default)
    /// and is refused by itself from then on.
    pub async fn rotate(
        &self,
        key: &StoredKey,
        overlap: Option<&str>,
        prefix: Option<&str>,
        requester: Requester<'_>,
    ) -> Result<Rotated, KeyringError> {
        let overlap_ms = change::overlap(overlap)?;
        let format = self.formats.to_mint(prefix.or_else(|| self.prefix_of(key)))?;
        let new_key = mint(&self.formats, format, getrandom::fill)?;
        let (digest, hint) = (Digest::of(new_key.expose()), hint(new_key.expose(), format));
        let id = Uuid::new_v4().to_string();
        let decide = |before: &StoredKey| {
            let document = rotatable(before, requester.now_ms)?;
            requester.granting.check(&document.scopes)?;
            let (old, new) = succession(before, document, (&id, &hint), requester.now_ms, overlap_ms);
            Ok(Edit::Replaced { old, digest, new })
        };
        let changed = self.registry.change(key, self.bounds(requester.now_ms), decide).await?;
        self.record_change(requester, Action::KeyRotated, &changed).await;
        let successor = changed.successor.ok_or(KeyringError::NotNew)?;
        let predecessor = changed.after.unwrap_or(changed.before);
        Ok(Rotated { predecessor, successor: minted(new_key, successor)? })
    }

    /// The keys that `filter` asks for, the oldest first.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<StoredKey>, RegistryError> {
        self.registry.list(filter).await
    }

    /// The members of a business's document; none where there is no document.
    pub async fn business(&self, id: &str) -> Result<Option<Members>, RegistryError> {
        check_id(Required::Business, Some(id))?;
        self.registry.business(id).await
    }

    /// Changes a business's plan, status or limits. It acts on the next request of each of its keys.
    pub async fn set_business(
        &self,
        id: &str,
        change: BusinessChange,
        requester: Requester<'_>,
    ) -> Result<ChangedBusiness, RegistryError> {
        check_id(Required::Business, Some(id))?;
        self.set_business_by(&self.rules, id, change, requester).await
    }

    async fn set_business_by(
        &self,
        rules: &Rules,
        id: &str,
        change: BusinessChange,
        requester: Requester<'_>,
    ) -> Result<ChangedBusiness, RegistryError> {
        let change = rules.validate_business(change)?;
        let changed = self.registry.change_business(id, |before| changed_business(before, &change)).await?;
        let members = (&changed.before, &changed.after);
        self.write_audit(Record::new(requester.actor, Action::BusinessChanged, id, members, requester.now_ms)).await;
        Ok(changed)
    }

    /// Keeps a record of something that a door did beside these functions.
    pub async fn write_audit(&self, record: Record) {
        if let Err(error) = audit::write(&self.registry, &record).await {
            *self.unrecorded.lock().await = Some(error);
        }
    }

    /// Why the last changes are not in the audit, where they are not; it is told once.
    pub async fn unrecorded(&self) -> Option<StoreError> {
        self.unrecorded.lock().await.take()
    }

    async fn record_change(&self, requester: Requester<'_>, action: Action, changed: &Changed) {
        let none = Members::new();
        let after = changed.after.as_ref().map_or(&none, |after| &after.members);
        self.record(requester, action, &changed.before, (&changed.before.members, after)).await;
    }

    async fn record(&self, requester: Requester<'_>, action: Action, key: &StoredKey, members: (&Members, &Members)) {
        let subject = key.text("id").unwrap_or_default();
        self.write_audit(Record::new(requester.actor, action, subject, members, requester.now_ms)).await;
    }

    fn bounds(&self, now_ms: u64) -> Bounds {
        Bounds { most: self.rules.max_active_keys, now_ms }
    }

    /// A successor looks like its predecessor where that format is still minted.
    fn prefix_of(&self, key: &StoredKey) -> Option<&str> {
        let hint = key.text("hint")?;
        let format = self.formats.by_prefix().iter().find(|format: &&Format| hint.starts_with(format.prefix()))?;
        (!format.is_rejected()).then(|| format.prefix())
    }
}

impl Granting<'_> {
    fn check(&self, wanted: &[String]) -> Result<(), RuleError> {
        let Self::UpTo { granted, scopes } = self else { return Ok(()) };
        match wanted.iter().find(|scope| !scopes.allow(granted, scope)) {
            Some(scope) => Err(RuleError::NotGranted(scope.clone())),
            None => Ok(()),
        }
    }
}

fn minted(key: Secret, stored: StoredKey) -> Result<Minted, KeyringError> {
    let document = stored.document.clone().map_err(RegistryError::from)?;
    Ok(Minted { key, stored, document })
}

fn document_of(valid: ValidKey, hint: String, now_ms: u64) -> KeyDocument {
    KeyDocument {
        id: Uuid::new_v4().to_string(),
        name: valid.name,
        hint,
        business: valid.business,
        user: valid.user,
        scopes: valid.scopes,
        created_at: Some(now_ms),
        expires_at: valid.expires_at,
        revoked: false,
        limits: valid.limits,
        allow_addresses: valid.allow_addresses,
    }
}

fn members_of(document: &KeyDocument) -> Members {
    serde_json::from_str(&document.to_json()).expect("a document is written as a JSON object")
}

/// The members of a key after a change.
fn changed(before: &StoredKey, change: &ValidChange) -> Result<Members, RuleError> {
    let mut members = before.members.clone();
    if let Some(name) = &change.name {
        members.insert("name".to_owned(), name.as_str().into());
    }
    if let Some(scopes) = &change.scopes {
        members.insert("scopes".to_owned(), scopes.as_slice().into());
    }
    if let Some(end) = change.expires_at {
        check_end_of_rotated(before, end)?;
        set(&mut members, "expires_at", end.map(|end| clock::rfc3339(end).into()));
    }
    if let Some(addresses) = &change.allow_addresses {
        let texts = |nets: &Vec<IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>().into();
        set(&mut members, "allow_addresses", addresses.as_ref().map(texts));
    }
    set_limits(&mut members, &change.limits);
    Ok(members)
}

/// A predecessor that went on beside its successor would be one key more than the maximum.
fn check_end_of_rotated(before: &StoredKey, end: Option<u64>) -> Result<(), RuleError> {
    let standing = before.document.as_ref().ok().and_then(|document| document.expires_at);
    match standing.filter(|_| before.text(SUCCESSOR).is_some()) {
        Some(standing) if end.is_none_or(|end| end > standing) => {
            Err(RuleError::LaterThanOverlap(clock::rfc3339(standing)))
        }
        Some(_) | None => Ok(()),
    }
}

fn changed_business(before: &Members, change: &ValidBusinessChange) -> Members {
    let mut members = before.clone();
    if let Some(plan) = &change.plan {
        set(&mut members, "plan", plan.as_deref().map(Into::into));
    }
    if let Some(status) = &change.status {
        members.insert("status".to_owned(), status.as_str().into());
    }
    set_limits(&mut members, &change.limits);
    members
}

fn set_limits(members: &mut Members, changes: &BTreeMap<String, Option<Arc<Windows>>>) {
    if changes.is_empty() {
        return;
    }
    let mut limits = members.get("limits").and_then(|limits| limits.as_object().cloned()).unwrap_or_default();
    for (name, windows) in changes {
        let texts = |windows: &Windows| windows.as_slice().iter().map(ToString::to_string).collect::<Vec<_>>();
        set(&mut limits, name, windows.as_deref().map(|windows| texts(windows).into()));
    }
    set(members, "limits", (!limits.is_empty()).then(|| limits.into()));
}

fn set(members: &mut Members, name: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(members.insert(name.to_owned(), value)),
        None => drop(members.remove(name)),
    }
}

fn rotatable(key: &StoredKey, now_ms: u64) -> Result<&KeyDocument, RuleError> {
    let document = key.document.as_ref().map_err(|_: &RecordError| RuleError::Ended("cannot be read"))?;
    if let Some(successor) = key.text(SUCCESSOR) {
        return Err(RuleError::Rotated(successor.to_owned()));
    }
    if document.revoked {
        return Err(RuleError::Ended("is revoked"));
    }
    if document.expires_at.is_some_and(|end| end <= now_ms) {
        return Err(RuleError::Ended("has expired"));
    }
    Ok(document)
}

/// The predecessor's members and its successor's: the same rights, a new name in the store, and an end for the old one,
/// never later than the one that it had.
fn succession(
    before: &StoredKey,
    document: &KeyDocument,
    (id, hint): (&str, &str),
    now_ms: u64,
    overlap_ms: u64,
) -> (Members, Members) {
    let end = now_ms.saturating_add(overlap_ms);
    let end = document.expires_at.map_or(end, |standing| standing.min(end));
    let mut old = before.members.clone();
    old.insert("expires_at".to_owned(), clock::rfc3339(end).into());
    old.insert(SUCCESSOR.to_owned(), id.into());
    let mut new = before.members.clone();
    new.insert("id".to_owned(), id.into());
    new.insert("hint".to_owned(), hint.into());
    new.insert("created_at".to_owned(), clock::rfc3339(now_ms).into());
    (old, new)
}

impl From<RuleError> for KeyringError {
    fn from(error: RuleError) -> Self {
        Self::Registry(error.into())
    }
}

#[cfg(test)]
mod tests;
