//! Keeping keys in Redis, in the contract's layout: the document before `at`, so that no gate is led to nothing.
//!
//! Everything is read page by page; nothing here holds Redis up while it serves requests.

use bytes::Bytes;
use serde_json::Value;

use super::{Insertion, Members, RegistryError, Revocation, StoredKey, compare, json};
use crate::keys::{Digest, Tenant};
use crate::store::StoreError;
use crate::store::layout::Layout;
use crate::store::redis::RedisDocuments;

/// How many documents are read at once.
const PAGE: usize = 500;
/// How often a change is tried when somebody else changes the same document.
const ATTEMPTS: usize = 16;

/// Claims the id, then writes the document, then leads to it. Interrupted anywhere, doing it again completes it.
pub async fn insert(
    redis: &RedisDocuments,
    layout: &Layout,
    wanted: &Members,
    new: StoredKey,
) -> Result<Insertion, RegistryError> {
    let standing = with_digest(redis, layout, &new.digest).await?;
    if let Some(standing) = standing {
        let outcome = compare(standing.clone(), wanted)?;
        lead_to(redis, layout, &standing).await?;
        return Ok(outcome);
    }
    let place = layout.key(&new.tenant, &new.digest);
    // An insertion may have been interrupted before `at` was written.
    if let Some(found) = redis.get(&place).await? {
        let outcome = compare(StoredKey::read(new.digest, new.tenant.clone(), &found), wanted)?;
        let (Insertion::Inserted(standing) | Insertion::AlreadyThere(standing)) = &outcome;
        lead_to(redis, layout, standing).await?;
        return Ok(outcome);
    }
    claim_id(redis, layout, &new).await?;
    if !redis.set_absent(&place, json(&new.members).as_bytes()).await? {
        return Err(RegistryError::Contended);
    }
    lead_to(redis, layout, &new).await?;
    Ok(Insertion::Inserted(new))
}

pub async fn with_id(redis: &RedisDocuments, layout: &Layout, id: &str) -> Result<Option<StoredKey>, RegistryError> {
    let name = layout.id(id);
    let Some(value) = redis.get(&name).await? else { return Ok(None) };
    let (tenant, digest) = id_value(&value)
        .ok_or_else(|| StoreError::Broken(format!("`{name}` is not `<tenant> <sha256 hex>`, as the contract wants")))?;
    read(redis, layout, digest, tenant).await
}

pub async fn with_digest(
    redis: &RedisDocuments,
    layout: &Layout,
    digest: &Digest,
) -> Result<Option<StoredKey>, RegistryError> {
    match tenant_at(redis, layout, digest).await? {
        Some(tenant) => read(redis, layout, *digest, tenant).await,
        None => Ok(None),
    }
}

/// All keys, or those of one business.
pub async fn list(
    redis: &RedisDocuments,
    layout: &Layout,
    business: Option<&str>,
) -> Result<Vec<StoredKey>, RegistryError> {
    let places = match business {
        Some(business) => {
            let tenant = Tenant::Business(business.to_owned());
            let members = redis.sscan(&layout.keys(&tenant)).await?;
            let digests = members.iter().filter_map(|member| Digest::parse_hex(member));
            digests.map(|digest| (digest, tenant.clone())).collect()
        }
        None => everywhere(redis, layout).await?,
    };
    let mut keys = Vec::with_capacity(places.len());
    for page in places.chunks(PAGE) {
        let names: Vec<String> = page.iter().map(|(digest, tenant)| layout.key(tenant, digest)).collect();
        let documents = redis.mget(&names).await?;
        for ((digest, tenant), document) in page.iter().zip(documents) {
            keys.extend(document.map(|json| StoredKey::read(*digest, tenant.clone(), &json)));
        }
    }
    Ok(keys)
}

