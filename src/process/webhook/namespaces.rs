//! The annotations of namespaces, which a review does not contain: fetched from the API server with this pod's service account.
//!
//! When that fails, objects are admitted by their own annotations alone, with a warning to their sender. A review may come from
//! anyone, so a namespace becomes part of a path only if it is a valid name.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use super::settings::Settings;
use crate::inject;
use crate::proxy::connector::Connector;
use crate::proxy::exchange::{self, ExchangeError, Reply};
use crate::proxy::resolve::Resolver;
use crate::proxy::settings::{Protocol, Target, UpstreamTls};
use crate::proxy::upstream::failure::chain;
use crate::secret;

/// Below the five seconds after which an API server gives up on a webhook.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long annotations are cached, since a Deployment's pods are created together; a change acts this much later at most.
const FRESH: Duration = Duration::from_secs(5);
/// How many namespaces are cached, each with annotations of at most `CACHED_BYTES`.
const CACHED: usize = 256;
const CACHED_BYTES: usize = 8 * 1024;
/// Concurrent requests to the API server, each of which holds a response in memory.
const AT_ONCE: usize = 4;
/// A label's length (RFC 1123 §2.1), which names of namespaces have.
const LONGEST_NAME: usize = 63;
const LARGEST_ANSWER: usize = 2 * 1024 * 1024;

type Annotations = Rc<BTreeMap<String, String>>;

pub struct Namespaces {
    api: Option<Api>,
    known: RefCell<HashMap<String, (Instant, Annotations)>>,
}

struct Api {
    target: Target,
    authority: String,
    resolver: Rc<Resolver>,
    account: PathBuf,
    permits: Semaphore,
}

#[derive(Deserialize)]
struct Namespace {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Namespaces {
    pub fn new(settings: &Settings) -> Self {
        let api = settings.api_server.as_ref().map(|(host, port)| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            Api {
                target: Target::Tcp { host: host.clone(), port: *port, protocol: Protocol::Https },
                authority: format!("{host}:{port}"),
                resolver: Rc::new(Resolver::new(&host, *port)),
                account: settings.service_account.clone(),
                permits: Semaphore::new(AT_ONCE),
            }
        });
        Self { api, known: RefCell::default() }
    }

    /// The namespace's annotations; an error if they cannot be fetched.
    pub async fn annotations(&self, namespace: &str) -> Result<Annotations, String> {
        let Some(api) = self.api.as_ref().filter(|_| !namespace.is_empty()) else { return Ok(Annotations::default()) };
        if namespace.len() > LONGEST_NAME || !inject::is_label(namespace) {
            warn!(
                "a review's namespace is no name of one; nothing is asked, and the object goes by its own annotations"
            );
            return Err("the namespace is no name of one, and no annotations of it were used".to_owned());
        }
        let known = self.known.borrow().get(namespace).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, it)| it.clone());
        if let Some(annotations) = known {
            return Ok(annotations);
        }
        let asked = match timeout(TIMEOUT, api.ask(namespace)).await {
            Ok(asked) => asked.map_err(|error| chain(&*error)),
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
        };
        match asked {
            Ok(annotations) => {
                let annotations = Rc::new(annotations);
                self.keep(namespace, &annotations);
                Ok(annotations)
            }
            Err(error) => {
                warn!(namespace, error, "the namespace's annotations cannot be read; objects go by their own");
                Err("the namespace's annotations could not be read and were not used".to_owned())
            }
        }
    }

    fn keep(&self, namespace: &str, annotations: &Annotations) {
        let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > CACHED_BYTES {
            return;
        }
        let mut known = self.known.borrow_mut();
        if known.len() >= CACHED {
            known.clear();
        }
        known.insert(namespace.to_owned(), (Instant::now(), annotations.clone()));
    }
}

impl Api {
    /// The token and the CA are read each time: both are rotated while the process runs.
    async fn ask(&self, namespace: &str) -> Result<BTreeMap<String, String>, ExchangeError> {
        let _permit = self.permits.acquire().await?;
        let ca = Some(self.account.join("ca.crt"));
        let connector = Connector::to(&self.target, &UpstreamTls { ca, ..UpstreamTls::default() })?;
        let token = secret::in_file(&self.account.join("token"))?;
        let mut token = HeaderValue::from_str(&format!("Bearer {}", token.trim()))?;
        token.set_sensitive(true);
        let path = format!("/api/v1/namespaces/{namespace}");
        let request = |h2: bool| {
            let request = match h2 {
                true => Request::get(format!("https://{}{path}", self.authority)),
                false => Request::get(&path).header(HOST, &self.authority),
            };
            request.header(ACCEPT, "application/json").header(AUTHORIZATION, token).body(Empty::new())
        };
        let Reply { status, body } =
            exchange::ask(&connector, Some(&self.resolver), TIMEOUT, LARGEST_ANSWER, request).await?;
        if status != StatusCode::OK {
            return Err(format!("the API server answers {status}").into());
        }
        let namespace: Namespace = serde_json::from_slice(&body)?;
        let mut annotations = namespace.metadata.annotations.unwrap_or_default();
        // Other tools' annotations, which may be long, are not kept.
        annotations.retain(|key, _| key.starts_with(inject::tuning::PREFIX));
        Ok(annotations)
    }
}
