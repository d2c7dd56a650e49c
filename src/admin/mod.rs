//! The operators' listeners: `/metrics`, `/livez`, `/readyz`. They live apart from the workers, so that a busy gate still tells
//! how it is.

pub mod settings;

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::warn;

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
}

/// Serves until the runtime ends: also while the rest drains, so that the last is still seen.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "no connection of an operator can be accepted for now");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = admin.answer(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(response) }
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
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "here are /metrics, /livez and /readyz\n"),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        if !self.drain.is_serving() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "leaving\n");
        }
        if self.needs_store.as_ref().is_some_and(|health| !health.is_good_enough()) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the store is out of reach\n");
        }
        text(StatusCode::OK, "ready\n")
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match self.metrics.render() {
            Ok(rendered) => {
                let mut response = Response::new(Full::new(Bytes::from(rendered)));
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                warn!(%error, "the metrics cannot be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n")
            }
        }
    }
}

fn text(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(words.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
