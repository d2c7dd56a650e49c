//! From the YAML's shapes to each room's settings: values read, names resolved, defaults filled in, contradictions found.
//!
//! Every part goes on after an error with a stand-in, so that one look shows all that is wrong; `compile` gives settings only
//! when nothing is.

mod address;
mod base_path;
mod cors;
mod header;
mod keys;
mod limits;
mod listen_limits;
mod listener;
mod management;
mod mode;
mod name;
mod probes;
mod reader;
mod routes;
mod scopes;
mod shadow;
mod store;
mod texts;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;

use super::Settings;
use super::field_path::FieldPath;
use super::raw::Root;
use super::replace::Sources;
use crate::keys::rules::Rules;
use crate::manage;
use crate::policy::{Mode, Policy};
use crate::proxy;
use crate::proxy::settings::Upstream;

use base_path::Base;
pub use reader::Problem;
use reader::Reader;

/// What came of the YAML: settings, or everything that is wrong with it.
pub struct Compiled {
    pub settings: Result<Settings, Vec<Problem>>,
    /// Every file that it names and whose content belongs to it.
    pub files: Vec<PathBuf>,
}

/// Compiles what the YAML says.
pub fn compile(root: &Root, sources: Sources<'_>) -> Compiled {
    let mut reader = Reader::new(sources);
    let settings = settings(root, &mut reader);
    let Reader { problems, warnings, files, .. } = reader;
    let settings = match settings {
        Some(settings) if problems.is_empty() => Ok(Settings { warnings, ..settings }),
        _ => Err(problems),
    };
    Compiled { settings, files }
}

/// `None` when a part could not even be stood in for; the reader then holds a problem.
fn settings(root: &Root, reader: &mut Reader<'_>) -> Option<Settings> {
    let base_path = base_path::base_path(root, reader);
    let upstreams = upstream::all(root, reader);
    upstream::warn_of_strangers(root, &upstreams, reader);
    let policy = policy(root, base_path.as_ref(), &upstreams, reader);
    let rate_limit_headers = texts::rate_limit_headers(root, reader);
    let streams = listener::streams(root, reader);
    let cors = cors::cors(root, reader);
    let listen = listener::listen(root, reader);
    let admin = listener::admin(root, reader);
    let store = store::store(root, reader).map(|store| management::add_to_store(root, store, reader));
    let observe = listener::observe(root, reader);

    let listen = listen?;
    listener::refuse_shared_addresses(&listen, &admin, reader);
    upstream::refuse_own_address(root, &upstreams, listen.address, reader);
    let (policy, keys, management) = policy?;
    if let Some(store) = &store {
        limits::warn_of_small_shares(&policy.routes, store.limits_outage, reader);
        store::warn_of_unready_gate(store, &policy, &admin, reader);
    }
    upstream::warn_of_removed_copies(root, &upstreams, policy.mode, reader);
    Some(Settings {
        policy: Arc::new(policy),
        proxy: proxy::settings::Settings {
            upstreams,
            rate_limit_headers,
            header_bytes: listen.bounds.header_bytes,
            h2_header_bytes: listen.bounds.h2.header_bytes as usize,
            headers: listen.bounds.headers,
            streams,
            cors,
        },
        listen,
        admin,
        observe,
        store: store?,
        keys,
        management,
        base_path: base_path.map(|base| base.text),
        warnings: Vec::new(),
        hash: String::new(),
    })
}

/// What the gate decides by, what new keys must have, and how keys are managed over HTTP.
fn policy(
    root: &Root,
    base_path: Option<&Base>,
    upstreams: &[Upstream],
    reader: &mut Reader<'_>,
) -> Option<(Policy, Rules, Option<manage::settings::Settings>)> {
    let mode = mode::mode(&FieldPath::top("mode"), root.mode.as_ref(), Mode::Enforce, reader);
    let mut limits = limits::all(root, reader);
    let plans = limits::plans(root, &limits, reader);
    let credentials = keys::credentials(root, upstreams, reader);
    let routes = routes::table(root, base_path, upstreams, &mut limits, plans.as_ref(), mode, reader);
    limits.report_unused(reader);
    let scopes = scopes::of(root, reader);
    let rules = keys::rules(root, routes.as_ref(), reader);
    let rules = management::rules(
        root,
        Rules {
            known_limits: limits.known(),
            algorithms: limits.algorithms(),
            known_plans: limits::names(plans.as_ref()),
            ..rules
        },
        reader,
    );
    let business_sources = keys::business_sources(root, routes.as_ref(), reader);
    let texts = texts::texts(root, reader);
    let deny = keys::deny(root, &credentials.formats, reader);
    let written = routes.as_ref().map(|routes| routes.written.as_slice());
    let management = management::api(root, base_path, written.unwrap_or_default(), reader);
    let routes = routes?.table;
    limits::warn_of_idle_plans(plans.as_ref(), &routes, reader);
    let limits = limits.compiled;
    let policy = Policy { routes, scopes, plans, business_sources, credentials, limits, deny, texts, mode };
    Some((policy, rules, management))
}
