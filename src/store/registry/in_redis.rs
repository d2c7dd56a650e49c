//! Key management in Redis. `at` is claimed before a document is written, so that a key gets no documents of two tenants; on
//! deletion the document goes first. An `at` that points to nothing is a key that nobody has.
//!
//! Everything is read in pages, so that Redis is not blocked while it serves requests. `scripts/update_keys.lua` checks and
//! writes atomically.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::stored::{Bounds, Changed, ChangedBusiness, Edit, Insertion, RegistryError, StoredKey, compare, json};
use crate::keys::rules::RuleError;
use crate::keys::{Digest, Tenant};
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::members::Members;
use crate::store::redis::key_admin::{DocumentUpdate, KeyAdmin, KeyUpdate};
use crate::store::redis::{Address, RedisDocuments};

/// How many documents are read at once.
const PAGE: usize = 500;
/// How often a change is retried when another one wins. Each time some change has succeeded, so there is progress.
const ATTEMPTS: u32 = 100;

/// Key management in Redis, borrowed from the `Registry`.
#[derive(Clone, Copy)]
pub struct InRedis<'r> {
    pub documents: &'r RedisDocuments,
    pub key_admin: &'r KeyAdmin,
    pub layout: &'r Layout,
}

impl InRedis<'_> {
    /// Claims the id and the pointer, then writes the document. Interrupted anywhere, doing it again completes it.
    pub async fn insert(self, wanted: &Members, new: StoredKey, bounds: Bounds) -> Result<Insertion, RegistryError> {
        if let Some(standing) = self.standing(&new).await? {
            let outcome = compare(standing.clone(), &new, wanted)?;
            self.set_pointer(&standing).await?;
            return Ok(outcome);
        }
        self.claim_id(&new).await?;
        if let Some(standing) = self.claim_pointer(&new).await? {
            self.unclaim_id(&new).await?;
            return compare(standing, &new, wanted);
        }
        match self.put_new(&new, bounds).await {
            Ok(()) => {}
            Err(full @ RegistryError::Full { .. }) => {
                self.unclaim_id(&new).await?;
                self.unclaim_pointer(&new).await?;
                return Err(full);
            }
            Err(RegistryError::Contended) => {
                self.unclaim_unless_standing(&new).await?;
                return Err(RegistryError::Contended);
            }
            // Without an answer the document may have been written, so the id stays claimed.
            Err(error) => return Err(error),
        }
        // Whoever found the pointer without the document may have claimed it since.
        if let Some(standing) = self.claim_pointer(&new).await? {
            let written = Some(json(&new.members).into());
            self.update(&new.tenant, None, vec![self.document_update(&new, written, None)]).await?;
            self.unclaim_id(&new).await?;
            return compare(standing, &new, wanted);
        }
        Ok(Insertion::Inserted(new))
    }

    /// What stands where an insertion of `new` would write.
    pub async fn standing(self, new: &StoredKey) -> Result<Option<StoredKey>, RegistryError> {
        match self.with_digest(&new.digest).await? {
            Some(found) => Ok(Some(found)),
            // An insertion may have been interrupted before `at` was written.
            None => self.read(new.digest, new.tenant.clone()).await,
        }
    }

    async fn put_new(self, new: &StoredKey, bounds: Bounds) -> Result<(), RegistryError> {
        let documents = vec![self.document_update(new, None, Some(new))];
        for attempt in 0..ATTEMPTS {
            let growth = u64::from(new.is_active(bounds.now_ms));
            let counted = self.check_maximum(&new.tenant, bounds, growth).await?;
            if self.update(&new.tenant, counted, documents.clone()).await? {
                return Ok(());
            }
            if self.documents.get(&documents[0].name).await?.is_some() {
                return Err(RegistryError::Contended);
            }
            pause(attempt).await;
        }
        Err(RegistryError::Contended)
    }

    /// Decides on the current document, again if it has changed before the write.
    pub async fn change(
        self,
        key: &StoredKey,
        bounds: Bounds,
        decide: &impl Fn(&StoredKey) -> Result<Edit, RuleError>,
    ) -> Result<Changed, RegistryError> {
        let place = self.layout.key(&key.tenant, &key.digest);
        for attempt in 0..ATTEMPTS {
            let was = self.documents.get(&place).await?.ok_or(RegistryError::NotFound)?;
            let before = StoredKey::read(key.digest, key.tenant.clone(), &was);
            let changed = decide(&before)?.apply(&before, bounds.now_ms)?;
            if changed.is_unchanged() {
                return Ok(changed);
            }
            let counted = self.check_maximum(&key.tenant, bounds, changed.growth(bounds.now_ms)).await?;
            let mut documents = vec![self.document_update(&before, Some(was), changed.after.as_ref())];
            documents.extend(changed.successor.iter().map(|new| self.document_update(new, None, Some(new))));
            let updated = match &changed.successor {
                Some(successor) => self.update_with_successor(successor, counted, documents).await?,
                None => self.update(&key.tenant, counted, documents).await?,
            };
            if updated {
                if changed.after.is_none() {
                    self.remove_pointer(&before).await?;
                }
                return Ok(changed);
            }
            pause(attempt).await;
        }
        Err(RegistryError::Contended)
    }

    /// A successor's pointer is written before its document: nobody has the key yet, and it must work as soon as its predecessor
    /// may expire.
    async fn update_with_successor(
        self,
        successor: &StoredKey,
        counted: Option<u64>,
        documents: Vec<DocumentUpdate>,
    ) -> Result<bool, RegistryError> {
        self.claim_id(successor).await?;
        self.documents.set(&self.layout.at(&successor.digest), successor.tenant.to_string().as_bytes()).await?;
        let updated = self.update(&successor.tenant, counted, documents).await;
        if matches!(updated, Ok(false)) {
            self.remove_pointer(successor).await?;
        }
        updated
    }

    async fn update(
        self,
        tenant: &Tenant,
        counted: Option<u64>,
        documents: Vec<DocumentUpdate>,
    ) -> Result<bool, RegistryError> {
        let (set, minted) = (self.layout.keys(tenant), self.layout.minted(tenant));
        Ok(self.key_admin.update(&KeyUpdate { set, minted, counted, documents }).await?.is_some())
    }

    /// Writes a key's document unchanged, so that this connection can `WAIT` for it: the last change may have been another
    /// connection's, or one whose confirmation timed out. `None`: there is no key any more.
    pub async fn rewrite(self, key: &StoredKey) -> Result<Option<Address>, RegistryError> {
        let (set, minted) = (self.layout.keys(&key.tenant), self.layout.minted(&key.tenant));
        let name = self.layout.key(&key.tenant, &key.digest);
        for attempt in 0..ATTEMPTS {
            let Some(found) = self.documents.get(&name).await? else { return Ok(None) };
            let (was, becomes) = (Some(found.clone()), Some(found));
            let document = DocumentUpdate { name: name.clone(), digest: key.digest.to_hex(), was, becomes };
            let (set, minted) = (set.clone(), minted.clone());
            let update = KeyUpdate { set, minted, counted: None, documents: vec![document] };
            if let Some(node) = self.key_admin.update(&update).await? {
                return Ok(Some(node));
            }
            pause(attempt).await;
        }
        Err(RegistryError::Contended)
    }

    /// Checks the maximum of active keys, and returns the counter for the atomic update; `None` where there is no maximum or no
    /// key is added. The counter is read before the keys, so that a key which is added meanwhile is noticed.
    async fn check_maximum(self, tenant: &Tenant, bounds: Bounds, growth: u64) -> Result<Option<u64>, RegistryError> {
        let Tenant::Business(business) = tenant else { return Ok(None) };
        if bounds.applies_to(tenant).is_none() || growth == 0 {
            return Ok(None);
        }
        let name = self.layout.minted(tenant);
        let minted = self.documents.get(&name).await?;
        let number = match &minted {
            None => Some(0),
            Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
        };
        let number = number.ok_or_else(|| StoreError::Broken(format!("`{name}` is no number; delete it")))?;
        bounds.check(tenant, &self.list(Some(business)).await?, growth)?;
        Ok(Some(number))
    }

    pub async fn with_id(self, id: &str) -> Result<Option<StoredKey>, RegistryError> {
        let name = self.layout.id(id);
        let Some(value) = self.documents.get(&name).await? else { return Ok(None) };
        let (tenant, digest) = id_value(&value).ok_or_else(|| {
            StoreError::Broken(format!("`{name}` is not `<tenant> <sha256 hex>`, as the contract wants"))
        })?;
        self.read(digest, tenant).await
    }

    pub async fn with_digest(self, digest: &Digest) -> Result<Option<StoredKey>, RegistryError> {
        match self.tenant_at(digest).await? {
            Some(tenant) => self.read(*digest, tenant).await,
            None => Ok(None),
        }
    }

    /// All keys, or those of one business.
    pub async fn list(self, business: Option<&str>) -> Result<Vec<StoredKey>, RegistryError> {
        match business {
            Some(business) => self.list_of(&Tenant::Business(business.to_owned())).await,
            None => self.read_all(self.scan_all().await?).await,
        }
    }

    /// All keys of one tenant.
    pub async fn list_of(self, tenant: &Tenant) -> Result<Vec<StoredKey>, RegistryError> {
        let members = self.documents.sscan(&self.layout.keys(tenant)).await?;
        let digests = members.iter().filter_map(|member| Digest::parse_hex(member));
        self.read_all(digests.map(|digest| (digest, tenant.clone())).collect()).await
    }

    async fn read_all(self, places: Vec<(Digest, Tenant)>) -> Result<Vec<StoredKey>, RegistryError> {
        let mut keys = Vec::with_capacity(places.len());
        for page in places.chunks(PAGE) {
            let names: Vec<String> = page.iter().map(|(digest, tenant)| self.layout.key(tenant, digest)).collect();
            let documents = self.documents.mget(&names).await?;
            for ((digest, tenant), document) in page.iter().zip(documents) {
                keys.extend(document.map(|json| StoredKey::read(*digest, tenant.clone(), &json)));
            }
        }
        Ok(keys)
    }

    pub async fn business(self, id: &str) -> Result<Option<Members>, RegistryError> {
        let name = self.layout.business(id);
        let found = self.documents.get(&name).await?;
        found.map(|json| business_members(&name, &json)).transpose()
    }

    pub async fn businesses(self) -> Result<Vec<String>, RegistryError> {
        let pattern = self.layout.business("*");
        let (before, after) = pattern.split_once('*').unwrap_or_default();
        let names = self.documents.scan(&pattern).await?;
        let id = |name: &String| Some(name.strip_prefix(before)?.strip_suffix(after)?.to_owned());
        Ok(names.iter().filter_map(id).collect())
    }

    pub async fn change_business(
        self,
        id: &str,
        change: &impl Fn(&Members) -> Members,
    ) -> Result<ChangedBusiness, RegistryError> {
        let name = self.layout.business(id);
        for attempt in 0..ATTEMPTS {
            let found = self.documents.get(&name).await?;
            let before = found.as_ref().map(|json| business_members(&name, json)).transpose()?.unwrap_or_default();
            let after = change(&before);
            let text = json(&after);
            let set = match &found {
                Some(found) => self.documents.compare_and_set(&name, found, text.as_bytes()).await?,
                None => self.documents.set_absent(&name, text.as_bytes()).await?,
            };
            if set {
                return Ok(ChangedBusiness { before, after });
            }
            pause(attempt).await;
        }
        Err(RegistryError::Contended)
    }

    /// Claims an id, which names one key: the first claim wins.
    async fn claim_id(self, key: &StoredKey) -> Result<(), RegistryError> {
        let Some(id) = key.text("id") else { return Ok(()) };
        let (name, value) = (self.layout.id(id), value_of(key));
        if self.documents.set_absent(&name, value.as_bytes()).await? {
            return Ok(());
        }
        match self.documents.get(&name).await? {
            Some(standing) if standing == value.as_bytes() => Ok(()),
            Some(_) | None => Err(RegistryError::IdTaken(id.to_owned())),
        }
    }

    async fn unclaim_id(self, key: &StoredKey) -> Result<(), RegistryError> {
        let Some(id) = key.text("id") else { return Ok(()) };
        let name = self.layout.id(id);
        // Only if it is this key's: another may have claimed it.
        if self.documents.get(&name).await?.is_some_and(|standing| standing == value_of(key).as_bytes()) {
            self.documents.delete(&name).await?;
        }
        Ok(())
    }

    /// After losing to another insertion of the same key: releases the id, unless the winner has the same one.
    async fn unclaim_unless_standing(self, key: &StoredKey) -> Result<(), RegistryError> {
        match self.read(key.digest, key.tenant.clone()).await? {
            Some(standing) if standing.text("id") == key.text("id") => Ok(()),
            Some(_) => self.unclaim_id(key).await,
            // It existed a moment ago, and may be written again.
            None => Ok(()),
        }
    }

    /// Claims `at` for the key's tenant; `Some`: it is another's, whose document stands. One that points to nothing is taken over:
    /// an insertion was interrupted, or is about to write, and then learns it when it claims `at` again.
    async fn claim_pointer(self, key: &StoredKey) -> Result<Option<StoredKey>, RegistryError> {
        let (name, own) = (self.layout.at(&key.digest), key.tenant.to_string());
        for attempt in 0..ATTEMPTS {
            if self.documents.set_absent(&name, own.as_bytes()).await? {
                return Ok(None);
            }
            let Some(other) = self.tenant_at(&key.digest).await? else { continue };
            if other == key.tenant {
                return Ok(None);
            }
            let others = other.to_string();
            let standing = self.read(key.digest, other.clone()).await?;
            if standing.is_some() {
                return Ok(standing);
            }
            if self.documents.compare_and_set(&name, others.as_bytes(), own.as_bytes()).await? {
                // It may have been written, and its pointer found to be right, just before this.
                let standing = self.read(key.digest, other).await?;
                if standing.is_some() {
                    self.documents.compare_and_set(&name, own.as_bytes(), others.as_bytes()).await?;
                }
                return Ok(standing);
            }
            pause(attempt).await;
        }
        Err(RegistryError::Contended)
    }

    /// Removes a pointer to nothing. Another insertion into the same tenant claims it again when it has written the document.
    async fn unclaim_pointer(self, key: &StoredKey) -> Result<(), RegistryError> {
        let is_own = self.tenant_at(&key.digest).await?.as_ref() == Some(&key.tenant);
        if is_own && self.read(key.digest, key.tenant.clone()).await?.is_none() {
            self.documents.delete(&self.layout.at(&key.digest)).await?;
        }
        Ok(())
    }

    /// Writes what points to a document: `at`, the tenant's set, the id.
    async fn set_pointer(self, key: &StoredKey) -> Result<(), RegistryError> {
        // If `at` points elsewhere, there is no document there: `insert` has checked.
        self.documents.set(&self.layout.at(&key.digest), key.tenant.to_string().as_bytes()).await?;
        self.documents.sadd(&self.layout.keys(&key.tenant), &key.digest.to_hex()).await?;
        self.claim_id(key).await
    }

    /// Removes what pointed to a document that is gone.
    async fn remove_pointer(self, key: &StoredKey) -> Result<(), RegistryError> {
        self.documents.delete(&self.layout.at(&key.digest)).await?;
        self.unclaim_id(key).await
    }

    async fn tenant_at(self, digest: &Digest) -> Result<Option<Tenant>, RegistryError> {
        let Some(value) = self.documents.get(&self.layout.at(digest)).await? else { return Ok(None) };
        let tenant = std::str::from_utf8(&value).ok().and_then(Tenant::parse);
        let broken = || StoreError::Broken(format!("`{}` names no tenant", self.layout.at(digest)));
        Ok(Some(tenant.ok_or_else(broken)?))
    }

    async fn read(self, digest: Digest, tenant: Tenant) -> Result<Option<StoredKey>, RegistryError> {
        let json: Option<Bytes> = self.documents.get(&self.layout.key(&tenant, &digest)).await?;
        Ok(json.map(|json| StoredKey::read(digest, tenant, &json)))
    }

    /// All documents, found by SCAN, not by the tenants' sets, which another writer may have left out.
    async fn scan_all(self) -> Result<Vec<(Digest, Tenant)>, RegistryError> {
        let pattern = self.layout.in_slot("*", "key:*");
        let before = pattern.split('*').next().unwrap_or_default();
        let place = |name: &String| {
            let (tenant, hex) = name.strip_prefix(before)?.split_once("}:key:")?;
            Some((Digest::parse_hex(hex)?, Tenant::parse(tenant)?))
        };
        Ok(self.documents.scan(&pattern).await?.iter().filter_map(place).collect())
    }

    fn document_update(self, key: &StoredKey, was: Option<Bytes>, becomes: Option<&StoredKey>) -> DocumentUpdate {
        DocumentUpdate {
            name: self.layout.key(&key.tenant, &key.digest),
            digest: key.digest.to_hex(),
            was,
            becomes: becomes.map(|key| json(&key.members).into()),
        }
    }
}

/// A growing pause, in which the other change can finish.
async fn pause(attempt: u32) {
    sleep(Duration::from_millis(u64::from(attempt.min(20)))).await;
}

fn business_members(name: &str, json: &[u8]) -> Result<Members, RegistryError> {
    let members = serde_json::from_slice(json);
    Ok(members
        .map_err(|_| StoreError::Broken(format!("`{name}` is no JSON object; its keys are refused, delete it")))?)
}

/// `<tenant> <sha256 hex>`.
fn value_of(key: &StoredKey) -> String {
    format!("{} {}", key.tenant, key.digest.to_hex())
}

fn id_value(value: &[u8]) -> Option<(Tenant, Digest)> {
    let (tenant, hex) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((Tenant::parse(tenant)?, Digest::parse_hex(hex)?))
}
