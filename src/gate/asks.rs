//! The question that a request asks the store: which documents must be confirmed, and which buckets it spends from.
//!
//! One ask per slot, so that a cluster can answer them one by one; overrides are applied here (key, business, plan, then the
//! configuration).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use smallvec::SmallVec;

use super::documents::{KnownBusiness, KnownKey};
use super::standing::Standing;
use super::trail::{LimitNow, LimitsNow};
use crate::keys::{Digest, Tenant};
use crate::limit::{Ask, BucketAsk, BucketsNow, Document, Member, Question, Windows};
use crate::policy::{By, Limit, Mode, Plan, Route};
use crate::store::layout;
use crate::store::record::{BusinessDocument, KeyDocument, Limits};

/// A question, and the limit that each of its buckets belongs to.
#[derive(Debug)]
pub struct Asked {
    pub question: Question,
    /// In the order of the buckets.
    limits: SmallVec<[Arc<Limit>; 2]>,
}

/// The fields of `Outcome::Spent`.
#[derive(Debug)]
pub struct Counted {
    pub granted: u32,
    pub windows: BucketsNow,
    pub observed: Vec<u32>,
}

/// What a key's question is made from. It has the key's documents confirmed and the request's cost spent; nothing is spent where
/// the verdict is a denial.
#[derive(Debug)]
pub struct KeyQuestion<'a> {
    pub digest: &'a Digest,
    pub key: &'a KnownKey,
    pub business: Option<&'a KnownBusiness>,
    pub standing: Option<&'a Standing>,
    pub plan: Option<&'a Plan>,
    pub route: &'a Route,
    pub client: IpAddr,
}

/// The question of a public route: limits by address and global ones.
pub fn of_public(route: &Route, client: IpAddr) -> Asked {
    let mut draft = Draft::default();
    for limit in &route.limits {
        let (slot, subject) = match limit.by {
            By::Ip => address(client),
            By::Global => global(),
            // The configuration refuses a public route with a limit that needs a key.
            By::Key | By::Business | By::User => continue,
        };
        draft.spend(slot, &subject, limit, limit.windows.clone());
    }
    draft.finish(route.cost)
}

pub fn of_key(asking: &KeyQuestion<'_>) -> Asked {
    let stands = asking.standing.is_some_and(|standing| standing.verdict.is_ok());
    let cost = if stands { asking.route.cost } else { 0 };
    let mut draft = Draft::default();
    let slot = asking.key.tenant.to_string();
    let ask = draft.ask(&slot);
    ask.documents
        .push(Document { name: layout::key_name(asking.digest).into(), believed: asking.key.document.believed() });
    if let Some(business) = asking.business {
        let document = Document { name: layout::BUSINESS.into(), believed: business.document.believed() };
        draft.ask(&layout::business_slot(&business.id)).documents.push(document);
    }
    let Some(standing) = asking.standing.filter(|standing| !standing.caller.key.revoked) else {
        return draft.finish(cost);
    };
    let ask = draft.ask(&slot);
    ask.not_after_ms = standing.caller.key.expires_at;
    if let Some(member) = standing.must_own() {
        ask.member = Some(Box::new(Member { set: layout::BUSINESSES.into(), member: member.into() }));
    }
    for limit in &asking.route.limits {
        if let Some((slot, subject)) = subject(limit.by, &asking.key.tenant, standing, asking.client) {
            let business = asking.business.and_then(|business| business.document.document());
            let (windows, _) = windows(limit, Some(&standing.caller.key), business.map(Arc::as_ref), asking.plan);
            draft.spend(slot, &subject, limit, windows.clone());
        }
    }
    draft.finish(cost)
}

/// What the keys of a business share, without any of them; a question about it spends nothing.
pub fn of_business<'l>(
    id: &str,
    business: Option<&BusinessDocument>,
    plan: Option<&Plan>,
    limits: impl Iterator<Item = &'l Arc<Limit>>,
) -> Asked {
    let mut draft = Draft::default();
    for limit in limits.filter(|limit| limit.by == By::Business) {
        let (windows, _) = windows(limit, None, business, plan);
        draft.spend(layout::business_slot(id), id, limit, windows.clone());
    }
    draft.finish(0)
}

/// A question under construction.
#[derive(Debug, Default)]
struct Draft {
    asks: Vec<Ask>,
    limits: Vec<Vec<Arc<Limit>>>,
}

impl Draft {
    fn finish(self, cost: u64) -> Asked {
        Asked {
            question: Question { asks: self.asks.into(), cost, n: 1 },
            limits: self.limits.into_iter().flatten().collect(),
        }
    }

    fn ask(&mut self, slot: &str) -> &mut Ask {
        let index = self.index(slot);
        &mut self.asks[index]
    }

