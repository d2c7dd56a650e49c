//! What the documents of keys and businesses name and the configuration does not: limits, scopes, plans. It has no effect, and
//! the operator is told, since a misspelt limit looks like one that is in force.
//!
//! Looked at where a document was read anew, never where the store only confirmed it. One per process, shared by all workers;
//! `observe` shows what is counted here.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::core::Collector;
use prometheus::{IntCounterVec, Opts};
use tracing::warn;

use super::documents::{KnownBusiness, KnownKey};
use crate::keys::rules::{Holder, RuleError, Rules};
use crate::log_throttle::LogThrottle;

const LIMIT: &str = "limit";
const SCOPE: &str = "scope";
const PLAN: &str = "plan";

/// What a key's document names, and what a business's.
const NAMED: [(&str, [&str; 2]); 2] = [("key", [LIMIT, SCOPE]), ("business", [LIMIT, PLAN])];

/// Documents that are known to be counted, at 8 bytes each; beyond them some count again when they are read again.
const COUNTED: usize = 65_536;
/// Names that one line tells of.
const TOLD: usize = 5;

#[derive(Debug)]
pub struct UnknownNames {
    total: IntCounterVec,
    /// Hashes of documents' ids and what is unknown in them: every worker reads a document for itself.
    counted: Mutex<HashSet<u64>>,
    random: RandomState,
    said: LogThrottle,
}

/// A name's kind, and what is wrong with it.
type Unknown = (&'static str, String);

impl UnknownNames {
    pub fn new() -> prometheus::Result<Self> {
        let total = Opts::new(
            "sidegate_unknown_names_total",
            "Documents of keys and businesses, each counted as it is learned and not by request, that name a limit, scope or plan \
             which has no effect: it is not configured, or is a limit that a key cannot override.",
        );
        let total = IntCounterVec::new(total, &["in", "what"])?;
        for (holder, named) in NAMED {
            named.iter().for_each(|what| drop(total.with_label_values(&[holder, what])));
        }
        Ok(Self { total, counted: Mutex::default(), random: RandomState::new(), said: LogThrottle::default() })
    }

    /// What there is to show.
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.total.clone())
    }

    /// The key's document as it was just read.
    pub(super) fn in_key(&self, key: &KnownKey, rules: &Rules) {
        let Some(document) = key.document.document() else { return };
        let limits = document.limits.iter().filter_map(|(name, windows)| {
            let checked = rules.check_limit(Holder::Key, name).and_then(|()| rules.check_windows(name, windows));
            wrong(LIMIT, checked)
        });
        let scopes = document.scopes.iter().filter_map(|scope| wrong(SCOPE, rules.check_scope(scope)));
        self.heed("key", &document.id, limits.chain(scopes).collect());
    }

    /// The business's document as it was just read.
    pub(super) fn in_business(&self, business: &KnownBusiness, rules: &Rules) {
        let Some(document) = business.document.document() else { return };
        let limits = document.limits.iter().filter_map(|(name, windows)| {
            let checked = rules.check_limit(Holder::Business, name).and_then(|()| rules.check_windows(name, windows));
            wrong(LIMIT, checked)
        });
        // Without any configured plan, plans play no part.
        let plan = document.plan.as_ref().filter(|_| !rules.known_plans.is_empty());
        let plan = plan.and_then(|plan| wrong(PLAN, rules.check_plan(plan)));
        self.heed("business", &business.id, limits.chain(plan).collect());
    }

    /// Counts and tells, once for the same in the same document.
    fn heed(&self, holder: &str, id: &str, unknown: Vec<Unknown>) {
        if unknown.is_empty() || !self.is_new(holder, id, &unknown) {
            return;
        }
        for what in [LIMIT, SCOPE, PLAN] {
            if unknown.iter().any(|(kind, _)| *kind == what) {
                self.total.with_label_values(&[holder, what]).inc();
            }
        }
        let now = Instant::now();
        let wrong = unknown.into_iter().map(|(_, wrong)| wrong);
        let news: Vec<_> = wrong.filter(|wrong| self.said.is_news(wrong, now)).take(TOLD).collect();
        if !news.is_empty() {
            let (document, unknown) = (format!("{holder} {id}"), news.join("; "));
            // As texts they are quoted: whoever writes documents does not write lines of this log.
            warn!(
                document = document.as_str(),
                unknown = unknown.as_str(),
                "a document names what has no effect here; correct it, or configure what it names"
            );
        }
    }

    fn is_new(&self, holder: &str, id: &str, unknown: &[Unknown]) -> bool {
        let hash = self.random.hash_one((holder, id, unknown));
        // Whole at every step.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= COUNTED {
            counted.clear();
        }
        counted.insert(hash)
    }
}

fn wrong(what: &'static str, checked: Result<(), RuleError>) -> Option<Unknown> {
    checked.err().map(|error| (what, error.to_string()))
}
