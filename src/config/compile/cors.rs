//! `cors`, and `preflight` wherever it stands: what browsers may read of the gate's own answers, and which of their questions
//! go to the upstream.

use http::{HeaderValue, Uri};

use super::reader::{Reader, items};
use crate::config::field_path::FieldPath;
use crate::config::raw::{Root, Scalar};
use crate::config::scalar;
use crate::proxy::settings::Cors;

pub fn cors(root: &Root, reader: &mut Reader<'_>) -> Option<Cors> {
    let raw = root.cors.as_ref()?;
    let path = FieldPath::top("cors").field("origins");
    let list = raw.origins.as_ref()?;
    if list.0.is_empty() {
        reader.fail(&path, "there is none; write `origins: [\"https://app.example.com\"]`, or `\"*\"` for all");
        return None;
    }
    let mut origins = Vec::new();
    for (path, text) in items(&path, list) {
        match reader.parse(&path, text, origin) {
            Some(Some(origin)) => origins.push(origin),
            Some(None) if list.0.len() == 1 => return Some(Cors::AnyOrigin),
            Some(None) => reader.fail(&path, "`*` means every origin; let it stand alone"),
            None => {}
        }
    }
    Some(Cors::Origins(origins))
}

/// `cors.preflight`: what holds for routes that say nothing else.
pub fn preflight_everywhere(root: &Root, reader: &mut Reader<'_>) -> bool {
    let written = root.cors.as_ref().and_then(|cors| cors.preflight.as_ref());
    preflight(&FieldPath::top("cors").field("preflight"), written, false, reader)
}

pub fn preflight(path: &FieldPath, written: Option<&Scalar>, default: bool, reader: &mut Reader<'_>) -> bool {
    reader.read(path, written, default, scalar::choice(&[("deny", false), ("forward", true)]))
}

/// `*`, which is `None`, or an origin as browsers write it: compared byte for byte, so that another spelling would never match.
fn origin(text: &str) -> Result<Option<HeaderValue>, String> {
    let wrong = |what: &str| format!("`{text}` {what}; write one such as `https://app.example.com`");
    if text == "*" {
        return Ok(None);
    }
    let uri: Uri = text.parse().map_err(|_| wrong("is no origin"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("is no origin"));
    };
    let is_bare = format!("{scheme}://{authority}") == text && !text.contains('@');
    let is_lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
    let default = matches!((scheme, authority.port_u16()), ("https", Some(443)) | ("http", Some(80)));
    if !is_bare || !is_lower || default {
        return Err(wrong("is not as browsers write an origin: lower case, no path, no default port"));
    }
    HeaderValue::from_str(text).map(Some).map_err(|_| wrong("is no origin"))
}
