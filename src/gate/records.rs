//! What this worker has seen of keys and businesses: remembered, and never trusted unasked.
//!
//! Each decision names the documents that it rests on, and the store answers `Stale` when one has changed; then what is
//! remembered here is replaced. Bounded for the whole process by two generations a worker: what is used stays, what is not falls
//! out with the older one, which goes after some minutes without a use, too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::documents::{Documents, Known, KnownBusiness, KnownKey};
use super::weigh::Weighings;
use crate::keys::digest::Bare;
use crate::keys::{Digest, Tenant};
use crate::limit::{Believed, Question};
use crate::store::record::{BusinessDocument, KeyDocument};
use crate::store::{StoreError, layout};

/// Keys that all workers of a process remember together at the most, and as many businesses: about 35 MB (`tests/memory` counts what
/// one takes). Workers get equal parts, whose halves fill maps of 2ⁿ places, since those double when they are seven eighths full.
const MOST: usize = 14_000;
/// What a worker gets however many there are: with fewer, keys in use would push one another out.
const LEAST: usize = 1_750;
/// What has not been used for so long is forgotten within as long again.
const UNUSED: Duration = Duration::from_secs(300);

/// One worker's memory. Borrows never cross an await.
#[derive(Debug)]
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
    /// The part of one of so many workers.
    pub fn of_one_in(workers: usize) -> Self {
        let most = (MOST / workers.max(1)).max(LEAST);
        Self { keys: RefCell::new(Generations::new(most)), businesses: RefCell::new(Generations::new(most)) }
    }

    /// The same, where what is not used is forgotten. Must be called on the worker's own runtime.
    pub fn start(workers: usize) -> Rc<Self> {
        let records = Rc::new(Self::of_one_in(workers));
        spawn_local(age(Rc::downgrade(&records)));
        records
    }

    /// Forgets keys that were not used since this was called last, and businesses that no key goes by.
    fn age(&self) {
        self.keys.borrow_mut().age();
        self.businesses.borrow_mut().retain(|business| Rc::strong_count(business) > 1);
    }

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

/// Until the memory is gone.
async fn age(records: Weak<Records>) {
    loop {
        sleep(UNUSED).await;
        match records.upgrade() {
            Some(records) => records.age(),
            None => return,
        }
    }
}

/// A bounded map: when the younger generation is full it becomes the older one, and the older one is dropped.
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

    /// Forgets what was not used since the last time.
    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    /// What is left takes no more room than it needs.
    fn retain(&mut self, mut is_kept: impl FnMut(&V) -> bool) {
        for generation in [&mut self.young, &mut self.old] {
            generation.retain(|_, value| is_kept(value));
            generation.shrink_to_fit();
        }
    }

    fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // What is in use is mostly in the younger one, whose memory is then all that is looked at.
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
            self.age();
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
    fn what_is_not_used_is_forgotten_and_what_is_used_is_not() {
        let records = Records::of_one_in(1);
        let (used, unused, tenant) = (Digest::of("used"), Digest::of("unused"), Tenant::User("u".to_owned()));
        records.remember_tenant(used, tenant.clone());
        records.remember_tenant(unused, tenant);
        let believed = records.business("acme");
        records.learn_business(&believed, None).expect("there is no document");
        let gone_by = records.business("acme");
        for _ in 0..2 {
            records.age();
            assert!(records.key(&used).is_some());
            assert!(Rc::ptr_eq(&records.business("acme"), &gone_by));
        }
        assert!(records.key(&unused).is_none());
        drop(gone_by);
        records.age();
        assert!(records.businesses.borrow().young.is_empty() && records.businesses.borrow().old.is_empty());
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
