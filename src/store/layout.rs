//! The names of the store's keys, which other services rely on to mint and read: one function for each.

use std::fmt::Display;

use crate::keys::{Digest, Tenant};

/// Names under one prefix: `P:at:<sha256>`, `P:{<slot>}:<name>`, `P:id:<key id>`.
#[derive(Debug, Clone)]
pub struct Layout {
    prefix: Box<str>,
}

impl Layout {
    /// The prefix must match `[A-Za-z0-9:_-]+`; the configuration has checked it.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// `P:at:<sha256 hex>` → the tenant.
    pub fn at(&self, digest: &Digest) -> String {
        format!("{}:at:{}", self.prefix, digest.to_hex())
    }

    /// `P:id:<key id>` → `<tenant> <sha256 hex>`.
    pub fn id(&self, key_id: &str) -> String {
        format!("{}:id:{key_id}", self.prefix)
    }

    /// `P:{<slot>}:<name>`: everything that one ask touches shares the hash tag.
    pub fn in_slot(&self, slot: &str, name: &str) -> String {
        let mut text = String::with_capacity(self.prefix.len() + slot.len() + name.len() + 4);
        self.push_in_slot(&mut text, slot, name);
        text
    }

    /// The same, appended to `text`.
    pub fn push_in_slot(&self, text: &mut String, slot: &str, name: &str) {
        [&self.prefix, ":{", slot, "}:", name].into_iter().for_each(|part| text.push_str(part));
    }

    /// `P:{<tenant>}:key:<sha256 hex>` → the key's document.
    pub fn key(&self, tenant: &Tenant, digest: &Digest) -> String {
        self.in_slot(&tenant.to_string(), &key_name(digest))
    }

    /// `P:{<tenant>}:keys` → the set of the tenant's digests.
    pub fn keys(&self, tenant: &Tenant) -> String {
        self.in_slot(&tenant.to_string(), "keys")
    }

    /// `P:{<tenant>}:minted` → how many keys have become active since there is a maximum; it only grows, and expires an hour
    /// after the last key.
    pub fn minted(&self, tenant: &Tenant) -> String {
        self.in_slot(&tenant.to_string(), "minted")
    }

    /// `P:{b:<business>}:business` → the business's document.
    pub fn business(&self, business: &str) -> String {
        self.in_slot(&business_slot(business), BUSINESS)
    }

    /// `P:audit` → the stream of changes to keys and businesses.
    pub fn audit(&self) -> String {
        format!("{}:audit", self.prefix)
    }
}

/// The slots of a business, a user, a client address, and of global limits.
pub fn business_slot(business: &str) -> String {
    format!("b:{business}")
}

pub fn user_slot(user: &str) -> String {
    format!("u:{user}")
}

pub fn address_slot(address: impl Display) -> String {
    format!("ip:{address}")
}

pub const GLOBAL_SLOT: &str = "global";

/// Names below a slot.
pub const BUSINESS: &str = "business";
pub const BUSINESSES: &str = "businesses";
/// A probe's bucket, which expires after a second. Its name fits the patterns that the gate's login may write; no limit has an
/// empty name.
pub const PROBE: &str = "count::probe";

pub fn key_name(digest: &Digest) -> String {
    format!("key:{}", digest.to_hex())
}

pub fn count_name(limit: &str, subject: impl Display) -> String {
    format!("count:{limit}:{subject}")
}
