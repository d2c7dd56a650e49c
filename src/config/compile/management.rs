//! `management`: read and checked, so that a profile may hold it, and served by a later version.

use super::reader::{Reader, items};
use super::{limits, store};
use crate::config::place::FieldPath;
use crate::config::raw::{Management, ManagementRedis, Root, Scalar, Short};
use crate::config::scalar;
use crate::policy::pattern::Pattern;

pub fn check(root: &Root, reader: &mut Reader<'_>) {
    let Some(raw) = &root.management else { return };
    let path = FieldPath::top("management");
    reader
        .warn(&path, "the key-management API is not built yet and is not served; keys are managed by `sidegate keys`");
    let path_path = path.field("path");
    if let Some(text) = reader.required(&path_path, raw.path.as_ref(), "where it is served, such as `/v1/keys`") {
        reader.parse(&path_path, text, literal_path);
    }
    let session = path.field("session");
    if let Some(url) = reader.required(
        &session,
        raw.session.as_ref(),
        "who knows the sessions, such as `http://127.0.0.1:3000/session`",
    ) && reader.text(&session, url).is_some_and(|url| url.is_empty())
    {
        reader.fail(&session, "it is empty; write the address of the session endpoint");
    }
    for (path, role) in raw.roles.iter().flat_map(|roles| items(&path, roles)) {
        reader.text(&path.field("roles"), role);
    }
    numbers(&path, raw, reader);
    if let Some(redis) = &raw.redis {
        login(&path.field("redis"), redis, reader);
    }
}

fn numbers(path: &FieldPath, raw: &Management, reader: &mut Reader<'_>) {
    let (maximum, replicas) = (raw.max_active_keys.as_ref(), raw.wait_replicas.as_ref());
    reader.read(&path.field("max_active_keys"), maximum, 0, scalar::number(1, 1_000_000));
    reader.read(&path.field("wait_replicas"), replicas, 0, scalar::number(0, 100));
    reader.read(&path.field("unscoped"), raw.unscoped.as_ref(), false, scalar::flag);
    if let Some(rate) = &raw.create_rate {
        limits::windows(&path.field("create_rate"), rate, reader);
    }
}

fn login(path: &FieldPath, redis: &Short<ManagementRedis>, reader: &mut Reader<'_>) {
    let mut text = |name: &str, scalar: &Option<Scalar>| {
        scalar.as_ref().and_then(|scalar| reader.text_or_file(&path.field(name), scalar))
    };
    let url = match redis {
        Short::Text(url) => reader.text_or_file(path, url),
        Short::Fields(fields) => {
            text("username", &fields.username);
            text("password", &fields.password);
            text("url", &fields.url)
        }
    };
    if let Some(url) = url {
        store::address(path, &url, reader);
    }
}

/// A path that is none but itself.
pub fn literal_path(text: &str) -> Result<Pattern, String> {
    let advice = "write a path without parameters, such as `/v1/keys`";
    let pattern = Pattern::parse(text).map_err(|error| error.to_string())?;
    let ends = text.ends_with('/');
    if pattern.methods.is_some() || pattern.rest || ends || pattern.parameters().next().is_some() {
        return Err(format!("`{text}` is no fixed path; {advice}"));
    }
    Ok(pattern)
}
