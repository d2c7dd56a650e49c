//! Normalises the path, for matching and forwarding alike, or refuses it with 400: the gate and the upstream must read it alike.
//!
//! Unreserved characters are decoded once (RFC 3986 §6.2.2.2) and all else stays byte for byte; whatever two servers are known
//! to read differently is refused. The tests list the classes and their precedents.

use unicode_normalization::UnicodeNormalization;

use super::Denial;
use crate::policy::{Allowances, RouteTable, lenient, percent};

/// A normalised path, and what the route must allow for it to pass.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestPath {
    pub text: String,
    pub needs: Allowances,
}

pub fn read(raw: &str) -> Result<RequestPath, Denial> {
    normalize(raw).map_err(Denial::BadPath)
}

/// The methods that these routes accept on a path, for `Allow`; none where no route matches.
pub fn allow(raw: &str, routes: &RouteTable) -> String {
    read(raw).map_or_else(|_| String::new(), |path| routes.allow(&path.text).to_owned())
}

fn normalize(raw: &str) -> Result<RequestPath, &'static str> {
    if !raw.starts_with('/') {
        return Err("The path does not begin with a slash");
    }
    if is_plain(raw) {
        return Ok(RequestPath { text: raw.to_owned(), needs: Allowances::default() });
    }
    decode_once(raw)
}

/// Letters, digits, `-`, `_` and single slashes, like most paths: nothing to decode and nothing to refuse.
fn is_plain(raw: &str) -> bool {
    let mut before = 0;
    raw.bytes().all(|byte| {
        let doubled = byte == b'/' && before == b'/';
        before = byte;
        !doubled && (byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/'))
    })
}

fn decode_once(raw: &str) -> Result<RequestPath, &'static str> {
    let mut path = RequestPath { text: String::with_capacity(raw.len()), needs: Allowances::default() };
    let mut beyond_ascii = false;
    let mut rest = raw;
    loop {
        let plain = rest.bytes().take_while(|byte| *byte == b'/' || percent::is_segment_byte(*byte)).count();
        let (text, after) = rest.split_at(plain);
        path.needs.semicolon |= text.contains(';');
        path.text.push_str(text);
        if after.is_empty() {
            break;
        }
        if !after.starts_with('%') {
            return Err("The path holds a character that must be percent-encoded");
        }
        let meant = percent::triplet(after.as_bytes()).ok_or("The path holds a percent sign that encodes nothing")?;
        beyond_ascii |= !meant.is_ascii();
        let (triplet, after) = after.split_at(3);
        push_encoded(&mut path, meant, triplet)?;
        rest = after;
    }
    check_segments(&path.text)?;
    if beyond_ascii {
        check_unicode(&path.text)?;
    }
    Ok(path)
}

fn push_encoded(path: &mut RequestPath, meant: u8, triplet: &str) -> Result<(), &'static str> {
    match meant {
        b'/' => path.needs.encoded_slash = true,
        b';' => path.needs.semicolon = true,
        b'\\' => return Err("The path holds an encoded backslash"),
        0..=0x1F | 0x7F => return Err("The path holds an encoded control character"),
        _ if percent::is_unreserved(meant) => {
            path.text.push(char::from(meant));
            return Ok(());
        }
        _ => {}
    }
    path.text.push_str(triplet);
    Ok(())
}

/// No empty segment but a last one, no dot segment, also with what some backends drop around the dots, and nothing that is
/// still encoded after it was decoded once: `%25%32%65` is `%252e` by then.
fn check_segments(text: &str) -> Result<(), &'static str> {
    if text.as_bytes().windows(2).any(|pair| pair == b"//") {
        return Err("The path holds an empty segment");
    }
    if lenient::has_dot_segment(text) {
        return Err("The path holds a dot segment");
    }
    if lenient::is_encoded_twice(text) {
        return Err("The path is percent-encoded twice");
    }
    Ok(())
}

