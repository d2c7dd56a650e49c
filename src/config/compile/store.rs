//! `store`: Redis, or a file.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Reader, items};
use crate::admin;
use crate::config::field_path::FieldPath;
use crate::config::raw::{self, List, Root, Scalar, Short};
use crate::config::scalar;
use crate::policy::{Policy, percent};
use crate::secret::Secret;
use crate::store::outage::{KeysOutage, LimitsOutage};
use crate::store::redis::{self, Address, Topology};
use crate::store::settings::{Backend, StoreSettings};

const EXAMPLE: &str =
    "write `store: redis://127.0.0.1:6379/0`, or `store: file:sidegate-keys.yaml` for one process alone";

pub fn store(root: &Root, reader: &mut Reader<'_>) -> Option<StoreSettings> {
    let path = FieldPath::top("store");
    let nothing = raw::Store::default();
    let (fields, backend) = match &root.store {
        None => {
            reader.fail(&path, format_args!("it is missing; {EXAMPLE}"));
            (&nothing, None)
        }
        Some(Short::Text(text)) => (&nothing, short(&path, text, reader)),
        Some(Short::Fields(fields)) => (fields, backend(&path, fields, reader)),
    };
    let tenth = Duration::from_millis(100);
    let deadline = reader.read(&path.field("deadline"), fields.deadline.as_ref(), tenth, scalar::time);
    let (keys_outage, limits_outage) = outage(&path.field("outage"), fields.outage.as_ref(), reader);
    let (management_redis, wait_replicas) = (None, 0); // `management` says.
    Some(StoreSettings { backend: backend?, deadline, keys_outage, limits_outage, management_redis, wait_replicas })
}

/// All gates lose Redis at once: where known keys may still pass meanwhile, none must be taken out of a balancer for it.
pub fn warn_of_unready_gate(
    store: &StoreSettings,
    policy: &Policy,
    admin: &admin::settings::Settings,
    reader: &mut Reader<'_>,
) {
    let known_for = matches!(store.keys_outage, KeysOutage::KnownFor(_)) && matches!(store.backend, Backend::Redis(_));
    if known_for && admin.ready_needs_store && policy.enforces() {
        reader.warn(
            &FieldPath::top("store").field("outage").field("keys"),
            "keys that are known pass while Redis is away, but the gate is not ready then, so that Kubernetes or a \
             balancer sends it nothing; write `ready: {store: false}`",
        );
    }
}

/// `redis://…` or `file:…`.
fn short(path: &FieldPath, scalar: &Scalar, reader: &mut Reader<'_>) -> Option<Backend> {
    let text = reader.text_or_file(path, scalar)?;
    match text.strip_prefix("file:") {
        Some(file) => key_file(path, file, reader).map(Backend::File),
        None => address(path, &text, reader).map(Box::new).map(Backend::Redis),
    }
}

fn key_file(path: &FieldPath, file: &str, reader: &mut Reader<'_>) -> Option<PathBuf> {
    // It was replaced already; what looks like a replacement now is part of the name.
    reader.location(path, &Scalar(file.replace("${", "$${")))
}

fn backend(path: &FieldPath, fields: &raw::Store, reader: &mut Reader<'_>) -> Option<Backend> {
    match (&fields.redis, &fields.file) {
        (Some(_), Some(_)) => {
            reader.fail(&path.field("file"), "`redis` and `file` exclude each other; keep one of them");
            None
        }
        (None, None) => {
            reader.fail(path, format_args!("neither `redis` nor `file` is there; {EXAMPLE}"));
            None
        }
        (None, Some(file)) => only_a_file(path, file, fields, reader).map(Backend::File),
        (Some(nodes), None) => redis_nodes(path, nodes, fields, reader).map(Box::new).map(Backend::Redis),
    }
}

fn only_a_file(path: &FieldPath, file: &Scalar, fields: &raw::Store, reader: &mut Reader<'_>) -> Option<PathBuf> {
    for (name, value) in [("username", &fields.username), ("password", &fields.password), ("prefix", &fields.prefix)] {
        if value.is_some() {
            reader.fail(&path.field(name), "a file has none; remove this field, or write `redis`");
        }
    }
    if fields.tls.is_some() {
        reader.fail(&path.field("tls"), "a file has none; remove this field, or write `redis`");
    }
    reader.location(&path.field("file"), file)
}

