//! A key's verdict and what is left of its limits, without spending: the gate's own question at a cost of 0.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use tokio::time::Instant;

use crate::gate::asks::{self, Asked, Counted, KeyQuestion};
use crate::gate::documents::{Known, KnownBusiness, KnownKey};
use crate::gate::standing::{self, Circumstances, judge};
use crate::gate::{Denial, LimitsNow};
use crate::keys::{Digest, Tenant};
use crate::limit::Outcome;
use crate::policy::{Access, By, Limit, Policy, Reason, Route};
use crate::store::layout::Layout;
use crate::store::record::{BusinessDocument, KeyDocument, RecordError};
use crate::store::registry::StoredKey;
use crate::store::{Store, StoreError};

/// Longer than a request's, since a person waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// One round learns the documents, the next reads the buckets; more are needed only if documents change meanwhile.
const ATTEMPTS: usize = 4;

/// What a request with this key would meet, before its route's scopes.
#[derive(Debug)]
pub struct Peek {
    /// `None`: it is valid.
    pub refused: Option<Reason>,
    pub document: Option<Arc<KeyDocument>>,
    pub business: Option<Arc<BusinessDocument>>,
    /// Every window of every limit that counts this key; none if it is not valid at all.
    pub limits: LimitsNow,
}

/// A bucket that counts a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    pub limit: String,
    pub slot: String,
    /// Below the slot.
    pub name: String,
}

impl Bucket {
    /// Its name in Redis. Deleting it resets the limit.
    pub fn key(&self, layout: &Layout) -> String {
        layout.in_slot(&self.slot, &self.name)
    }
}

/// Asks the store about the key without spending.
pub async fn peek(policy: &Policy, store: &Store, key: &StoredKey) -> Result<Peek, StoreError> {
    let mut seen = Seen::nothing_of(key);
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..ATTEMPTS {
        let (asked, refused) = seen.asked(policy);
        let answer = store.decide(&asked.question, Instant::now(), deadline).await?;
        let (refused, limits) = match answer.outcome {
            Outcome::Stale(found) => {
                seen.learn(found.into_iter().flatten())?;
                continue;
            }
            Outcome::Broken(what) => return Err(StoreError::Broken(what)),
            Outcome::Expired => (Some(Reason::ExpiredKey), LimitsNow::new()),
            Outcome::Refused => (Some(Reason::BusinessForbidden), LimitsNow::new()),
            Outcome::Spent { granted, windows, observed } => {
                (refused, asked.limits_now(Counted { granted, windows, observed }, answer.now_ms))
            }
        };
        let business = seen.business.and_then(|business| business.document.document().cloned());
        return Ok(Peek { refused, document: seen.key.document.document().cloned(), business, limits });
    }
    Err(StoreError::Broken("the key's document kept changing".to_owned()))
}

/// What is left of the limits that the keys of a business share, whether or not it has any. Spends nothing.
pub async fn peek_business(
    policy: &Policy,
    store: &Store,
    id: &str,
    business: Option<&BusinessDocument>,
) -> Result<LimitsNow, StoreError> {
    let asked = asks::of_business(id, business, standing::plan(policy, business), policy.limits.values());
    if asked.question.asks.is_empty() {
        return Ok(LimitsNow::new());
    }
    let answer = store.decide(&asked.question, Instant::now(), Instant::now() + PATIENCE).await?;
    match answer.outcome {
        Outcome::Spent { granted, windows, observed } => {
            Ok(asked.limits_now(Counted { granted, windows, observed }, answer.now_ms))
        }
        Outcome::Broken(what) => Err(StoreError::Broken(what)),
        // It rests on no document, no end and no owner.
        Outcome::Stale(_) | Outcome::Expired | Outcome::Refused => Ok(LimitsNow::new()),
    }
}

