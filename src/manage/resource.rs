//! The API's JSON: request bodies, and a key's representation. Unknown members are refused.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::refusal::refusal;
use crate::clock;
use crate::gate::{Denial, query};
use crate::keys::change::{Change, Until};
use crate::keys::tenant::is_id;
use crate::policy::Reason;
use crate::store::registry::StoredKey;

const PAGE: u64 = 50;
const LARGEST_PAGE: u64 = 100;

/// `POST {path}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object with `name`")]
pub struct Creation {
    pub name: String,
    pub business_id: Option<String>,
    #[serde(default)]
    pub unscoped: bool,
    pub scopes: Option<Vec<String>>,
    pub expires_at: Option<String>,
}

/// `PATCH {path}/{id}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object with `name`, `scopes` or `expires_at`")]
struct Changing {
    name: Option<String>,
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Option<String>>,
}

/// `POST {path}/{id}/rotate`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object, `overlap` in it or not")]
struct Rotation {
    overlap: Option<String>,
}

/// `GET {path}`
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    pub business_id: Option<String>,
    /// From 1 on.
    pub page: u64,
    pub per_page: u64,
}

pub fn creation(headers: &HeaderMap, body: &Bytes) -> Result<Creation, Denial> {
    read(headers, body)
}

/// An `expires_at` of null means never.
pub fn change(headers: &HeaderMap, body: &Bytes) -> Result<Change, Denial> {
    let Changing { name, scopes, expires_at } = read(headers, body)?;
    let expires = expires_at.map(|at| at.map_or(Until::Never, Until::At));
    Ok(Change { name, scopes, expires, ..Change::default() })
}

/// The overlap; the body is optional.
pub fn rotation(headers: &HeaderMap, body: &Bytes) -> Result<Option<String>, Denial> {
    if body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        return Ok(None);
    }
    let Rotation { overlap } =
        if body.is_empty() { media_type(headers).map(|()| Rotation::default())? } else { read(headers, body)? };
    Ok(overlap)
}

pub fn listing(query: Option<&str>) -> Result<Listing, Denial> {
    let business_id = parameter(query, "business_id")?;
    if let Some(id) = business_id.as_ref().filter(|id| !is_id(id)) {
        return Err(unprocessable(format!("business_id: `{id}` is no id of a business")));
    }
    let page = number(query, "page", 1, u64::from(u32::MAX))?;
    Ok(Listing { business_id, page, per_page: number(query, "per_page", PAGE, LARGEST_PAGE)? })
}

/// The key that `?id=` names.
pub fn named(query: Option<&str>) -> Result<String, Denial> {
    parameter(query, "id")?.ok_or_else(|| unprocessable("Name the key: `?id=<its id>`".to_owned()))
}

pub fn unprocessable(detail: String) -> Denial {
    refusal(Reason::Unprocessable, Some(detail))
}

/// Everything but the key itself, which is not stored.
pub fn document(key: &StoredKey, last_used_ms: Option<u64>) -> Value {
    let member = |name: &str| key.members.get(name).filter(|value| value.is_string()).cloned().unwrap_or(Value::Null);
    // A key with this member is revoked, whatever its value; the time is shown if it is one.
    let revoked_at = match key.members.get("revoked_at") {
        None => Value::Null,
        Some(Value::String(at)) if clock::parse_rfc3339(at).is_some() => Value::from(at.as_str()),
        Some(_) => Value::from(clock::rfc3339(0)),
    };
    json!({
        "id": member("id"),
        "prefix": member("hint"),
        "name": member("name"),
        "business_id": member("business"),
        "user_id": member("user"),
        "scopes": key.members.get("scopes").filter(|value| value.is_array()).cloned().unwrap_or_else(|| json!([])),
        "created_at": member("created_at"),
        "expires_at": member("expires_at"),
        "revoked_at": revoked_at,
        "last_used_at": last_used_ms.map(clock::rfc3339),
    })
}

pub fn answer(status: StatusCode, document: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(document.to_string()));
    // Who has a session sees their own keys, and one answer shows a key; a cache knows nothing of sessions (RFC 9111 §3.5).
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Denial> {
    media_type(headers)?;
    serde_json::from_slice(body).map_err(|error| unprocessable(format!("The body: {error}")))
}

