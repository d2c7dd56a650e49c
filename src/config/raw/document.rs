//! The JSON Schema of the YAML's shapes, derived from them, so that an editor knows every field, its short forms and what it means.
//!
//! A schema sees single values: structure, and the words that a field may hold. What contradicts something else, `compile` finds.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::{Value, json};

use super::Root;

/// The draft-07 schema of a whole configuration: what `yaml-language-server` reads.
pub fn document() -> Value {
    let settings = SchemaSettings::draft07().with_transform(RecursiveTransform(without_null));
    let mut schema = settings.into_generator().into_root_schema_for::<Root>();
    schema.insert("title".to_owned(), "sidegate".into());
    schema.to_value()
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
