//! The defaults that the schema states are those that hold, and the example shows every field of the schema with them.
//!
//! Both are derived from the schema, so that a new field cannot be forgotten here.

use std::path::Path;

use serde_json::{Value, json};

use super::load;
use crate::config::{Settings, schema};

/// Whatever holds fields of its own, and nothing that has a default.
fn bare() -> Value {
    json!({
        "listen": {"address": "127.0.0.1:8080", "limits": {}},
        "probes": {"address": "127.0.0.1:9901", "app": [{"path": "/ok", "target": "tcp://127.0.0.1:3000"}]},
        "upstream": {"url": "http://127.0.0.1:3000"},
        "store": {"redis": "redis://127.0.0.1:6379", "outage": {}},
        "keys": {"formats": [{"prefix": "a_"}]},
        "scopes": {},
        "plans": {"default": {}},
        "limits": {"l": {"by": "key", "windows": "5/1m"}},
        "routes": {"/a": {"any": true, "limits": ["l"]}},
        "rate_limit_headers": {},
        "streams": {},
        "cors": {"origins": ["https://app.example.com"]},
        "management": {"session": "http://127.0.0.1:3000/session", "roles": ["admin"]},
        "drain": {},
        "log": {},
        "ready": {},
    })
}

/// A field that the schema states a default of, and where `bare` lacks it (a JSON pointer to its parent, its name).
struct Stated<'s> {
    field: &'s Value,
    parent: String,
    name: &'s str,
    default: &'s str,
}

#[test]
fn what_the_schema_calls_a_default_is_what_holds_where_the_field_is_absent() {
    let schema = schema();
    let mut stated = Vec::new();
    collect(&schema, &schema, &bare(), "", &mut stated);
    let settings = told(&bare());
    for Stated { parent, name, default, .. } in &stated {
        let mut said = bare();
        let fields = said.pointer_mut(parent).and_then(Value::as_object_mut).expect("it was found there");
        fields.insert((*name).to_owned(), Value::from(*default));
        assert!(told(&said) == settings, "{parent}/{name} is not {default} by default");
    }
    let reached = |field: &Value| stated.iter().any(|one| std::ptr::eq(one.field, field));
    let missed: Vec<_> =
        all_fields(&schema).filter(|(_, field)| default_of(field).is_some() && !reached(field)).collect();
    assert!(missed.is_empty(), "let `bare` hold what these stand in: {missed:#?}");
    assert!(stated.len() > 55, "{}", stated.len());
}

#[test]
fn every_field_of_the_schema_is_in_the_example_with_its_default() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml");
    let example = std::fs::read_to_string(file).expect("the example is there");
    let mut missing = Vec::new();
    for (name, field) in all_fields(&schema()) {
        let mut lines = example.lines().filter(|line| after_name(line, name).next().is_some());
        match default_of(field) {
            None if lines.next().is_none() => missing.push(format!("{name}:")),
            Some(default) if !lines.any(|line| shows(line, name, default)) => {
                missing.push(format!("{name}: {default}"))
            }
            None | Some(_) => {}
        }
    }
    assert_eq!(missing, Vec::<String>::new(), "config.example.yaml does not show these");
}

/// The fields that `value` could have besides its own, with what is stated of them, at every depth of it.
fn collect<'s>(schema: &'s Value, shape: &'s Value, value: &Value, at: &str, stated: &mut Vec<Stated<'s>>) {
    let mut forms = Vec::new();
    forms_of(schema, shape, &mut forms);
    for form in forms {
        for (name, field) in form["properties"].as_object().into_iter().flatten() {
            match (value.get(name), default_of(field)) {
                (Some(value), _) => collect(schema, field, value, &below(at, name), stated),
                (None, Some(default)) if value.is_object() => {
                    stated.push(Stated { field, parent: at.to_owned(), name, default });
                }
                (None, _) => {}
            }
        }
        if form["additionalProperties"].is_object() {
            for (name, value) in value.as_object().into_iter().flatten() {
                collect(schema, &form["additionalProperties"], value, &below(at, name), stated);
            }
        }
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            collect(schema, &form["items"], value, &format!("{at}/{index}"), stated);
        }
    }
}

fn below(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A shape as it is written, wherever `$ref` leads, and whichever of several it is.
fn forms_of<'s>(schema: &'s Value, shape: &'s Value, forms: &mut Vec<&'s Value>) {
    if let Some(reference) = shape["$ref"].as_str() {
        forms_of(schema, schema.pointer(&reference[1..]).expect("it leads somewhere"), forms);
    }
    for several in ["anyOf", "allOf"] {
        for one in shape[several].as_array().into_iter().flatten() {
            forms_of(schema, one, forms);
        }
    }
    forms.push(shape);
}

fn all_fields(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let definitions = schema["definitions"].as_object().into_iter().flatten().map(|(_, shape)| shape);
    let fields = definitions.chain([schema]).filter_map(|shape| shape["properties"].as_object()).flatten();
    fields.map(|(name, field)| (name.as_str(), field))
}

/// `Default 10s.`, `Default` and a word in backticks, or such a word with `(default)` behind it. What has no value of its own is
/// told with a colon (`Default: no bound.`), or as `none`.
fn default_of(field: &Value) -> Option<&str> {
    let said = field["description"].as_str()?;
    let value = match said.split_once("Default ") {
        Some((_, rest)) => rest.split([';', ',']).next()?.split(". ").next()?.trim_end_matches('.'),
        None => said.split_once(" (default)")?.0.rsplit(' ').next()?,
    };
    Some(value.trim_matches('`')).filter(|value| *value != "none")
}

/// What the line says behind each `name:` that is a whole name.
fn after_name<'l>(line: &'l str, name: &str) -> impl Iterator<Item = &'l str> {
    let wanted = format!("{name}:");
    let is_whole = |at: &usize| line[..*at].chars().next_back().is_none_or(|before| " {(#`".contains(before));
    let found: Vec<usize> = line.match_indices(&wanted).map(|(at, _)| at).filter(is_whole).collect();
    found.into_iter().map(move |at| &line[at + wanted.len()..])
}

/// Whether a line that names the field gives it this value, or calls the value its default.
fn shows(line: &str, name: &str, default: &str) -> bool {
    let is_value = |rest: &str| {
        let after = rest.trim_start().strip_prefix(default);
        after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric() || "._-/".contains(c)))
    };
    after_name(line, name).any(is_value)
        || line.split("default ").skip(1).any(is_value)
        || line.contains(&format!("{default} (default)"))
}

/// What comes of a configuration, line by line; sorted, since some of it is kept in no order.
fn told(value: &Value) -> Vec<String> {
    let settings = load(&value.to_string()).unwrap_or_else(|errors| panic!("{value:#}\n{errors}"));
    let told = format!("{:#?}", Settings { hash: String::new(), ..settings });
    let mut lines: Vec<_> = told.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}