/// No form of another site's page can send this type (<https://fetch.spec.whatwg.org/#cors-safelisted-request-header>).
fn media_type(headers: &HeaderMap) -> Result<(), Denial> {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") && kinds.next().is_none() {
        return Ok(());
    }
    Err(refusal(Reason::UnsupportedMediaType, None))
}

fn number(query: Option<&str>, name: &str, default: u64, most: u64) -> Result<u64, Denial> {
    let Some(text) = parameter(query, name)? else { return Ok(default) };
    let number = text.parse().ok().filter(|number| (1..=most).contains(number) && !text.starts_with('+'));
    number.ok_or_else(|| unprocessable(format!("{name}: write a number from 1 to {most}")))
}

/// A parameter that may occur once.
fn parameter(query: Option<&str>, name: &str) -> Result<Option<String>, Denial> {
    let mut values = query::values(query.unwrap_or_default(), name);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(unprocessable(format!("{name}: write it once")));
    }
    value.map(Some).map_err(|_| unprocessable(format!("{name}: write it as `{name}`, and its value in UTF-8")))
}

/// Called only if the member is present, so that null differs from absence.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(kind: Option<&'static str>) -> HeaderMap {
        kind.map(|kind| (CONTENT_TYPE, HeaderValue::from_static(kind))).into_iter().collect()
    }

    fn reason<T>(result: Result<T, Denial>) -> Result<T, &'static str> {
        result.map_err(|denial| denial.reason().name())
    }

    #[test]
    fn a_body_is_json_by_its_type_and_has_no_members_but_the_contracts() {
        let create = |kind, body: &'static str| {
            reason(creation(&with(kind), &Bytes::from_static(body.as_bytes()))).map(|creation| creation.name)
        };
        let json = Some("application/json");
        assert_eq!(create(json, r#"{"name": "n"}"#), Ok("n".to_owned()));
        assert_eq!(create(Some("Application/JSON; charset=utf-8"), r#"{"name": "n"}"#), Ok("n".to_owned()));
        for kind in [None, Some("text/plain"), Some("application/jsonp"), Some("application/x-www-form-urlencoded")] {
            assert_eq!(create(kind, r#"{"name": "n"}"#), Err("unsupported_media_type"), "{kind:?}");
        }
        for body in
            ["", "[]", "{}", r#"{"name": 1}"#, r#"{"name": "n", "user_id": "u"}"#, r#"{"name": "n", "name": "m"}"#]
        {
            assert_eq!(create(json, body), Err("unprocessable"), "{body}");
        }
    }

    #[test]
    fn null_is_never_and_absence_is_no_change() {
        let change =
            |body: &'static str| reason(change(&with(Some("application/json")), &Bytes::from_static(body.as_bytes())));
        let expires = |body| change(body).map(|change| change.expires);
        assert_eq!(expires(r#"{"name": "n"}"#), Ok(None));
        assert_eq!(expires(r#"{"expires_at": null}"#), Ok(Some(Until::Never)));
        assert_eq!(expires(r#"{"expires_at": "90d"}"#), Ok(Some(Until::At("90d".to_owned()))));
        assert_eq!(expires(r#"{"limits": {}}"#), Err("unprocessable"));
    }

    #[test]
    fn a_rotation_needs_no_body() {
        let overlap = |kind, body: &'static str| reason(rotation(&with(kind), &Bytes::from_static(body.as_bytes())));
        let json = Some("application/json");
        assert_eq!(overlap(None, ""), Ok(None));
        assert_eq!(overlap(json, ""), Ok(None));
        assert_eq!(overlap(json, "{}"), Ok(None));
        assert_eq!(overlap(json, r#"{"overlap": "24h"}"#), Ok(Some("24h".to_owned())));
        assert_eq!(overlap(Some("text/plain"), ""), Err("unsupported_media_type"));
        assert_eq!(overlap(None, "{}"), Err("unsupported_media_type"));
    }

    #[test]
    fn a_page_is_a_number_within_bounds_written_once() {
        let page = |query| reason(listing(Some(query))).map(|listing| (listing.page, listing.per_page));
        assert_eq!(page(""), Ok((1, PAGE)));
        assert_eq!(page("page=2&per_page=100"), Ok((2, 100)));
        for wrong in
            ["page=0", "page=-1", "page=+1", "page=a", "page=", "per_page=101", "page=1&page=2", "business_id=a%20b"]
        {
            assert_eq!(page(wrong), Err("unprocessable"), "{wrong}");
        }
    }
}
