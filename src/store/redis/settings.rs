//! Where Redis is and how to log in there: what `store.redis` in the configuration compiles to.

use std::time::Duration;

use thiserror::Error;

use crate::secret::Secret;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    pub db: i64,
    /// The ACL user; absent means `default`.
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// What all keys begin with (`sg`).
    pub prefix: String,
    /// How long one attempt to connect and log in may take.
    pub connect_timeout: Duration,
}

/// Why a text is no address of a Redis, and what to write instead. The text itself is not repeated: it may hold a password.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    #[error("write the address of Redis as `redis://host:6379/0`")]
    NotAUrl,
    #[error("`rediss://` (Redis over TLS) is not built yet; write `redis://`")]
    Tls,
    #[error("put the login into `store.username` and `store.password`, not into the address")]
    Login,
}

impl Settings {
    /// Reads `redis://host[:port][/db]`. A login does not belong into it: addresses are printed, passwords are not.
    pub fn from_url(url: &str) -> Result<Self, UrlError> {
        if url.starts_with("rediss://") {
            return Err(UrlError::Tls);
        }
        let rest = url.strip_prefix("redis://").ok_or(UrlError::NotAUrl)?;
        if rest.contains('@') {
            return Err(UrlError::Login);
        }
        let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = split_port(authority)?;
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:".contains(&b)) {
            return Err(UrlError::NotAUrl);
        }
        let db = if db.is_empty() { 0 } else { i64::from(db.parse::<u16>().map_err(|_| UrlError::NotAUrl)?) };
        Ok(Self {
            host: host.to_owned(),
            port,
            db,
            username: None,
            password: None,
            prefix: "sg".to_owned(),
            connect_timeout: Duration::from_secs(1),
        })
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_port(authority: &str) -> Result<(&str, u16), UrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or(UrlError::NotAUrl)?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    match port.strip_prefix(':') {
        Some(digits) => Ok((host, digits.parse().map_err(|_| UrlError::NotAUrl)?)),
        None if port.is_empty() => Ok((host, 6379)),
        None => Err(UrlError::NotAUrl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<(String, u16, i64), UrlError> {
        Settings::from_url(url).map(|s| (s.host, s.port, s.db))
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
        assert_eq!(read("rediss://h"), Err(UrlError::Tls));
        assert_eq!(read("redis://u:hunter2@h"), Err(UrlError::Login));
    }
}
