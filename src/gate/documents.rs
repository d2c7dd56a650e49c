//! The documents that a decision rests on, each as it is cached: not seen yet, absent, or these bytes.
//!
//! Plain data for `asks`, `evaluate` and `records`; no rules.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::keys::{Digest, Tenant};
use crate::limit::Believed;
use crate::store::StoreError;
use crate::store::record::{BusinessDocument, KeyDocument};

/// The cached documents of the key, and of the business that the request is about.
#[derive(Debug, Clone, Copy)]
pub struct Documents<'a> {
    pub digest: &'a Digest,
    pub key: &'a KnownKey,
    pub business: Option<&'a KnownBusiness>,
}

/// A key as it was last seen, and its tenant's slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    pub tenant: Tenant,
    pub document: Known<KeyDocument>,
}

/// A business as it was last seen.
#[derive(Debug)]
pub struct KnownBusiness {
    pub id: Rc<str>,
    pub document: Known<BusinessDocument>,
    outdated: Cell<bool>,
}

impl KnownBusiness {
    pub fn new(id: impl Into<Rc<str>>, document: Known<BusinessDocument>) -> Self {
        Self { id: id.into(), document, outdated: Cell::new(false) }
    }

    /// Whether another document has been seen since.
    pub fn is_outdated(&self) -> bool {
        self.outdated.get()
    }

    pub(super) fn outdate(&self) {
        self.outdated.set(true);
    }
}

/// A document as it was last seen.
#[derive(Debug)]
pub enum Known<T> {
    Unseen,
    Absent,
    Is { raw: Bytes, document: Arc<T> },
}

impl<T> Known<T> {
    /// From what the store holds: nothing, or a document's bytes.
    pub(super) fn parse(
        found: Option<Bytes>,
        parse: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Self, StoreError> {
        match found {
            None => Ok(Self::Absent),
            Some(raw) => Ok(Self::Is { document: Arc::new(parse(&raw)?), raw }),
        }
    }

    pub fn believed(&self) -> Believed {
        match self {
            Self::Unseen => Believed::Unknown,
            Self::Absent => Believed::Absent,
            Self::Is { raw, .. } => Believed::Is(raw.clone()),
        }
    }

    pub fn document(&self) -> Option<&Arc<T>> {
        match self {
            Self::Unseen | Self::Absent => None,
            Self::Is { document, .. } => Some(document),
        }
    }
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Unseen => Self::Unseen,
            Self::Absent => Self::Absent,
            Self::Is { raw, document } => Self::Is { raw: raw.clone(), document: document.clone() },
        }
    }
}

/// Equal bytes are equal documents.
impl<T> PartialEq for Known<T> {
    fn eq(&self, other: &Self) -> bool {
        self.believed() == other.believed()
    }
}

impl<T> Eq for Known<T> {}
