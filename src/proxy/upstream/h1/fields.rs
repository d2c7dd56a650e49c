//! Parses single header fields of a message's framing and its connection; the bounds on heads and trailers.

use http::HeaderName;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, MAX_FORWARDS,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};

/// The largest head, and the largest trailer section.
pub const HEAD_BYTES: usize = 64 * 1024;
pub const FIELDS: usize = 100;

/// A `Content-Length`: one number, or a list of the same one (RFC 9110 §8.6).
pub fn length(text: &[u8]) -> Option<u64> {
    digits(text).or_else(|| {
        let mut lengths = text.split(|byte| *byte == b',').map(|part| digits(part.trim_ascii()));
        let first = lengths.next()??;
        lengths.all(|other| other == Some(first)).then_some(first)
    })
}

/// Whether a `Content-Length` is digits without zeros before them.
pub fn is_plain(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || !text.starts_with(b"0"))
}

/// The options of a `Connection`, or the names in a `Trailer`; `None` where it is not ASCII.
pub fn options(value: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    value.is_ascii().then(|| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

pub fn is_close(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"close")
}

pub fn is_keep_alive(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"keep-alive")
}

/// Whether a field may be sent in trailers: none of framing, routing or authentication (RFC 9110 §6.5.1).
pub fn is_trailer(name: &HeaderName) -> bool {
    !matches!(
        *name,
        AUTHORIZATION
            | CACHE_CONTROL
            | CONTENT_ENCODING
            | CONTENT_LENGTH
            | CONTENT_RANGE
            | CONTENT_TYPE
            | HOST
            | MAX_FORWARDS
            | SET_COOKIE
            | TE
            | TRAILER
            | TRANSFER_ENCODING
    )
}

/// Digits only: no sign, no blank within.
fn digits(text: &[u8]) -> Option<u64> {
    let add = |sum: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, add) }
}