/// The buckets that count a key, whatever is in them.
pub fn buckets(policy: &Policy, key: &StoredKey) -> Vec<Bucket> {
    let mut seen = Seen::nothing_of(key);
    if let Ok(document) = &key.document {
        // Only the names are used; this is not asked of the store.
        let document = Arc::new(KeyDocument { revoked: false, ..document.clone() });
        seen.key.document = Known::Is { raw: Bytes::new(), document };
    }
    let (asked, _) = seen.asked(policy);
    let named = asked.question.asks.iter().flat_map(|ask| ask.buckets.iter().map(|bucket| (&ask.slot, &bucket.name)));
    let limit = |name: &str| name.split(':').nth(1).unwrap_or_default().to_owned();
    named.map(|(slot, name)| Bucket { limit: limit(name), slot: slot.to_string(), name: name.to_string() }).collect()
}

/// What is known of a key so far.
struct Seen {
    digest: Digest,
    key: KnownKey,
    /// Whose document is asked for; an unscoped key has none before a request names it.
    business: Option<KnownBusiness>,
}

impl Seen {
    fn nothing_of(key: &StoredKey) -> Self {
        let business = match &key.tenant {
            Tenant::Business(id) => Some(KnownBusiness::new(id.as_str(), Known::Unseen)),
            Tenant::User(_) => None,
        };
        let known = KnownKey { tenant: key.tenant.clone(), document: Known::Unseen };
        Self { digest: key.digest, key: known, business }
    }

    /// The question of a request without cost to a route that has every limit, and why that request would be refused.
    fn asked(&self, policy: &Policy) -> (Asked, Option<Reason>) {
        let route = self.route(policy);
        let document = self.key.document.document();
        let business = self.business.as_ref().and_then(|business| business.document.document()).map(Arc::as_ref);
        let circumstances = |client| Circumstances { route: &route, named: None, client, not_owned: false };
        let client = document.and_then(an_allowed).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let standing = document.map(|key| judge(policy, key, business, circumstances(client)));
        let refused = match &standing {
            Some(standing) => standing.verdict.as_ref().err().map(Denial::reason),
            None => Some(Reason::UnknownKey),
        };
        let plan = standing::plan(policy, business);
        let question = KeyQuestion {
            digest: &self.digest,
            key: &self.key,
            business: self.business.as_ref(),
            standing: standing.as_ref(),
            plan,
            route: &route,
            client,
        };
        (asks::of_key(&question), refused)
    }

    /// Addresses have their limits for themselves, and an unscoped key meets a business's only with the request that names it.
    fn route(&self, policy: &Policy) -> Route {
        let counts = |limit: &Limit| match limit.by {
            By::Key | By::User | By::Global => true,
            By::Business => self.business.is_some(),
            By::Ip => false,
        };
        let limits = policy.limits.values().filter(|limit| counts(limit)).cloned().collect();
        Route { limits, ..Route::bare(String::new(), Access::Any) }
    }

    /// The key's document is asked for first; its business's, where there is one, lives in the same slot and is second.
    fn learn(&mut self, mut found: impl Iterator<Item = Option<Bytes>>) -> Result<(), StoreError> {
        let tenant = &self.key.tenant;
        self.key.document = known(found.next().flatten(), |raw| KeyDocument::parse_in(tenant, raw))?;
        if let Some(business) = &mut self.business {
            business.document = known(found.next().flatten(), BusinessDocument::parse)?;
        }
        Ok(())
    }
}

fn known<T>(found: Option<Bytes>, parse: impl FnOnce(&[u8]) -> Result<T, RecordError>) -> Result<Known<T>, StoreError> {
    let Some(raw) = found else { return Ok(Known::Absent) };
    let document = parse(&raw).map_err(|error| StoreError::Broken(error.to_string()))?;
    Ok(Known::Is { raw, document: Arc::new(document) })
}

/// An address from which the key may be used, where it may not be from everywhere.
fn an_allowed(key: &Arc<KeyDocument>) -> Option<IpAddr> {
    key.allow_addresses.as_ref()?.first().map(IpNet::addr)
}
