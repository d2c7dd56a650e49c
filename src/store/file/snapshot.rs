//! The file, parsed: its keys and businesses as the documents that Redis would hold, under the same names.
//!
//! A file whose YAML is invalid is refused as a whole, and the store keeps its last snapshot. An invalid entry is refused alone,
//! so that a typing mistake in one key cannot delay the revocation of another.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde_json::{Map, Value};
use serde_yaml::{Mapping, Value as Yaml};

use crate::keys::tenant::is_id;
use crate::keys::{Digest, Tenant};
use crate::store::layout;
use crate::store::members::MEMBERS;
use crate::store::record::{BusinessDocument, KeyDocument};

/// The documents that requests are decided by until the file changes.
#[derive(Debug, Default)]
pub struct Snapshot {
    tenants: HashMap<Digest, Tenant>,
    slots: HashMap<String, Slot>,
    /// Every key that this process has ever read as revoked.
    revoked: HashSet<Digest>,
}

#[derive(Debug, Default)]
struct Slot {
    documents: HashMap<String, Bytes>,
    sets: HashMap<String, HashSet<String>>,
}

/// The entries of a file, as written.
#[derive(Debug, Default)]
pub struct Contents {
    root: Mapping,
}

/// A snapshot, and warnings about entries that are invalid.
#[derive(Debug)]
pub struct Reading {
    pub snapshot: Snapshot,
    pub warnings: Vec<String>,
}

const KEYS: &str = "keys";
const BUSINESSES: &str = "businesses";
const USERS: &str = "users";
const SHA256: &str = "sha256";

impl Snapshot {
    /// Makes a snapshot of `contents`. What `earlier` knew as revoked stays revoked: an editor that writes in place leaves half
    /// of an entry for a moment, in which a revoked key must not become valid.
    pub fn read(contents: &Contents, earlier: &Snapshot) -> Reading {
        let mut reading = Reading { snapshot: Self::default(), warnings: Vec::new() };
        reading.snapshot.revoked.clone_from(&earlier.revoked);
        for (index, entry) in contents.keys().iter().enumerate() {
            if let Err(what) = reading.snapshot.take_key(entry) {
                reading.warnings.push(format!("keys[{index}]: {what}"));
            }
        }
        for (name, business) in contents.named(BUSINESSES) {
            if let Err(what) = reading.snapshot.take_business(name, business) {
                reading.warnings.push(format!("{BUSINESSES}: {what}"));
            }
        }
        for (name, user) in contents.named(USERS) {
            if let Err(what) = reading.snapshot.take_user(name, user) {
                reading.warnings.push(format!("{USERS}: {what}"));
            }
        }
        reading
    }

    pub fn tenant(&self, digest: &Digest) -> Option<&Tenant> {
        self.tenants.get(digest)
    }

    pub fn document(&self, slot: &str, name: &str) -> Option<&Bytes> {
        self.slots.get(slot)?.documents.get(name)
    }

    pub fn is_member(&self, slot: &str, set: &str, member: &str) -> bool {
        self.slots.get(slot).and_then(|slot| slot.sets.get(set)).is_some_and(|set| set.contains(member))
    }

    fn take_key(&mut self, entry: &Yaml) -> Result<(), String> {
        let Some((digest, mut document)) = key_entry(entry) else {
            return Err("no `sha256` with 64 hexadecimal digits; the entry is left out".to_owned());
        };
        let Some(tenant) = tenant_of(&document) else {
            return Err(
                "neither `business` nor `user` is an id (a number stands in quotes); the entry is left out".to_owned()
            );
        };
        if document.contains_key("revoked_at") {
            self.revoked.insert(digest);
        }
        let mut outcome = Ok(());
        if self.revoked.contains(&digest) && !document.contains_key("revoked_at") {
            document.insert("revoked_at".to_owned(), Value::Bool(true));
            outcome = Err("was revoked before and stays so until sidegate is started anew".to_owned());
        }
        let mut json = Value::Object(document).to_string();
        if let Err(error) = KeyDocument::parse(json.as_bytes()) {
            outcome = Err(format!("{error}; the key is refused"));
        }
        if self.tenants.contains_key(&digest) {
            // Neither entry can be preferred: the key is refused, as with an unreadable document.
            "null".clone_into(&mut json);
            outcome = Err("its `sha256` stands twice; the key is refused until one entry is left".to_owned());
        }
        let tenant = self.tenants.entry(digest).or_insert(tenant);
        let slot = self.slots.entry(tenant.to_string()).or_default();
        slot.documents.insert(layout::key_name(&digest), json.into());
        outcome
    }

