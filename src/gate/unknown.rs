//! Reports limits, scopes and plans that documents of keys and businesses name and the configuration does not. They have no
//! effect, and a misspelt limit looks like one that is in force.
//!
//! Checked when a document is parsed, not when the store only confirms it. One per process, shared by all workers; `observe`
//! exports the counter.

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

/// The kinds of names in a key's document, and in a business's.
const NAMED: [(&str, [&str; 2]); 2] = [("key", [LIMIT, SCOPE]), ("business", [LIMIT, PLAN])];

/// Documents that are remembered as counted, at 8 bytes each; beyond that some are counted again when they are parsed again.
const MOST_COUNTED: usize = 65_536;
/// Names in one log line.
const MOST_NAMES: usize = 5;

#[derive(Debug)]
pub struct UnknownNames {
    total: IntCounterVec,
    /// Hashes of documents' ids and what is unknown in them: every worker reads a document for itself.
    counted: Mutex<HashSet<u64>>,
    random: RandomState,
    throttle: LogThrottle,
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
        Ok(Self { total, counted: Mutex::default(), random: RandomState::new(), throttle: LogThrottle::default() })
    }

    /// The counter, for the registry.
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.total.clone())
    }

    /// Checks a key's document that was just parsed.
    pub(super) fn in_key(&self, key: &KnownKey, rules: &Rules) {
        let Some(document) = key.document.document() else { return };
        let limits = document.limits.iter().filter_map(|(name, windows)| {
            let checked = rules.check_limit(Holder::Key, name).and_then(|()| rules.check_windows(name, windows));
            wrong(LIMIT, checked)
        });
        let scopes = document.scopes.iter().filter_map(|scope| wrong(SCOPE, rules.check_scope(scope)));
        self.report("key", &document.id, limits.chain(scopes).collect());
    }

    /// Checks a business's document that was just parsed.
    pub(super) fn in_business(&self, business: &KnownBusiness, rules: &Rules) {
        let Some(document) = business.document.document() else { return };
        let limits = document.limits.iter().filter_map(|(name, windows)| {
            let checked = rules.check_limit(Holder::Business, name).and_then(|()| rules.check_windows(name, windows));
            wrong(LIMIT, checked)
        });
        // Where no plan is configured, plans have no meaning.
        let plan = document.plan.as_ref().filter(|_| !rules.known_plans.is_empty());
        let plan = plan.and_then(|plan| wrong(PLAN, rules.check_plan(plan)));
        self.report("business", &business.id, limits.chain(plan).collect());
    }

    /// Counts and logs, once for the same names in the same document.
    fn report(&self, holder: &str, id: &str, unknown: Vec<Unknown>) {
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
        let news: Vec<_> = wrong.filter(|wrong| self.throttle.is_news(wrong, now)).take(MOST_NAMES).collect();
        if !news.is_empty() {
            let (document, unknown) = (format!("{holder} {id}"), news.join("; "));
            // As strings they are quoted, so that a document's text cannot forge log lines.
            warn!(
                document = document.as_str(),
                unknown = unknown.as_str(),
                "a document names what has no effect here; correct it, or configure what it names"
            );
        }
    }

    fn is_new(&self, holder: &str, id: &str, unknown: &[Unknown]) -> bool {
        let hash = self.random.hash_one((holder, id, unknown));
        // Consistent even when poisoned.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= MOST_COUNTED {
            counted.clear();
        }
        counted.insert(hash)
    }
}

fn wrong(what: &'static str, checked: Result<(), RuleError>) -> Option<Unknown> {
    checked.err().map(|error| (what, error.to_string()))
}
