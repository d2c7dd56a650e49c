//! The JSON Schema of the YAML's shapes, derived from them, so that an editor knows every field, its short forms and what it means.
//!
//! A schema sees single values: structure, and the words that a field may hold. What contradicts something else, `compile` finds.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{Entries, Json, List, Root, Scalar, Short};

/// The draft-07 schema of a whole configuration: what `yaml-language-server` reads.
pub fn document() -> Value {
    let settings = SchemaSettings::draft07().with_transform(RecursiveTransform(without_null));
    let mut schema = settings.into_generator().into_root_schema_for::<Root>();
    schema.insert("title".to_owned(), "sidegate".into());
    schema.to_value()
}

/// The words that a field may hold; what a variable will hold is not known here.
pub(super) fn words(words: &[&str]) -> Value {
    json!([{"enum": words}, variable()])
}

/// `true` or `false`, as YAML's texts too.
pub(super) fn flag() -> Value {
    json!([{"type": "boolean"}, {"enum": ["true", "false", "True", "False", "TRUE", "FALSE"]}, variable()])
}

fn variable() -> Value {
    json!({"type": "string", "pattern": "\\$\\{"})
}

/// Every field may be left out, which Rust says as `Option`; but one that stands there empty is an error, not null.
fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
    }
    let Some(Value::Array(forms)) = schema.get_mut("anyOf") else { return };
    forms.retain(|form| *form != json!({"type": "null"}));
    if let [Value::Object(only)] = forms.as_mut_slice() {
        let only = std::mem::take(only);
        schema.remove("anyOf");
        for (name, value) in only {
            if schema.get(&name).is_none() {
                schema.insert(name, value);
            }
        }
    }
}

impl JsonSchema for Scalar {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean"]})
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({"anyOf": [one, {"type": "array", "items": one}]})
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("EntriesOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "additionalProperties": generator.subschema_for::<T>()})
    }
}

impl<T: JsonSchema> JsonSchema for Short<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Short{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [generator.subschema_for::<Scalar>(), generator.subschema_for::<T>()]})
    }
}

impl JsonSchema for Json {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Json".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}