    fn take_business(&mut self, name: &Yaml, business: &Yaml) -> Result<(), String> {
        let id = self::id(name)?;
        let json = match business {
            Yaml::Null => "{}".to_owned(),
            business => json(business)?.to_string(),
        };
        let checked = BusinessDocument::parse(json.as_bytes());
        let slot = self.slots.entry(layout::business_slot(&id)).or_default();
        slot.documents.insert(layout::BUSINESS.to_owned(), json.into());
        checked.map(|_| ()).map_err(|error| format!("`{id}`: {error}; its keys are refused"))
    }

    fn take_user(&mut self, name: &Yaml, user: &Yaml) -> Result<(), String> {
        let id = self::id(name)?;
        let no_list = || format!("`{id}`: write `businesses: [acme]`");
        let businesses = user.get(layout::BUSINESSES).and_then(Yaml::as_sequence).ok_or_else(no_list)?;
        let slot = self.slots.entry(layout::user_slot(&id)).or_default();
        let set = slot.sets.entry(layout::BUSINESSES.to_owned()).or_default();
        let mut outcome = Ok(());
        for business in businesses {
            match self::id(business) {
                Ok(business) => drop(set.insert(business)),
                Err(what) => outcome = Err(format!("`{id}`: {what}")),
            }
        }
        outcome
    }
}

impl Contents {
    /// Parses a whole file; an empty one has no entries.
    pub fn parse(yaml: &[u8]) -> Result<Self, String> {
        let root = match serde_yaml::from_slice::<Yaml>(yaml).map_err(|error| error.to_string())? {
            Yaml::Null => Mapping::new(),
            Yaml::Mapping(root) => root,
            _ => return Err(format!("write `{KEYS}:`, `{BUSINESSES}:` and `{USERS}:` at the top")),
        };
        for (name, value) in &root {
            let fits = match name.as_str() {
                Some(KEYS) => value.is_sequence() || value.is_null(),
                Some(BUSINESSES | USERS) => value.is_mapping() || value.is_null(),
                _ => return Err(format!("only `{KEYS}`, `{BUSINESSES}` and `{USERS}` stand at the top")),
            };
            if !fits {
                return Err(format!("`{KEYS}` is a list, `{BUSINESSES}` and `{USERS}` are maps by id"));
            }
        }
        Ok(Self { root })
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    pub fn to_yaml(&self) -> Result<String, String> {
        serde_yaml::to_string(&self.root).map_err(|error| error.to_string())
    }

    /// All entries that name a digest, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (Digest, Map<String, Value>)> {
        self.keys().iter().filter_map(key_entry)
    }

    /// Appends a key.
    pub fn push(&mut self, digest: &Digest, document: &Map<String, Value>) -> Result<(), String> {
        let entry = Yaml::Mapping(entry_of(digest, document)?);
        let keys = self.root.entry(KEYS.into()).or_insert(Yaml::Null);
        if keys.is_null() {
            *keys = Yaml::Sequence(Vec::new());
        }
        if let Yaml::Sequence(keys) = keys {
            keys.push(entry);
        }
        Ok(())
    }

    /// Replaces every entry of `digest`: of duplicates, which are refused, both.
    pub fn replace(&mut self, digest: &Digest, document: &Map<String, Value>) -> Result<(), String> {
        let Some(Yaml::Sequence(keys)) = self.root.get_mut(KEYS) else { return Ok(()) };
        for key in keys.iter_mut().filter(|key| digest_of(key) == Some(*digest)) {
            *key = Yaml::Mapping(entry_of(digest, document)?);
        }
        Ok(())
    }

