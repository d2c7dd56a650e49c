//! How a value may be written: one or several, short or long, names in their order. Decoded by visitors, so that an error
//! inside keeps its place, which `#[serde(untagged)]` would lose.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

/// One value as it is written. `${…}` is replaced, and the text read as what it should be, when the configuration is compiled:
/// then all that is wrong is said at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar(pub String);

/// One or several: a list of one may be its element.
#[derive(Debug)]
pub struct List<T>(pub Vec<T>);

/// Names with values, in their order; `precheck` has refused a name that stands there twice.
#[derive(Debug)]
pub struct Entries<T>(pub Vec<(String, T)>);

/// A text where only the first thing needs saying, or fields.
#[derive(Debug)]
pub enum Short<T> {
    Text(Scalar),
    Fields(T),
}

/// Any value: the body of an error.
#[derive(Debug, Clone)]
pub struct Json(pub serde_json::Value);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value (in quotes where it begins with `{`, `[`, `*` or `&`)")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<T> ListVisitor<T> {
    fn one<'de, D: Deserializer<'de>>(element: D) -> Result<List<T>, D::Error>
    where
        T: Deserialize<'de>,
    {
        Ok(List(vec![T::deserialize(element)?]))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or its only element")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
        Self::one(MapAccessDeserializer::new(map))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<List<T>, E> {
        Self::one(text.into_deserializer())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<List<T>, E> {
        Self::one(value.into_deserializer())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<List<T>, E> {
        Self::one(value.into_deserializer())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<List<T>, E> {
        Self::one(value.into_deserializer())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<List<T>, E> {
        Self::one(value.into_deserializer())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShortVisitor(PhantomData))
    }
}

struct ShortVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ShortVisitor<T> {
    type Value = Short<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Short<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Short::Fields)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Short<T>, E> {
        ScalarVisitor.visit_str(text).map(Short::Text)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Short<T>, E> {
        ScalarVisitor.visit_bool(value).map(Short::Text)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Short<T>, E> {
        ScalarVisitor.visit_u64(value).map(Short::Text)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Short<T>, E> {
        ScalarVisitor.visit_i64(value).map(Short::Text)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Short<T>, E> {
        ScalarVisitor.visit_f64(value).map(Short::Text)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names, each with its value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
        let mut entries: Vec<(String, T)> = Vec::new();
        while let Some(Scalar(name)) = map.next_key()? {
            entries.push((name, map.next_value()?));
        }
        Ok(Entries(entries))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Json, A::Error> {
        let items: Vec<Json> = Vec::deserialize(SeqAccessDeserializer::new(list))?;
        Ok(Json(items.into_iter().map(|Json(item)| item).collect()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Json, A::Error> {
        let Entries(members): Entries<Json> = Entries::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Json(members.into_iter().map(|(name, Json(member))| (name, member)).collect()))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json(serde_json::Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(|n| Json(n.into())).ok_or_else(|| E::custom("JSON has no infinite numbers and no NaN; write a text"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json(text.into()))
    }
}
