//! Decodes the chunked transfer coding (RFC 9112 §7.1). What stands around the chunks is parsed byte by byte, so that it means
//! the same wherever reads split it.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::Frame;

use super::error::Error;
use super::fields::{FIELDS, HEAD_BYTES};
use crate::proxy::hygiene;

/// Bytes of all chunk extensions of one body.
const EXTENSION_BYTES: usize = 16 * 1024;
/// Leading zeros of one chunk's size, and blanks behind it.
const PADDING: usize = 32;

#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    /// Bytes left of this chunk.
    left: u64,
    extensions: usize,
    /// Of this chunk's size.
    padding: usize,
    /// How many bytes were searched for the trailers' end in vain.
    seen: usize,
}

/// What is expected next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    FirstDigit,
    Digit,
    /// Blanks behind the size.
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Ended,
}

impl Chunked {
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Takes the next frame off `read`: data, or the trailers. `None`: the body has ended, or more must be read.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Error> {
        self.advance(read)?;
        match self.state {
            State::Data if !read.is_empty() => {
                let data = read.split_to(usize::try_from(self.left).map_or(read.len(), |left| left.min(read.len())));
                self.left -= data.len() as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                    // If the end was read as well, this frame is the last. An error is reported by the next call.
                    let _ = self.advance(read);
                }
                Ok(Some(Frame::data(data.freeze())))
            }
            State::Trailers => Ok(self.trailers(read)?.map(Frame::trailers)),
            _ => Ok(None),
        }
    }

    /// Skips what stands around chunks, up to the first invalid byte.
    fn advance(&mut self, read: &mut BytesMut) -> Result<(), Error> {
        let mut passed = 0;
        let mut stepped = Ok(());
        while !matches!(self.state, State::Data | State::Trailers | State::Ended) {
            let Some(byte) = read.get(passed) else { break };
            match self.step(*byte) {
                Ok(next) => self.state = next,
                Err(wrong) => {
                    stepped = Err(Error::Malformed(wrong));
                    break;
                }
            }
            passed += 1;
        }
        read.advance(passed);
        if self.state == State::Trailers && read.starts_with(b"\r\n") {
            read.advance(2);
            self.state = State::Ended;
        }
        stepped
    }

    fn step(&mut self, byte: u8) -> Result<State, &'static str> {
        match (self.state, byte) {
            (State::FirstDigit | State::Digit, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte),
            (State::FirstDigit, _) => Err("a chunk has no size"),
            (State::Digit | State::Blank | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Digit | State::Blank, b' ' | b'\t') => self.padding(State::Blank),
            (State::Digit | State::Blank, b';') => self.extension(),
            (State::Digit | State::Blank, _) => Err("a chunk's size is no number"),
            // Some parsers take a lone LF for the line's end.
            (State::Extension, b'\n') => Err("a chunk's extension holds a line feed"),
            (State::Extension, _) => self.extension(),
            (State::SizeLf, b'\n') if self.left == 0 => Ok(State::Trailers),
            (State::SizeLf, b'\n') => Ok(State::Data),
            (State::SizeLf, _) => Err("a chunk's size does not end with CRLF"),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                self.padding = 0;
                Ok(State::FirstDigit)
            }
            (State::DataCr | State::DataLf, _) => Err("a chunk does not end with CRLF"),
            (State::Data | State::Trailers | State::Ended, _) => Ok(self.state),
        }
    }

    fn digit(&mut self, digit: u8) -> Result<State, &'static str> {
        if self.state == State::Digit && self.left == 0 {
            // Leading zeros count as padding.
            self.padding(State::Digit)?;
        }
        let value = char::from(digit).to_digit(16).ok_or("a chunk's size is no number")?;
        let left = self.left.checked_mul(16).and_then(|left| left.checked_add(value.into()));
        self.left = left.ok_or("a chunk is too large")?;
        Ok(State::Digit)
    }

    fn padding(&mut self, next: State) -> Result<State, &'static str> {
        self.padding += 1;
        if self.padding <= PADDING { Ok(next) } else { Err("a chunk's size has too many zeros or blanks around it") }
    }

    fn extension(&mut self) -> Result<State, &'static str> {
        self.extensions += 1;
        if self.extensions < EXTENSION_BYTES {
            Ok(State::Extension)
        } else {
            Err("its chunks have too many extensions")
        }
    }

    /// The trailers, once all of them have arrived.
    fn trailers(&mut self, read: &mut BytesMut) -> Result<Option<HeaderMap>, Error> {
        let from = self.seen.saturating_sub(3);
        let end = read[from..].windows(4).position(|end| end == b"\r\n\r\n").map(|end| from + end + 4);
        let new = &read[from..end.unwrap_or(read.len())];
        if has_lone_end(new) || read.starts_with(b"\n") {
            return Err(Error::Malformed("its trailers hold a lone CR or LF"));
        }
        if end.unwrap_or(read.len()) >= HEAD_BYTES {
            return Err(Error::Malformed("its trailers are larger than 64 KiB"));
        }
        let Some(end) = end else {
            self.seen = read.len();
            return Ok(None);
        };
        self.state = State::Ended;
        parse_trailers(&read.split_to(end)).map(Some)
    }
}

/// Whether a CR or LF stands alone, which some parsers take for a line's end and others do not.
fn has_lone_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair != b"\r\n" && (pair[0] == b'\r' || pair[1] == b'\n'))
}

fn parse_trailers(section: &[u8]) -> Result<HeaderMap, Error> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let parsed = httparse::parse_headers(section, &mut fields).map_err(Error::Trailers)?;
    let httparse::Status::Complete((_, fields)) = parsed else {
        return Err(Error::Malformed("its trailers are no header fields"));
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value))
        else {
            return Err(Error::Malformed("its trailers are no header fields"));
        };
        if !hygiene::is_hop_by_hop(&name) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}
