//! Writes a request's head in HTTP/1.1, and chooses the framing of its body (RFC 9112 §6).

use std::io::Write as _;

use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use hyper::body::Body;

use super::error::Error;
use super::fields;
use crate::proxy::headers::Added;

/// How a request's body goes out.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyFraming {
    Nothing,
    /// This many bytes are still to be sent.
    Length(u64),
    /// With the trailers that the head announced.
    Chunked(Vec<HeaderName>),
}

/// What the written head announces.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub body: BodyFraming,
    /// `Connection: close`.
    pub close: bool,
}

/// What the head's own fields say of the body and the connection.
#[derive(Default)]
struct RequestFields {
    length: Option<u64>,
    /// The length has been written, as a plain number.
    length_written: bool,
    trailers: Vec<HeaderName>,
    close: bool,
}

/// Writes the head, and the framing fields that it lacks. After an error `out` holds a part of it.
pub fn write(out: &mut Vec<u8>, head: &Parts, added: &Added<'_>, body: &impl Body) -> Result<Written, Error> {
    let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut said = RequestFields::default();
    let theirs = head.headers.iter().map(|(name, value)| (name, value.as_bytes()));
    let ours = added.iter().map(|(name, value)| (&**name, value.as_bytes()));
    for (name, value) in theirs.chain(ours) {
        if said.note(name, value)? {
            write_field(out, name, value);
        }
    }
    let outgoing = said.outgoing(body)?;
    let length = match outgoing {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::Nothing => said.length,
        BodyFraming::Chunked(_) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            None
        }
    };
    if let Some(length) = length.filter(|_| !said.length_written) {
        write!(out, "content-length: {length}\r\n").expect("a Vec takes whatever is written");
    }
    out.extend_from_slice(b"\r\n");
    Ok(Written { body: outgoing, close: said.close })
}

/// Ends a chunked body, with those trailers that were announced and may be sent.
pub fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap, announced: &[HeaderName]) {
    out.extend_from_slice(b"0\r\n");
    let sent = trailers.iter().filter(|(name, _)| announced.contains(name) && fields::is_trailer(name));
    sent.for_each(|(name, value)| write_field(out, name, value.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// Neither `HeaderName` nor a `HeaderValue`'s bytes can hold a line break.
fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

impl RequestFields {
    /// Notes a field; whether it is written as it is. A second length, or one that is no plain number, is not.
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Error> {
        match *name {
            CONTENT_LENGTH => {
                let length = fields::length(value).ok_or(Error::Unsendable("its Content-Length is no length"))?;
                let is_written = !self.length_written && fields::is_plain(value);
                self.length_written |= is_written;
                if self.length.replace(length).is_some_and(|other| other != length) {
                    return Err(Error::Unsendable("it has two different Content-Lengths"));
                }
                return Ok(is_written);
            }
            // The client's was removed as hop-by-hop; the framing on this connection is chosen in `outgoing`.
            TRANSFER_ENCODING => return Err(Error::Unsendable("a Transfer-Encoding was set for it")),
            CONNECTION => self.close |= fields::options(value).is_none_or(|mut all| all.any(fields::is_close)),
            TRAILER => {
                let names = fields::options(value).into_iter().flatten();
                self.trailers.extend(names.filter_map(|name| HeaderName::from_bytes(name).ok()));
            }
            _ => {}
        }
        Ok(true)
    }

    fn outgoing(&mut self, body: &impl Body) -> Result<BodyFraming, Error> {
        if body.is_end_stream() {
            let empty = self.length.is_none_or(|length| length == 0);
            return empty
                .then_some(BodyFraming::Nothing)
                .ok_or(Error::Unsendable("its Content-Length is not its body's"));
        }
        match (self.length, body.size_hint().exact()) {
            (Some(said), Some(exact)) if said != exact => {
                Err(Error::Unsendable("its Content-Length is not its body's"))
            }
            (Some(length), _) | (None, Some(length)) => Ok(BodyFraming::Length(length)),
            // Whatever the method: what a GET's body means is for the service to say (RFC 9110 §9.3.1).
            (None, None) => Ok(BodyFraming::Chunked(std::mem::take(&mut self.trailers))),
        }
    }
}
