//! `management`: the rules that it adds for keys, the login of who keeps them, and what the API on the main listener needs,
//! which is read and checked, so that a profile may hold it, and served by a later version.

use std::collections::BTreeMap;

use super::reader::{Reader, items};
use super::scopes::scope_list;
use super::{entries, limits, store};
use crate::config::place::FieldPath;
use crate::config::raw::{Management, ManagementRedis, Root, Short};
use crate::config::scalar;
use crate::keys::rules::Rules;
use crate::policy::pattern::Pattern;
use crate::secret::Secret;
use crate::store::redis::{self, LoginFiles, Shape};
use crate::store::settings::{Backend, StoreSettings};

/// What `management` says about keys beyond `keys` and `scopes`.
pub fn rules(root: &Root, mut rules: Rules, reader: &mut Reader<'_>) -> Rules {
    let Some(raw) = &root.management else { return rules };
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
    numbers(&path, raw, reader);
    rules.grants = grants(&path, raw, reader);
    let maximum = raw.max_active_keys.as_ref();
    rules.max_active_keys =
        reader.read(&path.field("max_active_keys"), maximum, None, |text| scalar::number(1, 1_000_000)(text).map(Some));
    rules
}

fn numbers(path: &FieldPath, raw: &Management, reader: &mut Reader<'_>) {
    reader.read(&path.field("unscoped"), raw.unscoped.as_ref(), false, scalar::flag);
    if let Some(rate) = &raw.create_rate {
        limits::windows(&path.field("create_rate"), rate, reader);
    }
}

/// What each role may give to a key.
fn grants(path: &FieldPath, raw: &Management, reader: &mut Reader<'_>) -> BTreeMap<String, Vec<String>> {
    let mut roles: Vec<String> = Vec::new();
    for (path, role) in raw.roles.iter().flat_map(|roles| items(path, roles)) {
        roles.extend(reader.text(&path.field("roles"), role));
    }
    let mut grants = BTreeMap::new();
    for (role, scopes) in entries(raw.grants.as_ref()) {
        let path = path.field("grants").field(role);
        if !roles.contains(role) {
            reader.fail(&path, format_args!("`{role}` may not manage keys; name it in `roles`, or remove this"));
        }
        grants.insert(role.clone(), scope_list(&path, Some(scopes), reader));
    }
    grants
}

/// The store as those who keep keys reach it.
pub fn keepers(root: &Root, mut store: StoreSettings, reader: &mut Reader<'_>) -> StoreSettings {
    let Some(raw) = &root.management else { return store };
    let path = FieldPath::top("management");
    let replicas = raw.wait_replicas.as_ref();
    store.wait_replicas = reader.read(&path.field("wait_replicas"), replicas, 0, scalar::number(0, 100));
    if store.wait_replicas > 0 && matches!(store.backend, Backend::File(_)) {
        reader.fail(&path.field("wait_replicas"), "the store is a file, which has no replicas; remove this field");
    }
    let Some(login) = &raw.redis else { return store };
    let path = path.field("redis");
    match &store.backend {
        Backend::Redis(gates) => store.keepers = self::login(&path, login, gates, reader).map(Box::new),
        Backend::File(_) => reader.fail(&path, "the store is a file, which everybody reaches alike; remove this field"),
    }
    store
}

/// The same Redis with another login, or another address of it.
fn login(
    path: &FieldPath,
    raw: &Short<ManagementRedis>,
    gates: &redis::Settings,
    reader: &mut Reader<'_>,
) -> Option<redis::Settings> {
    let nothing = ManagementRedis::default();
    let (url_path, url, fields) = match raw {
        Short::Text(url) => (path.clone(), Some(url), &nothing),
        Short::Fields(fields) => (path.field("url"), fields.url.as_ref(), fields),
    };
    let mut settings = redis::Settings { login_files: LoginFiles::default(), ..gates.clone() };
    if let Some(url) = url {
        let text = reader.text_or_file(&url_path, url)?;
        let address = store::address(&url_path, &text, reader)?;
        settings.tls = address.tls.and(settings.tls.or(Some(redis::Tls::default())));
        (settings.username, settings.password) = (address.username, address.password);
        // Of several nodes an address names one, and they know the others.
        match settings.shape {
            Shape::Node(_) => (settings.shape, settings.db) = (address.shape, address.db),
            Shape::Sentinels(_) | Shape::Cluster(_) => {}
        }
    }
    if let Some(username) = &fields.username {
        settings.username = reader.text_or_file(&path.field("username"), username);
        settings.login_files.username = reader.whole_file(username);
        if fields.password.is_none() {
            reader.fail(&path.field("username"), "a user needs a password; write `password` too");
        }
    }
    if let Some(password) = &fields.password {
        settings.password = reader.text_or_file(&path.field("password"), password).map(Secret::new);
        settings.login_files.password = reader.whole_file(password);
    }
    Some(settings)
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
