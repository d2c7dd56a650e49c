//! `sidegate openapi`: routes and where keys stand from an OpenAPI description, and `sidegate check --openapi`: what it and
//! the routes do not share.
//!
//! What the description leaves open is left out, and said: a route that nobody meant is worse than a 404.

mod description;
mod schemes;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;

use super::coverage::{Coverage, Served};
use super::out;
use crate::config::{self, Settings};
use crate::policy::Access;
use crate::policy::pattern::Pattern;
use crate::policy::scope::is_scope;
use description::{Description, Operation};
use schemes::Source;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sidegate openapi api.yaml > sidegate.yaml && sidegate check --config sidegate.yaml\n\nWhat the description leaves open is left out and told on standard error."
)]
pub struct OpenapiArgs {
    /// An OpenAPI 3.0 or 3.1 description, YAML or JSON
    file: PathBuf,
}

/// The sections that a gate needs besides its routes, so that what is printed can be checked and run as it is.
const PREFACE: &str = "listen: \"${SIDEGATE_LISTEN:-127.0.0.1:8080}\"\n\
    upstream: \"${UPSTREAM_URL:-http://127.0.0.1:3000}\"\n\
    store: \"${REDIS_URL:-redis://127.0.0.1:6379/0}\"\n";

/// What a parameter is filled with to ask the routes about it.
const ANYTHING: &str = "sidegate-0";

/// One pattern, and who may call it with which methods.
struct Line {
    path: String,
    methods: Vec<Method>,
    access: Access,
}

pub fn run(args: &OpenapiArgs) -> anyhow::Result<u8> {
    let description = match description::read(&args.file) {
        Ok(description) => description,
        Err(error) => return Ok(wrong(&error)),
    };
    let (lines, mut remarks) = lines(&description);
    remarks.splice(0..0, description.remarks);
    remarks.iter().for_each(|remark| out::remark(format_args!("not covered: {remark}")));
    if lines.is_empty() {
        anyhow::bail!("nothing in {} can be made a route", args.file.display());
    }
    let yaml = written(description.base_path.as_deref(), &description.sources, &lines);
    if let Err(errors) = config::load::from_text(&yaml, Path::new("."), "routes") {
        anyhow::bail!("what it describes is no good configuration; change the description:\n{errors}");
    }
    out::say(yaml)?;
    Ok(super::exit::DONE)
}

fn wrong(error: &anyhow::Error) -> u8 {
    out::remark(format_args!("error: {error:#}"));
    super::exit::WRONG
}

/// Operations of one path that ask for the same are one line.
fn lines(description: &Description) -> (Vec<Line>, Vec<String>) {
    let mut lines: Vec<Line> = Vec::new();
    let mut remarks = Vec::new();
    for Operation { method, path, access } in &description.operations {
        let Some(access) = access else { continue };
        let renamed = pattern(path);
        if let Err(problem) = Pattern::parse(&renamed) {
            remarks.push(format!("{method} {path}: {problem}"));
            continue;
        }
        if let Access::All(scopes) | Access::AnyOf(scopes) = access
            && let Some(scope) = scopes.iter().find(|scope| !is_scope(scope))
        {
            remarks.push(format!("{method} {path}: `{scope}` is no scope that a key can have"));
            continue;
        }
        match lines.iter_mut().find(|line| line.path == renamed && line.access == *access) {
            // GET implies HEAD.
            Some(line) if *method == Method::HEAD && line.methods.contains(&Method::GET) => {}
            Some(line) => line.methods.push(method.clone()),
            None => lines.push(Line { path: renamed, methods: vec![method.clone()], access: access.clone() }),
        }
    }
    (lines, remarks)
}

/// `{user-id}` → `{user_id}`: a parameter's name has letters, digits and `_`.
fn pattern(path: &str) -> String {
    let mut inside = false;
    let plain = path.chars().map(|c| {
        inside = (inside || c == '{') && c != '}';
        if inside && c != '{' && !c.is_ascii_alphanumeric() { '_' } else { c }
    });
    plain.collect()
}

fn written(base_path: Option<&str>, sources: &[Source], lines: &[Line]) -> String {
    let mut yaml = PREFACE.to_owned();
    if !sources.is_empty() {
        let source = |source: &Source| {
            let scheme = source.scheme.map_or_else(String::new, |scheme| format!(", scheme: {scheme}"));
            format!("{{header: {}{scheme}}}", quoted(&source.header))
        };
        let from: Vec<_> = sources.iter().map(source).collect();
        let _ = writeln!(yaml, "keys: {{from: [{}]}}", from.join(", "));
    }
    if let Some(base) = base_path {
        let _ = writeln!(yaml, "base_path: {}", quoted(base));
    }
    yaml.push_str("\nroutes:\n");
    for Line { path, methods, access } in lines {
        let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
        let pattern = format!("{} {path}", methods.join(","));
        let list = |scopes: &[String]| scopes.iter().map(|s| quoted(s)).collect::<Vec<_>>().join(", ");
        let access = match access {
            Access::Public => "public".to_owned(),
            Access::Any => "any".to_owned(),
            Access::All(scopes) => format!("{{scopes: [{}]}}", list(scopes)),
            Access::AnyOf(scopes) => format!("{{any_scope: [{}]}}", list(scopes)),
        };
        let _ = writeln!(yaml, "  {}: {access}", quoted(&pattern));
    }
    yaml
}

/// As JSON writes a text, which is YAML too; `$` is doubled where it would begin a replacement.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace("${", "$${")).to_string()
}

/// What the description and the routes do not share, a line each: paths without a route, routes without an operation, and what
/// is public to one of them alone. Scopes are not compared: what implies what is the gate's to say. An error: no description.
pub fn differences(file: &Path, settings: &Settings) -> anyhow::Result<Vec<String>> {
    let description = description::read(file)?;
    let base = description.base_path.as_deref().unwrap_or_default();
    let mut served = Served::default();
    let mut differences = Vec::new();
    for Operation { method, path, access } in &description.operations {
        let coverage = Coverage::of(method, &format!("{base}{}", filled(path)), settings);
        if let Some(problem) = coverage.problem() {
            differences.push(format!("{method} {base}{path} {problem}"));
        }
        let Coverage::Route(route) = coverage else { continue };
        served.note(route);
        if access.as_ref().is_some_and(|access| (*access == Access::Public) != (route.access == Access::Public)) {
            let public = if route.access == Access::Public { "is public" } else { "needs a key" };
            differences.push(format!("{method} {base}{path} {public} by `{}`, unlike the description", route.pattern));
        }
    }
    differences.extend(served.others(settings).map(|pattern| format!("route `{pattern}` is not in the description")));
    Ok(differences)
}

/// The path with something in the place of each parameter.
fn filled(path: &str) -> String {
    let mut text = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        text.push_str(ANYTHING);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    text + rest
}
