//! A look at the whole text before any field is read: no name twice, no YAML tags, and which fields are empty.
//!
//! YAML reads an empty field as null, which would silently mean the default: a `tls:` whose lines below were commented out would
//! turn TLS off. In `errors`, where null is a JSON value, it may stand.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::field_path::FieldPath;

/// The empty fields; an error, with its place, where a name stands twice or a value has a tag.
pub fn empty_fields(text: &str) -> Result<Vec<FieldPath>, serde_yaml::Error> {
    let mut empty = Vec::new();
    let precheck = Precheck { path: FieldPath::default(), empty: &mut empty };
    precheck.deserialize(serde_yaml::Deserializer::from_str(text))?;
    empty.retain(|path| !path.begins_with(&FieldPath::top("errors")) || *path == FieldPath::top("errors"));
    Ok(empty)
}

struct Precheck<'f> {
    path: FieldPath,
    empty: &'f mut Vec<FieldPath>,
}

impl<'de> DeserializeSeed<'de> for Precheck<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Precheck<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without one")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.empty.push(self.path);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i128<E>(self, _: i128) -> Result<(), E> {
        Ok(())
    }

    fn visit_u128<E>(self, _: u128) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        while list.next_element_seed(Precheck { path: self.path.item(index), empty: &mut *self.empty })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = Vec::new();
        while let Some(name) = map.next_key_seed(UniqueName(&names))? {
            let path = self.path.field(&name);
            names.push(name);
            map.next_value_seed(Precheck { path, empty: &mut *self.empty })?;
        }
        Ok(())
    }
}

/// A name that was not there before. Checked while the name is read, so that the error stands at the second one.
struct UniqueName<'n>(&'n [String]);

impl<'de> DeserializeSeed<'de> for UniqueName<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for UniqueName<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<String, E> {
        if self.0.iter().any(|other| other == name) {
            return Err(E::custom(format_args!("`{name}` stands there twice; keep one of them")));
        }
        Ok(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_are_found_save_in_errors() {
        let found = empty_fields("a:\n  tls:\nb: [~, x]\nc: ''\nerrors: {default: {body: {x: null}}}\n");
        let found: Vec<_> = found.expect("good YAML").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["a.tls", "b[0]"]);
    }
}
