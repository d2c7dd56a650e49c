//! Recognises gRPC calls, by content type, and reads their deadline (gRPC over HTTP/2, "Requests"). How they are denied is in
//! `respond`.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Version};

/// Whether a request may be a call: each is a POST (gRPC over HTTP/2, "Requests"); to any other method a denial as gRPC, a 200,
/// could be cached. Bridges carry calls over HTTP/1.1, too.
pub fn is_call(method: &Method, version: Version) -> bool {
    *method == Method::POST && version != Version::HTTP_10
}

/// `application/grpc`, `application/grpc+proto`, …: status and message are read from trailers alone.
pub fn is_grpc_type(content_type: &HeaderValue) -> bool {
    let kind = content_type.to_str().ok().and_then(|kind| kind.strip_prefix("application/grpc"));
    kind.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// Whether an answer is gRPC, not that of a proxy or server in between that knows nothing of it.
pub fn is_answer(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(is_grpc_type)
}

/// How long the client waits for the whole call (`grpc-timeout: 100m`); the header is forwarded unchanged.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    headers.get("grpc-timeout").and_then(parse_timeout)
}

/// At most 8 digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let read = |text: &'static str| parse_timeout(&HeaderValue::from_static(text));
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("5n"), Some(Duration::from_nanos(5)));
        for text in ["", "S", "10", "1s", "123456789S", "-1S", "1.5S", "1 S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
