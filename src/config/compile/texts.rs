//! `errors` and `rate_limit_headers`: how the gate answers.

use serde_json::Value;

use super::header::{self, Use};
use super::reader::Reader;
use super::reader::entries;
use crate::config::field_path::FieldPath;
use crate::config::raw::{self, ErrorText, Json, Root, Scalar};
use crate::config::{scalar, suggestion};
use crate::policy::denial_text::{Entry, TextError};
use crate::policy::{Reason, Texts};
use crate::proxy::settings::{RateLimitHeaders, Reset};

pub fn texts(root: &Root, reader: &mut Reader<'_>) -> Texts {
    let path = FieldPath::top("errors");
    let mut compiled = Vec::new();
    for (selector, raw) in entries(root.errors.as_ref()) {
        compiled.push((selector.clone(), entry(&path.field(selector), raw, reader)));
    }
    Texts::new(&compiled).unwrap_or_else(|errors| {
        for (selector, error) in errors {
            let path = path.field(&selector);
            match error {
                TextError::Selector(_) => reader.fail(&path, format_args!("{error}; {}", selector_advice(&selector))),
                TextError::Status(_) => reader.fail(&path.field("status"), error),
                TextError::Template(_) => reader.fail(&path, error),
            }
        }
        Texts::default()
    })
}

fn selector_advice(selector: &str) -> String {
    let names = Reason::ALL.into_iter().flat_map(|reason| [reason.name(), reason.code()]);
    let mut names: Vec<&str> = names.chain(["default"]).collect();
    names.sort_unstable();
    names.dedup();
    suggestion::advice(selector, names)
}

fn entry(path: &FieldPath, raw: &ErrorText, reader: &mut Reader<'_>) -> Entry {
    let mut text =
        |name: &str, scalar: &Option<Scalar>| scalar.as_ref().and_then(|scalar| reader.text(&path.field(name), scalar));
    let (code, kind) = (text("code", &raw.code), text("type", &raw.r#type));
    let (title, detail) = (text("title", &raw.title), text("detail", &raw.detail));
    let status =
        raw.status.as_ref().and_then(|status| reader.parse(&path.field("status"), status, scalar::number(400, 599)));
    let headers_path = path.field("headers");
    let headers = raw.headers.as_ref().map(|headers| {
        let mut read: Vec<(http::HeaderName, String)> = Vec::new();
        for (name, value) in &headers.0 {
            let path = headers_path.field(name);
            let others: Vec<_> = read.iter().map(|(name, _)| name.clone()).collect();
            let name = header::new_name(reader, &path, name, Use::Answer, others);
            read.extend(name.zip(reader.text(&path, value)));
        }
        read
    });
    let body = raw.body.as_ref().map(|Json(body)| filled(&path.field("body"), body, reader));
    Entry { status: status.and_then(|status| u16::try_from(status).ok()), code, kind, title, detail, headers, body }
}

/// The body with its replacements; placeholders are the template's.
fn filled(path: &FieldPath, value: &Value, reader: &mut Reader<'_>) -> Value {
    match value {
        Value::String(text) => Value::String(reader.text(path, &Scalar(text.clone())).unwrap_or_default()),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| filled(&path.item(index), item, reader)).collect()
        }
        Value::Object(members) => {
            members.iter().map(|(name, member)| (name.clone(), filled(&path.field(name), member, reader))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

pub fn rate_limit_headers(root: &Root, reader: &mut Reader<'_>) -> RateLimitHeaders {
    let path = FieldPath::top("rate_limit_headers");
    let nothing = raw::RateLimitHeaders::default();
    let raw = root.rate_limit_headers.as_ref().unwrap_or(&nothing);
    let resets = [("unix", Reset::Unix), ("seconds", Reset::Seconds)];
    RateLimitHeaders {
        x: reader.read(&path.field("x"), raw.x.as_ref(), true, scalar::flag),
        reset: reader.read(&path.field("reset"), raw.reset.as_ref(), Reset::Unix, scalar::choice(&resets)),
        ietf: reader.read(&path.field("ietf"), raw.ietf.as_ref(), false, scalar::flag),
    }
}