    fn spend(&mut self, slot: String, subject: &str, limit: &Arc<Limit>, windows: Arc<Windows>) {
        let index = self.index(&slot);
        let name = layout::count_name(&limit.name, subject).into();
        self.asks[index].buckets.push(BucketAsk {
            name,
            algorithm: limit.algorithm,
            windows,
            observes: limit.mode == Mode::Observe,
        });
        self.limits[index].push(limit.clone());
    }

    fn index(&mut self, slot: &str) -> usize {
        if let Some(index) = self.asks.iter().position(|ask| &*ask.slot == slot) {
            return index;
        }
        self.asks.push(Ask { slot: slot.into(), ..Ask::default() });
        self.limits.push(Vec::new());
        self.limits.len() - 1
    }
}

impl Asked {
    /// Removes the buckets, and leaves only what confirms the documents.
    pub fn spend_nothing(&mut self) {
        let confirming = self.question.asks.iter().filter(|ask| !ask.documents.is_empty());
        let asks = confirming.map(|ask| Ask { buckets: SmallVec::new(), ..ask.clone() }).collect();
        *self = Self { question: Question { asks, cost: 0, n: 1 }, limits: SmallVec::new() };
    }

    /// The windows after the request, from what the store answered, bucket by bucket.
    pub fn limits_now(&self, counted: Counted, now_ms: u64) -> LimitsNow {
        let Counted { granted, windows: answered, observed } = counted;
        let mut named = LimitsNow::with_capacity(answered.iter().map(SmallVec::len).sum());
        let mut observed = observed.into_iter();
        for ((limit, bucket), states) in self.limits.iter().zip(self.question.buckets()).zip(answered) {
            let windows = bucket.windows.as_slice();
            let one_of_several = windows.len() > 1;
            // The store does not say what an observed limit would have decided about a request that an enforced one denies.
            let is_over = match limit.mode {
                Mode::Enforce => granted == 0,
                Mode::Observe => observed.next() == Some(0) && granted > 0,
            };
            for (window, now) in windows.iter().zip(states) {
                let over = is_over && now.wait_ms != Some(0);
                named.push(LimitNow { limit: limit.clone(), one_of_several, window: *window, now, now_ms, over });
            }
        }
        named
    }
}

/// The slot and the subject that a limit counts for this request; `None` where it does not count it.
fn subject(by: By, tenant: &Tenant, standing: &Standing, client: IpAddr) -> Option<(String, String)> {
    let caller = &standing.caller;
    let by_key = || (tenant.to_string(), caller.key.id.clone());
    match by {
        By::Key => Some(by_key()),
        By::Business => {
            // A key must not learn what another business has left.
            let business = caller.business().filter(|_| caller.key.business.is_some() || !standing.is_foreign())?;
            Some((layout::business_slot(business), business.to_owned()))
        }
        // A key without a user counts as a user of its own.
        By::User => Some(caller.key.user.as_ref().map_or_else(by_key, |user| (layout::user_slot(user), user.clone()))),
        By::Ip => Some(address(client)),
        By::Global => Some(global()),
    }
}

fn address(client: IpAddr) -> (String, String) {
    let counted = counted_address(client).to_string();
    (layout::address_slot(&counted), counted)
}

fn global() -> (String, String) {
    (layout::GLOBAL_SLOT.to_owned(), layout::GLOBAL_SLOT.to_owned())
}

/// The address that is counted: of IPv6 its /64, which is the least that a subscriber is given (RFC 6177).
pub(super) fn counted_address(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Who says how large a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitSource {
    Key,
    Business,
    Plan,
    Configuration,
}

/// The windows that hold, and whose they are: the key's own, else the business's, the plan's, the configuration's. A document knows
/// no algorithm: windows that the limit's cannot count have no effect.
pub fn windows<'a>(
    limit: &'a Limit,
    key: Option<&'a KeyDocument>,
    business: Option<&'a BusinessDocument>,
    plan: Option<&'a Plan>,
) -> (&'a Arc<Windows>, LimitSource) {
    let own = |limits: Option<&'a Limits>, origin| {
        let windows = limits?.get(&limit.name)?;
        windows.check_for(limit.algorithm).is_ok().then_some((windows, origin))
    };
    own(key.map(|key| &key.limits).filter(|_| limit.by == By::Key), LimitSource::Key)
        .or_else(|| own(business.map(|business| &business.limits), LimitSource::Business))
        .or_else(|| own(plan.map(|plan| &plan.limits), LimitSource::Plan))
        .unwrap_or((&limit.windows, LimitSource::Configuration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_counted_by_its_network() {
        let counted = |text: &str| counted_address(text.parse().expect("the test's addresses are right")).to_string();
        assert_eq!(counted("192.0.2.7"), "192.0.2.7");
        assert_eq!(counted("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
