//! `keys`, `business`, `deny`: who may come in, and how they say who they are.

use std::ops::RangeInclusive;

use super::address::network;
use super::header::{self, Use};
use super::limits;
use super::reader::entries;
use super::reader::{Reader, items};
use super::routes::Routes;
use super::scopes::scope_list;
use super::upstream;
use crate::config::field_path::FieldPath;
use crate::config::raw::{self, List, Root, Scalar};
use crate::config::scalar::{self, ScalarError};
use crate::keys::digest::Digest;
use crate::keys::format::{Alphabet, Format, FormatAction, Formats};
use crate::keys::mask;
use crate::keys::mint::HINT_LENGTH;
use crate::keys::rules::{Required, Rules};
use crate::keys::tenant::is_id;
use crate::limit::Algorithm;
use crate::policy::{BusinessSource, Credentials, DeniedKey, DenyList, KeySource, UpstreamId};
use crate::proxy::settings::Upstream;

pub fn credentials(root: &Root, upstreams: &[Upstream], reader: &mut Reader<'_>) -> Credentials {
    let path = FieldPath::top("keys");
    let nothing = raw::Keys::default();
    let keys = root.keys.as_ref().unwrap_or(&nothing);
    let realm_path = FieldPath::top("realm");
    let realm = reader.read(&realm_path, root.realm.as_ref(), "api".to_owned(), realm);
    let guessing = path.field("guessing");
    let guessing =
        keys.guessing.as_ref().and_then(|windows| limits::windows(&guessing, windows, Algorithm::Fixed, reader));
    Credentials {
        sources: sources(&path.field("from"), keys.from.as_ref(), reader),
        formats: formats(&path.field("formats"), keys.formats.as_ref(), upstreams, reader),
        format_upstreams: upstreams.iter().enumerate().map(|(id, u)| (u.name.clone(), UpstreamId(id))).collect(),
        guessing,
        forward: reader.read(&path.field("forward"), keys.forward.as_ref(), false, scalar::flag),
        realm,
    }
}

/// It stands between quotes in `WWW-Authenticate`.
fn realm(text: &str) -> Result<String, ScalarError> {
    let plain = text.bytes().all(|b| (b.is_ascii_graphic() || b == b' ') && b != b'"' && b != b'\\');
    if plain && !text.is_empty() {
        return Ok(text.to_owned());
    }
    Err(ScalarError::Other { text: text.to_owned(), what: "realm without quotes", example: "api" })
}

fn sources(path: &FieldPath, list: Option<&List<raw::KeySource>>, reader: &mut Reader<'_>) -> Vec<KeySource> {
    let Some(list) = list else {
        let bearer = KeySource { header: http::header::AUTHORIZATION, scheme: Some("Bearer".to_owned()) };
        return vec![bearer, KeySource { header: http::HeaderName::from_static("x-api-key"), scheme: None }];
    };
    if list.0.is_empty() {
        reader.fail(path, "it is empty, so that no key could be read; write `[{header: X-API-Key}]`");
    }
    let mut sources: Vec<KeySource> = Vec::new();
    for (path, raw) in items(path, list) {
        let header_path = path.field("header");
        let name = reader.required(&header_path, raw.header.as_ref(), "the header's name, such as `X-API-Key`");
        let name = name.and_then(|name| reader.text(&header_path, name));
        let name = name.and_then(|name| header::name(reader, &header_path, &name, Use::Read));
        let scheme_path = path.field("scheme");
        let scheme = raw.scheme.as_ref().and_then(|scheme| reader.parse(&scheme_path, scheme, scheme_name));
        let Some(header) = name else { continue };
        let same = |other: &&KeySource| {
            let schemes = scheme.as_ref().zip(other.scheme.as_ref());
            other.header == header && schemes.is_none_or(|(a, b)| a.eq_ignore_ascii_case(b))
        };
        if sources.iter().find(same).is_some() {
            reader.fail(&path, "this header is read already; keep one of them");
        }
        sources.push(KeySource { header, scheme });
    }
    sources
}

/// An auth-scheme is a token (RFC 9110 §11.1).
fn scheme_name(text: &str) -> Result<String, ScalarError> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !text.is_empty() && text.bytes().all(token) {
        return Ok(text.to_owned());
    }
    Err(ScalarError::Other { text: text.to_owned(), what: "scheme", example: "Bearer" })
}

