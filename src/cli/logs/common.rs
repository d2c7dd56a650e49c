//! The common log format and its longer forms, as nginx, Apache and others write them:
//! `192.0.2.1 - ana [10/Oct/2000:13:55:36 -0700] "GET /a?b=1 HTTP/1.1" 200 2326 "referrer" "agent"`.

use std::borrow::Cow;

use super::entry::Entry;

/// `None`: the line is none, or its request was none (a scanner's bytes, a connection without one).
pub fn read(line: &[u8]) -> Option<Entry<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    // A user's name may hold spaces, brackets and quotes; the time's end is what stands before the request.
    let (before, rest) = line.split_once("] \"")?;
    before.contains('[').then_some(())?;
    let end = end_of_quoted(rest)?;
    let mut words = rest[..end].split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_request = words.next().is_none() && version.starts_with("HTTP/") && is_method(method);
    let status = rest[end + 1..].trim_start().split(' ').next()?;
    let status = status.parse().ok().filter(|status| (100..=599).contains(status));
    let entry = Entry { method: method.into(), path: path(target)?, status: status?, refused: false };
    is_request.then_some(entry)
}

fn is_method(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Where the quoted text ends; a quote within it is escaped.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// Of a target in any of its forms (RFC 9112 §3.2), without the query.
fn path(target: &str) -> Option<Cow<'_, str>> {
    let target = target.split(['?', '#']).next()?;
    if target.starts_with('/') || target == "*" {
        return Some(target.into());
    }
    let (_, authority) = target.split_once("://")?;
    Some(authority.find('/').map_or("/", |at| &authority[at..]).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_of_other_servers_are_read() {
        let read = |line: &'static str| {
            read(line.as_bytes()).map(|entry| format!("{} {} {}", entry.method, entry.path, entry.status))
        };
        for (line, meant) in [
            (r#"192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] "GET /a?b=1 HTTP/1.0" 200 2326"#, "GET /a 200"),
            (
                r#"::1 - a b [10/Oct/2000:13:55:36 -0700] "POST /a HTTP/1.1" 404 - "http://r/\"x" "agent \" x""#,
                "POST /a 404",
            ),
            (
                r#"h:443 1.2.3.4 - - [1/Jan/2026:00:00:00 +0000] "GET http://h/x/1 HTTP/2.0" 301 0 "-" "-" 0.01 rt"#,
                "GET /x/1 301",
            ),
            (r#"- - - [x] "OPTIONS * HTTP/1.1" 204 0"#, "OPTIONS * 204"),
        ] {
            assert_eq!(read(line).as_deref(), Some(meant), "{line}");
        }
        for line in [
            "",
            "GET /a HTTP/1.1",
            r#"- - - [x] "-" 400 0"#,
            r#"- - - [x] "\x16\x03\x01" 400 0"#,
            r#"- - - [x] "GET /a" 200 0"#,
            r#"- - - [x] "GET /a HTTP/1.1" abc"#,
            r#"- - - [x] "GET /a HTTP/1.1"#,
            r#"- - - [x] "GET a HTTP/1.1" 200"#,
            r#"- - - [x] "GET /a b HTTP/1.1" 200"#,
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
