//! HTTP/2 frame by frame, for what no client library would send: any pseudo-header, any byte in a name or a value.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

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
    let mut stream = TcpStream::connect(address).expect("the listener accepts");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout above zero is valid");
    let mut sent = PREFACE.to_vec();
    frame(&mut sent, SETTINGS, 0, 0, &[]);
    let ends = |last: bool| if last { END_STREAM } else { 0 };
    frame(&mut sent, HEADERS, END_HEADERS | ends(body.is_empty() && trailers.is_none()), 1, &block(fields));
    if !body.is_empty() {
        frame(&mut sent, DATA, ends(trailers.is_none()), 1, body);
    }
    if let Some(trailers) = trailers {
        frame(&mut sent, HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers));
    }
    // A server may refuse and close before it has read everything.
    let _ = stream.write_all(&sent);
    outcome(&mut stream)
}

fn outcome(stream: &mut TcpStream) -> Outcome {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Outcome::Closed;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("24 bits")];
        if stream.read_exact(&mut payload).is_err() {
            return Outcome::Closed;
        }
        match (head[3], head[8]) {
            (HEADERS, 1) => return Outcome::Answered(status(&payload)),
            (RST_STREAM, 1) => return Outcome::Reset,
            (GOAWAY, _) => return Outcome::Closed,
            _ => {}
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Each field as a literal without indexing and without Huffman (RFC 7541 §6.2.2): the bytes as they are.
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text"));
            block.extend_from_slice(text);
        }
    }
    block
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