fn redis_nodes(
    path: &FieldPath,
    nodes: &Short<raw::RedisNodes>,
    fields: &raw::Store,
    reader: &mut Reader<'_>,
) -> Option<redis::Settings> {
    let at = path.field("redis");
    let mut settings = match nodes {
        Short::Text(url) => {
            let url = reader.text_or_file(&at, url)?;
            address(&at, &url, reader)?
        }
        Short::Fields(nodes) => several_nodes(&at, nodes, reader)?,
    };
    login(path, fields, &mut settings, reader);
    tls(&path.field("tls"), fields.tls.as_ref(), &mut settings, reader);
    if let Some(prefix) = &fields.prefix {
        settings.prefix = self::prefix(&path.field("prefix"), prefix, reader);
    }
    Some(settings)
}

fn several_nodes(path: &FieldPath, nodes: &raw::RedisNodes, reader: &mut Reader<'_>) -> Option<redis::Settings> {
    let sentinels = match (&nodes.cluster, &nodes.sentinels) {
        (Some(_), Some(_)) => {
            reader.fail(&path.field("sentinels"), "`cluster` and `sentinels` exclude each other; keep one of them");
            return None;
        }
        (None, None) => {
            reader.fail(path, format_args!("no address is there; {EXAMPLE}"));
            return None;
        }
        (Some(cluster), None) => return in_a_cluster(path, cluster, nodes.master.as_ref(), reader),
        (None, Some(sentinels)) => sentinels,
    };
    behind_sentinels(path, sentinels, nodes.master.as_ref(), reader)
}

fn in_a_cluster(
    path: &FieldPath,
    nodes: &List<Scalar>,
    master: Option<&Scalar>,
    reader: &mut Reader<'_>,
) -> Option<redis::Settings> {
    if master.is_some() {
        reader.fail(&path.field("master"), "a cluster knows its masters itself; remove this field");
    }
    let (settings, addresses) = addresses(&path.field("cluster"), nodes, 6379, reader)?;
    if settings.db != 0 {
        reader.fail(&path.field("cluster"), "a cluster has the database 0 alone; remove the number from the addresses");
    }
    Some(redis::Settings { topology: Topology::Cluster(addresses), ..settings })
}

/// A login in the sentinels' addresses is for the sentinels; `username` and `password` are the master's.
fn behind_sentinels(
    path: &FieldPath,
    sentinels: &List<Scalar>,
    master: Option<&Scalar>,
    reader: &mut Reader<'_>,
) -> Option<redis::Settings> {
    let master =
        reader.required(&path.field("master"), master, "what the sentinels call the master, such as `master: main`");
    let master = master.and_then(|master| reader.text_or_file(&path.field("master"), master));
    let (settings, addresses) = addresses(&path.field("sentinels"), sentinels, 26379, reader)?;
    let (username, password) = (settings.username.clone(), settings.password.clone());
    let sentinels = redis::Sentinels { addresses, master: master?, username, password };
    Some(redis::Settings { topology: Topology::Sentinels(sentinels), username: None, password: None, ..settings })
}

/// Addresses that differ in host and port alone: what else they say must be the same, and stands in the settings.
fn addresses(
    path: &FieldPath,
    urls: &List<Scalar>,
    default_port: u16,
    reader: &mut Reader<'_>,
) -> Option<(redis::Settings, Vec<Address>)> {
    let mut all: Vec<(redis::Settings, Address)> = Vec::new();
    for (path, url) in items(path, urls) {
        let url = reader.text_or_file(&path, url)?;
        let settings = address_or_port(&path, &url, default_port, reader)?;
        let Topology::Node(address) = settings.topology.clone() else { continue };
        if let Some((first, _)) = all.first() {
            let same = (&first.tls, first.db, &first.username, &first.password)
                == (&settings.tls, settings.db, &settings.username, &settings.password);
            if !same {
                reader.fail(&path, "all addresses must have the same scheme, login and database; write them alike");
            }
        }
        all.push((settings, address));
    }
    if all.is_empty() {
        reader.fail(path, "there is none; write one such as `redis://host:6379`");
    }
    let settings = all.first()?.0.clone();
    Some((settings, all.into_iter().map(|(_, address)| address).collect()))
}

/// `username` and `password`; where one is a file, the file is kept in mind, so that it can be rotated.
fn login(path: &FieldPath, fields: &raw::Store, settings: &mut redis::Settings, reader: &mut Reader<'_>) {
    if let Some(username) = &fields.username {
        let at = path.field("username");
        if settings.username.is_some() {
            reader.fail(&at, "the address names a user too; keep one of them");
        }
        settings.username = reader.text_or_file(&at, username);
        settings.login_files.username = reader.whole_file(username);
    }
    if let Some(password) = &fields.password {
        let at = path.field("password");
        if settings.password.is_some() {
            reader.fail(&at, "the address holds a password too; keep one of them");
        }
        settings.password = reader.text_or_file(&at, password).map(Secret::new);
        settings.login_files.password = reader.whole_file(password);
        if settings.password.as_ref().is_some_and(|password| password.expose().is_empty()) {
            reader.fail(&at, "it is empty; write the password, or remove this field");
        }
    }
    if settings.username.is_some() && settings.password.is_none() && fields.password.is_none() {
        reader.fail(&path.field("username"), "a user needs a password; write `password` too");
    }
}

