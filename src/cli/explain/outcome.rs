//! What the gate says of the request: its own decision, over the configured store, with every route at a cost of 0.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Response, Version};

use super::limits::{self, Holding};
use super::request::ExplainedRequest;
use crate::cli::keys::session::gate_store;
use crate::config::Settings;
use crate::gate::{
    Denial, Gate, GateRequest, Permit, SharedState, Trail, UnknownNames, evaluate, observed, path, query,
};
use crate::policy::{Mode, Reason, Route};
use crate::proxy::headers::{self, Forwarding};
use crate::proxy::request_id::RequestIds;
use crate::proxy::{head, respond};
use crate::store::calls::Calls;
use crate::store::fallback::Fallback;
use crate::store::settings::Backend;

/// A person waits for it, and no request.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Outcome {
    /// What is forwarded, or why nothing is.
    pub verdict: Result<Forwarded, Denied>,
    pub trail: Trail,
    /// Whether what is counted can be seen from here: a file's counts are in the memory of its gate.
    pub sees_counts: bool,
    /// The route's limits as they hold for the key; none where no key is known.
    pub holding: Vec<Holding>,
}

pub struct Forwarded {
    pub upstream: usize,
    pub target: String,
    /// With their values, save the fixed ones, which are often secrets.
    pub set: Vec<(HeaderName, Option<String>)>,
    /// The request's own that do not pass.
    pub stripped: Vec<HeaderName>,
    /// Why it would be refused, where that is only observed.
    pub observed: Option<Reason>,
}

pub struct Denied {
    pub denial: Denial,
    pub answer: Response<bytes::Bytes>,
    /// Where it would go if it passed; absent without a route, or where the target itself is refused.
    pub would: Option<Destination>,
}

pub struct Destination {
    pub upstream: usize,
    pub target: String,
    /// The headers that the configuration sets, by name.
    pub sets: Vec<HeaderName>,
}

/// `settings` have a policy that charges nothing; `cost` is what the route would charge.
pub async fn of(explained: &ExplainedRequest, settings: &Settings, cost: u64) -> anyhow::Result<Outcome> {
    let mut trail = Trail::default();
    let sees_counts = matches!(settings.store.backend, Backend::Redis(_));
    let permit = decide(explained, settings, sees_counts.then_some(cost), &mut trail).await?;
    let verdict = match permit {
        Ok(permit) => Ok(forwarded(&permit, explained, settings)),
        Err(denial) => Err(denied(denial, &trail, explained, settings)),
    };
    let holding = match (&trail.route, &trail.caller) {
        // Without them the configured ones are shown: the verdict is told all the same.
        (Some(route), Some(caller)) => limits::of(route, caller, settings).await.unwrap_or_default(),
        _ => Vec::new(),
    };
    Ok(Outcome { verdict, trail, sees_counts, holding })
}

/// The questions of `proxy/service`, in its order; `cost`: what the limits must have room for, where their counts are seen.
async fn decide(
    explained: &ExplainedRequest,
    settings: &Settings,
    cost: Option<u64>,
    trail: &mut Trail,
) -> anyhow::Result<Result<Permit, Denial>> {
    let (mut head, ()) = explained.request.clone().into_parts();
    let uri = head.uri.clone();
    let allow = || path::allow(uri.path(), &settings.policy.routes);
    let head = match head::check(&mut head, &uri, &settings.proxy, allow) {
        Ok(head) => head,
        Err(denial) => return Ok(Err(denial)),
    };
    let inquiry = GateRequest { oversize: head.oversize, ..explained.inquiry() };
    let fallback = Arc::new(Fallback::new(settings.store.limits_outage, Arc::new(Calls::new()?)));
    let (rules, unknown) = (Arc::new(settings.keys.clone()), Arc::new(UnknownNames::new()?));
    let commons = SharedState { fallback, known: None, guessing: None, rules, unknown };
    let store = gate_store(&settings.store)?;
    let gate = Gate::new(settings.policy.clone(), store, commons, PATIENCE);
    let decided = gate.decide(&inquiry, trail).await;
    let (Ok(permit), Some(cost)) = (decided.as_ref(), cost) else { return Ok(decided) };
    if permit.observed().is_some() {
        return Ok(decided);
    }
    if !has_room(trail, Mode::Enforce, cost) {
        return Ok(gate.unless_observed(evaluate::rate_limited(trail), &inquiry, trail));
    }
    has_room(trail, Mode::Observe, cost);
    Ok(decided.map(|permit| observed::counted(permit, trail)))
}

