//! The annotations of namespaces, which a review does not carry: asked of the API server with this pod's own service account.
//!
//! When it cannot be asked, objects are admitted by their own annotations, and their sender is warned. A review may come from
//! anyone, so a namespace becomes part of a path only where it can be one's name.

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
use crate::proxy::exchange::{self, Answered, Failure};
use crate::proxy::resolve::Resolver;
use crate::proxy::settings::{Protocol, Target, UpstreamTls};
use crate::proxy::upstream::failure::chain;
use crate::secret;

/// Below the five seconds after which an API server gives a webhook up.
const PATIENCE: Duration = Duration::from_secs(2);
/// A Deployment's pods come together; an annotation that was just written acts this much later at most.
const FRESH: Duration = Duration::from_secs(5);
/// More namespaces than these are asked for anew, and so is one with more in its annotations than `KEPT_BYTES`.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 8 * 1024;
/// Questions under way at the API server, each with an answer of its own.
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
    turns: Semaphore,
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
                turns: Semaphore::new(AT_ONCE),
            }
        });
        Self { api, known: RefCell::default() }
    }

    /// The namespace's annotations; an error where they cannot be known.
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
        let asked = match timeout(PATIENCE, api.ask(namespace)).await {
            Ok(asked) => asked.map_err(|error| chain(&*error)),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
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
        if bytes > KEPT_BYTES {
            return;
        }
        let mut known = self.known.borrow_mut();
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(namespace.to_owned(), (Instant::now(), annotations.clone()));
    }
}

impl Api {
    /// Token and authority are read each time: both are rotated while the process runs.
    async fn ask(&self, namespace: &str) -> Result<BTreeMap<String, String>, Failure> {
        let _turn = self.turns.acquire().await?;
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
        let Answered { status, body } =
            exchange::ask(&connector, Some(&self.resolver), PATIENCE, LARGEST_ANSWER, request).await?;
        if status != StatusCode::OK {
            return Err(format!("the API server answers {status}").into());
        }
        let namespace: Namespace = serde_json::from_slice(&body)?;
        let mut annotations = namespace.metadata.annotations.unwrap_or_default();
        // Others have annotations of their own there, and long ones.
        annotations.retain(|key, _| key.starts_with(inject::tuning::PREFIX));
        Ok(annotations)
    }
}
