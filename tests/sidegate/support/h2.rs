//! HTTP/2 frame by frame, for what no client library would send: any pseudo-header, any byte in a name or a value.

use std::net::SocketAddr;

use super::PATIENCE;
use super::frames::{Connection, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, block, frame};

/// A header field as it is written on the wire.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// What becomes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered(u16),
    Reset,
    /// The connection was closed, with GOAWAY or without.
    Closed,
}

impl Outcome {
    /// What HTTP/2 answers to a malformed request (RFC 9113 §8.1.1).
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Answered(400 | 421) | Self::Reset | Self::Closed)
    }
}

/// One request on a connection of its own: its fields, its body, its trailers if it has any.
pub fn exchange(address: SocketAddr, fields: &[Field<'_>], body: &[u8], trailers: Option<&[Field<'_>]>) -> Outcome {
    let ends = |last: bool| if last { END_STREAM } else { 0 };
    let mut sent = frame(HEADERS, END_HEADERS | ends(body.is_empty() && trailers.is_none()), 1, &block(fields));
    if !body.is_empty() {
        sent.extend(frame(DATA, ends(trailers.is_none()), 1, body));
    }
    if let Some(trailers) = trailers {
        sent.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)));
    }
    let mut connection = Connection::open(address, &[]);
    // A server may refuse and close before it has read everything.
    connection.send(&sent);
    let told = connection.find(PATIENCE, |frame| match frame.kind {
        HEADERS | RST_STREAM => frame.stream == 1,
        kind => kind == GOAWAY,
    });
    match told {
        Some(frame) if frame.kind == HEADERS => Outcome::Answered(status(&frame.payload)),
        Some(frame) if frame.kind == RST_STREAM => Outcome::Reset,
        _ => Outcome::Closed,
    }
}

/// The status, which is a response's first field (RFC 9113 §8.3.2): indexed, or a literal of the static table's name.
fn status(block: &[u8]) -> u16 {
    let mut bytes = block.iter().copied().skip_while(|byte| (0x20..0x40).contains(byte));
    let first = bytes.next().expect("a response has fields");
    match first {
        0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
        0x08 | 0x48 => {
            let length = bytes.next().expect("a literal has a length");
            let text: Vec<u8> = bytes.take(usize::from(length & 0x7f)).collect();
            if length & 0x80 == 0 { digits(text.iter().map(|byte| u16::from(byte - b'0'))) } else { huffman(&text) }
        }
        other => panic!("{other:#x} begins no status"),
    }
}

/// Digits alone: 0 to 2 have five bits, 3 to 9 six, of which the first is not below 3 (RFC 7541, appendix B).
fn huffman(text: &[u8]) -> u16 {
    let bits: Vec<u16> = text.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1))).collect();
    let number = |bits: &[u16]| bits.iter().fold(0, |number, bit| number * 2 + bit);
    let mut at = 0;
    let mut found = Vec::new();
    while found.len() < 3 {
        let five = number(&bits[at..at + 5]);
        let (digit, length) = if five < 3 { (five, 5) } else { (number(&bits[at..at + 6]) - 0x16, 6) };
        found.push(digit);
        at += length;
    }
    digits(found.into_iter())
}

fn digits(digits: impl Iterator<Item = u16>) -> u16 {
    digits.fold(0, |number, digit| number * 10 + digit)
}
