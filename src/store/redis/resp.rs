//! Decodes Redis's replies from a connection's bytes, in whatever pieces these arrive (RESP2).
//!
//! This finds where a reply ends; what it says is left to the crate's parser, save for bulk strings, which scripts and GET reply
//! with. Memory grows with what has arrived, never with what a length claims, and the end of nested arrays is found by counting.
//! Whatever is not RESP2, or too long, is an error, after which the bytes mean nothing any more.

use redis::{Value, parse_redis_value};

/// Free memory that each read finds, and what is kept between replies.
const READ: usize = 8 * 1024;
const KEPT: usize = 64 * 1024;

/// Far beyond the documents of a call's questions: a server that sends more does not reply to us.
const LONGEST: usize = 64 * 1024 * 1024;

/// Elements of one reply: lines, bulk strings and array headers. A node's role with all its replicas has the most; a reply of a
/// great many is read at once, and the worker does nothing else meanwhile.
const MOST_ELEMENTS: u64 = 4096;

/// A status or an error; and a number, with its type.
const LONGEST_LINE: usize = 16 * 1024;
const LONGEST_NUMBER: usize = 32;

const END: &[u8] = b"\r\n";

/// Why bytes are no reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProtocolError(pub(super) &'static str);

#[derive(Debug)]
pub(super) struct ReplyDecoder {
    bytes: Vec<u8>,
    /// Where the next reply begins.
    start: usize,
    /// Up to where its elements are complete.
    complete: usize,
    /// How many of its elements are still to come, as far as is known.
    pending: u64,
    /// How many of them are complete.
    done: u64,
}

impl ReplyDecoder {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::with_capacity(READ), start: 0, complete: 0, pending: 1, done: 0 }
    }

    /// Where bytes that arrive are to be appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.complete -= self.start;
        self.start = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
        self.bytes.reserve(READ);
        &mut self.bytes
    }

    /// The next reply that has arrived completely.
    pub(super) fn next(&mut self) -> Result<Option<Value>, ProtocolError> {
        while self.pending > 0 {
            let Some(element) = Element::first_of(&self.bytes[self.complete..])? else {
                let too_long = self.bytes.len() - self.start > LONGEST;
                return if too_long { Err(ProtocolError("it is too long")) } else { Ok(None) };
            };
            self.complete += element.length;
            self.pending = self.pending - 1 + element.elements;
            self.done += 1;
            if self.done + self.pending > MOST_ELEMENTS {
                return Err(ProtocolError("it is too long"));
            }
        }
        let value = read(&self.bytes[self.start..self.complete])?;
        (self.start, self.pending, self.done) = (self.complete, 1, 0);
        Ok(Some(value))
    }
}

/// What a reply is made of: a line, a bulk string with its length, or an array header.
struct Element {
    length: usize,
    /// How many further elements an array header announces, not counting those within nested arrays.
    elements: u64,
}

impl Element {
    /// The element that the bytes begin with, if all of it is there.
    fn first_of(bytes: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        let longest = match kind {
            b'+' | b'-' => LONGEST_LINE,
            b':' | b'$' | b'*' => LONGEST_NUMBER,
            _ => return Err(ProtocolError("it has a type that nobody asked for")),
        };
        let Some(line) = line(bytes, longest) else {
            return if bytes.len() < longest { Ok(None) } else { Err(ProtocolError("a line of it does not end")) };
        };
        let head = line.len() + END.len();
        let (text, elements) = match kind {
            b'$' => (length_of(line)?.map_or(0, |length| length + END.len()), 0),
            b'*' => (0, length_of(line)?.unwrap_or(0)),
            _ => (0, 0),
        };
        let length = head + text;
        if bytes.len() < length {
            return Ok(None);
        }
        if !bytes[..length].ends_with(END) {
            return Err(ProtocolError("a text of it is longer than it says"));
        }
        Ok(Some(Self { length, elements: elements as u64 }))
    }
}

/// What stands before the end of the first line, unless that is longer.
fn line(bytes: &[u8], longest: usize) -> Option<&[u8]> {
    let looked_at = &bytes[..bytes.len().min(longest)];
    looked_at.windows(END.len()).position(|end| end == END).map(|length| &bytes[..length])
}

/// The length of a text or an array; `None` of one that is nil.
fn length_of(line: &[u8]) -> Result<Option<usize>, ProtocolError> {
    let digits = &line[1..];
    if digits == b"-1" {
        return Ok(None);
    }
    let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    let length = number.and_then(|number| number.parse().ok()).ok_or(ProtocolError("a length of it is none"))?;
    if length > LONGEST { Err(ProtocolError("it is too long")) } else { Ok(Some(length)) }
}

/// The value of a complete reply.
fn read(reply: &[u8]) -> Result<Value, ProtocolError> {
    match line(reply, LONGEST_NUMBER) {
        Some(b"$-1") => Ok(Value::Nil),
        Some(head @ [b'$', ..]) => {
            Ok(Value::BulkString(reply[head.len() + END.len()..reply.len() - END.len()].to_vec()))
        }
        // An error may repeat the command, which need not be text.
        _ if reply.starts_with(b"-") => parsed(String::from_utf8_lossy(reply).as_bytes()),
        _ => parsed(reply),
    }
}

fn parsed(reply: &[u8]) -> Result<Value, ProtocolError> {
    parse_redis_value(reply).map_err(|_| ProtocolError("it cannot be read"))
}

#[cfg(test)]
mod tests;
