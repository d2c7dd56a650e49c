//! An OpenAPI 3.0 or 3.1 description as operations: method, path, and what its `security` asks for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Map, Value};

use super::schemes::{self, Source};
use crate::policy::Access;

/// TRACE is refused by every gate.
const METHODS: [(&str, Method); 7] = [
    ("get", Method::GET),
    ("head", Method::HEAD),
    ("post", Method::POST),
    ("put", Method::PUT),
    ("patch", Method::PATCH),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
];

pub struct Description {
    /// What its first server's URL has behind the host.
    pub base_path: Option<String>,
    pub operations: Vec<Operation>,
    /// Where keys stand; none: where every gate looks.
    pub sources: Vec<Source>,
    /// What in it cannot be told to a gate.
    pub remarks: Vec<String>,
}

pub struct Operation {
    pub method: Method,
    /// As it is written, without the server's.
    pub path: String,
    /// `None`: nothing, or nothing that a route can say, and a remark says so.
    pub access: Option<Access>,
}

pub fn read(file: &Path) -> anyhow::Result<Description> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let document: Value = serde_yaml::from_str(&text).with_context(|| format!("{} is no YAML", file.display()))?;
    let version = document["openapi"].as_str().unwrap_or_default();
    if !version.starts_with("3.0") && !version.starts_with("3.1") {
        bail!("{} is no OpenAPI 3.0 or 3.1 description: its field `openapi` says so", file.display());
    }
    Ok(of(&document))
}

fn of(document: &Value) -> Description {
    let mut remarks = Vec::new();
    let base_path = base_path(&document["servers"], &mut remarks);
    let sources = schemes::sources(document, &mut remarks);
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        if item.get("$ref").is_some() {
            remarks.push(format!("{path}: it stands elsewhere (`$ref`), which is not followed"));
        }
        if item.get("servers").is_some() {
            remarks.push(format!("{path}: it has servers of its own, which are not looked at"));
        }
        if item.get("trace").is_some() {
            remarks.push(format!("TRACE {path}: no gate lets TRACE pass"));
        }
        for (name, method) in METHODS {
            let Some(operation) = item.get(name) else { continue };
            let security = operation.get("security").or_else(|| document.get("security"));
            let access = match access(security) {
                Ok(access) => Some(access),
                Err(problem) => {
                    remarks.push(format!("{method} {path}: {problem}"));
                    None
                }
            };
            operations.push(Operation { method, path: path.clone(), access });
        }
    }
    Description { base_path, operations, sources, remarks }
}

/// Several servers may stand for one service; the first one's path counts, and a difference is said.
fn base_path(servers: &Value, remarks: &mut Vec<String>) -> Option<String> {
    let urls = servers.as_array().into_iter().flatten().filter_map(|server| server["url"].as_str());
    let paths: Vec<&str> = urls.map(path_of).collect();
    let first = *paths.first()?;
    if paths.iter().any(|path| *path != first) {
        remarks.push(format!("servers: their base paths differ; `{first}` of the first one is taken"));
    }
    if first.contains('{') {
        remarks.push(format!("servers: `{first}` has variables, so that it is no base path; routes begin at the root"));
        return None;
    }
    (!first.is_empty()).then(|| first.to_owned())
}

/// `https://api.example.com/v1/` → `/v1`.
fn path_of(url: &str) -> &str {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => url,
    };
    path.trim_end_matches('/')
}

/// Requirements are alternatives, of which each names schemes that must all be satisfied.
fn access(security: Option<&Value>) -> Result<Access, &'static str> {
    let Some(requirements) = security.and_then(Value::as_array) else {
        return Err("it has no `security`, not even an empty one; write `security: []` if it is public");
    };
    let alternatives: Vec<BTreeSet<&str>> = requirements.iter().filter_map(Value::as_object).map(scopes).collect();
    if alternatives.len() < requirements.len() {
        return Err("its `security` cannot be read");
    }
    if alternatives.is_empty() || requirements.iter().filter_map(Value::as_object).any(Map::is_empty) {
        return Ok(Access::Public);
    }
    if alternatives.iter().any(BTreeSet::is_empty) {
        return Ok(Access::Any);
    }
    let distinct: BTreeSet<&BTreeSet<&str>> = alternatives.iter().collect();
    let all: Vec<String> = distinct.iter().flat_map(|scopes| scopes.iter()).map(|scope| (*scope).to_owned()).collect();
    match distinct.len() {
        1 => Ok(Access::All(all)),
        _ if distinct.iter().all(|scopes| scopes.len() == 1) => Ok(Access::AnyOf(all)),
        _ => Err("it takes one of several sets of scopes, which no route can say; choose one"),
    }
}

/// OpenAPI 3.1 lets every scheme name roles, not only `oauth2` and `openIdConnect`; leaving them out would open more than was meant.
fn scopes(requirement: &Map<String, Value>) -> BTreeSet<&str> {
    requirement.values().filter_map(Value::as_array).flatten().filter_map(Value::as_str).collect()
}
