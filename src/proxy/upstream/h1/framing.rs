//! Where an answer's body ends (RFC 9112 §6.3), and its decoding.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use hyper::body::{Frame, SizeHint};

use super::chunked::Chunked;
use super::error::Error;
use super::fields;

/// The rest of a body.
#[derive(Debug, Default)]
pub enum Framing {
    #[default]
    Ended,
    /// This many bytes, at least one.
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

/// Lengths from here on are refused: many parsers, hyper among them, use the largest numbers as markers of bodies without a
/// length.
const TOO_LONG: u64 = u64::MAX - 1;

/// Whether the answer ends with its head, whatever that says (RFC 9110 §6.4.1).
pub fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    let bodiless = [StatusCode::SWITCHING_PROTOCOLS, StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    *method == Method::HEAD || bodiless.contains(&status)
}

impl Framing {
    /// `length`: its `Content-Length`. `encoded`: it has a `Transfer-Encoding`.
    pub fn of<B>(method: &Method, answer: &Response<B>, length: Option<u64>, encoded: bool) -> Result<Self, Error> {
        let (status, headers) = (answer.status(), answer.headers());
        if is_bodiless(method, status) {
            return Ok(Self::Ended);
        }
        if encoded {
            return Self::encoded(headers, answer.version(), length);
        }
        match length {
            Some(0) => Ok(Self::Ended),
            Some(length) if length < TOO_LONG => Ok(Self::Length(length)),
            Some(_) => Err(Error::Malformed("its Content-Length is too large")),
            None => Ok(Self::UntilClose),
        }
    }

    fn encoded(headers: &HeaderMap, version: Version, length: Option<u64>) -> Result<Self, Error> {
        if version == Version::HTTP_10 {
            return Err(Error::Malformed("HTTP/1.0 knows no Transfer-Encoding"));
        }
        if length.is_some() {
            // Two ends, as in response splitting (RFC 9112 §6.3).
            return Err(Error::Malformed("it has both a Transfer-Encoding and a Content-Length"));
        }
        // Another coding is neither passed on, since transfer codings are hop-by-hop, nor decoded here: the client would take
        // what is encoded for the body.
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let is_chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if is_chunked && codings.next().is_none() {
            Ok(Self::Chunked(Chunked::default()))
        } else {
            Err(Error::Malformed("it has a transfer coding besides chunked"))
        }
    }

    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ended => SizeHint::with_exact(0),
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Chunked(_) | Self::UntilClose => SizeHint::default(),
        }
    }

    /// Takes the body's next frame off `read`. `None`: the body has ended, or more must be read.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Error> {
        let frame = match self {
            Self::Ended => return Ok(None),
            _ if read.is_empty() => return Ok(None),
            Self::UntilClose => Frame::data(read.split().freeze()),
            Self::Length(left) => {
                let data = read.split_to(usize::try_from(*left).map_or(read.len(), |left| left.min(read.len())));
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Ended;
                }
                Frame::data(data.freeze())
            }
            Self::Chunked(chunked) => {
                let frame = chunked.take(read)?;
                if chunked.is_ended() {
                    *self = Self::Ended;
                }
                return Ok(frame);
            }
        };
        Ok(Some(frame))
    }

    /// The upstream has closed the connection: the end of an `UntilClose` body, an error in a body that has its own.
    pub fn close(&mut self) -> Result<(), Error> {
        match self {
            Self::Length(_) | Self::Chunked(_) => Err(Error::Closed("the answer's body was whole")),
            Self::UntilClose | Self::Ended => {
                *self = Self::Ended;
                Ok(())
            }
        }
    }
}

/// The one length that all `Content-Length`s state. The header is normalised to one plain number (RFC 9110 §8.6).
pub fn content_length(headers: &mut HeaderMap) -> Result<Option<u64>, Error> {
    let (mut length, mut plain) = (None, true);
    for value in headers.get_all(CONTENT_LENGTH) {
        let this = fields::length(value.as_bytes()).ok_or(Error::Malformed("its Content-Length is no length"))?;
        plain &= length.is_none() && fields::is_plain(value.as_bytes());
        if length.replace(this).is_some_and(|other| other != this) {
            return Err(Error::Malformed("it has two different Content-Lengths"));
        }
    }
    if let Some(length) = length
        && !plain
    {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Ok(length)
}
