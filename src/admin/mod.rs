//! The operators' listeners: `/metrics`, `/livez`, `/readyz`. They are served apart from the workers, so that a busy gate still
//! answers.
//!
//! Of the two, `admin` also takes `POST /drain`, which a pod's `preStop` sends, and `probes` also answers for the service
//! (`probes.app`, by `app`). `connection_limit` and `connection` bound what any client can hold
//! open; the webhook's listeners are bounded by the same.

mod app;
pub mod connection;
pub mod connection_limit;
pub mod response;
pub mod settings;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::ORIGIN;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::Notify;
use tracing::debug;

use self::connection_limit::ConnectionLimit;
use self::response::text;
use self::settings::AppProbe;
use crate::listen::drain::Watch;
use crate::listen::pulse::Pulse;
use crate::observe::Metrics;
use crate::store::health::StoreHealth;

/// On each listener. A kubelet has one for each probe, a Prometheus one; what a flood takes of them is some 50 KiB each.
const CONNECTIONS: usize = 200;

/// The state that the answers are made from.
pub struct Admin {
    pub metrics: Arc<Metrics>,
    /// Absent where readiness does not depend on a store, or the store is the process's own file.
    pub needs_store: Option<Arc<StoreHealth>>,
    pub drain: Watch,
    /// Notified when an operator asks to drain.
    pub asked_to_drain: Arc<Notify>,
    pub app: Vec<AppProbe>,
    pub pulse: Pulse,
}

/// Which of the two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    Admin,
    Probes,
}

/// Serves until the runtime ends: also while the rest drains, so that the last is still seen. Must be called within a local
/// runtime.
pub async fn serve(admin: Rc<Admin>, kind: ListenerKind, listener: TcpListener) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let serve = |stream, peer: SocketAddr| {
        let admin = admin.clone();
        let answer = move |request: Request<Incoming>| {
            let admin = admin.clone();
            async move { admin.answer_at(kind, &request, peer.ip()).await }
        };
        connection::serve(stream, false, None, answer)
    };
    ConnectionLimit::new(CONNECTIONS).accept(&listener, serve, || admin.metrics.accept_failed()).await;
    Ok(())
}

impl Admin {
    async fn answer_at(&self, kind: ListenerKind, request: &Request<Incoming>, peer: IpAddr) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        match (kind, path) {
            (ListenerKind::Admin, "/drain") => self.begin_drain(method, request.headers(), peer.is_loopback()),
            (ListenerKind::Probes, path) if self.probe(path).is_some() => self.app(method, path).await,
            _ => self.answer(method, path),
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match path {
            "/livez" if self.pulse.is_well() => text(StatusCode::OK, "alive\n"),
            "/livez" => text(StatusCode::SERVICE_UNAVAILABLE, "a worker does not respond\n"),
            "/readyz" => self.ready(),
            "/metrics" => response::metrics(self.metrics.render()),
            _ => text(StatusCode::NOT_FOUND, "here are /metrics, /livez and /readyz\n"),
        }
    }

    /// As the first SIGTERM, but the process runs on until it gets a signal. Only for clients on this machine, not for pages in
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

    /// The service's own probes.
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
