//! What exists elsewhere, taken over: keys by their digests, and businesses. Each is held against what stands there already,
//! then written, or only rehearsed: a rehearsal remembers what it would have written, and writes nothing.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Keyring, Requester, changed, changed_business};
use crate::keys::change::{BusinessChange, Change, Origins, Until};
use crate::keys::rules::{Holder, Required, RuleError, Rules, check_id};
use crate::keys::{ByDigest, Digest};
use crate::limit::Windows;
use crate::store::StoreError;
use crate::store::audit::Action;
use crate::store::members::Members;
use crate::store::record::{BusinessDocument, Limits, Status};
use crate::store::registry::{Bounds, Changed, ChangedBusiness, Insertion, RegistryError, StoredKey};

/// What an import does beyond adding what is new.
#[derive(Debug, Clone, Copy, Default)]
pub struct Importing {
    /// What stands there with other facts gets those of the import.
    pub update: bool,
    /// Scopes, limits and plans that the configuration does not have may come in.
    pub allow_unknown: bool,
}

/// What became of a key, or would become of it.
#[derive(Debug)]
pub enum Imported {
    Inserted(StoredKey),
    AlreadyThere(StoredKey),
    Updated { before: Box<StoredKey>, after: StoredKey },
}

/// What an import says of a business; what it leaves out stays as it is.
#[derive(Debug, Clone, Default)]
pub struct BusinessFacts {
    /// The inner `None`: no plan.
    pub plan: Option<Option<String>>,
    pub status: Option<String>,
    /// All limits of its own.
    pub limits: Option<Limits>,
}

/// What became of a business, or would become of it.
#[derive(Debug)]
pub enum ImportedBusiness {
    Inserted(ChangedBusiness),
    AlreadyThere,
    Updated(ChangedBusiness),
}

/// What a rehearsed import would have written so far.
#[derive(Debug, Default)]
pub struct Rehearsal {
    keys: ByDigest<StoredKey>,
    ids: BTreeSet<String>,
    businesses: BTreeMap<String, Members>,
}

impl Keyring {
    /// Adds a key that exists elsewhere by its digest. No maximum holds: it is the operator who moves a system over.
    /// A member that is `null` is left out of a new key, and taken away from one that is updated.
    pub async fn import(
        &self,
        digest: &Digest,
        wanted: &Members,
        how: Importing,
        requester: Requester<'_>,
    ) -> Result<Imported, RegistryError> {
        let new = StoredKey::new(*digest, &present(wanted), requester.now_ms)?;
        let rules = self.rules_for_key(&new, how);
        if let Err(unknown) = check_names(&rules, &new) {
            // A key that stands there is not written for its names.
            if self.registry.standing(&new).await?.is_none() {
                return Err(unknown.into());
            }
        }
        let bounds = Bounds { most: None, now_ms: requester.now_ms };
        match self.registry.insert(digest, present(wanted), bounds).await {
            Ok(Insertion::Inserted(key)) => {
                self.record(requester, Action::KeyImported, &key, (&Members::new(), &key.members)).await;
                Ok(Imported::Inserted(key))
            }
            Ok(Insertion::AlreadyThere(_)) | Err(RegistryError::Differs { .. }) if how.update => {
                let standing = self.registry.find_digest(digest).await?;
                let Some(change) = change_of(&standing, &new, wanted)? else {
                    return Ok(Imported::AlreadyThere(standing));
                };
                let Changed { before, after, .. } = self.update_by(&rules, &standing, change, requester).await?;
                Ok(Imported::Updated { after: after.unwrap_or_else(|| before.clone()), before: Box::new(before) })
            }
            Ok(Insertion::AlreadyThere(key)) => Ok(Imported::AlreadyThere(key)),
            Err(error) => Err(error),
        }
    }

