//! The schema and the reader agree: what one refuses for its shape, the other refuses, and what is good is good to both.
//!
//! `agrees` stands in the way of every text that the other tests read, so that each of their cases is one of these, too.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde::Deserialize;
use serde_json::Value;

use crate::config::load::Errors;
use crate::config::raw::Json;
use crate::config::{Settings, schema};

static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::draft7::new(&schema()).expect("the schema is one of draft 7"));

/// What the reader says when a value has the wrong shape.
const OF_SHAPE: [&str; 2] = ["there is no field", "stands here; write"];

/// Fails where the schema and the reader disagree on a text.
pub fn agrees(text: &str, read: &Result<Settings, Errors>) {
    let Ok(Json(value)) = Json::deserialize(serde_yaml::Deserializer::from_str(text)) else { return };
    match read {
        Ok(_) => {
            let errors: Vec<_> = VALIDATOR.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(errors.is_empty(), "good, but not to the schema:\n{text}\n{}", errors.join("\n"));
        }
        Err(Errors(errors)) => {
            let of_shape = errors.iter().find(|error| OF_SHAPE.iter().any(|words| error.message.contains(words)));
            let of_shape = of_shape.filter(|error| !error.message.contains("YAML tag"));
            if let Some(error) = of_shape {
                assert!(!VALIDATOR.is_valid(&value), "good to the schema, but {error}\n{text}");
            }
        }
    }
}

#[test]
fn every_field_has_a_description() {
    let schema = schema();
    let mut silent = Vec::new();
    let mut fields = 0;
    let definitions = schema["definitions"].as_object().expect("fields have shapes of their own");
    for (name, shape) in definitions.iter().map(|(name, shape)| (name.as_str(), shape)).chain([("Root", &schema)]) {
        let Some(properties) = shape["properties"].as_object() else { continue };
        assert_eq!(shape["additionalProperties"], Value::Bool(false), "{name} takes unknown fields");
        fields += properties.len();
        let said = |field: &Value| field["description"].as_str().is_some_and(|text| !text.is_empty());
        silent.extend(properties.iter().filter(|(_, field)| !said(field)).map(|(field, _)| format!("{name}.{field}")));
    }
    assert_eq!(silent, Vec::<String>::new(), "write a doc comment at each of these in config/raw");
    assert!(fields > 150, "only {fields} fields were found");
}

#[test]
fn words_are_known_to_the_schema() {
    let of = |yaml: &str| {
        let text = format!("listen: a\nupstream: b\nstore: c\n{yaml}");
        let Json(value) = Json::deserialize(serde_yaml::Deserializer::from_str(&text)).expect("good YAML");
        VALIDATOR.is_valid(&value)
    };
    assert!(of("routes: {/a: any}\nlimits: {l: {by: '${BY}', windows: 1/s, algorithm: token-bucket}}"));
    assert!(of("routes: {/a: {any: true}}\nrate_limit_headers: {reset: seconds, x: 'false'}"));
    assert!(!of("routes: {/a: any}\nlimits: {l: {by: moon, windows: 1/s}}"));
    assert!(!of("routes: {/a: any}\nlimits: {l: {windows: 1/s}}"));
    assert!(!of("routes: {/a: {any: perhaps}}"));
    assert!(!of("routes: {/a: {any: 1}}"));
    assert!(!of("keys: {}"), "without routes");
    assert!(!of("routes: {/a: any}\nupstreams: {default: b}"), "with two kinds of upstream");
}