fn formats(
    path: &FieldPath,
    list: Option<&List<raw::KeyFormat>>,
    upstreams: &[Upstream],
    reader: &mut Reader<'_>,
) -> Formats {
    let Some(list) = list else { return Formats::default() };
    if list.0.is_empty() {
        reader.fail(path, "it is empty; write one, or remove it, and any key is looked up");
    }
    let mut formats: Vec<Format> = Vec::new();
    for (path, raw) in items(path, list) {
        let Some(format) = format(&path, raw, upstreams, reader) else { continue };
        if formats.iter().any(|other| other.prefix() == format.prefix()) {
            let prefix = format.prefix();
            reader.fail(
                &path.field("prefix"),
                format_args!("another format has the prefix `{prefix}`; keep one of them"),
            );
        }
        formats.push(format);
    }
    if !formats.is_empty() && formats.iter().all(Format::is_rejected) {
        reader.fail(path, "every format is rejected, so that no key is accepted; add one that is");
    }
    Formats::new(formats)
}

fn format(path: &FieldPath, raw: &raw::KeyFormat, upstreams: &[Upstream], reader: &mut Reader<'_>) -> Option<Format> {
    let alphabets = [("base62", Alphabet::Base62), ("base64url", Alphabet::Base64Url), ("hex", Alphabet::Hex)];
    let prefix_path = path.field("prefix");
    let alphabet_path = path.field("alphabet");
    let alphabet = reader.read(&alphabet_path, raw.alphabet.as_ref(), Alphabet::Base62, scalar::choice(&alphabets));
    let checksum = reader.read(&path.field("checksum"), raw.checksum.as_ref(), false, scalar::flag);
    let before = reader.problems.len();
    let length = raw.length.as_ref().and_then(|length| self::length(&path.field("length"), length, reader));
    let action = action(path, raw, upstreams, reader);
    let prefix = reader.required(&prefix_path, raw.prefix.as_ref(), "what every key begins with, such as `live_`")?;
    let prefix = reader.text(&prefix_path, prefix)?;
    if reader.problems.len() > before {
        return None;
    }
    Format::new(&prefix, length, alphabet, checksum, action).map_err(|error| reader.fail(path, error)).ok()
}

/// A number, or the least and the most.
fn length(path: &FieldPath, list: &List<Scalar>, reader: &mut Reader<'_>) -> Option<RangeInclusive<usize>> {
    let numbers = reader.parse_all(path, Some(list), |text| scalar::count(0, 100_000)(text));
    match numbers.as_slice() {
        [length] if list.0.len() == 1 => Some(*length..=*length),
        [least, most] if list.0.len() == 2 => Some(*least..=*most),
        _ if numbers.len() < list.0.len() => None,
        _ => {
            reader.fail(path, "a length is one number, or the least and the most; write `44` or `[20, 44]`");
            None
        }
    }
}

fn action(path: &FieldPath, raw: &raw::KeyFormat, upstreams: &[Upstream], reader: &mut Reader<'_>) -> FormatAction {
    match (&raw.reject, &raw.upstream) {
        (None, None) => FormatAction::Accept,
        (Some(_), Some(_)) => {
            reader.fail(&path.field("upstream"), "`reject` and `upstream` exclude each other; keep one of them");
            FormatAction::Accept
        }
        (Some(reject), None) => {
            let path = path.field("reject");
            let text = reader.text(&path, reject).unwrap_or_default();
            if matches!(text.as_str(), "" | "true" | "false") {
                reader.fail(
                    &path,
                    "write the sentence that the client is told, such as `Test keys are not available yet`",
                );
            }
            FormatAction::Reject(text)
        }
        (None, Some(upstream)) => {
            let path = path.field("upstream");
            let name = reader.text(&path, upstream).unwrap_or_default();
            upstream::resolve(upstreams, &path, &name, reader);
            FormatAction::Upstream(name)
        }
    }
}

/// What new keys must have. Known scopes are those that routes, `implies` and `scopes.default` mention.
pub fn rules(root: &Root, routes: Option<&Routes>, reader: &mut Reader<'_>) -> Rules {
    let words = [
        ("business", Required::Business),
        ("user", Required::User),
        ("scopes", Required::Scopes),
        ("expiry", Required::Expiry),
    ];
    let path = FieldPath::top("keys").field("require");
    let require = root.keys.as_ref().and_then(|keys| keys.require.as_ref());
    let require = reader.parse_all(&path, require, |text| scalar::choice(&words)(text));
    let default = root.scopes.as_ref().and_then(|scopes| scopes.default.as_ref());
    let default_scopes = scope_list(&FieldPath::top("scopes").field("default"), default, reader);
    if require.contains(&Required::Scopes) && !default_scopes.is_empty() {
        reader.fail(
            &path,
            "`scopes` and `scopes.default` exclude each other: a key gets the default ones, or must name its own",
        );
    }
    let mut known: Vec<String> = default_scopes.clone();
    known.extend(routes.into_iter().flat_map(|routes| routes.scopes.iter().cloned()));
    let implies = root.scopes.as_ref().and_then(|scopes| scopes.implies.as_ref());
    for (scope, implied) in entries(implies) {
        known.push(scope.clone());
        known.extend(implied.0.iter().map(|Scalar(scope)| scope.clone()));
    }
    known.retain(|scope| scope != "*");
    known.sort_unstable();
    known.dedup();
    Rules { require, default_scopes, known_scopes: known, ..Rules::default() }
}