    /// What `import` would do after what was rehearsed before.
    pub async fn rehearse_import(
        &self,
        rehearsal: &mut Rehearsal,
        digest: &Digest,
        wanted: &Members,
        how: Importing,
        requester: Requester<'_>,
    ) -> Result<Imported, RegistryError> {
        let new = StoredKey::new(*digest, &present(wanted), requester.now_ms)?;
        let rules = self.rules_for_key(&new, how);
        let rehearsed = rehearsal.keys.get(digest).cloned();
        // An id that a key would get by itself it gets when it is written.
        let hides_id = rehearsed.is_some() && !wanted.contains_key("id");
        let shown = |mut key: StoredKey| {
            let _ = hides_id.then(|| key.members.remove("id"));
            key
        };
        let standing = match rehearsed {
            Some(rehearsed) => Some(rehearsed),
            None => self.registry.standing(&new).await?,
        };
        let Some(before) = standing else {
            check_names(&rules, &new)?;
            if let Some(id) = wanted.get("id").and_then(Value::as_str) {
                if rehearsal.ids.contains(id) || self.registry.find_id(id).await?.is_some() {
                    return Err(RegistryError::IdTaken(id.to_owned()));
                }
                rehearsal.ids.insert(id.to_owned());
            }
            rehearsal.keys.insert(*digest, new.clone());
            return Ok(Imported::Inserted(StoredKey { members: present(wanted), ..new }));
        };
        if !how.update {
            return match before.differing(&new, &present(wanted)).first() {
                None => Ok(Imported::AlreadyThere(shown(before))),
                Some(member) => Err(RegistryError::differs(&before, member)),
            };
        }
        let Some(change) = change_of(&before, &new, wanted)? else { return Ok(Imported::AlreadyThere(shown(before))) };
        let change = rules.validate_change(change, requester.now_ms)?;
        let after = before.with(changed(&before, &change)?)?;
        rehearsal.keys.insert(*digest, after.clone());
        Ok(Imported::Updated { before: Box::new(shown(before)), after: shown(after) })
    }

    /// Gives a business what an import says of it, or with a rehearsal says what that would be.
    pub async fn import_business(
        &self,
        rehearsal: Option<&mut Rehearsal>,
        id: &str,
        wanted: &BusinessFacts,
        how: Importing,
        requester: Requester<'_>,
    ) -> Result<ImportedBusiness, RegistryError> {
        check_id(Required::Business, Some(id))?;
        let rehearsed = rehearsal.as_ref().and_then(|rehearsal| rehearsal.businesses.get(id).cloned());
        let standing = match rehearsed {
            Some(rehearsed) => Some(rehearsed),
            None => self.registry.business(id).await?,
        };
        let change = change_of_business(id, standing.as_ref(), wanted)?;
        if standing.is_some() && change == BusinessChange::default() {
            return Ok(ImportedBusiness::AlreadyThere);
        }
        if let Some(member) = standing.as_ref().filter(|_| !how.update).and_then(|_| first_member(&change)) {
            return Err(RegistryError::BusinessDiffers { id: id.to_owned(), member });
        }
        let limits = wanted.limits.iter().flat_map(Limits::keys);
        let rules = self.rules_with(how, || ([].iter(), limits, wanted.plan.as_ref().and_then(Option::as_deref)));
        let done = match rehearsal {
            None => self.set_business_by(&rules, id, change, requester).await?,
            Some(rehearsal) => {
                let before = standing.clone().unwrap_or_default();
                let after = changed_business(&before, &rules.validate_business(change)?);
                rehearsal.businesses.insert(id.to_owned(), after.clone());
                ChangedBusiness { before, after }
            }
        };
        Ok(if standing.is_none() { ImportedBusiness::Inserted(done) } else { ImportedBusiness::Updated(done) })
    }

    fn rules_for_key(&self, new: &StoredKey, how: Importing) -> Cow<'_, Rules> {
        match &new.document {
            Ok(document) => self.rules_with(how, || (document.scopes.iter(), document.limits.keys(), None)),
            Err(_) => Cow::Borrowed(&self.rules),
        }
    }

    /// The configured rules, or with `allow_unknown` those that know these scopes, limits and plan as well.
    fn rules_with<'n, S, L>(&self, how: Importing, names: impl FnOnce() -> (S, L, Option<&'n str>)) -> Cow<'_, Rules>
    where
        S: IntoIterator<Item = &'n String>,
        L: IntoIterator<Item = &'n String>,
    {
        if !how.allow_unknown {
            return Cow::Borrowed(&self.rules);
        }
        let (scopes, limits, plan) = names();
        Cow::Owned(self.rules.knowing(scopes, limits, plan))
    }
}

