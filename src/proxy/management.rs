//! The worker's end of the key-management API: recognises its requests and queues them for the management thread (`manage`).
//!
//! They are answered on a thread of their own, since changing keys may wait for a disk, for the session endpoint or for replicas,
//! and no client's request should wait behind that. Here the body is read, within bounds, and the route is found; everything else
//! is left to the other end of the channel.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;

use super::arrival::Arrival;
use super::request_body::RequestBody;
use super::request_info::RequestInfo;
use super::truncated_body::TruncatedBody;
use crate::gate::{Denial, Trail, path};
use crate::policy::route::Found;
use crate::policy::{Route, RouteTable};
use crate::store::StoreError;

/// More than any request of the API needs.
const LARGEST_BODY: usize = 64 * 1024;

/// The queue of requests to the key-management API.
#[derive(Clone)]
pub struct ManagementQueue {
    /// Normalised, as request paths are; everything at and below it belongs to the API.
    path: Arc<str>,
    routes: Arc<RouteTable>,
    requests: mpsc::Sender<ManagementRequest>,
}

/// One request, and the channel for its answer.
#[derive(Debug)]
pub struct ManagementRequest {
    pub method: Method,
    pub route: Arc<Route>,
    /// The key that the path names.
    pub id: Option<String>,
    pub query: Option<String>,
    pub headers: HeaderMap,
    /// Or why it could not be read, which is answered only once the session and the content type have been checked.
    pub body: Result<Bytes, Denial>,
    pub client: IpAddr,
    pub request_id: String,
    pub answer: oneshot::Sender<Result<Response<Bytes>, Denial>>,
}

impl ManagementQueue {
    pub fn new(path: &str, routes: RouteTable, requests: mpsc::Sender<ManagementRequest>) -> Self {
        Self { path: path.into(), routes: Arc::new(routes), requests }
    }

    /// The request's normalised path, if it belongs to the API.
    pub fn path(&self, raw: &str) -> Option<String> {
        // Most paths have nothing to decode; their prefix decides.
        if !raw.contains('%') && !self.holds(raw) {
            return None;
        }
        // The gate refuses a malformed path like any other.
        let path = path::read(raw).ok()?.text;
        self.holds(&path).then_some(path)
    }

    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    fn holds(&self, path: &str) -> bool {
        path.strip_prefix(&*self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Queues the request and waits for its answer.
    pub async fn ask(
        &self,
        head: &mut Parts,
        body: RequestBody,
        path: &str,
        arrival: &Arrival,
        info: &RequestInfo,
        trail: &mut Trail,
    ) -> Result<Response<Bytes>, Denial> {
        let (route, parameters) = match self.routes.find(&head.method, path) {
            Found::Route { route, parameters } => (route, parameters),
            Found::OtherMethods { allow } => return Err(Denial::MethodNotAllowed { allow: allow.to_owned() }),
            Found::Nothing => return Err(Denial::RouteNotFound),
        };
        trail.route = Some(route.clone());
        let reads_body = matches!(head.method, Method::POST | Method::PATCH);
        let (answer, answered) = oneshot::channel();
        let request = ManagementRequest {
            route: route.clone(),
            id: parameters.first().map(|(_, id)| (*id).to_owned()),
            query: info.uri.query().map(str::to_owned),
            body: if reads_body { read(body, info).await } else { Ok(Bytes::new()) },
            method: head.method.clone(),
            headers: std::mem::take(&mut head.headers),
            client: arrival.client.ip(),
            request_id: info.id.as_str().to_owned(),
            answer,
        };
        match self.requests.try_send(request) {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(unreachable())),
            Err(TrySendError::Full(_)) => Err(Denial::Overloaded),
            Err(TrySendError::Closed(_)) => Err(unreachable()),
        }
    }
}

async fn read(body: RequestBody, info: &RequestInfo) -> Result<Bytes, Denial> {
    match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Denial::BodyTooLarge),
        Err(error) => Err(broke_off(&*error, info)),
    }
}

fn broke_off(error: &(dyn Error + Send + Sync + 'static), info: &RequestInfo) -> Denial {
    let (request_id, trace_id) = (info.id.as_str(), info.span.trace_id());
    tracing::debug!(request_id, trace_id, %error, "a request's body broke off");
    match error.downcast_ref::<TruncatedBody>() {
        Some(cut) if cut.is_malformed() => Denial::BadRequest("The request's body is malformed".into()),
        _ => Denial::ClientGone,
    }
}

/// The management thread has ended, which happens only with the process or when no queue leads to it.
fn unreachable() -> Denial {
    StoreError::Unreachable("nobody keeps keys any more".to_owned()).into()
}
