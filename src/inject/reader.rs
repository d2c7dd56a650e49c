//! YAML in, as `kubectl` reads it: what YAML 1.1 means by plain words, and merge keys. What is written back has to mean the same to
//! the API server as the manifest did before.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The one document in a text.
pub fn read(text: &str) -> Result<Value, serde_yaml::Error> {
    let mut value = Node { text }.deserialize(serde_yaml::Deserializer::from_str(text))?;
    octal_modes(&mut value);
    Ok(value)
}

/// Reads a value of this text.
#[derive(Clone, Copy)]
struct Node<'t> {
    text: &'t str,
}

impl Node<'_> {
    /// Whether a piece of the text stands there without quotes, and without a tag that says the same.
    fn is_plain(self, piece: &str) -> bool {
        let at = (piece.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize);
        let before = at.and_then(|at| self.text.get(..at));
        before.is_some_and(|before| !before.ends_with(['"', '\'']) && !before.trim_end().ends_with("!!str"))
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what JSON can say")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    /// In quotes, with escapes, or on lines of its own: a text in any case.
    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    /// As it stands in the document.
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value, E> {
        Ok(truth(text).filter(|_| self.is_plain(text)).map_or_else(|| text.into(), Value::Bool))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(self)? {
            list.push(element);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let (mut map, mut merged) = (Map::new(), Map::new());
        while let Some(key) = entries.next_key_seed(self)? {
            let value = entries.next_value_seed(self)?;
            match key {
                Value::String(key) if key == "<<" => merge(&mut merged, value).map_err(Error::custom)?,
                Value::String(key) => drop(map.insert(key, value)),
                Value::Bool(_) | Value::Number(_) => drop(map.insert(key.to_string(), value)),
                _ => return Err(Error::custom("a key is neither a text nor a number")),
            }
        }
        // What stands in a map itself counts more than what is merged into it.
        merged.extend(map);
        Ok(merged.into())
    }
}

/// What is merged first counts more (<https://yaml.org/type/merge.html>).
fn merge(into: &mut Map<String, Value>, value: Value) -> Result<(), &'static str> {
    match value {
        Value::Object(map) => map.into_iter().for_each(|(key, value)| {
            into.entry(key).or_insert(value);
        }),
        Value::Array(maps) if maps.iter().all(Value::is_object) => {
            maps.into_iter().try_for_each(|map| merge(into, map))?;
        }
        _ => return Err("a merge key (`<<`) has neither a map nor a list of maps"),
    }
    Ok(())
}

/// The words of YAML 1.1 that YAML 1.2 takes for texts (<https://yaml.org/type/bool.html>).
fn truth(word: &str) -> Option<bool> {
    match word {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// `defaultMode: 0644`: YAML 1.1, which Kubernetes reads, means an octal number; YAML 1.2 a text.
fn octal_modes(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(octal_modes),
        Value::Object(map) => {
            let is_item = map.contains_key("path");
            for (key, value) in map {
                let is_mode = key == "defaultMode" || key == "mode" && is_item;
                let octal = value.as_str().filter(|text| is_mode && text.starts_with('0'));
                match octal.and_then(|text| u32::from_str_radix(text, 8).ok()) {
                    Some(mode) => *value = mode.into(),
                    None => octal_modes(value),
                }
            }
        }
        _ => {}
    }
}
