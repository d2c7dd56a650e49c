//! Usage counts that are not sent yet: bounded, and added up while they wait.

use std::collections::HashMap;

use super::subject::{Count, DAY_MS, MINUTE_MS, Span, Subject};
use crate::keys::Tenant;

/// The most counts that wait, each of one subject in one day or minute; about 20 MB. During an outage minutes multiply, so that
/// they get no more than half.
const MOST: usize = 100_000;
const MOST_WITH_MINUTES: usize = MOST / 2;

/// Counts that are not stored yet.
#[derive(Debug, Default)]
pub struct Batch {
    subjects: HashMap<Subject, Used>,
    counts: usize,
}

/// The counts of one subject.
#[derive(Debug, Default)]
pub struct Used {
    /// By the store's clock.
    pub last_ms: u64,
    /// Each span once.
    pub counts: Vec<(Span, Count)>,
}

impl Batch {
    /// Adds a subject's count within the minute of `at_ms`, and the same to the business that a key is bound to. Returns how many
    /// counts are lost because the batch is full.
    pub fn add(&mut self, subject: Subject, at_ms: u64, count: Count) -> u64 {
        let business = match &subject {
            Subject::Key { tenant: Tenant::Business(id), .. } => Some(Subject::Business(id.clone())),
            Subject::Key { tenant: Tenant::User(_), .. } | Subject::Business(_) => None,
        };
        let counts = || vec![(Span::Day(at_ms / DAY_MS), count), (Span::Minute(at_ms / MINUTE_MS), count)];
        let subjects = [Some(subject), business].into_iter().flatten();
        subjects.map(|subject| self.take(subject, Used { last_ms: at_ms, counts: counts() })).sum()
    }

    /// Adds another batch. Returns how many counts are lost.
    pub fn merge(&mut self, other: Self) -> u64 {
        other.subjects.into_iter().map(|(subject, used)| self.take(subject, used)).sum()
    }

    /// Adds one subject's counts. Returns how many of them are lost.
    pub fn take(&mut self, subject: Subject, used: Used) -> u64 {
        if self.counts >= MOST && !self.subjects.contains_key(&subject) {
            return used.counts.len() as u64;
        }
        // With just this capacity: most subjects get no more counts before they are sent.
        let new = || Used { last_ms: 0, counts: Vec::with_capacity(used.counts.len()) };
        let standing = self.subjects.entry(subject).or_insert_with(new);
        standing.last_ms = standing.last_ms.max(used.last_ms);
        let mut lost = 0;
        for (span, count) in used.counts {
            // Searched from the end, since the current span is last.
            let most = if matches!(span, Span::Day(_)) { MOST } else { MOST_WITH_MINUTES };
            match standing.counts.iter_mut().rev().find(|(other, _)| *other == span) {
                Some((_, sum)) => {
                    sum.requests += count.requests;
                    sum.denials += count.denials;
                }
                None if self.counts >= most => lost += 1,
                None => {
                    standing.counts.push((span, count));
                    self.counts += 1;
                }
            }
        }
        lost
    }

    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// How many counts wait.
    pub fn len(&self) -> usize {
        self.counts
    }

    /// Whether it should be sent soon.
    pub fn is_filling(&self) -> bool {
        self.counts >= MOST_WITH_MINUTES / 2
    }

    /// The earliest last use in it.
    pub fn first_ms(&self) -> Option<u64> {
        self.subjects.values().map(|used| used.last_ms).min()
    }

    pub fn into_subjects(self) -> impl Iterator<Item = (Subject, Used)> {
        self.subjects.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Subject {
        Subject::Key { tenant: Tenant::User("u".to_owned()), id: format!("k{n}") }
    }

    const ONE: Count = Count { requests: 1, denials: 1 };

    #[test]
    fn what_a_key_does_its_business_does() {
        let mut batch = Batch::default();
        let tenant = Tenant::Business("acme".to_owned());
        for id in ["k1", "k1", "k2"] {
            let key = Subject::Key { tenant: tenant.clone(), id: id.to_owned() };
            assert_eq!(batch.add(key, 2 * DAY_MS, ONE), 0);
        }
        let business = batch.subjects.get(&Subject::Business("acme".to_owned())).expect("it was used");
        let three = Count { requests: 3, denials: 3 };
        assert_eq!(business.counts, [(Span::Day(2), three), (Span::Minute(2 * 1440), three)]);
        assert_eq!((batch.len(), batch.first_ms()), (6, Some(2 * DAY_MS)));
    }

    #[test]
    fn what_waits_is_bounded_and_days_outlast_minutes() {
        let mut batch = Batch::default();
        let mut lost = 0;
        for minute in 0..2 * MOST as u64 / 10 {
            for n in 0..10 {
                lost += batch.add(key(n), minute % 1440 * MINUTE_MS, ONE);
            }
        }
        assert_eq!((batch.len(), lost), (14_410, 0));
        for n in 10..2 * MOST {
            lost += batch.add(key(n), 0, ONE);
        }
        assert_eq!(batch.len(), MOST);
        assert!(lost > 0);
        assert_eq!(batch.add(key(0), 7, ONE), 0, "what stands there already goes on");
        let mut other = Batch::default();
        other.add(key(5), 0, ONE);
        other.add(key(3 * MOST), 0, ONE);
        assert_eq!(batch.merge(other), 2);
    }
}
