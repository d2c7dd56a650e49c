//! The operators' listeners: `/metrics`, `/livez`, `/readyz`. They live apart from the workers, so that a busy gate still tells
//! how it is.
//!
//! Of the two, `admin` also takes `POST /drain`, which a pod's `preStop` sends, and `probes` also answers for the service
//! (`probes.app`, asked by `app`).

mod app;
pub mod settings;
pub mod words;

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::ORIGIN;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tracing::{debug, warn};

use self::settings::AppProbe;
use self::words::text;
use crate::listen::drain::Watch;
use crate::observe::Metrics;
use crate::store::health::StoreHealth;

/// An operator's tool sends its request at once.
const HEADER_READ: Duration = Duration::from_secs(5);
/// How long to leave `accept` alone when descriptors have run out.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// What the operators' answers rest on.
pub struct Admin {
    pub metrics: Arc<Metrics>,
    /// Absent where readiness does not depend on a store, or the store is the process's own file.
    pub needs_store: Option<Arc<StoreHealth>>,
    pub drain: Watch,
    /// Told when an operator asks for the drain to begin.
    pub asked_to_drain: Arc<Notify>,
    pub app: Vec<AppProbe>,
}

/// Which of the two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Admin,
    Probes,
}

/// Serves until the runtime ends: also while the rest drains, so that the last is still seen.
pub async fn serve(admin: Arc<Admin>, place: Place, listener: TcpListener) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "no connection of an operator can be accepted for now");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let (admin, is_near) = (admin.clone(), peer.ip().is_loopback());
                async move {
                    let (method, path) = (request.method(), request.uri().path());
                    let response = match (place, path) {
                        (Place::Admin, "/drain") => admin.begin_drain(method, request.headers(), is_near),
                        (Place::Probes, path) if admin.probe(path).is_some() => admin.app(method, path).await,
                        _ => admin.answer(method, path),
                    };
                    Ok::<_, Infallible>(response)
                }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
            // What goes wrong on an operator's connection, that operator sees.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Admin {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match path {
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" => self.ready(),
            "/metrics" => words::metrics(self.metrics.render()),
            _ => text(StatusCode::NOT_FOUND, "here are /metrics, /livez and /readyz\n"),
        }
    }

    /// As the first SIGTERM does, but the process stays until that comes. For those on this machine alone, and for no page in
    /// their browser.
    fn begin_drain(&self, method: &Method, headers: &HeaderMap, is_near: bool) -> Response<Full<Bytes>> {
        if *method != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only POST begins the drain\n");
        }
        if !is_near || headers.contains_key(ORIGIN) {
            return text(StatusCode::FORBIDDEN, "only a command on this machine may ask for that\n");
        }
        self.asked_to_drain.notify_one();
        text(StatusCode::ACCEPTED, "draining\n")
    }

    fn probe(&self, path: &str) -> Option<&AppProbe> {
        self.app.iter().find(|probe| probe.path == path)
    }

    /// What the service says of itself.
    async fn app(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let Some(probe) = self.probe(path).filter(|_| matches!(*method, Method::GET | Method::HEAD)) else {
            return self.answer(method, path);
        };
        match app::ask(probe).await {
            Ok(()) => text(StatusCode::OK, "well\n"),
            Err(problem) => {
                debug!(path, problem, "the service is not well");
                text(StatusCode::SERVICE_UNAVAILABLE, format!("the service is not well: {problem}\n"))
            }
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        if !self.drain.is_serving() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "leaving\n");
        }
        if let Some(health) = self.needs_store.as_ref().filter(|health| !health.is_good_enough()) {
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", health.why_not()));
        }
        text(StatusCode::OK, "ready\n")
    }
}
