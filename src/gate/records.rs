//! One worker's cache of key and business documents, which are never trusted without the store's confirmation.
//!
//! Each decision sends the documents that it rests on, and the store answers `Stale` when one has changed; then the cached one is
//! replaced. Bounded for the whole process, by two generations per worker: what is used stays, the rest is dropped with the older
//! one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::rc::Rc;

use bytes::Bytes;

use super::documents::{Documents, Known, KnownBusiness, KnownKey};
use super::evaluate::EvaluationCache;
use crate::keys::digest::Bare;
use crate::keys::{Digest, Tenant};
use crate::limit::{Believed, Question};
use crate::store::record::{BusinessDocument, KeyDocument};
use crate::store::{StoreError, layout};

/// Keys that all workers of a process cache together, and as many businesses: about 35 MB (`tests/memory` measures what one
/// takes). Workers get equal shares, whose halves fill maps of 2ⁿ buckets, since those grow when they are seven eighths full.
const MOST: usize = 14_000;
/// The least that a worker gets, however many there are: with fewer, keys in use would evict one another.
const LEAST: usize = 1_750;

/// One worker's cache. Borrows never cross an await.
#[derive(Debug)]
pub struct Records {
    keys: RefCell<Generations<Digest, Rc<Remembered>, Bare>>,
    businesses: RefCell<Generations<Rc<str>, Rc<KnownBusiness>>>,
}

/// A key, and the cached evaluations of its requests.
#[derive(Debug)]
pub struct Remembered {
    pub key: KnownKey,
    pub evaluations: EvaluationCache,
}

impl Records {
    /// The share of one of this many workers.
    pub fn of_one_in(workers: usize) -> Self {
        let most = (MOST / workers.max(1)).max(LEAST);
        Self { keys: RefCell::new(Generations::new(most)), businesses: RefCell::new(Generations::new(most)) }
    }

    pub fn key(&self, digest: &Digest) -> Option<Rc<Remembered>> {
        self.keys.borrow_mut().get(digest).cloned()
    }

    pub fn remember_tenant(&self, digest: Digest, tenant: Tenant) -> Rc<Remembered> {
        self.remember(digest, KnownKey { tenant, document: Known::Unseen })
    }

    fn remember(&self, digest: Digest, key: KnownKey) -> Rc<Remembered> {
        let remembered = Rc::new(Remembered { key, evaluations: EvaluationCache::default() });
        self.keys.borrow_mut().insert(digest, remembered.clone());
        remembered
    }

    /// Caches the documents of a question as the store holds them now.
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

    /// Caches the key's document as the store holds it now.
    pub fn learn_key(&self, digest: Digest, tenant: &Tenant, found: Option<Bytes>) -> Result<(), StoreError> {
        let document = Known::parse(found, |raw| {
            // A document in another tenant's slot would be limited and revoked there, not in its own.
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

    /// A business as it was last seen.
    pub fn business(&self, id: &str) -> Rc<KnownBusiness> {
        let held = self.businesses.borrow_mut().get(id).cloned();
        held.unwrap_or_else(|| Rc::new(KnownBusiness::new(id, Known::Unseen)))
    }

    /// Caches the business's document as the store holds it now; `believed` is what the question held.
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
        // The cached one may be another than `believed`.
        [Some(believed), businesses.get(id).map(Rc::as_ref)].into_iter().flatten().for_each(KnownBusiness::outdate);
        businesses.insert(id.clone(), Rc::new(KnownBusiness::new(id.clone(), document)));
        Ok(())
    }
}

/// A bounded map: when the young generation is full it becomes the old one, and the former old one is dropped.
#[derive(Debug)]
struct Generations<K, V, S = RandomState> {
    /// In each of the two.
    most: usize,
    young: HashMap<K, V, S>,
    old: HashMap<K, V, S>,
}

impl<K: Hash + Eq, V, S: BuildHasher + Default> Generations<K, V, S> {
    /// `most`: in both together.
    fn new(most: usize) -> Self {
        Self { most: most / 2, young: HashMap::default(), old: HashMap::default() }
    }

    fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // What is in use is mostly in the young one, so that the old one's memory is not touched.
        if !self.old.is_empty()
            && !self.young.contains_key(key)
            && let Some((key, value)) = self.old.remove_entry(key)
        {
            self.insert(key, value);
        }
        self.young.get(key)
    }

    fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
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

    fn held<V>(map: &RefCell<Generations<Digest, V, Bare>>) -> usize {
        map.borrow().young.len() + map.borrow().old.len()
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut map: Generations<usize, usize> = Generations::new(2000);
        for n in 0..20_000 {
            map.insert(n, n);
            assert_eq!(map.get(&0), Some(&0));
            assert!(map.young.len() + map.old.len() <= 2000);
        }
        assert_eq!(map.get(&1), None);
    }

    #[test]
    fn all_workers_together_remember_no_more_keys_than_one() {
        let tenant = Tenant::User("u".to_owned());
        for workers in [1, 2, 3, 4, 8] {
            let all: Vec<Records> = (0..workers).map(|_| Records::of_one_in(workers)).collect();
            for n in 0..2 * MOST {
                let key = Digest::of(&n.to_string());
                all[n % workers].remember_tenant(key, tenant.clone());
            }
            let together: usize = all.iter().map(|records| held(&records.keys)).sum();
            assert!((MOST / 2 - workers..=MOST).contains(&together), "{workers} workers remember {together}");
        }
        assert_eq!(Records::of_one_in(1000).keys.borrow().most, LEAST / 2, "what keeps many workers from thrashing");
    }

    #[test]
    fn a_document_in_another_tenants_slot_is_not_believed() {
        let records = Records::of_one_in(1);
        let digest = Digest::of("k");
        let raw = Bytes::from_static(br#"{"id":"k1","name":"n","business":"acme","scopes":[]}"#);
        assert!(records.learn_key(digest, &Tenant::Business("acme".to_owned()), Some(raw.clone())).is_ok());
        assert!(records.learn_key(digest, &Tenant::Business("other".to_owned()), Some(raw)).is_err());
        assert!(records.key(&digest).is_none());
    }

    #[test]
    fn all_who_go_by_a_finding_see_that_it_is_outdated() {
        let records = Records::of_one_in(1);
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
