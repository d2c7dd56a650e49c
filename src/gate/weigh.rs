//! A request with a key, weighed against one set of documents: where it stands, and what it asks the store to spend.
//!
//! Pure, and the same whether the store has just given the documents or confirmed them a while ago (`known`).

use std::net::IpAddr;
use std::sync::Arc;

use super::Denial;
use super::asks::{self, Asked, KeyQuestion};
use super::records::{Known, KnownKey};
use super::standing::{self, Circumstances, Standing};
use super::trail::{Caller, Trail};
use crate::keys::{Digest, Tenant};
use crate::policy::{Policy, Route};
use crate::store::record::BusinessDocument;

/// A request whose route is known.
pub struct Routed<'a> {
    pub route: &'a Arc<Route>,
    /// Path and query to forward.
    pub target: String,
    /// The business that it names.
    pub named: Option<String>,
    pub client: IpAddr,
    /// Whether it takes from its limits, or only asks where its key stands.
    pub spends: bool,
}

/// What is believed of the key, and of the business that the request is about.
#[derive(Debug, Clone, Copy)]
pub struct Documents<'a> {
    pub digest: &'a Digest,
    pub key: &'a KnownKey,
    pub business_id: Option<&'a str>,
    pub business: &'a Known<BusinessDocument>,
}

impl Documents<'_> {
    /// The standing is absent where the key's document is. `disowned`: the store has said that the user does not own the
    /// business named.
    pub fn weigh<'p>(&self, policy: &'p Policy, routed: &Routed<'_>, disowned: bool) -> (Option<Standing<'p>>, Asked) {
        let business = self.business.document().map(Arc::as_ref);
        let circumstances =
            Circumstances { route: routed.route, named: routed.named.as_deref(), client: routed.client, disowned };
        let key = self.key.document.document();
        let standing = key.map(|key| standing::judge(policy, key, business, circumstances));
        let mut asked = asks::of_key(&KeyQuestion {
            digest: self.digest,
            key: self.key,
            business: self.business_id.map(|id| (id, self.business.believed(), business)),
            standing: standing.as_ref(),
            route: routed.route,
            client: routed.client,
        });
        if !routed.spends {
            asked.spend_nothing();
        }
        (standing, asked)
    }
}

/// The business whose document the decision rests on, once the key's document is known.
pub fn business_to_confirm(key: &KnownKey, named: Option<&str>) -> Option<String> {
    match &key.tenant {
        Tenant::Business(id) => Some(id.clone()),
        Tenant::User(_) => key.document.document().and_then(|document| standing::effective_business(document, named)),
    }
}

/// All documents are confirmed: what stands within its limits may pass.
pub fn settled(standing: Standing<'_>, granted: u32, trail: &mut Trail) -> Result<Caller, Denial> {
    trail.caller = Some(standing.caller.clone());
    standing.verdict?;
    if granted == 0 {
        return Err(rate_limited(trail));
    }
    Ok(standing.caller)
}

/// After `retry_after` seconds every window has room, if nobody else spends; `None` where some window never has.
pub fn rate_limited(trail: &Trail) -> Denial {
    let full: Vec<_> = trail.limits.iter().filter(|limit| limit.now.wait_ms != Some(0)).collect();
    let waits: Option<Vec<u64>> = full.iter().map(|limit| limit.now.wait_ms).collect();
    let longest_ms = waits.map(|waits| waits.into_iter().max().unwrap_or_default());
    Denial::RateLimited {
        retry_after: longest_ms.map(|ms| ms.div_ceil(1000).max(1)),
        violated: full.iter().map(|limit| limit.policy_name().into_owned()).collect(),
    }
}
