//! The caller's session: asked of the service's session endpoint for every request.
//!
//! It gets the caller's cookies and `Authorization`, but nothing that could be a key of this gate: the session endpoint
//! must not see keys. Any answer other than the documented one is no session.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::settings::SessionEndpoint;
use crate::gate::Denial;
use crate::keys::tenant::is_id;
use crate::keys::{Digest, Formats, Reading};
use crate::log_throttle::LogThrottle;
use crate::proxy::connector::Connector;
use crate::proxy::exchange::{self, ExchangeError, Reply};
use crate::proxy::resolve::Resolver;
use crate::proxy::settings::Target;
use crate::proxy::upstream::failure::chain;
use crate::store::Store;

/// For the whole exchange, connecting included.
const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST_ANSWER: usize = 64 * 1024;

/// The signed-in user, and the user's role in each business.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Session {
    pub user: String,
    pub businesses: Vec<Membership>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Membership {
    pub id: String,
    pub role: String,
}

/// Must be made on the thread that uses it.
pub struct Sessions {
    endpoint: SessionEndpoint,
    connector: Connector,
    resolver: Option<Rc<Resolver>>,
    /// A failing endpoint fails every request, and anybody may send requests.
    throttle: LogThrottle,
}

impl Sessions {
    /// `connector` is for the endpoint's target.
    pub fn new(endpoint: SessionEndpoint, connector: Connector) -> Self {
        let resolver = match &endpoint.target {
            Target::Tcp { host, port, .. } => Some(Rc::new(Resolver::new(host, *port))),
            Target::Unix(_) => None,
        };
        Self { endpoint, connector, resolver, throttle: LogThrottle::default() }
    }

    /// The caller's session, if there is one. It is not cached.
    pub async fn ask(&self, headers: &HeaderMap, formats: &Formats, store: &Store) -> Result<Option<Session>, Denial> {
        let mut shown = HeaderMap::new();
        shown.extend(cookies(headers, formats).map(|cookies| (COOKIE, cookies)));
        shown.extend(authorization(headers, formats, store).await?.map(|value| (AUTHORIZATION, value)));
        if shown.is_empty() {
            return Ok(None);
        }
        let answer = match timeout(PATIENCE, self.exchange(shown)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                if let Some(repeated) = self.news("cannot be asked") {
                    let error = chain(&*error);
                    warn!(error, repeated, "management.session cannot be asked; the caller counts as not signed in");
                }
                return Ok(None);
            }
            Err(_) => {
                if let Some(repeated) = self.news("did not answer") {
                    warn!(
                        repeated,
                        "management.session did not answer in {PATIENCE:?}; the caller counts as not signed in"
                    );
                }
                return Ok(None);
            }
        };
        Ok(answer.and_then(|body| {
            let read = read(&body);
            if let Err(problem) = &read
                && let Some(repeated) = self.news("no session")
            {
                warn!(repeated, "management.session {problem}");
            }
            read.ok()
        }))
    }

    /// Whether to log this, and how often it was suppressed since it was last logged.
    fn news(&self, what: &str) -> Option<u64> {
        self.throttle.news(what, std::time::Instant::now())
    }

    /// The body of a 200; `None` for any other answer.
    async fn exchange(&self, shown: HeaderMap) -> Result<Option<Bytes>, ExchangeError> {
        let request = |h2| self.request(shown, h2);
        let asked = exchange::ask(&self.connector, self.resolver.as_ref(), PATIENCE, LARGEST_ANSWER, request);
        let Reply { status, body } = asked.await?;
        if status != StatusCode::OK {
            debug!(status = status.as_u16(), "management.session knows no such session");
            return Ok(None);
        }
        Ok(Some(body))
    }

    fn request(&self, shown: HeaderMap, h2: bool) -> Result<Request<Empty<Bytes>>, http::Error> {
        let SessionEndpoint { authority, path, .. } = &self.endpoint;
        let mut request = match h2 {
            true => Request::get(format!("https://{authority}{path}")),
            false => Request::get(path).header(HOST, authority),
        };
        request = request.header(ACCEPT, "application/json");
        for (name, value) in &shown {
            request = request.header(name, value);
        }
        request.body(Empty::new())
    }
}

