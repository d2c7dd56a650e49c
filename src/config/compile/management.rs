//! `management`: the rules that it adds for keys, the login of who keeps them, and the API on the main listener.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::base_path::{Base, literal_path};
use super::reader::entries;
use super::reader::{Reader, items};
use super::scopes::scope_list;
use super::{limits, store, upstream};
use crate::config::field_path::FieldPath;
use crate::config::raw::{Management, ManagementRedis, Root, Scalar, Short};
use crate::config::scalar;
use crate::keys::rules::Rules;
use crate::limit::{Algorithm, Windows};
use crate::manage;
use crate::manage::settings::SessionEndpoint;
use crate::policy::pattern::Pattern;
use crate::proxy::settings::{Protocol, Target};
use crate::secret::Secret;
use crate::store::redis::{self, LoginFiles, Topology};
use crate::store::settings::{Backend, StoreSettings};

/// What `management` says about keys beyond `keys` and `scopes`.
pub fn rules(root: &Root, mut rules: Rules, reader: &mut Reader<'_>) -> Rules {
    let Some(raw) = &root.management else { return rules };
    let path = FieldPath::top("management");
    rules.grants = grants(&path, raw, reader);
    let maximum = raw.max_active_keys.as_ref();
    rules.max_active_keys =
        reader.read(&path.field("max_active_keys"), maximum, None, |text| scalar::number(1, 1_000_000)(text).map(Some));
    rules
}

/// The API; `None` where there is none, or where it could not be read.
pub fn api(
    root: &Root,
    base: Option<&Base>,
    routes: &[(Pattern, String)],
    reader: &mut Reader<'_>,
) -> Option<manage::settings::Settings> {
    let raw = root.management.as_ref()?;
    let path = FieldPath::top("management");
    let path_path = path.field("path");
    let served = match &raw.path {
        None => Some(PATH.to_owned()),
        Some(text) => reader.text(&path_path, text),
    };
    let pattern = served.as_deref().and_then(|text| literal_path(text).map_err(|e| reader.fail(&path_path, e)).ok());
    // A broader route is beaten by the API's path, as by every more specific one; these could never be reached.
    let taken = routes
        .iter()
        .filter(|(route, _)| pattern.as_ref().is_some_and(|pattern| route.segments.starts_with(&pattern.segments)));
    for (_, route) in taken {
        let route = FieldPath::top("routes").field(route);
        reader.fail(&route, "`management.path` is served at and above this path; write another path for one of them");
    }
    let session = session(&path.field("session"), raw, reader);
    let unscoped = reader.read(&path.field("unscoped"), raw.unscoped.as_ref(), false, scalar::flag);
    let create_rate = match &raw.create_rate {
        Some(rate) => limits::windows(&path.field("create_rate"), rate, Algorithm::Fixed, reader),
        None => Windows::parse([CREATE_RATE]).ok().map(Arc::new),
    };
    let roles = roles(&path, raw, reader);
    if roles.is_empty() {
        reader.fail(&path.field("roles"), "it is missing; write who may manage keys, such as `roles: [admin, owner]`");
    }
    let pattern = pattern.map(|pattern| match base {
        None => pattern,
        Some(base) => pattern.below(&base.pattern),
    });
    Some(manage::settings::Settings {
        path: served?,
        pattern: pattern?,
        session: session?,
        roles,
        unscoped,
        create_rate: create_rate?,
    })
}

const PATH: &str = "/v1/keys";
const CREATE_RATE: &str = "60/1m";

/// `https://…`, `http://…` on this machine, or `unix:/run/app.sock:/session`: cookies do not travel in clear.
fn session(path: &FieldPath, raw: &Management, reader: &mut Reader<'_>) -> Option<SessionEndpoint> {
    let scalar = reader.required(
        path,
        raw.session.as_ref(),
        "who knows the sessions, such as `http://127.0.0.1:3000/session`",
    )?;
    let url = reader.text(path, scalar)?;
    if let Some(socket) = url.strip_prefix("unix:") {
        let (socket, asked) = socket.split_once(":/").map_or((socket, "/".to_owned()), |(s, p)| (s, format!("/{p}")));
        let socket = reader.location(path, &Scalar(socket.replace("${", "$${")))?;
        let target = Target::Unix(socket);
        return path_of_session(path, "localhost".to_owned(), target, &asked, reader);
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
    let (protocol, port) = match scheme {
        "https" => (Protocol::Https, 443),
        "http" => (Protocol::Http, 80),
        _ => {
            reader.fail(path, SESSION_ADVICE);
            return None;
        }
    };
    let (authority, asked) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = upstream::host_and_port(authority, port).map_err(|_| reader.fail(path, SESSION_ADVICE)).ok()?;
    if protocol == Protocol::Http && !upstream::is_loopback(&host) {
        reader.fail(
            path,
            "the callers' cookies would travel unencrypted; write `https://`, or an address of this machine",
        );
        return None;
    }
    let asked = if asked.starts_with('/') { asked.to_owned() } else { format!("/{asked}") };
    path_of_session(path, authority.to_owned(), Target::Tcp { host, port, protocol }, &asked, reader)
}

const SESSION_ADVICE: &str = "this is no session endpoint; write `https://host/path`, `http://127.0.0.1:port/path`, or \
                              `unix:/run/app.sock:/path`";

fn path_of_session(
    path: &FieldPath,
    authority: String,
    target: Target,
    asked: &str,
    reader: &mut Reader<'_>,
) -> Option<SessionEndpoint> {
    if asked.contains('#') || asked.parse::<http::uri::PathAndQuery>().is_err() {
        reader.fail(path, SESSION_ADVICE);
        return None;
    }
    Some(SessionEndpoint { target, authority, path: asked.to_owned() })
}

fn roles(path: &FieldPath, raw: &Management, reader: &mut Reader<'_>) -> Vec<String> {
    let path = path.field("roles");
    let mut roles = Vec::new();
    for (path, role) in raw.roles.iter().flat_map(|roles| items(&path, roles)) {
        roles.extend(reader.text(&path, role));
    }
    roles
}

/// What each role may give to a key.
fn grants(path: &FieldPath, raw: &Management, reader: &mut Reader<'_>) -> BTreeMap<String, Vec<String>> {
    // What is wrong with the roles is told where they are read.
    let roles: Vec<&str> = raw.roles.iter().flat_map(|roles| &roles.0).map(|role| role.0.as_str()).collect();
    let mut grants = BTreeMap::new();
    for (role, scopes) in entries(raw.grants.as_ref()) {
        let path = path.field("grants").field(role);
        if !roles.contains(&role.as_str()) {
            reader.fail(&path, format_args!("`{role}` may not manage keys; name it in `roles`, or remove this"));
        }
        grants.insert(role.clone(), scope_list(&path, Some(scopes), reader));
    }
    grants
}

/// Adds what key management says of the store: its own login, and how many replicas to wait for.
pub fn add_to_store(root: &Root, mut store: StoreSettings, reader: &mut Reader<'_>) -> StoreSettings {
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
        Backend::Redis(gates) => store.management_redis = self::login(&path, login, gates, reader).map(Box::new),
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
        match settings.topology {
            Topology::Node(_) => {
                if address.db != gates.db {
                    let (named, stored) = (address.db, gates.db);
                    reader.fail(
                        &url_path,
                        format_args!("this is database {named}, and the keys are in database {stored}; write `/{stored}` at its end"),
                    );
                }
                settings.topology = address.topology;
            }
            Topology::Member(_) | Topology::Sentinels(_) | Topology::Cluster(_) => {}
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
