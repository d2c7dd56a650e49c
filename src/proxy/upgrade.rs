//! Upgrades of an HTTP/1.1 connection to another protocol (RFC 9110 §7.8), WebSocket above all: asked for like any request, and
//! a tunnel only once the upstream has answered 101. Until then whatever a client sends behind is a request of its own, decided
//! on like every other (Pingora CVE-2026-2833).

use std::cell::{Cell, RefCell};
use std::io::{self, Cursor};
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Extensions, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tracing::debug;

use super::body::{Outgoing, Payload};
use super::connector::Stream;
use super::open::OpenRequest;
use super::upstream::relayed::Relayed;
use crate::gate::Denial;
use crate::observe::metrics::Counted;

/// What a client asks to speak, and its half of the tunnel to be.
pub struct Wanted {
    protocol: HeaderValue,
    client: OnUpgrade,
}

/// On the answer that grants the upgrade, whose body holds the upstream's half. A clone is the same tunnel.
#[derive(Clone)]
struct Granted {
    protocol: HeaderValue,
    client: OnUpgrade,
}

/// A connection that no longer speaks HTTP, from the client to the upstream.
pub struct Tunnel {
    client: OnUpgrade,
    upstream: Stream,
    /// What the upstream said behind its answer's head.
    ahead: Bytes,
    request: Rc<OpenRequest>,
    _in_flight: Counted,
}

/// Where a connection finds what it was upgraded to, once its HTTP has ended.
#[derive(Clone, Default)]
pub struct Upgraded(Rc<Found>);

#[derive(Default)]
struct Found {
    tunnel: RefCell<Option<Tunnel>>,
    one_side_has_ended: Cell<bool>,
}

impl Wanted {
    /// What the request asks for, if it may: one protocol, named as the connection's option too, and no body in between.
    /// `h2c` is none: it would carry requests past the gate.
    pub fn of(version: Version, headers: &HeaderMap, extensions: &mut Extensions) -> Option<Self> {
        let client = extensions.remove::<OnUpgrade>()?;
        let protocol = asked_for(headers).filter(|_| version == Version::HTTP_11)?;
        Some(Self { protocol: protocol.clone(), client })
    }

    /// Says so to the upstream, after all that belongs to the client's connection was removed.
    pub fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
    }
}

/// Ties both halves together where the upstream grants what was asked for; any other answer is an ordinary one.
pub fn answered(wanted: Option<Wanted>, response: &mut Response<Relayed>) -> Result<(), Denial> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    let invalid = |what: &str| Denial::UpstreamInvalid(format!("it switched protocols, {what}"));
    let Wanted { protocol, client } = wanted.ok_or_else(|| invalid("which nobody asked for"))?;
    let mut said = response.headers().get_all(UPGRADE).iter();
    let matches = said.next().is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()));
    if !matches || said.next().is_some() {
        return Err(invalid("but not to the one that was asked for"));
    }
    if !response.body().is_upgraded() {
        return Err(invalid("where HTTP/2 cannot"));
    }
    response.extensions_mut().insert(Granted { protocol, client });
    Ok(())
}

/// The answer as the client gets it. One that grants an upgrade leaves its tunnel with the connection, which counts as a
/// request in flight until it ends.
pub fn hand_over(mut response: Response<Payload>, in_flight: Counted, connection: &Upgraded) -> Response<Outgoing> {
    let Some(Granted { protocol, client }) = response.extensions_mut().remove() else {
        return response.map(|payload| Outgoing::new(payload, in_flight));
    };
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, protocol);
    response.map(|payload| {
        if let Payload::Upstream(request) = payload
            && let Some((upstream, ahead)) = request.take_answer().and_then(Relayed::into_upgraded)
        {
            *connection.0.tunnel.borrow_mut() =
                Some(Tunnel { client, upstream, ahead, request, _in_flight: in_flight });
        }
        Outgoing::empty()
    })
}

impl Upgraded {
    /// Whether there was an upgrade.
    pub fn is_there(&self) -> bool {
        self.0.tunnel.borrow().is_some()
    }

    /// Passes bytes both ways until both sides have ended, or the stream is over; nothing where there was no upgrade.
    pub async fn serve(&self) {
        let tunnel = self.0.tunnel.take();
        if let Some(tunnel) = tunnel {
            tunnel.serve(&self.0.one_side_has_ended).await;
        }
    }

    /// Whether only one side may still say something.
    pub fn one_side_has_ended(&self) -> bool {
        self.0.one_side_has_ended.get()
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
            () = self.request.over() => {}
        }
    }
}

/// One side's end is passed on to the other, which may go on; a slow side slows the other.
async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    one_side_has_ended: &Cell<bool>,
) -> io::Result<()> {
    copy(from, to).await?;
    one_side_has_ended.set(true);
    to.shutdown().await
}

fn asked_for(headers: &HeaderMap) -> Option<&HeaderValue> {
    let options = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let is_option = options.flat_map(|value| value.split(',')).any(|o| o.trim().eq_ignore_ascii_case("upgrade"));
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    let mut protocols = headers.get_all(UPGRADE).iter();
    let protocol = protocols.next().filter(|protocol| is_tunnelled(protocol.as_bytes()))?;
    (is_option && !has_body && protocols.next().is_none()).then_some(protocol)
}

/// One protocol by name, with or without a version (RFC 9110 §7.8), that is not HTTP again and not TLS within it (RFC 2817).
fn is_tunnelled(protocol: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(byte);
    let begins_with = |name: &[u8]| protocol.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let carries_requests = [&b"h2"[..], b"h3", b"http", b"tls"].iter().any(|name| begins_with(name));
    !protocol.is_empty() && protocol.iter().all(is_token) && !carries_requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        asked_for(&headers).map(|protocol| String::from_utf8_lossy(protocol.as_bytes()).into_owned())
    }

    #[test]
    fn one_protocol_that_the_connection_names_too() {
        let option = ("connection", "keep-alive, Upgrade");
        assert_eq!(asked(&[option, ("upgrade", "websocket")]).as_deref(), Some("websocket"));
        assert_eq!(asked(&[option, ("upgrade", "tcp"), ("content-length", "0")]).as_deref(), Some("tcp"));
        for lines in [
            &[("upgrade", "websocket")][..],
            &[option],
            &[option, ("upgrade", "websocket, h2c")],
            &[option, ("upgrade", "websocket"), ("upgrade", "x")],
            &[option, ("upgrade", "h2c")],
            &[option, ("upgrade", "H2C-17")],
            &[option, ("upgrade", "HTTP/2.0")],
            &[option, ("upgrade", "TLS/1.2")],
            &[option, ("upgrade", "")],
            &[option, ("upgrade", "web socket")],
            &[option, ("upgrade", "websocket"), ("content-length", "5")],
            &[option, ("upgrade", "websocket"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(asked(lines), None, "{lines:?}");
        }
    }
}
