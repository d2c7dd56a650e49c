//! Parses the documents of keys and businesses. Other services write them too, so everything is checked.
//!
//! It fails closed: an invalid member that decisions rest on makes the whole document unreadable, and an unreadable key is
//! refused. Unknown members are ignored.
//!
//! A duplicate member is an error, at the top level (serde's derived structs) and among the limits (below), so that two parsers
//! of one document cannot see two different keys. Unknown members may be duplicated; nobody reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::keys::Tenant;
use crate::keys::tenant::is_id;
use crate::limit::Windows;
use crate::{clock, network};

/// Limits by name, as a key, a business or a plan overrides them. A limit of 0 closes.
pub type Limits = BTreeMap<String, Arc<Windows>>;

/// `P:{<tenant>}:key:<sha256 hex>`. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyDocument {
    pub id: String,
    pub name: String,
    pub hint: String,
    pub business: Option<String>,
    pub user: Option<String>,
    pub scopes: Vec<String>,
    pub created_at: Option<u64>,
    pub expires_at: Option<u64>,
    /// `revoked_at` is present, whatever its value.
    pub revoked: bool,
    pub limits: Limits,
    /// `None`: from anywhere. An empty list allows nobody.
    pub allow_addresses: Option<Vec<IpNet>>,
}

/// `P:{b:<business>}:business`. Where there is no document, the business is active and has no plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BusinessDocument {
    pub plan: Option<String>,
    pub status: Status,
    pub limits: Limits,
}

/// Only `Active` is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// Absent, or `active`.
    #[default]
    Active,
    Suspended,
    /// Anything else, `null` and other types included.
    Other,
}

/// Why a document cannot be read; names the member, never a key.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct RecordError(String);

impl KeyDocument {
    pub fn parse(json: &[u8]) -> Result<Self, RecordError> {
        let stored: StoredKey = read(json)?;
        if !is_id(&stored.id) {
            return Err(RecordError(format!("id: `{}` is no id", stored.id)));
        }
        if stored.business.is_none() && stored.user.is_none() {
            return Err(RecordError("neither a business nor a user is named".to_owned()));
        }
        for (member, id) in [("business", &stored.business), ("user", &stored.user)] {
            if let Some(id) = id.as_ref().filter(|id| !is_id(id)) {
                return Err(RecordError(format!("{member}: `{id}` is no id")));
            }
        }
        let mut scopes = stored.scopes.unwrap_or_default();
        // Cached for as long as the key is in use; a parsed list has spare capacity.
        scopes.shrink_to_fit();
        Ok(Self {
            created_at: time("created_at", stored.created_at.as_deref())?,
            expires_at: time("expires_at", stored.expires_at.as_deref())?,
            allow_addresses: stored.allow_addresses.map(|texts| addresses(&texts)).transpose()?,
            id: stored.id,
            name: stored.name.unwrap_or_default(),
            hint: stored.hint.unwrap_or_default(),
            business: stored.business,
            user: stored.user,
            scopes,
            revoked: stored.revoked_at.is_some(),
            limits: stored.limits.map(|limits| limits.0).unwrap_or_default(),
        })
    }

    /// Parses a document in the slot of `tenant`. One that names another tenant was put there by mistake, or to gain access.
    pub fn parse_in(tenant: &Tenant, json: &[u8]) -> Result<Self, RecordError> {
        let document = Self::parse(json)?;
        let named = document.tenant();
        if named != *tenant {
            return Err(RecordError(format!("stands in the slot of `{tenant}`, but names `{named}`")));
        }
        Ok(document)
    }

    /// The document as JSON. A revoked one has `"revoked_at":true`, since the time is not kept here: to change a stored document,
    /// edit its JSON instead.
    pub fn to_json(&self) -> String {
        let written = WrittenKey {
            id: &self.id,
            name: &self.name,
            hint: &self.hint,
            business: self.business.as_deref(),
            user: self.user.as_deref(),
            scopes: &self.scopes,
            created_at: self.created_at.map(clock::rfc3339),
            expires_at: self.expires_at.map(clock::rfc3339),
            revoked_at: self.revoked.then_some(true),
            limits: self.limits.iter().map(|(name, windows)| (name.as_str(), texts(windows.as_slice()))).collect(),
            allow_addresses: self.allow_addresses.as_deref().map(texts),
        };
        serde_json::to_string(&written).expect("strings, lists and maps with text keys are always JSON")
    }