/// Encoded bytes beyond ASCII are UTF-8, and hold nothing whose compatibility form (NFKC) would be read as a delimiter.
fn check_unicode(text: &str) -> Result<(), &'static str> {
    let decoded = percent::decode(text, false);
    let decoded = std::str::from_utf8(&decoded).map_err(|_| "The path holds encoded bytes that are not UTF-8")?;
    for c in decoded.chars().filter(|c| !c.is_ascii()) {
        let hides_delimiter =
            std::iter::once(c).nfkc().any(|c| matches!(c, '/' | '\\' | '.' | '%' | ';') || c.is_control());
        if hides_delimiter {
            return Err("The path holds a character that some servers read as a delimiter");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(raw: &str) -> Option<String> {
        normalize(raw).ok().map(|path| path.text)
    }

    #[test]
    fn what_two_servers_read_differently_is_refused() {
        for raw in [
            // Dot segments, plain, encoded, half encoded (CVE-2019-9901), behind a parameter (CVE-2025-66490).
            "/public/../admin",
            "/public/%2e%2e/admin",
            "/public/.%2E/admin",
            "/..",
            "/.",
            "/a/./b",
            "/public/..;/admin",
            // Empty segments (CVE-2021-31920).
            "//admin",
            "/public//..//admin",
            "/a//",
            // Encoded slashes with dots and backslashes (CVE-2021-29492); a route that opens encoded slashes does not open these.
            "/public%2f..%2fadmin",
            "/public%5c..%5cadmin",
            "/public\\..\\admin",
            "/a%2f%2e%2e",
            // Dots that stand alone once a backend has dropped white space, parameters or what shows nothing (CVE-2014-9390).
            "/public/..%20/admin",
            "/public/%20../admin",
            "/public/..%c2%a0/admin",
            "/public/..%3fx/admin",
            "/public/..%23/admin",
            "/public/.%e2%80%8b./admin",
            // NUL, overlong UTF-8, double encoding, raw bytes.
            "/a%00",
            "/%c0%af",
            "/%252e%252e/admin",
            "/a%252fb",
            // Twice, in pieces: the second encoding shows once the first is undone.
            "/public/%25%32%65%25%32%65/admin",
            "/a%25%32f",
            "/a%252%66",
            "/a%25%ef%bc%92%ef%bc%a6",
            "/\u{e9}",
            "/a\u{7f}",
            "/a b",
            "/a|b",
            "/a^b",
            "/a\"b",
            "/a{b}",
            // Full-width solidus, full stop, percent sign, two dot leader: delimiters after NFKC.
            "/a%ef%bc%8fb",
            "/%ef%bc%8e%ef%bc%8e/admin",
            "/%ef%bc%852e",
            "/%e2%80%a5/admin",
            // Truncated triplets, no leading slash.
            "/%",
            "/%2",
            "/%zz",
            "admin",
            "",
            "*",
        ] {
            assert_eq!(text(raw), None, "{raw}");
        }
    }

    #[test]
    fn unreserved_characters_are_decoded_once_and_the_rest_stays_encoded() {
        for (raw, expected) in [
            ("/", "/"),
            ("/%61dmin", "/admin"),
            ("/admin%3fx", "/admin%3fx"),
            ("/a%20b", "/a%20b"),
            ("/caf%c3%a9", "/caf%c3%a9"),
            ("/100%25", "/100%25"),
            ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
            ("/a/", "/a/"),
            ("/.well-known/...", "/.well-known/..."),
        ] {
            assert_eq!(text(raw).as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn encoded_slashes_and_semicolons_need_a_route_that_opens_them() {
        let needs = |raw: &str| normalize(raw).map(|path| path.needs);
        assert_eq!(needs("/a%2fb"), Ok(Allowances { encoded_slash: true, semicolon: false }));
        assert_eq!(needs("/a;b=c"), Ok(Allowances { encoded_slash: false, semicolon: true }));
        assert_eq!(needs("/a%3Bb"), Ok(Allowances { encoded_slash: false, semicolon: true }));
        assert_eq!(needs("/a/b"), Ok(Allowances::default()));
    }

    proptest! {
        /// What is not looked at any closer would be found to be what it is.
        #[test]
        fn a_plain_path_is_its_one_form(raw in "/([a-zA-Z0-9_-]{1,3}|[/.;%~]){0,5}") {
            if is_plain(&raw) {
                prop_assert_eq!(decode_once(&raw), Ok(RequestPath { text: raw.clone(), needs: Allowances::default() }));
            }
        }

        /// What is forwarded is what was decided on: reading the forwarded path again changes nothing.
        #[test]
        fn the_one_form_is_a_fixed_point(raw in "/([a-zA-Z0-9/.;:%]|%25|%[23][0-9a-fA-F]|%[0-9a-fA-F]{2}){0,12}") {
            if let Ok(path) = normalize(&raw) {
                prop_assert_eq!(normalize(&path.text), Ok(path));
            }
        }
    }
}