/// Ids become part of the store's key names, so that invalid ones are refused. An error says what the endpoint did instead.
fn read(body: &[u8]) -> Result<Session, String> {
    let session: Session = serde_json::from_slice(body).map_err(|error| {
        // The body may hold anything, so that only the position of the error is reported.
        let (line, column) = (error.line(), error.column());
        format!("answered with something else than a session (line {line}, column {column})")
    })?;
    let are_ids = is_id(&session.user) && session.businesses.iter().all(|business| is_id(&business.id));
    are_ids.then_some(session).ok_or_else(|| "named a user or a business by something that is no id".to_owned())
}

/// The cookies in one line, without those that look like a key.
fn cookies(headers: &HeaderMap, formats: &Formats) -> Option<HeaderValue> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).map(str::trim).filter(|pair| !pair.is_empty());
    let value = |pair: &str| pair.split_once('=').map_or(pair, |(_, value)| value).trim_matches('"').to_owned();
    let kept: Vec<&str> = pairs.filter(|pair| !formats.claim(&value(pair))).collect();
    if kept.is_empty() { None } else { HeaderValue::from_str(&kept.join("; ")).ok() }
}

/// The caller's `Authorization`, unless it holds a key. Where no formats are configured any text may be one: then the store
/// is asked.
async fn authorization(headers: &HeaderMap, formats: &Formats, store: &Store) -> Result<Option<HeaderValue>, Denial> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Ok(None) };
    let Ok(text) = value.to_str() else { return Ok(None) };
    for token in text.split([' ', '\t', ',']).filter(|token| !token.is_empty()) {
        if formats.claim(token) {
            return Ok(None);
        }
        if let Reading::Any = formats.read(token)
            && store.lookup(&Digest::of(token), Instant::now() + PATIENCE).await?.is_some()
        {
            return Ok(None);
        }
    }
    Ok(Some(value.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies_of(lines: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_static(line));
        }
        cookies(&headers, &Formats::default()).map(|value| value.to_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn cookies_go_on_in_one_line_without_keys() {
        assert_eq!(cookies_of(&[]), None);
        assert_eq!(cookies_of(&["sid=1; theme=dark"]).as_deref(), Some("sid=1; theme=dark"));
        assert_eq!(cookies_of(&["sid=1", "msg_abcdefghijkl=2"]).as_deref(), Some("sid=1; msg_abcdefghijkl=2"));
        assert_eq!(cookies_of(&["sid=1; k=sg_abcdefghijklmnop; x=\"sg_abc\""]).as_deref(), Some("sid=1"));
        assert_eq!(cookies_of(&["sg_abcdefghijklmnop"]), None);
    }

    #[test]
    fn a_session_is_what_the_contract_names_and_nothing_else() {
        let good = br#"{"user": "u_42", "businesses": [{"id": "acme", "role": "admin", "since": 1}], "theme": "dark"}"#;
        let acme = Membership { id: "acme".to_owned(), role: "admin".to_owned() };
        assert_eq!(read(good), Ok(Session { user: "u_42".to_owned(), businesses: vec![acme] }));
        for wrong in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"user": "u_42"}"#,
            r#"{"user": null, "businesses": []}"#,
            r#"{"user": "", "businesses": []}"#,
            r#"{"user": "u 42", "businesses": []}"#,
            r#"{"user": "u_1", "user": "u_42", "businesses": []}"#,
            r#"{"user": "u_42", "businesses": {"acme": "admin"}}"#,
            r#"{"user": "u_42", "businesses": [{"id": "a}:key", "role": "admin"}]}"#,
            r#"{"user": "u_42", "businesses": [{"id": "acme"}]}"#,
            "<html>sign in</html>",
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
