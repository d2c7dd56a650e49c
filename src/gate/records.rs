//! What this worker has seen of keys and businesses: remembered, and never trusted unasked.
//!
//! Each decision names the documents that it rests on, and the store answers `Stale` when one has changed; then what is
//! remembered here is replaced. Bounded by two generations: what is used stays, what is not falls out with the older one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::rc::Rc;

use bytes::Bytes;

use super::documents::{Documents, Known, KnownBusiness, KnownKey};
use super::weigh::Weighings;
use crate::keys::digest::Bare;
use crate::keys::{Digest, Tenant};
use crate::limit::{Believed, Question};
use crate::store::record::{BusinessDocument, KeyDocument};
use crate::store::{StoreError, layout};

/// Entries of one kind that are remembered at the least; twice as many at the most.
const REMEMBERED: usize = 8192;

/// One worker's memory. Borrows never cross an await.
#[derive(Debug, Default)]
pub struct Records {
    keys: RefCell<Generations<Digest, Rc<Remembered>, Bare>>,
    businesses: RefCell<Generations<Rc<str>, Rc<KnownBusiness>>>,
}

/// A key, and how its requests were weighed by what is known of it.
#[derive(Debug)]
pub struct Remembered {
    pub key: KnownKey,
    pub weighings: Weighings,
}

impl Records {
    pub fn key(&self, digest: &Digest) -> Option<Rc<Remembered>> {
        self.keys.borrow_mut().get(digest).cloned()
    }

    pub fn remember_tenant(&self, digest: Digest, tenant: Tenant) -> Rc<Remembered> {
        self.remember(digest, KnownKey { tenant, document: Known::Unseen })
    }

    fn remember(&self, digest: Digest, key: KnownKey) -> Rc<Remembered> {
        let remembered = Rc::new(Remembered { key, weighings: Weighings::default() });
        self.keys.borrow_mut().insert(digest, remembered.clone());
        remembered
    }

    /// Takes in the documents of a question as the store has them now.
    pub fn learn(
        &self,
        documents: &Documents<'_>,
        question: &Question,
        found: Vec<Vec<Option<Bytes>>>,
    ) -> Result<(), StoreError> {
        for (ask, found) in question.asks.iter().zip(found) {
            for (document, found) in ask.documents.iter().zip(found) {
                match documents.business {
                    Some(business) if &*document.name == layout::BUSINESS => self.learn_business(business, found)?,
                    _ => self.learn_key(*documents.digest, &documents.key.tenant, found)?,
                }
            }
        }
        Ok(())
    }

    /// Takes in the key's document as the store has it now.
    pub fn learn_key(&self, digest: Digest, tenant: &Tenant, found: Option<Bytes>) -> Result<(), StoreError> {
        let document = Known::parse(found, |raw| {
            // A document of one tenant in another's slot would be limited and revoked in the wrong place.
            KeyDocument::parse_in(tenant, raw)
                .map_err(|error| StoreError::Broken(format!("the document of key {}: {error}", digest.to_hex())))
        });
        match document {
            Ok(document) => {
                self.remember(digest, KnownKey { tenant: tenant.clone(), document });
                Ok(())
            }
            Err(error) => {
                self.forget_key(&digest);
                Err(error)
            }
        }
    }

    pub fn forget_key(&self, digest: &Digest) {
        self.keys.borrow_mut().remove(digest);
    }

    /// What was last seen of a business, until that is outdated.
    pub fn business(&self, id: &str) -> Rc<KnownBusiness> {
        let held = self.businesses.borrow_mut().get(id).cloned();
        held.unwrap_or_else(|| Rc::new(KnownBusiness::new(id, Known::Unseen)))
    }

    /// Takes in the business's document as the store has it now, where `believed` was asked about.
    fn learn_business(&self, believed: &KnownBusiness, found: Option<Bytes>) -> Result<(), StoreError> {
        if !believed.is_outdated() && believed.document.believed() == Believed::from_found(found.clone()) {
            return Ok(());
        }
        let id = &believed.id;
        let document = Known::parse(found, |raw| {
            BusinessDocument::parse(raw)
                .map_err(|error| StoreError::Broken(format!("the document of business {id}: {error}")))
        })?;
        let mut businesses = self.businesses.borrow_mut();
        // What is remembered may be another than who asked goes by.
        [Some(believed), businesses.get(id).map(Rc::as_ref)].into_iter().flatten().for_each(KnownBusiness::outdate);
        businesses.insert(id.clone(), Rc::new(KnownBusiness::new(id.clone(), document)));
        Ok(())
    }
}

/// A bounded map: when the younger generation is full it becomes the older one, and the older one is dropped.
#[derive(Debug)]
struct Generations<K, V, S = RandomState> {
    young: HashMap<K, V, S>,
    old: HashMap<K, V, S>,
}

impl<K, V, S: Default> Default for Generations<K, V, S> {
    fn default() -> Self {
        Self { young: HashMap::default(), old: HashMap::default() }
    }
}

impl<K: Hash + Eq, V, S: BuildHasher + Default> Generations<K, V, S> {
    fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if !self.old.is_empty()
            && let Some((key, value)) = self.old.remove_entry(key)
        {
            self.insert(key, value);
        }
        self.young.get(key)
    }

    fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn remove<Q>(&mut self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut map: Generations<usize, usize> = Generations::default();
        for n in 0..10 * REMEMBERED {
            map.insert(n, n);
            assert_eq!(map.get(&0), Some(&0));
            assert!(map.young.len() + map.old.len() <= 2 * REMEMBERED);
        }
        assert_eq!(map.get(&1), None);
    }

    #[test]
    fn a_document_in_another_tenants_slot_is_not_believed() {
        let records = Records::default();
        let digest = Digest::of("k");
        let raw = Bytes::from_static(br#"{"id":"k1","name":"n","business":"acme","scopes":[]}"#);
        assert!(records.learn_key(digest, &Tenant::Business("acme".to_owned()), Some(raw.clone())).is_ok());
        assert!(records.learn_key(digest, &Tenant::Business("other".to_owned()), Some(raw)).is_err());
        assert!(records.key(&digest).is_none());
    }

    #[test]
    fn all_who_go_by_a_finding_see_that_it_is_outdated() {
        let records = Records::default();
        let unseen = records.business("acme");
        let document = |plan: &str| Some(Bytes::from(format!(r#"{{"plan":"{plan}"}}"#)));
        let learn =
            |believed: &KnownBusiness, plan| records.learn_business(believed, document(plan)).expect("it is one");
        learn(&unseen, "starter");
        let (first, second) = (records.business("acme"), records.business("acme"));
        assert!(unseen.is_outdated() && Rc::ptr_eq(&first, &second));
        learn(&first, "starter");
        assert!(!second.is_outdated(), "it was confirmed");
        // Who has asked all the while, and learns of it late.
        learn(&unseen, "pro");
        assert!(first.is_outdated());
        assert_eq!(
            records.business("acme").document.document().and_then(|now| now.plan.clone()).as_deref(),
            Some("pro")
        );
    }
}
