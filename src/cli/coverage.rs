//! Which requests the routes cover, and which routes nobody asks for: what `check --openapi` and `check --log` tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;

use crate::config::Settings;
use crate::gate::path;
use crate::policy::Route;
use crate::policy::route::Found;

/// What a gate does with a method and a path, whoever asks.
pub enum Coverage<'r> {
    Route(&'r Arc<Route>),
    /// What is at and below `management.path` is the key API's, before any route.
    KeyApi,
    /// A browser's question about a route that lets it pass.
    Preflight,
    Refused,
    OtherMethods,
    Nothing,
}

impl<'r> Coverage<'r> {
    pub fn of(method: &Method, asked: &str, settings: &'r Settings) -> Self {
        // A path that the gate would refuse as it stands is not covered by any route.
        let Ok(path) = path::read(asked) else { return Self::Refused };
        if is_key_api(&path.text, settings) {
            return Self::KeyApi;
        }
        match settings.policy.routes.find(method, &path.text) {
            Found::Route { route, .. } if !route.allows.cover(path.needs) => Self::Refused,
            Found::Route { route, .. } => Self::Route(route),
            Found::OtherMethods { .. } if method == Method::OPTIONS && passes_preflights(&path.text, settings) => {
                Self::Preflight
            }
            Found::OtherMethods { .. } => Self::OtherMethods,
            Found::Nothing => Self::Nothing,
        }
    }

    /// Why nothing of it passes, for a sentence that begins with the request.
    pub fn problem(&self) -> Option<&'static str> {
        match self {
            Self::Route(_) | Self::KeyApi | Self::Preflight => None,
            Self::Refused => Some("is refused with 400"),
            Self::OtherMethods => Some("is not covered (405)"),
            Self::Nothing => Some("is not covered (404)"),
        }
    }
}

/// The routes that something was asked of.
#[derive(Debug, Default)]
pub struct Served(BTreeSet<String>);

impl Served {
    pub fn note(&mut self, route: &Route) {
        if !self.0.contains(&route.pattern) {
            self.0.insert(route.pattern.clone());
        }
    }

    /// The others' patterns, the most specific first.
    pub fn others<'s>(&self, settings: &'s Settings) -> impl Iterator<Item = &'s str> {
        settings.policy.routes.iter().map(|route| &*route.pattern).filter(|pattern| !self.0.contains(*pattern))
    }
}

/// Whether the path, in its one form, is the key API's.
pub fn is_key_api(path: &str, settings: &Settings) -> bool {
    let rest = settings.management.as_ref().and_then(|management| path.strip_prefix(&management.served_at()));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn passes_preflights(path: &str, settings: &Settings) -> bool {
    const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    METHODS.iter().any(
        |method| matches!(settings.policy.routes.find(method, path), Found::Route { route, .. } if route.preflight),
    )
}
