//! The asks of one question, laid out to be asked over and over: all their names in one piece of memory, told apart by one number.
//!
//! A worker has more callers than its caches hold, and most of what a request waits for there is memory that it has to fetch.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use super::ask::Ask;
use super::text::Text;

/// Shared, since one caller mostly asks the same: naming it again costs nothing, and comparing it next to nothing.
#[derive(Clone, Eq)]
pub struct Asks {
    asks: Arc<[Ask]>,
    /// Of the names. What is believed is compared.
    fingerprint: u64,
}

impl Asks {
    /// What asks by other names hardly share.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Changes something in asks of its own.
    pub fn change(&mut self, change: impl FnOnce(&mut [Ask])) {
        let mut asks = self.asks.to_vec();
        change(&mut asks);
        *self = asks.into();
    }
}

impl From<Vec<Ask>> for Asks {
    fn from(mut asks: Vec<Ask>) -> Self {
        let mut hasher = DefaultHasher::new();
        let mut whole = String::with_capacity(256);
        each_name(&mut asks, |name| {
            name.hash(&mut hasher);
            whole.push_str(name);
        });
        let whole: Arc<str> = whole.into();
        let mut begin = 0;
        each_name(&mut asks, |name| {
            *name = Text::part(&whole, begin, name.len());
            begin += name.len();
        });
        Self { asks: asks.into(), fingerprint: hasher.finish() }
    }
}

fn each_name(asks: &mut [Ask], mut take: impl FnMut(&mut Text)) {
    for ask in asks {
        take(&mut ask.slot);
        ask.documents.iter_mut().for_each(|document| take(&mut document.name));
        if let Some(member) = &mut ask.member {
            take(&mut member.set);
            take(&mut member.member);
        }
        ask.buckets.iter_mut().for_each(|bucket| take(&mut bucket.name));
    }
}

impl<const N: usize> From<[Ask; N]> for Asks {
    fn from(asks: [Ask; N]) -> Self {
        Vec::from(asks).into()
    }
}

impl FromIterator<Ask> for Asks {
    fn from_iter<I: IntoIterator<Item = Ask>>(asks: I) -> Self {
        asks.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for Asks {
    type Target = [Ask];

    fn deref(&self) -> &[Ask] {
        &self.asks
    }
}

impl PartialEq for Asks {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && (Arc::ptr_eq(&self.asks, &other.asks) || self.asks == other.asks)
    }
}

impl fmt::Debug for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.asks.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Believed, Document, Member};
    use super::*;

    fn asks(business: &str, believed: Believed) -> Asks {
        let document = Document { name: "business".into(), believed };
        let member = Member { set: "businesses".into(), member: business.into() };
        let first = Ask { slot: "u:ü".into(), member: Some(Box::new(member)), ..Ask::default() };
        let second = Ask { slot: format!("b:{business}").into(), documents: vec![document].into(), ..Ask::default() };
        [first, second].into()
    }

    #[test]
    fn names_stay_what_they_are_and_share_one_text() {
        let mut asks = asks("acme", Believed::Absent).to_vec();
        let mut names = Vec::new();
        each_name(&mut asks, |name| names.push(name.clone()));
        assert_eq!(
            names.iter().map(Text::as_str).collect::<Vec<_>>(),
            ["u:ü", "businesses", "acme", "b:acme", "business"]
        );
        assert!(names.iter().all(|name| Arc::ptr_eq(&name.whole, &names[0].whole)));
    }

    #[test]
    fn asks_are_equal_where_names_and_beliefs_are() {
        let acme = asks("acme", Believed::Absent);
        assert_eq!(acme, asks("acme", Believed::Absent));
        assert_ne!(acme, asks("other", Believed::Absent));
        assert_ne!(acme, asks("acme", Believed::Unknown), "though all names are the same");
        let mut changed = acme.clone();
        changed.change(|asks| asks[1].slot = "b:other".into());
        assert_ne!(changed, acme);
        changed.change(|asks| asks[1].slot = "b:acme".into());
        assert_eq!(changed, acme);
    }
}
