//! A worker's usage counts: one map lookup per request, without a lock, passed to the process once a second.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::batch::Batch;
use super::counted::{Counted, EVERY, Entry};
use super::ledger::Ledger;
use super::subject::{Count, MINUTE_MS, Subject};
use crate::keys::Digest;
use crate::store::record::KeyDocument;

/// Different keys, or businesses, at which a worker passes its counts on early; at twice as many counts are lost.
const MANY: usize = 8192;

/// One worker's counts, used by its thread alone. When it is dropped, the rest goes to the ledger.
#[derive(Debug)]
pub struct Tally {
    counted: RefCell<Counted>,
    filling: Rc<Notify>,
    ledger: Arc<Ledger>,
}

/// One request as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// By the store's clock.
    pub at_ms: u64,
    pub denied: bool,
}

impl Tally {
    /// Must be called on the worker's own runtime, which runs the task that passes counts on.
    pub fn start(ledger: Arc<Ledger>) -> Rc<Self> {
        let tally = Rc::new(Self { counted: RefCell::default(), filling: Rc::default(), ledger });
        spawn_local(pass_on_counts(Rc::downgrade(&tally), tally.filling.clone()));
        tally
    }

    /// Counts a request of a key, and of the business that it is bound to.
    pub fn key(&self, digest: &Digest, key: &KeyDocument, request: Request) {
        let counted = &mut *self.counted.borrow_mut();
        let subject = || Subject::Key { tenant: key.tenant(), id: key.id.clone() };
        counted.lost += count(&mut counted.keys, &mut counted.over, digest, subject, request);
        if counted.keys.len() >= MANY {
            self.filling.notify_one();
        }
    }

    /// Counts a request for a business with an unscoped key.
    pub fn business(&self, id: &str, request: Request) {
        let counted = &mut *self.counted.borrow_mut();
        let subject = || Subject::Business(id.to_owned());
        counted.lost += count(&mut counted.businesses, &mut counted.over, id, subject, request);
        if counted.businesses.len() >= MANY {
            self.filling.notify_one();
        }
    }

    /// Passes on the counts as they are: adding them up is left to another thread than the one that serves requests.
    fn pass_on(&self) {
        self.ledger.add(self.counted.take());
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.pass_on();
    }
}

/// Passes on counts until the tally is dropped.
async fn pass_on_counts(tally: Weak<Tally>, filling: Rc<Notify>) {
    loop {
        tokio::select! {
            () = sleep(EVERY) => {}
            () = filling.notified() => {}
        }
        match tally.upgrade() {
            Some(tally) => tally.pass_on(),
            None => return,
        }
    }
}

/// Counts a request. Returns how many counts are lost.
fn count<K, Q, S>(
    entries: &mut HashMap<K, Entry, S>,
    over: &mut Batch,
    key: &Q,
    subject: impl FnOnce() -> Subject,
    Request { at_ms, denied }: Request,
) -> u64
where
    K: Borrow<Q> + Hash + Eq,
    Q: ToOwned<Owned = K> + Hash + Eq + ?Sized,
    S: BuildHasher,
{
    let denials = u64::from(denied);
    let is_full = entries.len() >= 2 * MANY;
    match entries.get_mut(key) {
        Some(entry) => {
            let mut lost = 0;
            // Answers may arrive out of order; a late one counts for the current minute.
            if at_ms / MINUTE_MS > entry.last_ms / MINUTE_MS {
                lost = over.add(Subject::clone(&entry.subject), entry.last_ms, std::mem::take(&mut entry.count));
            }
            entry.last_ms = entry.last_ms.max(at_ms);
            entry.count.requests += 1;
            entry.count.denials += denials;
            lost
        }
        None if is_full => 1,
        None => {
            let count = Count { requests: 1, denials };
            entries.insert(key.to_owned(), Entry { subject: Box::new(subject()), last_ms: at_ms, count });
            0
        }
    }
}
