//! A request's head as HTTP/1.1 writes it, and how its body will be told apart from the next request (RFC 9112 §6).

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
    /// So many bytes are still owed.
    Length(u64),
    /// With the trailers that the head announced.
    Chunked(Vec<HeaderName>),
}

/// What has been written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub body: BodyFraming,
    /// The request itself asks for the connection to be closed.
    pub closes: bool,
}

/// What the head's own fields say of the body and the connection.
#[derive(Default)]
struct RequestFields {
    length: Option<u64>,
    /// The upstream has been told it, as a plain number.
    told: bool,
    trailers: Vec<HeaderName>,
    closes: bool,
}

/// Writes the head, and with it what its fields do not say of the body yet. After an error `out` holds a part of it.
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
    let untold = match outgoing {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::Nothing => said.length,
        BodyFraming::Chunked(_) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            None
        }
    };
    if let Some(length) = untold.filter(|_| !said.told) {
        write!(out, "content-length: {length}\r\n").expect("a Vec takes whatever is written");
    }
    out.extend_from_slice(b"\r\n");
    Ok(Written { body: outgoing, closes: said.closes })
}

/// What ends a chunked body: the trailers that were announced and may be sent, or none.
pub fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap, announced: &[HeaderName]) {
    out.extend_from_slice(b"0\r\n");
    let sent = trailers.iter().filter(|(name, _)| announced.contains(name) && fields::is_trailer(name));
    sent.for_each(|(name, value)| write_field(out, name, value.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// Neither a name nor a value can hold the end of a line.
fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

impl RequestFields {
    /// Whether the field goes out as it stands. A length that is told twice, or as no plain number, does not.
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Error> {
        match *name {
            CONTENT_LENGTH => {
                let length = fields::length(value).ok_or(Error::Unsendable("its Content-Length is no length"))?;
                let tells = !self.told && fields::is_plain(value);
                self.told |= tells;
                if self.length.replace(length).is_some_and(|other| other != length) {
                    return Err(Error::Unsendable("it has two different Content-Lengths"));
                }
                return Ok(tells);
            }
            // The client's own ends at the gate; how the body is framed here is decided here.
            TRANSFER_ENCODING => return Err(Error::Unsendable("a Transfer-Encoding was set for it")),
            CONNECTION => self.closes |= fields::options(value).is_none_or(|mut all| all.any(fields::is_close)),
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
            // Whatever the method: what a service makes of a GET's body is for it to say (RFC 9110 §9.3.1).
            (None, None) => Ok(BodyFraming::Chunked(std::mem::take(&mut self.trailers))),
        }
    }
}
