//! The explanation as one JSON document.

use http::HeaderName;
use serde_json::{Value, json};

use super::explanation::Explanation;
use super::limits::Holding;
use super::outcome::{Denied, Forwarded};
use crate::cli::check::upstream_words;
use crate::manage::usage::LimitUse;
use crate::policy::{Access, Limit, Reason, Route};

pub fn of(explanation: &Explanation<'_>) -> Value {
    let Explanation { settings, explained, route, candidates, outcome, notes } = explanation;
    let others = candidates.others.iter().map(|(pattern, to)| json!({"route": pattern, "relation": to.name()}));
    let caller = outcome.trail.caller.as_ref().map(|caller| {
        json!({
            "id": caller.key.id,
            "name": caller.key.name,
            "business": caller.business(),
            "user": caller.key.user,
            "scopes": caller.key.scopes,
            "plan": caller.plan,
        })
    });
    let windows = outcome.trail.limits.iter().map(|now| LimitUse::of(now, outcome.sees_counts));
    let (allowed, denial, forwarded) = match &outcome.verdict {
        Ok(forwarded) => {
            (true, Value::Null, forward(forwarded, &upstream_words(&settings.proxy.upstreams[forwarded.upstream])))
        }
        Err(denied) => (false, denial(denied), Value::Null),
    };
    let would_go = outcome.verdict.as_ref().err().and_then(|denied| denied.would.as_ref()).map(|would| {
        json!({
            "upstream": upstream_words(&settings.proxy.upstreams[would.upstream]),
            "target": would.target,
            "set": would.sets.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
        })
    });
    json!({
        "method": explained.method().as_str(),
        "target": explained.request.uri().to_string(),
        "client": explained.arrival.client.as_str(),
        "route": route.as_ref().map(|route| describe(route, &outcome.holding)),
        "key_api": null,
        "why": candidates.why,
        "notes": notes,
        "others": others.collect::<Vec<_>>(),
        "mode": explanation.mode().name(),
        "with_key": explained.with_key,
        "key": caller,
        "allowed": allowed,
        "denial": denial,
        "observed": outcome.verdict.as_ref().ok().and_then(|forwarded| forwarded.observed).map(Reason::name),
        "forwarded": forwarded,
        "would_go": would_go,
        "windows": windows.collect::<Vec<_>>(),
    })
}

fn describe(route: &Route, holding: &[Holding]) -> Value {
    let (needs, scopes): (_, &[String]) = match &route.access {
        Access::Public => ("public", &[]),
        Access::Any => ("any", &[]),
        Access::All(scopes) => ("scopes", scopes),
        Access::AnyOf(scopes) => ("any_scope", scopes),
    };
    let limit = |limit: &Limit| {
        let holds = holding.iter().find(|holding| holding.limit.name == limit.name);
        json!({
            "limit": limit.name,
            "by": limit.by.name(),
            "windows": holds.map_or(&limit.windows, |holding| &holding.windows).to_string(),
            "configured": limit.windows.to_string(),
            "from": holds.map_or("configuration", Holding::source),
            "mode": limit.mode.name(),
        })
    };
    json!({
        "pattern": route.pattern,
        "needs": needs,
        "scopes": scopes,
        "cost": route.cost,
        "limits": route.limits.iter().map(|l| limit(l)).collect::<Vec<_>>(),
    })
}

fn denial(denied: &Denied) -> Value {
    let body = serde_json::from_slice(denied.answer.body());
    let text = || Value::from(String::from_utf8_lossy(denied.answer.body()).into_owned());
    json!({
        "reason": denied.denial.reason().name(),
        "status": denied.answer.status().as_u16(),
        "body": body.unwrap_or_else(|_| text()),
    })
}

fn forward(forwarded: &Forwarded, upstream: &str) -> Value {
    let set = forwarded.set.iter().map(|(name, value)| json!({"name": name.as_str(), "value": value}));
    json!({
        "upstream": upstream,
        "target": forwarded.target,
        "set": set.collect::<Vec<_>>(),
        "stripped": forwarded.stripped.iter().map(HeaderName::as_str).collect::<Vec<_>>(),
    })
}
