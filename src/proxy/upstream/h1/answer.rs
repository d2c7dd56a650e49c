//! Parses the head of an answer. A head that two parsers could read differently is refused.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;
use smallvec::SmallVec;

use super::error::Error;
use super::fields::{self, FIELDS, HEAD_BYTES};
use super::framing::{self, Framing};

/// How many interim answers (1xx) may come before the final one: without a bound an upstream could send them for ever.
const MOST_INTERIM: u32 = 32;
/// Capacity for the fields that the gate adds, so that the map does not grow for them.
const ADDED_FIELDS: usize = 6;

/// An answer's head, and what it says of its body and the connection.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<()>,
    pub framing: Framing,
    /// The connection takes another request.
    pub keep_alive: bool,
}

/// The state between reads of a head that is not complete.
#[derive(Debug, Default)]
pub struct HeadSearch {
    /// How many bytes were searched for its end in vain.
    searched: usize,
    /// Interim heads (1xx) so far.
    interim: u32,
}

/// What a head's fields say of its connection, and of the body behind it.
struct AnswerFields {
    close: bool,
    keep_alive: bool,
    /// There is a `Transfer-Encoding`.
    encoded: bool,
}

/// Where in a head its fields stand. Most answers have few.
type Fields = SmallVec<[Field; 12]>;

/// Where a name and its value begin, and how long they are.
struct Field {
    name: (usize, usize),
    value: (usize, usize),
}

/// Takes the answer's head off `read`, once all of it is there; interim ones (1xx) are skipped. `reused`: the request's map,
/// which the answer takes over, since to allocate a new one costs more than to fill it.
pub fn take(
    read: &mut BytesMut,
    search: &mut HeadSearch,
    method: &Method,
    reused: &mut HeaderMap,
) -> Result<Option<Answer>, Error> {
    let mut fields = Fields::new();
    while let Some((length, mut answer)) = parse(read, &mut search.searched, &mut fields)? {
        let head = read.split_to(length).freeze();
        let (status, version) = (answer.status(), answer.version());
        reused.clear();
        let said = fill(reused, &head, &fields, version)?;
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        if status.is_informational() && !switches {
            search.interim += 1;
            if search.interim > MOST_INTERIM {
                return Err(Error::Malformed("too many interim answers stand before it"));
            }
            continue;
        }
        *answer.headers_mut() = std::mem::take(reused);
        let length = framing::content_length(answer.headers_mut())?;
        let framing = Framing::of(method, &answer, length, said.encoded)?;
        // A body that a 204 announces may be sent all the same, and would be taken for the next request's answer.
        let may_have_body =
            status == StatusCode::NO_CONTENT && (length.is_some_and(|length| length > 0) || said.encoded);
        return Ok(Some(Answer {
            response: answer,
            framing,
            keep_alive: said.keeps_alive() && !switches && !may_have_body,
        }));
    }
    Ok(None)
}

/// How long the head is, its status line, and where its fields stand.
fn parse(read: &[u8], seen: &mut usize, fields: &mut Fields) -> Result<Option<(usize, Response<()>)>, Error> {
    if read.is_empty() || (*seen > 0 && !may_be_complete(read, *seen)) {
        return incomplete(read, seen);
    }
    let mut parsed = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut head, read, &mut parsed);
    let Status::Complete(length) = parsed.map_err(Error::Head)? else { return incomplete(read, seen) };
    if length > HEAD_BYTES {
        return Err(Error::Malformed("its head is larger than 64 KiB"));
    }
    *seen = 0;
    let field = |field: &httparse::Header<'_>| Field {
        name: place(read, field.name.as_bytes()),
        value: place(read, field.value),
    };
    fields.clear();
    fields.extend(head.headers.iter().map(field));
    Ok(Some((length, status_line(&head)?)))
}

fn incomplete<T>(read: &[u8], seen: &mut usize) -> Result<Option<T>, Error> {
    *seen = read.len();
    if read.len() < HEAD_BYTES { Ok(None) } else { Err(Error::Malformed("its head is larger than 64 KiB")) }
}

/// Whether an empty line has arrived since; a head that arrives byte by byte is not parsed anew with each.
fn may_be_complete(read: &[u8], seen: usize) -> bool {
    let new = &read[seen.saturating_sub(3)..];
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|end| end == b"\n\r\n")
}

fn place(all: &[u8], part: &[u8]) -> (usize, usize) {
    (part.as_ptr() as usize - all.as_ptr() as usize, part.len())
}

fn status_line(head: &httparse::Response<'_, '_>) -> Result<Response<()>, Error> {
    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Error::Malformed("its status is none"))?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    // A reason phrase other than the usual one is passed on.
    let reason = head.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    if let Some(reason) = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok()) {
        response.extensions_mut().insert(reason);
    }
    Ok(response)
}

/// Fills the map with the fields, whose values share the buffer. A `Connection` that names no other field is left out: it is
/// meant for the gate alone.
fn fill(headers: &mut HeaderMap, head: &Bytes, fields: &[Field], version: Version) -> Result<AnswerFields, Error> {
    headers.reserve(fields.len() + ADDED_FIELDS);
    let mut said = AnswerFields { close: false, keep_alive: version == Version::HTTP_11, encoded: false };
    for Field { name, value } in fields {
        let name = HeaderName::from_bytes(&head[name.0..name.0 + name.1]);
        let name = name.map_err(|_| Error::Malformed("a field's name is too long"))?;
        let place = value.0..value.0 + value.1;
        if name == CONNECTION && !said.names_fields(&head[place.clone()]) {
            continue;
        }
        said.encoded |= name == TRANSFER_ENCODING;
        let value = HeaderValue::from_maybe_shared(head.slice(place));
        let value = value.map_err(|_| Error::Malformed("a field's value holds a control character"))?;
        headers.append(name, value);
    }
    Ok(said)
}

impl AnswerFields {
    /// Whether the connection persists after this answer (RFC 9112 §9.3).
    fn keeps_alive(&self) -> bool {
        self.keep_alive && !self.close
    }

    /// Notes the options of a line of `Connection`; whether there are others than `close` and `keep-alive`.
    fn names_fields(&mut self, connection: &[u8]) -> bool {
        let Some(options) = fields::options(connection) else {
            self.close = true;
            return true;
        };
        let mut more = false;
        for option in options {
            match option {
                _ if fields::is_keep_alive(option) => self.keep_alive = true,
                _ if fields::is_close(option) => self.close = true,
                _ => more = true,
            }
        }
        more
    }
}
