//! Where in the file a thing stands: the path of a field, and the line and column it was written at.
//!
//! serde's data model has no places, but the YAML reader marks every error with one. So a place is found by reading the text
//! once more, down the path, and failing there on purpose.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// `routes."GET /v1/x".scopes[1]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

impl FieldPath {
    /// The path of a field on the top level.
    pub fn top(name: &str) -> Self {
        Self::default().field(name)
    }

    pub fn field(&self, name: &str) -> Self {
        self.then(Step::Field(name.to_owned()))
    }

    pub fn item(&self, index: usize) -> Self {
        self.then(Step::Item(index))
    }

    fn then(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    pub fn begins_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Line and column, both from 1, of the field, or of what is nearest above it; `None` if even the top level lacks it.
    pub fn locate(&self, text: &str) -> Option<(usize, usize)> {
        let seek = Seek { steps: &self.0, at_top: true };
        let stopped = seek.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
        stopped.location().map(|place| (place.line(), place.column()))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Item(item) => write!(f, "[{item}]")?,
                Step::Field(name) => {
                    let dot = if index == 0 { "" } else { "." };
                    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
                    let quote = if plain && !name.is_empty() { "" } else { "\"" };
                    write!(f, "{dot}{quote}{name}{quote}")?;
                }
            }
        }
        Ok(())
    }
}

/// Fails at the end of its steps, or where they lead no further.
#[derive(Clone, Copy)]
struct Seek<'p> {
    steps: &'p [Step],
    at_top: bool,
}

fn here<E: Error>() -> E {
    E::custom("here")
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Scalars are left to the defaults: they fail, which is what is wanted.
impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the field")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // One element may stand where a list of one is meant.
        let steps = match self.steps {
            [Step::Item(_), rest @ ..] => rest,
            steps => steps,
        };
        let [Step::Field(name), rest @ ..] = steps else { return Err(here()) };
        while let Some(found) = map.next_key_seed(Key { name, is_last: rest.is_empty() })? {
            if found {
                map.next_value_seed(Seek { steps: rest, at_top: false })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if self.at_top { Ok(()) } else { Err(here()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let [Step::Item(wanted), rest @ ..] = self.steps else { return Err(here()) };
        for _ in 0..*wanted {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Seek { steps: rest, at_top: false })?;
        Err(here())
    }
}

/// Whether a key is the one sought; when it is the last step, its place is what is sought.
struct Key<'p> {
    name: &'p str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        let found = key == self.name;
        if found && self.is_last { Err(here()) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a:\n  b: [x, {c: 1}]\n  d:\n    e: 2\nlist:\n  - one\n  - two: 3\nshort: text\n404: x\n";

    #[test]
    fn a_path_is_found_in_the_text() {
        let a = FieldPath::top("a");
        for (path, place) in [
            (a.clone(), Some((1, 1))),
            (a.field("d"), Some((3, 3))),
            (a.field("d").field("e"), Some((4, 5))),
            (a.field("b").item(0), Some((2, 7))),
            (a.field("b").item(1).field("c"), Some((2, 11))),
            (FieldPath::top("list").item(1).field("two"), Some((7, 5))),
            (FieldPath::top("404"), Some((9, 1))),
        ] {
            assert_eq!(path.locate(TEXT), place, "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_placed_where_it_would_stand() {
        let a = FieldPath::top("a");
        assert_eq!(a.field("d").field("x").locate(TEXT), Some((4, 5)));
        assert_eq!(FieldPath::top("short").field("address").locate(TEXT), Some((8, 8)));
        assert_eq!(a.field("d").item(0).field("e").locate(TEXT), Some((4, 5)));
        assert_eq!(FieldPath::top("list").item(9).locate(TEXT), Some((6, 3)));
        assert_eq!(FieldPath::top("none").locate(TEXT), None);
    }

    #[test]
    fn a_path_is_written_as_in_the_file() {
        let path = FieldPath::top("routes").field("GET /v1/x").field("scopes").item(1);
        assert_eq!(path.to_string(), "routes.\"GET /v1/x\".scopes[1]");
    }
}
