//! Connections of API servers, over TLS, and of the kubelet and Prometheus, in clear.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::counts::Counts;
use super::namespaces::Namespaces;
use super::reading::{Refused, ReviewBudget};
use super::settings::Settings;
use crate::admin::connection::{self, PATIENCE};
use crate::admin::connection_limit::ConnectionLimit;
use crate::admin::response::{self, text};
use crate::clock;
use crate::inject::review::Review;
use crate::listen::drain::Watch;
use crate::listen::settings::Tls;
use crate::listen::tls::{Acceptor, TlsError};

/// Connections on each listener. API servers are few and reuse their connections.
const CONNECTIONS: usize = 200;
/// How much is logged of text from a review.
const LONGEST_WORD: usize = 256;

/// The listener of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Reviews,
    Probes,
}

pub struct Serving {
    settings: Settings,
    tls: RefCell<Acceptor>,
    namespaces: Namespaces,
    counts: Counts,
    drain: Watch,
    budget: ReviewBudget,
    /// Connections of API servers, and those of the kubelet and Prometheus.
    connections: [Rc<ConnectionLimit>; 2],
}

impl Serving {
    pub fn new(settings: Settings, tls: Acceptor, namespaces: Namespaces, counts: Counts, drain: Watch) -> Self {
        Self {
            settings,
            tls: RefCell::new(tls),
            namespaces,
            counts,
            drain,
            budget: ReviewBudget::new(),
            connections: [ConnectionLimit::new(CONNECTIONS), ConnectionLimit::new(CONNECTIONS)],
        }
    }

    /// Reads the certificate again, for new connections.
    pub fn renew(&self, files: &Tls) -> Result<(), TlsError> {
        let renewed = self.tls.borrow().renewed(files, clock::now_ms());
        self.counts.reloaded(renewed.is_ok());
        let renewed = renewed?;
        self.counts.certificates(renewed.certificates());
        *self.tls.borrow_mut() = renewed;
        Ok(())
    }

    /// Resolves once no connection of an API server is open.
    pub async fn idle(&self) {
        while !self.connections[Endpoint::Reviews as usize].are_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Accepts until draining closes; on the probes' listener until the process ends, so that the last metrics can be scraped.
    pub async fn accept(self: Rc<Self>, listener: TcpListener, endpoint: Endpoint) {
        let mut drain = self.drain.clone();
        let serve = |stream, peer| self.clone().connection(stream, peer, endpoint);
        tokio::select! {
            () = self.connections[endpoint as usize].accept(&listener, serve, || ()) => {}
            () = drain.closing(), if endpoint == Endpoint::Reviews => {}
        }
    }

    async fn connection(self: Rc<Self>, stream: TcpStream, peer: SocketAddr, endpoint: Endpoint) {
        let answer = |request| {
            let serving = self.clone();
            async move { serving.answer(request, endpoint).await }
        };
        if endpoint == Endpoint::Probes {
            return connection::serve(stream, false, None, answer).await;
        }
        let tls = self.tls.borrow().clone();
        match timeout(PATIENCE, tls.accept(stream)).await {
            Ok(Ok((stream, h2, _))) => connection::serve(stream, h2, Some(self.drain.clone()), answer).await,
            Ok(Err(error)) => debug!(%peer, %error, "the handshake failed"),
            Err(_) => debug!(%peer, "the handshake took too long"),
        }
    }

    async fn answer(&self, request: Request<Incoming>, endpoint: Endpoint) -> Response<Full<Bytes>> {
        match (endpoint, request.method(), request.uri().path()) {
            (_, &Method::GET | &Method::HEAD, "/livez") => text(StatusCode::OK, "alive\n"),
            (_, &Method::GET | &Method::HEAD, "/readyz") if self.drain.is_serving() => text(StatusCode::OK, "ready\n"),
            (_, &Method::GET | &Method::HEAD, "/readyz") => text(StatusCode::SERVICE_UNAVAILABLE, "leaving\n"),
            (Endpoint::Probes, &Method::GET | &Method::HEAD, "/metrics") => response::metrics(self.counts.render()),
            (Endpoint::Reviews, &Method::POST, "/mutate") => {
                // Boxed, so that connections of probes hold no memory for a review.
                let answer = timeout(PATIENCE, Box::pin(self.review(request.into_body()))).await;
                let answer = answer
                    .unwrap_or_else(|_| Err((StatusCode::SERVICE_UNAVAILABLE, "too many reviews at once".to_owned())));
                answer.unwrap_or_else(|(status, problem)| {
                    self.counts.refused(status);
                    let problem = shortened(&problem);
                    warn!(status = status.as_u16(), problem, "this was no review");
                    text(status, problem + "\n")
                })
            }
            (Endpoint::Reviews, _, "/mutate") => text(StatusCode::METHOD_NOT_ALLOWED, "a review is posted\n"),
            _ => text(
                StatusCode::NOT_FOUND,
                "here are /mutate, /livez, /readyz and, on the probes' listener, /metrics\n",
            ),
        }
    }

    async fn review(&self, body: Incoming) -> Result<Response<Full<Bytes>>, Refused> {
        let body = self.budget.read(body).await?;
        let (annotations, warning) = match self.namespaces.annotations(&body.namespace()).await {
            Ok(annotations) => (annotations, None),
            Err(warning) => (Rc::default(), Some(warning)),
        };
        // No await from here on, so that only one parsed review is in memory at a time.
        let review = Review::read(&body.bytes).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let answer = review.answer(&self.settings.inject, &annotations, warning);
        self.counts.answered(review.kind(), answer.verdict);
        let (namespace, kind, left) =
            (shortened(review.namespace()), review.kind(), answer.left.as_deref().map(shortened));
        info!(namespace, kind, outcome = answer.verdict.name(), left, "reviewed");
        let mut response = Response::new(Full::new(answer.body.into()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

fn shortened(word: &str) -> String {
    word.chars().take(LONGEST_WORD).collect()
}
