//! One request on a connection of its own, for rare exchanges: session lookups, the service's probes, an API server. Clients'
//! requests use pooled connections (`upstream`).

use std::error::Error;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;

use super::connector::{Connected, Connector};
use super::on_this_thread::OnThisThread;
use super::resolve::Resolver;

pub type ExchangeError = Box<dyn Error + Send + Sync>;

/// A reply's status, and its body if that is 200.
pub struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Sends one request by whichever protocol is agreed on; `request` is told whether that is HTTP/2. The caller bounds the time.
pub async fn ask(
    connector: &Connector,
    resolver: Option<&Rc<Resolver>>,
    time_limit: Duration,
    largest: usize,
    request: impl FnOnce(bool) -> Result<Request<Empty<Bytes>>, http::Error>,
) -> Result<Reply, ExchangeError> {
    let Connected { stream, h2, .. } = connector.connect(resolver, time_limit).await?;
    let request = request(h2)?;
    let stream = TokioIo::new(stream);
    if h2 {
        let (mut sender, connection) = http2::handshake(OnThisThread, stream).await?;
        drive(connection, async { read_reply(sender.send_request(request).await?, largest).await }).await
    } else {
        let (mut sender, connection) = http1::handshake(stream).await?;
        drive(connection, async { read_reply(sender.send_request(request).await?, largest).await }).await
    }
}

async fn read_reply(response: Response<Incoming>, largest: usize) -> Result<Reply, ExchangeError> {
    let status = response.status();
    if status != StatusCode::OK {
        return Ok(Reply { status, body: Bytes::new() });
    }
    let body = Limited::new(response.into_body(), largest).collect().await?.to_bytes();
    Ok(Reply { status, body })
}

/// Drives the connection until the exchange on it is done, and drops both.
pub async fn drive<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    exchange: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, ExchangeError> {
    let (mut connection, mut exchange) = (pin!(connection), pin!(exchange));
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection ended first; the exchange reports how.
        _ = &mut connection => exchange.await,
    }
}