pub fn business_sources(root: &Root, routes: Option<&Routes>, reader: &mut Reader<'_>) -> Vec<BusinessSource> {
    let path = FieldPath::top("business").field("from");
    let Some(business) = &root.business else { return Vec::new() };
    let Some(list) = business.from.as_ref().filter(|list| !list.0.is_empty()) else {
        reader.fail(
            &path,
            "it is missing; write where a request names its business, such as `[{header: X-Business-Id}]`",
        );
        return Vec::new();
    };
    let mut sources = Vec::new();
    for (path, raw) in items(&path, list) {
        let Some(source) = business_source(&path, raw, routes, reader) else { continue };
        if sources.contains(&source) {
            reader.fail(&path, "it stands there twice; keep one of them");
        }
        sources.push(source);
    }
    sources
}

fn business_source(
    path: &FieldPath,
    raw: &raw::BusinessSource,
    routes: Option<&Routes>,
    reader: &mut Reader<'_>,
) -> Option<BusinessSource> {
    match (&raw.path, &raw.query, &raw.header) {
        (Some(name), None, None) => {
            let path = path.field("path");
            let name = reader.text(&path, name)?;
            if routes.is_some_and(|routes| !routes.parameters.contains(&name)) {
                reader.fail(
                    &path,
                    format_args!("no route has the parameter `{{{name}}}`; write it into one, or remove this"),
                );
            }
            Some(BusinessSource::Path(name))
        }
        (None, Some(name), None) => {
            let path = path.field("query");
            let name = reader.text(&path, name)?;
            if name.is_empty() {
                reader.fail(&path, "it is empty; write the parameter's name, such as `business_id`");
            }
            Some(BusinessSource::Query(name))
        }
        (None, None, Some(name)) => {
            let path = path.field("header");
            let name = reader.text(&path, name)?;
            header::name(reader, &path, &name, Use::Read).map(BusinessSource::Header)
        }
        _ => {
            reader.fail(path, "write one of `{path: NAME}`, `{query: NAME}` and `{header: NAME}` for each source");
            None
        }
    }
}

pub fn deny(root: &Root, formats: &Formats, reader: &mut Reader<'_>) -> DenyList {
    let path = FieldPath::top("deny");
    let nothing = raw::Deny::default();
    let raw = root.deny.as_ref().unwrap_or(&nothing);
    let mut keys = Vec::new();
    let keys_path = path.field("keys");
    for (path, scalar) in raw.keys.iter().flat_map(|list| items(&keys_path, list)) {
        let Some(text) = reader.text(&path, scalar) else { continue };
        if let Some(digest) = Digest::parse_hex(&text) {
            keys.push(DeniedKey { id: None, digest });
        } else if let Some(problem) = no_id(&text, formats) {
            reader.fail(&path, problem);
        } else {
            keys.push(DeniedKey { digest: Digest::of(&text), id: Some(text) });
        }
    }
    DenyList::new(keys, reader.parse_all(&path.field("addresses"), raw.addresses.as_ref(), network))
}

/// Why this denies nobody, where that can be seen. The text is not repeated: it may be the key itself.
fn no_id(text: &str, formats: &Formats) -> Option<&'static str> {
    let is_hint = |format: &Format| text.strip_prefix(format.prefix()).is_some_and(|rest| rest.len() == HINT_LENGTH);
    if mask(text, formats) != text {
        Some(
            "this looks like a whole key, which does not belong here; write its id, or its SHA-256 as 64 hexadecimal digits",
        )
    } else if formats.by_prefix().iter().any(is_hint) {
        Some("this is a key's hint, which others may share; write the id that `sidegate keys show` tells of it")
    } else if !is_id(text) {
        Some("it is neither a key's id nor its SHA-256; write the id, or 64 hexadecimal digits")
    } else {
        None
    }
}
