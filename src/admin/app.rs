//! Probes the service on loopback, which the kubelet cannot reach, in its place.
//!
//! As the kubelet does: one connection for each probe, 200 to 399 is healthy, redirects are not followed, nothing is verified but
//! the status. The service's body is not passed on.
//!
//! The listener for probes can be reached from the network, and a flood there must not become a flood on the service: each
//! probe runs once at a time, and concurrent requests share its result. None is refused, or a flood could have
//! the kubelet's own requests refused and the service restarted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::settings::{AppProbe, Check};
use crate::proxy::exchange::{ExchangeError, drive};

/// The largest body that is read.
const LARGEST_ANSWER: usize = 10 * 1024;
/// The prefix by which services recognise the kubelet's probes.
const AGENT: HeaderValue = HeaderValue::from_static("kube-probe/sidegate");

/// Locked while the service is probed; holds the last result and its time.
type ProbeState = tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>;

/// Each probe's state, by its path: as many as configurations have named.
static PROBES: Mutex<BTreeMap<String, Arc<ProbeState>>> = Mutex::new(BTreeMap::new());

/// Whether the service is well; else why not, in one short line without anything of the service's own text.
pub async fn ask(probe: &AppProbe) -> Result<(), String> {
    let since = Instant::now();
    let state = PROBES.lock().unwrap_or_else(PoisonError::into_inner).entry(probe.path.clone()).or_default().clone();
    let mut last = state.lock_owned().await;
    if let Some((at, answer)) = &*last
        && *at >= since
    {
        return answer.clone();
    }
    let probe = probe.clone();
    // Spawned, so that it runs to its end even if the client disconnects: clients that do so repeatedly would start many.
    let asked = tokio::spawn(async move {
        let answer = ask_service(&probe).await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    });
    asked.await.unwrap_or_else(|error| Err(format!("no answer: {error}")))
}

async fn ask_service(probe: &AppProbe) -> Result<(), String> {
    let asked = async {
        let stream = TcpStream::connect(probe.address).await.map_err(|error| format!("no connection: {error}"))?;
        let stream = TokioIo::new(stream);
        match &probe.check {
            Check::Tcp => Ok(()),
            Check::Http { target, headers } => http(stream, probe, target, headers).await,
            Check::Grpc { service } => grpc(stream, probe, service).await,
        }
    };
    timeout(probe.timeout, asked).await.unwrap_or_else(|_| Err(format!("no answer within {:?}", probe.timeout)))
}

async fn http(
    stream: TokioIo<TcpStream>,
    probe: &AppProbe,
    target: &PathAndQuery,
    headers: &HeaderMap,
) -> Result<(), String> {
    let status = async {
        let mut request = Request::get(target.as_str()).body(Full::<Bytes>::default())?;
        *request.headers_mut() = headers.clone();
        let host = HeaderValue::from_str(&probe.address.to_string())?;
        for (name, value) in [(HOST, host), (USER_AGENT, AGENT), (ACCEPT, HeaderValue::from_static("*/*"))] {
            request.headers_mut().entry(name).or_insert(value);
        }
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let (mut sender, connection) = http1::handshake(stream).await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            // A service whose connection is closed while it writes may log an error.
            let _ = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            Ok(status)
        };
        drive(connection, exchange).await
    };
    match status.await {
        Ok(status) if (200..400).contains(&status.as_u16()) => Ok(()),
        Ok(status) => Err(format!("it answers {}", status.as_u16())),
        Err(error) => Err(format!("no answer: {error}")),
    }
}

/// `grpc.health.v1.Health/Check` (the gRPC health checking protocol).
async fn grpc(stream: TokioIo<TcpStream>, probe: &AppProbe, service: &str) -> Result<(), String> {
    let answer: Result<(Bytes, HeaderMap), ExchangeError> = async {
        let request = Request::post(format!("http://{}/grpc.health.v1.Health/Check", probe.address))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, AGENT)
            .body(Full::new(health_request(service)))?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let mut said = response.headers().clone();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await?;
            said.extend(body.trailers().cloned().unwrap_or_default());
            Ok((body.to_bytes(), said))
        };
        drive(connection, exchange).await
    }
    .await;
    let (message, said) = answer.map_err(|error| format!("no answer: {error}"))?;
    match said.get("grpc-status").and_then(|status| status.to_str().ok()) {
        Some("0") if is_serving(&message) => Ok(()),
        Some("0") => Err("it is not serving".to_owned()),
        Some(status) if status.len() <= 2 => Err(format!("gRPC status {status}")),
        _ => Err("it answers something else than gRPC".to_owned()),
    }
}

/// A frame that is not compressed, with field 1, the service's name, which is left out where it is empty.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.unsplit(message);
    frame.freeze()
}

/// Field 1 is 1, SERVING; other fields are none of this version.
fn is_serving(frame: &[u8]) -> bool {
    frame.get(5..7) == Some(&[0x08, 0x01])
}
