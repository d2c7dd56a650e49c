//! `scopes:` and every list of scopes.

use super::reader::entries;
use super::reader::{Reader, items};
use crate::config::field_path::FieldPath;
use crate::config::raw::{List, Root, Scalar};
use crate::policy::Scopes;
use crate::policy::scope::is_scope;
/// What a scope implies.
pub fn of(root: &Root, reader: &mut Reader<'_>) -> Scopes {
    let path = FieldPath::top("scopes").field("implies");
    let implies = root.scopes.as_ref().and_then(|scopes| scopes.implies.as_ref());
    let mut rules = Vec::new();
    for (scope, implied) in entries(implies) {
        let path = path.field(scope);
        if !is_scope(scope) {
            reader.fail(&path, SCOPE_ADVICE);
        }
        if implied.0.is_empty() {
            reader.fail(&path, "it implies nothing; write the scopes it brings, or remove it");
        }
        rules.push((scope.clone(), scope_list(&path, Some(implied), reader)));
    }
    Scopes::new(rules)
}

const SCOPE_ADVICE: &str =
    "a scope has no spaces, quotes, commas or backslashes; write one such as `agents:read`, and several as `[a, b]`";

/// Scopes, each once.
pub fn scope_list(path: &FieldPath, list: Option<&List<Scalar>>, reader: &mut Reader<'_>) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for (path, scalar) in list.into_iter().flat_map(|list| items(path, list)) {
        let Some(scope) = reader.text(&path, scalar) else { continue };
        if !is_scope(&scope) {
            reader.fail(&path, SCOPE_ADVICE);
        } else if scopes.contains(&scope) {
            reader.fail(&path, format_args!("`{scope}` stands there twice; keep one of them"));
        } else {
            scopes.push(scope);
        }
    }
    scopes
}
