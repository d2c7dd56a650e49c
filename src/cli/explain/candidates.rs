//! Why this route and no other one. Each route is asked alone, in a table of its own, by the rules that the whole table follows.

use http::Method;

use super::request::ExplainedRequest;
use crate::config::Settings;
use crate::gate::path;
use crate::policy::pattern::Pattern;
use crate::policy::route::Found;
use crate::policy::{Route, RouteTable};

/// The routes that the path has to do with, the most specific first.
pub struct Candidates {
    /// Why it came out so, in a sentence.
    pub why: String,
    pub others: Vec<(String, Relation)>,
}

/// What another route is to the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It matches as well, less specifically.
    Looser,
    /// It matches the path, but not with this method.
    OtherMethod,
    /// A lenient service would take the path for this one's.
    NearMiss,
}

impl Relation {
    pub fn words(self) -> &'static str {
        match self {
            Self::Looser => "matches too, less specifically",
            Self::OtherMethod => "matches the path, with other methods",
            Self::NearMiss => "a lenient service would read the path as this one's",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Looser => "looser",
            Self::OtherMethod => "other_method",
            Self::NearMiss => "near_miss",
        }
    }
}

impl Candidates {
    pub fn of(explained: &ExplainedRequest, settings: &Settings) -> Self {
        let Ok(path) = path::read(explained.path()) else {
            return Self {
                why: "No route is looked for: the path is refused as it stands.".to_owned(),
                others: Vec::new(),
            };
        };
        let routes: Vec<&Route> = settings.policy.routes.iter().map(AsRef::as_ref).collect();
        let lookup = Lookup {
            method: explained.method(),
            path: &path.text,
            base: settings.base_path.as_deref(),
            routes: &routes,
        };
        match settings.policy.routes.find(explained.method(), &path.text) {
            Found::Route { route, .. } => lookup.won(route),
            Found::OtherMethods { allow } => lookup.no_method(allow),
            Found::Nothing => lookup.nothing(),
        }
    }
}

struct Lookup<'l> {
    method: &'l Method,
    path: &'l str,
    base: Option<&'l str>,
    /// The most specific first.
    routes: &'l [&'l Route],
}

impl Lookup<'_> {
    fn won(&self, won: &Route) -> Candidates {
        let others = self.others(&won.pattern);
        let rivals = others.iter().any(|(_, relation)| *relation == Relation::Looser);
        let head = self.method == Method::HEAD && !won.pattern.contains("HEAD") && won.pattern.contains("GET");
        let why = match (rivals, head) {
            (_, true) => "GET implies HEAD, and this is the most specific pattern that matches the path.",
            (true, false) => {
                "Of the patterns that match the path, it is the most specific: a literal beats {name} beats /**."
            }
            (false, false) => "It is the only pattern that matches this method and path.",
        };
        Candidates { why: why.to_owned(), others }
    }

    fn no_method(&self, allow: &str) -> Candidates {
        let others = self.others("");
        let looser = others.iter().any(|(_, relation)| *relation == Relation::Looser);
        let fall = if looser {
            " A more specific pattern without the method is not passed over for a looser one."
        } else {
            ""
        };
        Candidates { why: format!("The path is known, but only with {allow}.{fall}"), others }
    }

    /// Either no pattern matches, or the near-miss rule holds for the one that does.
    fn nothing(&self) -> Candidates {
        let Some(matched) = self.routes.iter().find(|route| !matches!(self.alone(&[route]), OwnMatch::Nothing)) else {
            let why =
                format!("No pattern matches the path: whatever is not named is refused.{}", self.below_the_base());
            return Candidates { why, others: Vec::new() };
        };
        let rivals = self.routes.iter().filter(|other| other.pattern != matched.pattern);
        let meant = rivals.filter(|other| matches!(self.alone(&[matched, other]), OwnMatch::Nothing));
        let others = meant.map(|other| (other.pattern.clone(), Relation::NearMiss)).collect();
        let why = format!(
            "`{}` matches, but a lenient service would read the path as another route's, so it is refused; `lenient: true` there lets it pass.",
            matched.pattern
        );
        Candidates { why, others }
    }

    /// What the base path has to do with it, if it has.
    fn below_the_base(&self) -> String {
        let Some(base) = self.base else { return String::new() };
        let found = |path: &str| self.routes.iter().find(|route| self.alone_at(path, &[route]) != OwnMatch::Nothing);
        let below = format!("{base}{}", self.path);
        let is_below = self.path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match (found(&below), is_below) {
            (Some(route), true) => {
                format!(" `{}` repeats `base_path`, so that it is {base} twice; write it without.", route.pattern)
            }
            (Some(_), false) => format!(" Every route is below {base} (`base_path`): {} {below} matches.", self.method),
            (None, false) => format!(" Every route is below {base} (`base_path`), and this path is not."),
            (None, true) => String::new(),
        }
    }

    fn others(&self, won: &str) -> Vec<(String, Relation)> {
        let others = self.routes.iter().filter(|route| route.pattern != won);
        let related = others.filter_map(|route| match self.alone(&[route]) {
            OwnMatch::Route => Some((route.pattern.clone(), Relation::Looser)),
            OwnMatch::OtherMethods => Some((route.pattern.clone(), Relation::OtherMethod)),
            OwnMatch::Nothing => None,
        });
        related.collect()
    }

    /// What the request would mean if there were only these routes.
    fn alone(&self, routes: &[&Route]) -> OwnMatch {
        self.alone_at(self.path, routes)
    }

    /// The same at another path.
    fn alone_at(&self, path: &str, routes: &[&Route]) -> OwnMatch {
        let base = self.base.and_then(|base| Pattern::parse(base).ok());
        let placed = routes.iter().filter_map(|route| {
            let pattern = Pattern::parse(&route.pattern).ok()?;
            let pattern = base.as_ref().map_or(pattern.clone(), |base| pattern.below(base));
            Some((pattern, (*route).clone()))
        });
        // These stand in one table already, so that no two of them overlap.
        let Ok(table) = RouteTable::new(placed.collect()) else { return OwnMatch::Nothing };
        match table.find(self.method, path) {
            Found::Route { .. } => OwnMatch::Route,
            Found::OtherMethods { .. } => OwnMatch::OtherMethods,
            Found::Nothing => OwnMatch::Nothing,
        }
    }
}

/// `Found` without what it borrows.
#[derive(PartialEq, Eq)]
enum OwnMatch {
    Route,
    OtherMethods,
    Nothing,
}
