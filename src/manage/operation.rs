//! The operations of the key-management API, each with its method and its path.

use http::Method;

use super::settings::Settings;
use crate::policy::pattern::{Pattern, Segment};
use crate::policy::{Access, Route, RouteTable};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    List,
    /// `DELETE {path}?id=`
    RevokeNamed,
    Show,
    Update,
    Revoke,
    Rotate,
    Usage,
    /// The OpenAPI document, which needs no session.
    Describe,
}

const OPERATIONS: [(Operation, Method, &[&str]); 9] = [
    (Operation::Create, Method::POST, &[]),
    (Operation::List, Method::GET, &[]),
    (Operation::RevokeNamed, Method::DELETE, &[]),
    (Operation::Show, Method::GET, &["{id}"]),
    (Operation::Update, Method::PATCH, &["{id}"]),
    (Operation::Revoke, Method::DELETE, &["{id}"]),
    (Operation::Rotate, Method::POST, &["{id}", "rotate"]),
    (Operation::Usage, Method::GET, &["{id}", "usage"]),
    (Operation::Describe, Method::GET, &["openapi.json"]),
];

impl Operation {
    /// The operation whose route this is.
    pub fn of(route: &Route, settings: &Settings) -> Option<Self> {
        let mut all = OPERATIONS.iter();
        all.find(|(_, method, below)| label(settings, method, below) == route.pattern).map(|(operation, ..)| *operation)
    }
}

/// The operations' names in metrics and logs: `POST /v1/keys/{id}/rotate`.
pub fn labels(settings: &Settings) -> Vec<String> {
    OPERATIONS.iter().map(|(_, method, below)| label(settings, method, below)).collect()
}

/// The API's own routes. They need no key and have no upstream: their requests do not go through the gate.
pub fn routes(settings: &Settings) -> RouteTable {
    let all = OPERATIONS.iter().map(|(_, method, below)| {
        let mut segments = settings.pattern.segments.clone();
        segments.extend(below.iter().map(|text| segment(text)));
        let pattern = Pattern { methods: Some(vec![method.clone()]), segments, rest: false };
        (pattern, Route::bare(label(settings, method, below), Access::Public))
    });
    RouteTable::new(all.collect()).expect("no two operations have the same method and path")
}

fn segment(text: &str) -> Segment {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(name) => Segment::Parameter(name.to_owned()),
        None => Segment::Literal(text.to_owned()),
    }
}

fn label(settings: &Settings, method: &Method, below: &[&str]) -> String {
    let below: String = below.iter().map(|segment| format!("/{segment}")).collect();
    format!("{method} {}{below}", settings.path)
}