/// Whether every window of limits with this mode has room for the cost; those that have none get the time until they reset,
/// which is the most that they make a request wait.
fn has_room(trail: &mut Trail, mode: Mode, cost: u64) -> bool {
    let of_mode = trail.limits.iter_mut().filter(|limit| limit.limit.mode == mode);
    let mut room = true;
    for limit in of_mode.filter(|limit| limit.now.remaining < cost) {
        (room, limit.over) = (false, true);
        let until_reset = limit.now.reset_ms.saturating_sub(limit.now_ms);
        limit.now.wait_ms = (cost <= limit.window.limit).then_some(until_reset.max(1));
    }
    room
}

fn denied(denial: Denial, trail: &Trail, explained: &ExplainedRequest, settings: &Settings) -> Denied {
    let id = RequestIds::default().of(explained.request.headers(), explained.arrival.trusted);
    let style = settings.proxy.rate_limit_headers;
    let answer = respond::denied(&denial, trail, id.as_str(), false, &settings.policy, style);
    Denied { denial, answer, would: trail.route.as_ref().and_then(|route| destination(route, explained, settings)) }
}

fn destination(route: &Route, explained: &ExplainedRequest, settings: &Settings) -> Option<Destination> {
    let mut target = path::read(explained.path()).ok()?.text;
    if let Some(query) = explained.request.uri().query() {
        target = format!("{target}?{}", query::clamped(query, &route.max_query).ok()?);
    }
    let upstream = &settings.proxy.upstreams[route.upstream.0];
    let identity = upstream.identity.iter().map(|(name, _)| name);
    let sets = identity.chain(upstream.headers.iter().map(|(name, _)| name)).cloned().collect();
    Some(Destination { upstream: route.upstream.0, target, sets })
}

/// The headers as the proxy makes them, told by how they differ from what came.
fn forwarded(permit: &Permit, explained: &ExplainedRequest, settings: &Settings) -> Forwarded {
    let upstream = &settings.proxy.upstreams[permit.upstream().0];
    let came = explained.request.headers();
    let ids = RequestIds::default();
    let (request_id, span) = (ids.of(came, explained.arrival.trusted), ids.span(came));
    let (overridden, reserved) = (headers::overridden(upstream), headers::reserved(&settings.proxy.upstreams));
    let mut headers = came.clone();
    let added = headers::forward(
        &mut headers,
        &Forwarding {
            permit,
            policy: &settings.policy,
            upstream,
            overridden: &overridden,
            reserved: &reserved,
            arrival: &explained.arrival,
            version: Version::HTTP_11,
            may_have_trailers: false,
            request_id: &request_id,
            span: &span,
        },
    );
    headers.extend(headers::fields(&added));
    let fixed = |name: &HeaderName| upstream.headers.iter().any(|(fixed, _)| fixed == name);
    let new = headers.iter().filter(|(name, value)| !came.get_all(*name).iter().any(|old| old == value) || fixed(name));
    let shown = |name: &HeaderName, value: &http::HeaderValue| {
        (!fixed(name)).then(|| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Forwarded {
        upstream: permit.upstream().0,
        target: permit.target().to_owned(),
        set: new.map(|(name, value)| (name.clone(), shown(name, value))).collect(),
        stripped: stripped(came, &headers),
        observed: permit.observed().map(Denial::reason),
    }
}

fn stripped(came: &HeaderMap, forwarded: &HeaderMap) -> Vec<HeaderName> {
    came.keys().filter(|name| !forwarded.contains_key(*name)).cloned().collect()
}
