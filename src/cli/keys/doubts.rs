//! Why a key that stands is refused all the same: what its business or its user lacks. For those who can do something about it.

use super::session::KeysSetting;
use super::words;
use crate::gate::standing;
use crate::keys::rules::Rules;
use crate::policy::{By, Policy};
use crate::store::layout::{self, user_slot};
use crate::store::record::{BusinessDocument, KeyDocument, Status};
use crate::store::registry::Registry;

/// What the key meets as things are; what cannot be read is not told.
pub(super) async fn of(key: &KeyDocument, setting: &KeysSetting) -> Option<String> {
    let policy = setting.policy.as_deref()?;
    let registry = &setting.keyring.registry;
    let Some(id) = &key.business else { return of_owner(key, policy, registry).await };
    let business = match registry.business(id).await.ok()? {
        Some(members) => Some(BusinessDocument::parse(&serde_json::to_vec(&members).ok()?).ok()?),
        None => None,
    };
    let why = of_business(id, business.as_ref(), policy, &setting.keyring.rules)?;
    Some(format!("as things are, the key is refused: {why}"))
}

/// In the order in which the gate looks.
fn of_business(id: &str, business: Option<&BusinessDocument>, policy: &Policy, rules: &Rules) -> Option<String> {
    if business.is_some_and(|business| business.status != Status::Active) {
        return Some(suspended(id));
    }
    let lacks_plan = policy.plans.is_some() && !standing::plan(policy, business).is_some_and(|plan| plan.api);
    let plan = business.and_then(|business| business.plan.as_deref());
    lacks_plan.then(|| words::why_plan_required(Some(id), plan, rules))
}

pub fn suspended(business: &str) -> String {
    format!("{business} is suspended; `sidegate business set {business} --status active` lets its keys pass again")
}

/// A key that is bound to no business reaches those that its user owns, where anything is decided by business.
pub(super) async fn of_owner(key: &KeyDocument, policy: &Policy, registry: &Registry) -> Option<String> {
    let matters = !policy.business_sources.is_empty()
        || policy.plans.is_some()
        || policy.limits.values().any(|limit| limit.by == By::Business);
    let (Some(user), None, true) = (&key.user, &key.business, matters) else { return None };
    let Registry::Redis { documents, layout, .. } = registry else { return None };
    let set = layout.in_slot(&user_slot(user), layout::BUSINESSES);
    let owned = documents.sscan(&set).await.ok()?;
    owned.is_empty().then(|| {
        format!(
            "{user} owns no business in this store, and the key reaches no other; the service keeps them in the set `{set}`"
        )
    })
}