    /// Removes every entry of `digest`.
    pub fn remove(&mut self, digest: &Digest) {
        if let Some(Yaml::Sequence(keys)) = self.root.get_mut(KEYS) {
            keys.retain(|key| digest_of(key) != Some(*digest));
        }
    }

    /// The document of a business; an entry without a value is an empty one.
    pub fn business(&self, id: &str) -> Option<Map<String, Value>> {
        let (_, business) = self.named(BUSINESSES).find(|(name, _)| self::id(name).is_ok_and(|name| name == id))?;
        match json(business) {
            Ok(Value::Object(document)) => Some(document),
            Ok(_) | Err(_) => Some(Map::new()),
        }
    }

    /// The ids of all businesses, sorted.
    pub fn businesses(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.named(BUSINESSES).filter_map(|(name, _)| self::id(name).ok()).collect();
        ids.sort_unstable();
        ids
    }

    /// Writes the entry of a business.
    pub fn set_business(&mut self, id: &str, document: &Map<String, Value>) -> Result<(), String> {
        let entry = serde_yaml::to_value(document).map_err(|error| error.to_string())?;
        let businesses = self.root.entry(BUSINESSES.into()).or_insert(Yaml::Null);
        if businesses.is_null() {
            *businesses = Yaml::Mapping(Mapping::new());
        }
        if let Yaml::Mapping(businesses) = businesses {
            // An id of digits alone may be written as a number.
            let name = businesses.keys().find(|name| self::id(name).is_ok_and(|name| name == id)).cloned();
            businesses.insert(name.unwrap_or_else(|| id.into()), entry);
        }
        Ok(())
    }

    fn keys(&self) -> &[Yaml] {
        self.root.get(KEYS).and_then(Yaml::as_sequence).map_or(&[], Vec::as_slice)
    }

    fn named(&self, member: &str) -> impl Iterator<Item = (&Yaml, &Yaml)> {
        self.root.get(member).and_then(Yaml::as_mapping).into_iter().flatten()
    }
}

/// A key as it is written: its digest, the known members in their order, then the others.
fn entry_of(digest: &Digest, document: &Map<String, Value>) -> Result<Mapping, String> {
    let mut entry = Mapping::new();
    entry.insert(SHA256.into(), digest.to_hex().into());
    // Unknown members, of other services, are kept.
    let known = MEMBERS.iter().filter_map(|&name| document.get_key_value(name));
    let others = document.iter().filter(|(name, _)| !MEMBERS.contains(&name.as_str()));
    for (name, value) in known.chain(others) {
        entry.insert(name.as_str().into(), serde_yaml::to_value(value).map_err(|error| error.to_string())?);
    }
    Ok(entry)
}

/// The tenant that a document names, even where the rest of it is wrong.
pub fn tenant_of(document: &Map<String, Value>) -> Option<Tenant> {
    let id = |member: &str| document.get(member).filter(|value| !value.is_null());
    let valid = |value: &Value| value.as_str().filter(|id| is_id(id)).map(str::to_owned);
    match id("business") {
        Some(business) => valid(business).map(Tenant::Business),
        None => id("user").and_then(valid).map(Tenant::User),
    }
}

fn key_entry(entry: &Yaml) -> Option<(Digest, Map<String, Value>)> {
    let digest = digest_of(entry)?;
    let Ok(Value::Object(mut document)) = json(entry) else { return None };
    document.remove(SHA256);
    Some((digest, document))
}

fn digest_of(entry: &Yaml) -> Option<Digest> {
    Digest::parse_hex(entry.get(SHA256)?.as_str()?)
}

fn json(yaml: &Yaml) -> Result<Value, String> {
    serde_json::to_value(yaml).map_err(|error| error.to_string())
}

fn id(name: &Yaml) -> Result<String, String> {
    let text = name.as_str().map(str::to_owned).or_else(|| name.as_u64().map(|number| number.to_string()));
    text.filter(|id| is_id(id)).ok_or_else(|| "a name is no id; the entry is left out".to_owned())
}