    /// The tenant whose slot the document belongs in.
    pub fn tenant(&self) -> Tenant {
        match (&self.business, &self.user) {
            (Some(business), _) => Tenant::Business(business.clone()),
            (None, user) => Tenant::User(user.clone().unwrap_or_default()),
        }
    }
}

impl BusinessDocument {
    pub fn parse(json: &[u8]) -> Result<Self, RecordError> {
        let stored: StoredBusiness = read(json)?;
        Ok(Self {
            plan: stored.plan,
            status: stored.status,
            limits: stored.limits.map(|limits| limits.0).unwrap_or_default(),
        })
    }
}

/// For optional members `null` means absent, as many serializers write it; except for `revoked_at`.
#[derive(Deserialize)]
struct StoredKey {
    id: String,
    name: Option<String>,
    hint: Option<String>,
    business: Option<String>,
    user: Option<String>,
    scopes: Option<Vec<String>>,
    created_at: Option<String>,
    expires_at: Option<String>,
    #[serde(default, deserialize_with = "present")]
    revoked_at: Option<IgnoredAny>,
    limits: Option<StoredLimits>,
    allow_addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct StoredBusiness {
    plan: Option<String>,
    #[serde(default)]
    status: Status,
    limits: Option<StoredLimits>,
}

#[derive(Serialize)]
struct WrittenKey<'a> {
    id: &'a str,
    name: &'a str,
    hint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    business: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    scopes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<&'a str, Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_addresses: Option<Vec<String>>,
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, RecordError> {
    serde_json::from_slice(json).map_err(|error| RecordError(error.to_string()))
}

/// Called only if the member is present: an `Option` alone would take `null` for absent, and so un-revoke.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IgnoredAny>, D::Error> {
    IgnoredAny::deserialize(deserializer).map(Some)
}

fn time(member: &str, text: Option<&str>) -> Result<Option<u64>, RecordError> {
    let Some(text) = text else { return Ok(None) };
    match clock::parse_rfc3339(text) {
        Some(ms) => Ok(Some(ms)),
        None => Err(RecordError(format!("{member}: `{text}` is no RFC 3339 time"))),
    }
}

fn addresses(texts: &[String]) -> Result<Vec<IpNet>, RecordError> {
    texts.iter().map(|text| address(text)).collect()
}

fn address(text: &str) -> Result<IpNet, RecordError> {
    let wrong = || RecordError(format!("allow_addresses: `{text}` is neither an address nor a network"));
    network::parse(text).ok_or_else(wrong)
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(match value.as_str() {
            Some("active") => Self::Active,
            Some("suspended") => Self::Suspended,
            Some(_) | None => Self::Other,
        })
    }
}

/// `{name: "60/1m" | ["20/1s", …]}`, each name once.
struct StoredLimits(Limits);

impl<'de> Deserialize<'de> for StoredLimits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LimitsVisitor)
    }
}

struct LimitsVisitor;

impl<'de> Visitor<'de> for LimitsVisitor {
    type Value = StoredLimits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limits such as {\"per-key\": \"60/1m\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StoredLimits, A::Error> {
        let mut limits = Limits::new();
        while let Some((name, windows)) = map.next_entry::<String, OneOrSeveral>()? {
            let windows = match &windows {
                OneOrSeveral::One(text) => Windows::parse([text.as_str()]),
                OneOrSeveral::Several(texts) => Windows::parse(texts.iter().map(String::as_str)),
            };
            let windows = windows.map_err(|error| A::Error::custom(format_args!("limits.{name}: {error}")))?;
            if limits.insert(name.clone(), Arc::new(windows)).is_some() {
                return Err(A::Error::custom(format_args!("limits.{name} stands twice")));
            }
        }
        Ok(StoredLimits(limits))
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a window such as \"60/1m\", or a list of windows")]
enum OneOrSeveral {
    One(String),
    Several(Vec<String>),
}

#[cfg(test)]
mod tests;