/// Adds `revoked_at` to the document as it is at that moment.
pub async fn revoke(
    redis: &RedisDocuments,
    layout: &Layout,
    key: &StoredKey,
    at: &str,
) -> Result<Revocation, RegistryError> {
    let read = |json: &[u8]| StoredKey::read(key.digest, key.tenant.clone(), json);
    let place = layout.key(&key.tenant, &key.digest);
    for _ in 0..ATTEMPTS {
        let before = redis.get(&place).await?.ok_or(RegistryError::NotFound)?;
        let mut members: Members = serde_json::from_slice(&before)
            .map_err(|_| StoreError::Broken(format!("`{place}` is no JSON object; it opens nothing, delete it")))?;
        if members.contains_key("revoked_at") {
            return Ok(Revocation::AlreadyRevoked(read(&before)));
        }
        members.insert("revoked_at".to_owned(), Value::from(at));
        let after = json(&members);
        if redis.compare_and_set(&place, &before, after.as_bytes()).await? {
            return Ok(Revocation::Revoked(read(after.as_bytes())));
        }
    }
    Err(RegistryError::Contended)
}

/// An id names one key: whoever sets it first has it.
async fn claim_id(redis: &RedisDocuments, layout: &Layout, key: &StoredKey) -> Result<(), RegistryError> {
    let Some(id) = key.text("id") else { return Ok(()) };
    let (name, value) = (layout.id(id), value_of(key));
    if redis.set_absent(&name, value.as_bytes()).await? {
        return Ok(());
    }
    match redis.get(&name).await? {
        Some(standing) if standing == value.as_bytes() => Ok(()),
        Some(_) | None => Err(RegistryError::IdTaken(id.to_owned())),
    }
}

/// Writes what leads to a document that stands: `at`, the tenant's set, the id.
async fn lead_to(redis: &RedisDocuments, layout: &Layout, key: &StoredKey) -> Result<(), RegistryError> {
    // Where `at` leads elsewhere, nothing stands there: `insert` has looked.
    redis.set(&layout.at(&key.digest), key.tenant.to_string().as_bytes()).await?;
    redis.sadd(&layout.keys(&key.tenant), &key.digest.to_hex()).await?;
    claim_id(redis, layout, key).await
}

async fn tenant_at(redis: &RedisDocuments, layout: &Layout, digest: &Digest) -> Result<Option<Tenant>, RegistryError> {
    let Some(value) = redis.get(&layout.at(digest)).await? else { return Ok(None) };
    let tenant = std::str::from_utf8(&value).ok().and_then(Tenant::parse);
    let broken = || StoreError::Broken(format!("`{}` names no tenant", layout.at(digest)));
    Ok(Some(tenant.ok_or_else(broken)?))
}

async fn read(
    redis: &RedisDocuments,
    layout: &Layout,
    digest: Digest,
    tenant: Tenant,
) -> Result<Option<StoredKey>, RegistryError> {
    let json: Option<Bytes> = redis.get(&layout.key(&tenant, &digest)).await?;
    Ok(json.map(|json| StoredKey::read(digest, tenant, &json)))
}

/// Where documents stand, whoever wrote them: found by their names, not by the sets that a writer may have forgotten.
async fn everywhere(redis: &RedisDocuments, layout: &Layout) -> Result<Vec<(Digest, Tenant)>, RegistryError> {
    let pattern = layout.in_slot("*", "key:*");
    let before = pattern.split('*').next().unwrap_or_default();
    let place = |name: &String| {
        let (tenant, hex) = name.strip_prefix(before)?.split_once("}:key:")?;
        Some((Digest::parse_hex(hex)?, Tenant::parse(tenant)?))
    };
    Ok(redis.scan(&pattern).await?.iter().filter_map(place).collect())
}

/// `<tenant> <sha256 hex>`.
fn value_of(key: &StoredKey) -> String {
    format!("{} {}", key.tenant, key.digest.to_hex())
}

fn id_value(value: &[u8]) -> Option<(Tenant, Digest)> {
    let (tenant, hex) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((Tenant::parse(tenant)?, Digest::parse_hex(hex)?))
}
