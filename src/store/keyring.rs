//! Changes to keys and businesses, for the command line and management over HTTP alike.
//!
//! `keys` and the requester's role decide what is allowed; `registry` applies a change atomically; `audit` records it. The
//! callers parse a request, call one function here, and format its result.
//! Keys that exist elsewhere come in by `import`.

pub mod import;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::audit::{self, Action, Actor, Record};
use super::members::{Members, PREDECESSOR_UNTIL, SUCCESSOR};
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

/// An opened store, and the rules for its keys.
#[derive(Debug)]
pub struct Keyring {
    pub formats: Formats,
    pub rules: Rules,
    pub registry: Registry,
    audit_error: Mutex<Option<StoreError>>,
}

/// What a requester may grant to a key.
#[derive(Debug, Clone, Copy)]
pub enum Granting<'a> {
    Everything,
    /// No more than these scopes, and what they imply.
    UpTo {
        granted: &'a [String],
        scopes: &'a Scopes,
    },
}

/// Who makes a change, and what they may grant.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    pub actor: &'a Actor,
    pub granting: Granting<'a>,
    /// Milliseconds since the Unix epoch: `Registry::now_ms`.
    pub now_ms: u64,
}

/// A new key; only its digest is stored.
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
        Self { formats, rules, registry, audit_error: Mutex::default() }
    }

    /// Opens the store with management's own credentials where there are such.
    pub async fn open(store: &settings::StoreSettings, formats: Formats, rules: Rules) -> Result<Self, StoreError> {
        Ok(Self::new(formats, rules, Registry::open(store).await?))
    }

    /// Whether a key would be valid and within what the requester may grant, without creating it.
    pub fn check(&self, wanted: KeyRequest, requester: Requester<'_>) -> Result<(), RuleError> {
        let valid = self.rules.validate(wanted, requester.now_ms)?;
        requester.granting.check(&valid.scopes)
    }

    /// Mints a valid key and stores its digest. `prefix` picks the format; without it the first.
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

    /// Changes a key's name, scopes, expiry, limits or addresses. It acts on the next request.
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
        let decide = |before: &StoredKey| {
            let after = changed(before, &change)?;
            requester.granting.check(&prolonged(before, &change, &after))?;
            Ok(Edit::Changed(after))
        };
        let changed = self.registry.change(key, self.bounds(requester.now_ms), decide).await?;
        self.record_change(requester, Action::KeyUpdated, &changed).await;
        Ok(changed)
    }

    /// Revokes a key, which stays listed. When this returns, every gate that asks this store refuses it.
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

    /// Deletes a key: only its audit records are left.
    pub async fn delete(&self, key: &StoredKey, requester: Requester<'_>) -> Result<StoredKey, RegistryError> {
        let changed = self.registry.change(key, self.bounds(requester.now_ms), |_| Ok(Edit::Deleted)).await?;
        self.record_change(requester, Action::KeyDeleted, &changed).await;
        Ok(changed.before)
    }

    /// Replaces a key by one with the same rights and a new id. The old one expires after `overlap` (`24h`; at once by default).
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
        let end_ms = match overlap_ms {
            // It is to have come by the clock that judges the key; the requester's may be another node's, and ahead of it.
            0 => self.registry.now_ms_of(&key.tenant).await.map_err(RegistryError::from)?.min(requester.now_ms),
            overlap_ms => requester.now_ms.saturating_add(overlap_ms),
        };
        let decide = |before: &StoredKey| {
            let document = rotatable(before, requester.now_ms)?;
            requester.granting.check(&document.scopes)?;
            check_predecessor(before, requester.now_ms, overlap_ms)?;
            let (old, new) = succession(before, document, (&id, &hint), requester.now_ms, end_ms);
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

    /// Writes an audit record, also of a change that was not made through these functions.
    pub async fn write_audit(&self, record: Record) {
        if let Err(error) = audit::write(&self.registry, &record).await {
            *self.audit_error.lock().await = Some(error);
        }
    }

    /// Takes the error because of which the last changes are not in the audit, if there was one.
    pub async fn take_audit_error(&self) -> Option<StoreError> {
        self.audit_error.lock().await.take()
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

    /// The prefix of a key's format, if that is still minted: a successor keeps it.
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

/// The scopes of a key that works for longer after a change, or works again: whoever prolongs it grants them anew. None where it
/// does not.
fn prolonged(before: &StoredKey, change: &ValidChange, after: &Members) -> Vec<String> {
    match &before.document {
        Ok(document) => {
            let is_later = |end: Option<u64>| document.expires_at.is_some_and(|at| end.is_none_or(|end| end > at));
            if change.expires_at.is_some_and(is_later) { document.scopes.clone() } else { Vec::new() }
        }
        // No gate could read it; perhaps they can afterwards.
        Err(_) => {
            let after =
                serde_json::to_vec(after).ok().and_then(|json| KeyDocument::parse_in(&before.tenant, &json).ok());
            after.map(|document| document.scopes).unwrap_or_default()
        }
    }
}

/// A rotated key must not be extended: with its successor there would be one key more than the maximum.
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

/// With an overlap there would be a third key beside this one and its predecessor, then a fourth, and the maximum would be none.
fn check_predecessor(key: &StoredKey, now_ms: u64, overlap_ms: u64) -> Result<(), RuleError> {
    match key.text(PREDECESSOR_UNTIL) {
        Some(until) if overlap_ms > 0 && clock::parse_rfc3339(until).is_some_and(|until| now_ms < until) => {
            Err(RuleError::PredecessorWorks(until.to_owned()))
        }
        Some(_) | None => Ok(()),
    }
}

/// The predecessor's members and its successor's: the same rights, a new id, and an expiry for the old one, never later than the
/// one that it had.
fn succession(
    before: &StoredKey,
    document: &KeyDocument,
    (id, hint): (&str, &str),
    now_ms: u64,
    end_ms: u64,
) -> (Members, Members) {
    let end = document.expires_at.map_or(end_ms, |standing| standing.min(end_ms));
    let mut old = before.members.clone();
    old.insert("expires_at".to_owned(), clock::rfc3339(end).into());
    old.insert(SUCCESSOR.to_owned(), id.into());
    let mut new = before.members.clone();
    new.insert("id".to_owned(), id.into());
    new.insert("hint".to_owned(), hint.into());
    new.insert("created_at".to_owned(), clock::rfc3339(now_ms).into());
    // Without overlap it has the predecessor's own predecessor beside it, if that still works.
    if end_ms > now_ms {
        new.insert(PREDECESSOR_UNTIL.to_owned(), clock::rfc3339(end).into());
    }
    (old, new)
}

impl From<RuleError> for KeyringError {
    fn from(error: RuleError) -> Self {
        Self::Registry(error.into())
    }
}

#[cfg(test)]
mod tests;
