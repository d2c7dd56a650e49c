//! The annotations of namespaces, which a review does not carry: asked of the API server with this pod's own service account.
//!
//! When it cannot be asked, objects are admitted by their own annotations, and their sender is warned.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::warn;

use super::Settings;
use crate::proxy::connector::Connector;
use crate::proxy::exchange::{self, Answered, Failure};
use crate::proxy::settings::{Protocol, Target, UpstreamTls};
use crate::proxy::upstream::chain;
use crate::proxy::upstream::resolve::Resolver;
use crate::secret;

/// Below the five seconds after which an API server gives a webhook up.
const PATIENCE: Duration = Duration::from_secs(2);
/// A Deployment's pods come together; an annotation that was just written acts this much later at most.
const FRESH: Duration = Duration::from_secs(5);
/// More namespaces than these are asked for anew.
const KEPT: usize = 1000;
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
            }
        });
        Self { api, known: RefCell::default() }
    }

    /// The namespace's annotations; an error where they cannot be known.
    pub async fn annotations(&self, namespace: &str) -> Result<Annotations, String> {
        let Some(api) = self.api.as_ref().filter(|_| !namespace.is_empty()) else { return Ok(Annotations::default()) };
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
                let mut known = self.known.borrow_mut();
                if known.len() >= KEPT {
                    known.clear();
                }
                known.insert(namespace.to_owned(), (Instant::now(), annotations.clone()));
                Ok(annotations)
            }
            Err(error) => {
                warn!(namespace, error, "the namespace's annotations cannot be read; objects go by their own");
                Err("the namespace's annotations could not be read and were not used".to_owned())
            }
        }
    }
}

impl Api {
    /// Token and authority are read each time: both are rotated while the process runs.
    async fn ask(&self, namespace: &str) -> Result<BTreeMap<String, String>, Failure> {
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
        Ok(namespace.metadata.annotations.unwrap_or_default())
    }
}
