//! Upgrades of an HTTP/1.1 connection to another protocol (RFC 9110 §7.8), WebSocket above all: decided on like any request, and
//! granted only once the upstream has answered 101. A granted one becomes a `tunnel`.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Extensions, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;

use crate::gate::Denial;

/// The protocol that a client asks for, and its end of the later tunnel.
pub struct Wanted {
    protocol: HeaderValue,
    client: OnUpgrade,
}

/// An extension of the answer that grants the upgrade, whose body holds the upstream's end. A clone is the same tunnel.
#[derive(Clone)]
pub struct Granted {
    pub protocol: HeaderValue,
    pub client: OnUpgrade,
}

impl Wanted {
    /// What the request asks for, if it may: one protocol, named by `Connection` too, and no body before it. Not `h2c`: it would
    /// carry requests past the gate.
    pub fn of(version: Version, headers: &HeaderMap, extensions: &mut Extensions) -> Option<Self> {
        let client = extensions.remove::<OnUpgrade>()?;
        let protocol = asked_for(headers).filter(|_| version == Version::HTTP_11)?;
        Some(Self { protocol: protocol.clone(), client })
    }

    /// Asks the upstream for it, after the client's hop-by-hop fields were removed.
    pub fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
    }
}

/// Marks a 101 that grants what was asked for; another 101 is an error. `is_upgraded`: the upstream's connection was taken out of
/// HTTP.
pub fn grant<B>(wanted: Option<Wanted>, response: &mut Response<B>, is_upgraded: bool) -> Result<(), Denial> {
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
    if !is_upgraded {
        return Err(invalid("where HTTP/2 cannot"));
    }
    response.extensions_mut().insert(Granted { protocol, client });
    Ok(())
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

/// One protocol by name, with or without a version (RFC 9110 §7.8), except HTTP, and TLS within HTTP (RFC 2817).
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
