//! One request on a connection of its own, for what is asked seldom: sessions, the service's own probes, an API server. Requests
//! of clients go over kept connections, which are `upstream`'s.

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

pub type Failure = Box<dyn Error + Send + Sync>;

/// What was answered; the body of a 200 alone.
pub struct Answered {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Asks by whichever protocol is agreed on; `request` is told whether that is HTTP/2. The caller bounds it all.
pub async fn ask(
    connector: &Connector,
    resolver: Option<&Rc<Resolver>>,
    patience: Duration,
    largest: usize,
    request: impl FnOnce(bool) -> Result<Request<Empty<Bytes>>, http::Error>,
) -> Result<Answered, Failure> {
    let Connected { stream, h2, .. } = connector.connect(resolver, patience).await?;
    let request = request(h2)?;
    let stream = TokioIo::new(stream);
    if h2 {
        let (mut sender, connection) = http2::handshake(OnThisThread, stream).await?;
        driven(connection, async { answered(sender.send_request(request).await?, largest).await }).await
    } else {
        let (mut sender, connection) = http1::handshake(stream).await?;
        driven(connection, async { answered(sender.send_request(request).await?, largest).await }).await
    }
}

async fn answered(response: Response<Incoming>, largest: usize) -> Result<Answered, Failure> {
    let status = response.status();
    if status != StatusCode::OK {
        return Ok(Answered { status, body: Bytes::new() });
    }
    let body = Limited::new(response.into_body(), largest).collect().await?.to_bytes();
    Ok(Answered { status, body })
}

/// The exchange on its connection, which ends with it.
pub async fn driven<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    exchange: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let (mut connection, mut exchange) = (pin!(connection), pin!(exchange));
    tokio::select! {
        answer = &mut exchange => answer,
        // The exchange knows how far it came.
        _ = &mut connection => exchange.await,
    }
}