fn tls(path: &FieldPath, raw: Option<&raw::ClientTls>, settings: &mut redis::Settings, reader: &mut Reader<'_>) {
    let Some(raw) = raw else { return };
    if settings.tls.is_none() {
        reader.fail(path, "Redis is not reached over TLS here; write `rediss://` in its address, or remove `tls`");
    }
    let mut file =
        |name: &str, scalar: &Option<Scalar>| scalar.as_ref().and_then(|scalar| reader.file(&path.field(name), scalar));
    let (ca, cert, key) = (file("ca", &raw.ca), file("cert", &raw.cert), file("key", &raw.key));
    if raw.cert.is_some() != raw.key.is_some() {
        reader.fail(path, "a client certificate needs `cert` and `key`; write both");
    }
    settings.tls = Some(redis::Tls { ca, client: cert.zip(key) });
}

fn prefix(path: &FieldPath, scalar: &Scalar, reader: &mut Reader<'_>) -> String {
    let prefix = reader.text_or_file(path, scalar).unwrap_or_default();
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b)) {
        reader.fail(path, "a prefix has letters, digits, `:`, `_` and `-`; write one such as `sg`");
    }
    prefix
}

/// An address of Redis. A login in it is taken out, so that nothing that prints the address prints the password.
pub fn address(path: &FieldPath, url: &str, reader: &mut Reader<'_>) -> Option<redis::Settings> {
    address_or_port(path, url, 6379, reader)
}

fn address_or_port(path: &FieldPath, url: &str, port: u16, reader: &mut Reader<'_>) -> Option<redis::Settings> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let bare = if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") };
    let mut settings = redis::Settings::from_url_or_port(&bare, port).map_err(|error| reader.fail(path, error)).ok()?;
    if let Some(login) = login {
        let (username, password) = login.split_once(':').unwrap_or((login, ""));
        let decoded = |text: &str| String::from_utf8(percent::decode(text, false)).ok().filter(|t| !t.is_empty());
        settings.username = decoded(username);
        settings.password = decoded(password).map(Secret::new);
        if settings.password.is_none() {
            reader.fail(path, "the login in the address has no password; write `redis://user:password@host`, or none");
        }
    }
    Some(settings)
}

fn outage(path: &FieldPath, raw: Option<&raw::Outage>, reader: &mut Reader<'_>) -> (KeysOutage, LimitsOutage) {
    let nothing = raw::Outage::default();
    let raw = raw.unwrap_or(&nothing);
    let keys = keys_outage(&path.field("keys"), raw.keys.as_ref(), reader);
    (keys, limits_outage(&path.field("limits"), raw.limits.as_ref(), reader))
}

fn keys_outage(path: &FieldPath, raw: Option<&Short<raw::KnownFor>>, reader: &mut Reader<'_>) -> KeysOutage {
    match raw {
        None => KeysOutage::Deny,
        Some(Short::Text(text)) => {
            reader.read(path, Some(text), KeysOutage::Deny, scalar::choice(&[("deny", KeysOutage::Deny)]))
        }
        Some(Short::Fields(fields)) => {
            let path = path.field("known_for");
            let duration = reader.required(&path, fields.known_for.as_ref(), "a duration, such as `5m`");
            let duration = duration.and_then(|duration| reader.parse(&path, duration, scalar::time));
            duration.map_or(KeysOutage::Deny, KeysOutage::KnownFor)
        }
    }
}

fn limits_outage(path: &FieldPath, raw: Option<&Short<raw::Local>>, reader: &mut Reader<'_>) -> LimitsOutage {
    let local = LimitsOutage::Local { share: None };
    match raw {
        None => local,
        Some(Short::Text(text)) => {
            let words = [("local", local), ("allow", LimitsOutage::Allow), ("deny", LimitsOutage::Deny)];
            reader.read(path, Some(text), local, scalar::choice(&words))
        }
        Some(Short::Fields(fields)) => {
            let path = path.field("local").field("share");
            let share = fields.local.as_ref().and_then(|local| local.share.as_ref());
            let share =
                reader.required(&path, share, "the part of each limit that one process may give, such as `1/4`");
            LimitsOutage::Local { share: share.and_then(|share| reader.parse(&path, share, scalar::share)) }
        }
    }
}
