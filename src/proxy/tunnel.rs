//! An upgraded connection: bytes both ways once the upstream has answered 101. Until then whatever a client sends behind its
//! request is parsed as a request and decided on like every other (Pingora CVE-2026-2833).

use std::cell::{Cell, RefCell};
use std::io::{self, Cursor};
use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tracing::debug;

use super::body::{Payload, ResponseBody};
use super::connector::Stream;
use super::open::OpenRequest;
use super::upgrade::Granted;
use super::upstream::response_body::UpstreamBody;
use crate::observe::metrics::Counted;

/// Both ends of an upgraded connection.
pub struct Tunnel {
    client: OnUpgrade,
    upstream: Stream,
    /// Bytes that the upstream sent right behind the 101.
    ahead: Bytes,
    request: Rc<OpenRequest>,
    _in_flight: Counted,
}

/// Where `hand_over` leaves the tunnel for the connection's task, which serves it once hyper has ended.
#[derive(Default)]
pub struct Upgraded {
    tunnel: RefCell<Option<Tunnel>>,
    one_side_has_ended: Cell<bool>,
}

/// The answer as the client gets it. The tunnel of a granted upgrade is left with the connection, and counts as a request in
/// flight until it ends.
pub fn hand_over(
    mut response: Response<Payload>,
    in_flight: Counted,
    connection: Option<&Upgraded>,
) -> Response<ResponseBody> {
    let Some(Granted { protocol, client }) = response.extensions_mut().remove() else {
        return response.map(|payload| ResponseBody::new(payload, in_flight));
    };
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, protocol);
    response.map(|payload| {
        if let (Payload::Upstream(request), Some(connection)) = (payload, connection)
            && let Some((upstream, ahead)) = request.take_answer().and_then(UpstreamBody::into_upgraded)
        {
            *connection.tunnel.borrow_mut() = Some(Tunnel { client, upstream, ahead, request, _in_flight: in_flight });
        }
        ResponseBody::empty()
    })
}

impl Upgraded {
    /// Whether there was an upgrade.
    pub fn is_there(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    /// Passes bytes both ways until both sides have ended, or the gate ends the request; nothing where there was no upgrade.
    pub async fn serve(&self) {
        let tunnel = self.tunnel.take();
        if let Some(tunnel) = tunnel {
            tunnel.serve(&self.one_side_has_ended).await;
        }
    }

    /// Whether the tunnel is half closed.
    pub fn one_side_has_ended(&self) -> bool {
        self.one_side_has_ended.get()
    }
}

impl Tunnel {
    async fn serve(self, one_side_has_ended: &Cell<bool>) {
        let (from_upstream, mut to_upstream) = tokio::io::split(self.upstream);
        let mut from_upstream = Cursor::new(self.ahead).chain(from_upstream);
        let client = self.client;
        let copied = async {
            let client = TokioIo::new(client.await.map_err(io::Error::other)?);
            let (mut from_client, mut to_client) = tokio::io::split(client);
            tokio::try_join!(
                pass_on(&mut from_client, &mut to_upstream, one_side_has_ended),
                pass_on(&mut from_upstream, &mut to_client, one_side_has_ended),
            )
        };
        tokio::select! {
            ended = copied => if let Err(error) = ended {
                let (request_id, trace_id) = self.request.ids();
                debug!(request_id, trace_id, %error, "an upgraded connection broke off");
            },
            () = self.request.ended() => {}
        }
    }
}

/// Copies one direction to its end, then closes it: the other direction may go on.
async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    one_side_has_ended: &Cell<bool>,
) -> io::Result<()> {
    copy(from, to).await?;
    one_side_has_ended.set(true);
    to.shutdown().await
}
