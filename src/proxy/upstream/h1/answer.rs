//! The head of an answer, out of the bytes that were read. It is taken as it stands or not at all: what could be read in two
//! ways is no answer.

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

/// How many interim answers (1xx) may come before one: each costs the gate a head.
const BEFORE: u32 = 32;
/// Room for what the gate adds on the way to the client, so that no map grows for it.
const MORE: usize = 6;

/// An answer's head, and what it says of what follows.
#[derive(Debug)]
pub struct Answer {
    pub response: Response<()>,
    pub framing: Framing,
    /// The upstream takes another request on this connection.
    pub keeps: bool,
}

/// What is known of heads that have not come whole.
#[derive(Debug, Default)]
pub struct HeadSearch {
    /// How much was looked at in vain.
    seen: usize,
    /// Heads that came before the answer's own (1xx).
    before: u32,
}

/// What a head's fields say of its connection, and of the body behind it.
struct AnswerFields {
    closes: bool,
    keeps: bool,
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

/// The answer's head, once all of it is there; what comes before it (1xx) is passed over. `room`: a map that nobody needs any
/// more once there is an answer, which gets it, since the memory of a new one costs more than all that is written into it.
pub fn take(
    read: &mut BytesMut,
    awaited: &mut HeadSearch,
    method: &Method,
    room: &mut HeaderMap,
) -> Result<Option<Answer>, Error> {
    let mut fields = Fields::new();
    while let Some((length, mut answer)) = parse(read, &mut awaited.seen, &mut fields)? {
        let head = read.split_to(length).freeze();
        let (status, version) = (answer.status(), answer.version());
        room.clear();
        let said = fill(room, &head, &fields, version)?;
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        if status.is_informational() && !switches {
            awaited.before += 1;
            if awaited.before > BEFORE {
                return Err(Error::Malformed("too many interim answers stand before it"));
            }
            continue;
        }
        *answer.headers_mut() = std::mem::take(room);
        let told = framing::content_length(answer.headers_mut())?;
        let framing = Framing::of(method, &answer, told, said.encoded)?;
        // One that announces a body where there is none may send it all the same, to whoever asks next.
        let lies = status == StatusCode::NO_CONTENT && (told.is_some_and(|length| length > 0) || said.encoded);
        return Ok(Some(Answer { response: answer, framing, keeps: said.keeps() && !switches && !lies }));
    }
    Ok(None)
}

/// How long the head is, its status line, and where its fields stand.
fn parse(read: &[u8], seen: &mut usize, fields: &mut Fields) -> Result<Option<(usize, Response<()>)>, Error> {
    if read.is_empty() || (*seen > 0 && !may_be_whole(read, *seen)) {
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

/// Whether an empty line has come since; a head that trickles in is not parsed anew with each byte.
fn may_be_whole(read: &[u8], seen: usize) -> bool {
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
    // The client gets the upstream's own words.
    let reason = head.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    if let Some(reason) = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok()) {
        response.extensions_mut().insert(reason);
    }
    Ok(response)
}

/// The fields, whose values stay where they were read, without a `Connection` that names none of them: it speaks to us alone.
fn fill(headers: &mut HeaderMap, head: &Bytes, fields: &[Field], version: Version) -> Result<AnswerFields, Error> {
    headers.reserve(fields.len() + MORE);
    let mut said = AnswerFields { closes: false, keeps: version == Version::HTTP_11, encoded: false };
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
    /// The connection stays after this answer (RFC 9112 §9.3).
    fn keeps(&self) -> bool {
        self.keeps && !self.closes
    }

    /// Takes in what a line of `Connection` says; whether that is more than what becomes of the connection.
    fn names_fields(&mut self, connection: &[u8]) -> bool {
        let Some(options) = fields::options(connection) else {
            self.closes = true;
            return true;
        };
        let mut more = false;
        for option in options {
            match option {
                _ if fields::is_keep_alive(option) => self.keeps = true,
                _ if fields::is_close(option) => self.closes = true,
                _ => more = true,
            }
        }
        more
    }
}
