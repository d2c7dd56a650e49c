//! Where Redis is and how to log in there: what `store` in the configuration compiles to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::secret::Secret;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub topology: Topology,
    pub db: i64,
    /// The ACL user; absent means `default`.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// Where the login stands in files: it is read again for every connection, so that it can be rotated.
    pub login_files: LoginFiles,
    /// Absent: plain text.
    pub tls: Option<Tls>,
    /// What all keys begin with (`sg`).
    pub prefix: String,
    /// How long one attempt to connect and log in may take.
    pub connect_timeout: Duration,
}

/// How Redis is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    Node(Address),
    /// One master of a cluster, for who knows which keys it has.
    Member(Address),
    /// Sentinels say which node is the master.
    Sentinels(Sentinels),
    /// Some nodes of a cluster, which know the others.
    Cluster(Vec<Address>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinels {
    pub addresses: Vec<Address>,
    /// What they call the master.
    pub master: String,
    /// The login at the sentinels themselves; the settings' own is the master's.
    pub username: Option<String>,
    pub password: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginFiles {
    pub username: Option<PathBuf>,
    pub password: Option<PathBuf>,
}

/// PEM files, read again for every connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities to trust; absent: the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why a text is no address of a Redis, and what to write instead. The text itself is not repeated: it may hold a password.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    #[error("write the address of Redis as `redis://host:6379/0`, or `rediss://…` for TLS")]
    NotAUrl,
    #[error(
        "what follows the `?` is not read; write the address without it, and say the rest in fields of `store`: `username`, `password`, `tls`"
    )]
    Query,
    #[error("put the login into `store.username` and `store.password`, not into the address")]
    Login,
}

impl Settings {
    /// Reads `redis://host[:port][/db]`, or `rediss://` for TLS with the system's authorities. A login does not belong into it:
    /// addresses are printed, passwords are not.
    pub fn from_url(url: &str) -> Result<Self, UrlError> {
        Self::from_url_or_port(url, 6379)
    }

    /// The same where no port means another one: 26379 for a sentinel.
    pub fn from_url_or_port(url: &str, default_port: u16) -> Result<Self, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::NotAUrl)?;
        let tls = match scheme {
            "redis" => None,
            "rediss" => Some(Tls::default()),
            _ => return Err(UrlError::NotAUrl),
        };
        if rest.contains('@') {
            return Err(UrlError::Login);
        }
        if rest.contains('?') {
            return Err(UrlError::Query);
        }
        let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = split_port(authority, default_port)?;
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b)) {
            return Err(UrlError::NotAUrl);
        }
        let db = if db.is_empty() { 0 } else { i64::from(db.parse::<u16>().map_err(|_| UrlError::NotAUrl)?) };
        Ok(Self {
            topology: Topology::Node(Address { host: host.to_owned(), port }),
            db,
            username: None,
            password: None,
            login_files: LoginFiles::default(),
            tls,
            prefix: "sg".to_owned(),
            connect_timeout: Duration::from_secs(1),
        })
    }
}

impl Topology {
    /// Whether one server has all the keys, so that a node of a cluster would be a mistake.
    pub fn is_standalone(&self) -> bool {
        matches!(self, Self::Node(_) | Self::Sentinels(_))
    }

    /// The addresses that are configured.
    pub fn addresses(&self) -> &[Address] {
        match self {
            Self::Node(address) | Self::Member(address) => std::slice::from_ref(address),
            Self::Sentinels(sentinels) => &sentinels.addresses,
            Self::Cluster(addresses) => addresses,
        }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses().iter().map(Address::to_string).collect();
        let addresses = addresses.join(", ");
        match self {
            Self::Node(_) | Self::Member(_) => f.write_str(&addresses),
            Self::Cluster(_) => write!(f, "the cluster of {addresses}"),
            Self::Sentinels(sentinels) => write!(f, "{} behind the sentinels {addresses}", sentinels.master),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_port(authority: &str, default_port: u16) -> Result<(&str, u16), UrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or(UrlError::NotAUrl)?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    match port.strip_prefix(':') {
        Some(digits) => Ok((host, digits.parse().map_err(|_| UrlError::NotAUrl)?)),
        None if port.is_empty() => Ok((host, default_port)),
        None => Err(UrlError::NotAUrl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<(String, u16, i64), UrlError> {
        Settings::from_url(url).map(|s| (s.topology.addresses()[0].clone(), s.db)).map(|(a, db)| (a.host, a.port, db))
    }

    #[test]
    fn an_address_has_a_host_and_may_have_a_port_and_a_database() {
        assert_eq!(read("redis://127.0.0.1:6380/3"), Ok(("127.0.0.1".to_owned(), 6380, 3)));
        assert_eq!(read("redis://cache.internal"), Ok(("cache.internal".to_owned(), 6379, 0)));
        assert_eq!(read("redis://[::1]:7000/"), Ok(("::1".to_owned(), 7000, 0)));
        assert_eq!(read("redis://[::1]"), Ok(("::1".to_owned(), 6379, 0)));
    }

    #[test]
    fn what_is_no_address_says_what_to_write() {
        for wrong in
            ["", "localhost", "redis://", "redis://h:x", "redis://h/x", "redis://[::1", "redis://a b", "http://h"]
        {
            assert_eq!(read(wrong), Err(UrlError::NotAUrl), "{wrong}");
        }
        assert!(Settings::from_url("rediss://h").is_ok_and(|settings| settings.tls.is_some()));
        assert_eq!(read("redis://u:hunter2@h"), Err(UrlError::Login));
        assert_eq!(read("redis://h:6379/0?protocol=resp3"), Err(UrlError::Query));
    }
}
