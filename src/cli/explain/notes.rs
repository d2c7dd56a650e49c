//! What holds beyond the verdict: what becomes of a browser's question, who may read the answer, and what a running gate
//! remembers that this explanation does not.

use http::Method;
use http::header::ORIGIN;

use super::outcome::Outcome;
use super::request::ExplainedRequest;
use crate::cli::check::short;
use crate::cli::keys::words::why_plan_required;
use crate::config::Settings;
use crate::gate::{Denial, business, path, preflight};
use crate::policy::route::Found;
use crate::proxy::settings::Cors;
use crate::store::layout::{self, Layout};
use crate::store::outage::KeysOutage;
use crate::store::settings::Backend;

pub fn of(explained: &ExplainedRequest, settings: &Settings, outcome: &Outcome) -> Vec<String> {
    let denial = outcome.verdict.as_ref().err().map(|denied| &denied.denial);
    [
        of_options(explained, settings),
        of_origin(explained, settings),
        denial.and_then(|denial| of_guessing(denial, settings)),
        denial.and_then(|denial| of_outage(denial, settings)),
        denial.and_then(of_what_failed),
        denial.and_then(|denial| of_plan(denial, settings, outcome)),
        denial.and_then(|denial| of_business(denial, explained, settings, outcome)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `OPTIONS` is a browser's question where it has the headers of one.
fn of_options(explained: &ExplainedRequest, settings: &Settings) -> Option<String> {
    if explained.method() != Method::OPTIONS {
        return None;
    }
    let Some(method) = preflight::requested_method(explained.method(), explained.request.headers()) else {
        return Some(
            "It is no preflight: one has an `Origin` and an `Access-Control-Request-Method`; give them with --header to ask about it."
                .to_owned(),
        );
    };
    let path = path::read(explained.path()).ok()?.text;
    Some(match settings.policy.routes.find(&method, &path) {
        Found::Route { route, .. } if route.preflight => format!(
            "A preflight about {method}: `{}` forwards it to the service, without a key and without counting it.",
            route.pattern
        ),
        Found::Route { route, .. } => format!(
            "A preflight about {method}, which `{}` does not let pass; `preflight: forward` there or in `cors` does.",
            route.pattern
        ),
        Found::OtherMethods { .. } | Found::Nothing => {
            format!("A preflight about {method}, for which there is no route at this path.")
        }
    })
}

/// Whether the page's scripts may read what the gate itself says.
fn of_origin(explained: &ExplainedRequest, settings: &Settings) -> Option<String> {
    let origin = explained.request.headers().get(ORIGIN)?;
    let named = origin.to_str().ok()?;
    Some(match &settings.proxy.cors {
        Some(Cors::AnyOrigin) => "Scripts of any origin may read the gate's own answers.".to_owned(),
        Some(Cors::Origins(origins)) if origins.contains(origin) => {
            format!("Scripts of {named} may read the gate's own answers.")
        }
        Some(Cors::Origins(_)) | None => {
            format!("Scripts of {named} may not read the gate's own answers: it is not among `cors.origins`.")
        }
    })
}

fn of_guessing(denial: &Denial, settings: &Settings) -> Option<String> {
    let windows = settings.policy.credentials.guessing.as_ref().filter(|_| matches!(denial, Denial::UnknownKey))?;
    Some(format!(
        "A gate counts unknown keys by address ({windows}, `keys.guessing`), and refuses with 429 beyond that; this one is not counted."
    ))
}

/// Clients are not told, and whoever asks here can do something about it.
fn of_what_failed(denial: &Denial) -> Option<String> {
    match denial {
        Denial::StoreUnavailable(error) => Some(format!("Why: {error}.")),
        _ => None,
    }
}

/// The gate's answer does not say which plan, and neither does the reason.
fn of_plan(denial: &Denial, settings: &Settings, outcome: &Outcome) -> Option<String> {
    let caller = outcome.trail.caller.as_ref().filter(|_| matches!(denial, Denial::PlanRequired))?;
    let why = why_plan_required(caller.business(), caller.plan.as_deref(), &settings.keys);
    Some(format!("Why: {why}."))
}

/// Which business is out of reach, and by what: the reason is the same for a wrong name and for a set that nobody has filled.
fn of_business(
    denial: &Denial,
    explained: &ExplainedRequest,
    settings: &Settings,
    outcome: &Outcome,
) -> Option<String> {
    let caller = outcome.trail.caller.as_ref().filter(|_| matches!(denial, Denial::BusinessForbidden))?;
    if let Some(own) = &caller.key.business {
        return Some(format!("Why: the key is bound to `{own}`, and the request names another business."));
    }
    let Some(named) = named(explained, settings) else {
        return Some(
            "Why: the key is bound to no business and the request names none (`business.from`), which plans and limits \
             by business need."
                .to_owned(),
        );
    };
    let user = caller.key.user.as_deref().unwrap_or_default();
    let add = match &settings.store.backend {
        Backend::Redis(redis) => {
            let set = Layout::new(&redis.prefix).in_slot(&layout::user_slot(user), layout::BUSINESSES);
            format!("`SADD {set} {named}` in Redis adds it")
        }
        Backend::File(_) => format!("`users: {{{user}: {{businesses: [{named}]}}}}` in the store's file adds it"),
    };
    Some(format!("Why: the key reaches the businesses of its user `{user}`, whose set lacks `{named}`; {add}."))
}

/// The business that the request names.
fn named(explained: &ExplainedRequest, settings: &Settings) -> Option<String> {
    let path = path::read(explained.path()).ok()?;
    let Found::Route { parameters, .. } = settings.policy.routes.find(explained.method(), &path.text) else {
        return None;
    };
    let (sources, query) = (&settings.policy.business_sources, explained.request.uri().query().unwrap_or_default());
    business::named(sources, &parameters, query, explained.request.headers()).ok().flatten()
}

fn of_outage(denial: &Denial, settings: &Settings) -> Option<String> {
    match (denial, settings.store.keys_outage) {
        (Denial::StoreUnavailable(error), KeysOutage::KnownFor(duration)) if error.is_outage() => Some(format!(
            "A gate to which the store confirmed the key less than {} ago lets it pass meanwhile (`outage.keys: known_for`).",
            short(duration)
        )),
        _ => None,
    }
}
