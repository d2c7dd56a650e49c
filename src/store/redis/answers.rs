//! Redis's answers out of a connection's bytes, in whatever pieces these arrive (RESP2).
//!
//! What is looked for here is where an answer ends; what it says is left to the crate's parser, save for texts, which is what
//! scripts and GET answer with. Memory grows with what has arrived, never with what a length claims, and the end of nested
//! arrays is found by counting. Whatever is not RESP2, or too long, is an error, after which the bytes mean nothing any more.

use redis::{Value, parse_redis_value};

/// Free memory that each read finds, and what is kept between answers.
const READ: usize = 8 * 1024;
const KEPT: usize = 64 * 1024;

/// Far beyond the documents of a call's questions: a server that sends more is not answering us.
const LONGEST: usize = 64 * 1024 * 1024;

/// Lines, texts and heads of arrays in one answer. A node's role with all its replicas has the most; an answer of a great many is
/// read at once, and the worker does nothing else meanwhile.
const MOST_PARTS: u64 = 4096;

/// A status or an error; and a number, with its type.
const LONGEST_LINE: usize = 16 * 1024;
const LONGEST_NUMBER: usize = 32;

const END: &[u8] = b"\r\n";

/// Why bytes are no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoAnswer(pub(super) &'static str);

#[derive(Debug)]
pub(super) struct Answers {
    bytes: Vec<u8>,
    /// Where the next answer begins.
    begin: usize,
    /// Up to where its parts are whole.
    whole: usize,
    /// How many parts it has yet: lines, texts, and heads of arrays.
    parts: u64,
    /// How many of them are whole.
    passed: u64,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::with_capacity(READ), begin: 0, whole: 0, parts: 1, passed: 0 }
    }

    /// Where bytes that arrive are to be appended.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.begin);
        self.whole -= self.begin;
        self.begin = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
        self.bytes.reserve(READ);
        &mut self.bytes
    }

    /// The next answer that has arrived whole.
    pub(super) fn next(&mut self) -> Result<Option<Value>, NoAnswer> {
        while self.parts > 0 {
            let Some(part) = Part::first_of(&self.bytes[self.whole..])? else {
                let too_long = self.bytes.len() - self.begin > LONGEST;
                return if too_long { Err(NoAnswer("it is too long")) } else { Ok(None) };
            };
            self.whole += part.length;
            self.parts = self.parts - 1 + part.elements;
            self.passed += 1;
            if self.passed + self.parts > MOST_PARTS {
                return Err(NoAnswer("it is too long"));
            }
        }
        let value = read(&self.bytes[self.begin..self.whole])?;
        (self.begin, self.parts, self.passed) = (self.whole, 1, 0);
        Ok(Some(value))
    }
}

/// What an answer is made of: a line, a text with its length, or an array's head.
struct Part {
    length: usize,
    /// How many parts an array consists of beyond this one, before those that are arrays themselves are opened.
    elements: u64,
}

impl Part {
    /// The part that the bytes begin with, if all of it is there.
    fn first_of(bytes: &[u8]) -> Result<Option<Self>, NoAnswer> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        let longest = match kind {
            b'+' | b'-' => LONGEST_LINE,
            b':' | b'$' | b'*' => LONGEST_NUMBER,
            _ => return Err(NoAnswer("it has a type that nobody asked for")),
        };
        let Some(line) = line(bytes, longest) else {
            return if bytes.len() < longest { Ok(None) } else { Err(NoAnswer("a line of it does not end")) };
        };
        let head = line.len() + END.len();
        let (text, elements) = match kind {
            b'$' => (claimed(line)?.map_or(0, |length| length + END.len()), 0),
            b'*' => (0, claimed(line)?.unwrap_or(0)),
            _ => (0, 0),
        };
        let length = head + text;
        if bytes.len() < length {
            return Ok(None);
        }
        if !bytes[..length].ends_with(END) {
            return Err(NoAnswer("a text of it is longer than it says"));
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
fn claimed(line: &[u8]) -> Result<Option<usize>, NoAnswer> {
    let digits = &line[1..];
    if digits == b"-1" {
        return Ok(None);
    }
    let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    let length = number.and_then(|number| number.parse().ok()).ok_or(NoAnswer("a length of it is none"))?;
    if length > LONGEST { Err(NoAnswer("it is too long")) } else { Ok(Some(length)) }
}

/// What a whole answer says.
fn read(answer: &[u8]) -> Result<Value, NoAnswer> {
    match line(answer, LONGEST_NUMBER) {
        Some(b"$-1") => Ok(Value::Nil),
        Some(head @ [b'$', ..]) => {
            Ok(Value::BulkString(answer[head.len() + END.len()..answer.len() - END.len()].to_vec()))
        }
        // An error may repeat what was asked, which need not be text.
        _ if answer.starts_with(b"-") => parsed(String::from_utf8_lossy(answer).as_bytes()),
        _ => parsed(answer),
    }
}

fn parsed(answer: &[u8]) -> Result<Value, NoAnswer> {
    parse_redis_value(answer).map_err(|_| NoAnswer("it cannot be read"))
}

#[cfg(test)]
mod tests;