/// The members that a new key gets. A `revoked_at` revokes whatever its value.
fn present(wanted: &Members) -> Members {
    let there = wanted.iter().filter(|(member, value)| !value.is_null() || *member == "revoked_at");
    there.map(|(member, value)| (member.clone(), value.clone())).collect()
}

/// As a key is checked that is created.
fn check_names(rules: &Rules, new: &StoredKey) -> Result<(), RuleError> {
    let Ok(document) = &new.document else { return Ok(()) };
    document.scopes.iter().try_for_each(|scope| rules.check_scope(scope))?;
    document.limits.keys().try_for_each(|name| rules.check_limit(Holder::Key, name))
}

/// What makes `standing` what is wanted; `None` where it is that already. What `Keyring::update` cannot change is an error.
fn change_of(standing: &StoredKey, new: &StoredKey, wanted: &Members) -> Result<Option<Change>, RegistryError> {
    let before = standing.document.as_ref().map_err(Clone::clone)?;
    let after = new.document.as_ref().map_err(Clone::clone)?;
    let mut change = Change::default();
    for member in standing.differing(new, wanted) {
        match member {
            "name" => change.name = Some(after.name.clone()),
            // A change never leaves a key without scopes: the default ones would stand in for them.
            "scopes" if !after.scopes.is_empty() => change.scopes = Some(after.scopes.clone()),
            "expires_at" => {
                let end = wanted.get(member).and_then(Value::as_str);
                change.expires = Some(end.map_or(Until::Never, |end| Until::At(end.to_owned())));
            }
            "limits" => change.limits = overrides(&before.limits, &after.limits),
            "allow_addresses" => {
                let texts = |nets: &Vec<_>| nets.iter().map(ToString::to_string).collect();
                change.allow_addresses =
                    Some(after.allow_addresses.as_ref().map_or(Origins::Anywhere, |nets| Origins::Only(texts(nets))));
            }
            fixed => return Err(RegistryError::differs(standing, fixed)),
        }
    }
    Ok((change != Change::default()).then_some(change))
}

/// Sets what is wanted and stands otherwise, and takes away what is not wanted.
fn overrides(standing: &Limits, wanted: &Limits) -> Vec<(String, Option<Vec<String>>)> {
    let texts = |windows: &Windows| windows.as_slice().iter().map(ToString::to_string).collect();
    let gone = standing.keys().filter(|name| !wanted.contains_key(*name)).map(|name| (name.clone(), None));
    let set = wanted.iter().filter(|(name, windows)| standing.get(*name) != Some(*windows));
    gone.chain(set.map(|(name, windows)| (name.clone(), Some(texts(windows))))).collect()
}

fn change_of_business(
    id: &str,
    standing: Option<&Members>,
    wanted: &BusinessFacts,
) -> Result<BusinessChange, RegistryError> {
    let none = Limits::new();
    let Some(standing) = standing else {
        return Ok(BusinessChange {
            plan: wanted.plan.clone().filter(Option::is_some),
            status: wanted.status.clone(),
            limits: overrides(&none, wanted.limits.as_ref().unwrap_or(&none)),
        });
    };
    let text = serde_json::to_string(standing).unwrap_or_default();
    let before = BusinessDocument::parse(text.as_bytes())
        .map_err(|error| StoreError::Broken(format!("the document of the business `{id}`: {error}")))?;
    let status = match before.status {
        Status::Active => Some("active"),
        Status::Suspended => Some("suspended"),
        Status::Other => None,
    };
    Ok(BusinessChange {
        plan: wanted.plan.clone().filter(|plan| *plan != before.plan),
        status: wanted.status.clone().filter(|wanted| status != Some(wanted.as_str())),
        limits: wanted.limits.as_ref().map(|limits| overrides(&before.limits, limits)).unwrap_or_default(),
    })
}

fn first_member(change: &BusinessChange) -> Option<&'static str> {
    let changed = [("plan", change.plan.is_some()), ("status", change.status.is_some()), ("limits", true)];
    changed.iter().find(|(_, is_changed)| *is_changed).map(|(member, _)| *member)
}
