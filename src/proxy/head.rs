//! Checks what HTTP requires of a request's head and hyper does not: one host, one transfer coding, sizes, refused methods.

use http::header::{HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use super::settings::Settings;
use crate::gate::{Denial, Oversize};

/// RFC 9110 §4.1 recommends that URIs of at least 8,000 octets are supported.
const LONGEST_TARGET: usize = 8 * 1024;

/// What HTTP/2 counts for a field beside its name and value (RFC 9113 §6.5.2): 32, less the 4 bytes that HTTP/1.1 writes around
/// them, which `Fields::size` includes.
const BESIDE_H2_FIELD: usize = 32 - 4;

/// TRACE would echo the key, CONNECT would open a tunnel to anywhere.
const REFUSED: [Method; 2] = [Method::TRACE, Method::CONNECT];

/// What a valid head says.
pub struct Head {
    pub form: TargetForm,
    /// The part that is larger than allowed; the gate decides whether that is enforced.
    pub oversize: Option<Oversize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `OPTIONS *`: about this server as a whole (RFC 9110 §9.3.7).
    Server,
    Resource,
}

/// Checks the head, whose target is `uri`, and leaves exactly one `Host` in it, whatever the version. `allow`: the methods that
/// the target accepts, for a 405.
pub fn check(head: &mut Parts, uri: &Uri, settings: &Settings, allow: impl FnOnce() -> String) -> Result<Head, Denial> {
    if REFUSED.contains(&head.method) {
        return Err(Denial::MethodNotAllowed { allow: allow() });
    }
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = Fields::of(&head.headers);
    let oversize = match () {
        () if target > LONGEST_TARGET => Some(Oversize::Target),
        () if is_oversize(&fields, head, settings) => Some(Oversize::Headers),
        () => None,
    };
    if fields.encoded {
        check_coding(&head.headers)?;
    }
    if let Some(host) = missing_host(&fields, uri, head.version)? {
        head.headers.insert(HOST, host);
    }
    let form = match uri.path() {
        "*" if head.method == Method::OPTIONS => TargetForm::Server,
        _ => TargetForm::Resource,
    };
    Ok(Head { form, oversize })
}

fn is_oversize(fields: &Fields<'_>, head: &Parts, settings: &Settings) -> bool {
    let count = head.headers.len();
    let (size, most) = match head.version {
        Version::HTTP_2 => (fields.size + BESIDE_H2_FIELD * count, settings.h2_header_bytes),
        _ => (fields.size, settings.header_bytes),
    };
    size > most || count > settings.headers
}

/// What one pass over the fields finds.
#[derive(Default)]
struct Fields<'h> {
    /// As HTTP/1.1 writes them: `name: value\r\n`.
    size: usize,
    /// The first `Host`, and how many there are.
    host: Option<&'h HeaderValue>,
    hosts: usize,
    /// There is a `Transfer-Encoding`.
    encoded: bool,
}

impl<'h> Fields<'h> {
    fn of(headers: &'h HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            found.size += name.as_str().len() + value.len() + 4;
            found.encoded |= *name == TRANSFER_ENCODING;
            if *name == HOST {
                found.host = found.host.or(Some(value));
                found.hosts += 1;
            }
        }
        found
    }
}

/// One transfer coding, `chunked`: with any other, two readers may disagree on where the body ends (RFC 9112 §6.1).
fn check_coding(headers: &HeaderMap) -> Result<(), Denial> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked && codings.next().is_none() {
        return Ok(());
    }
    Err(Denial::BadRequest("The request has a transfer coding other than chunked".into()))
}

/// The value for a `Host` that is missing. The request must name one host, by `Host`, by `:authority`, or by both alike
/// (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn missing_host(fields: &Fields<'_>, uri: &Uri, version: Version) -> Result<Option<HeaderValue>, Denial> {
    let refused = |what: &'static str| Denial::BadRequest(what.into());
    let host = fields.host;
    if fields.hosts > 1 {
        return Err(refused("The request has more than one Host header"));
    }
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    if !host.map(HeaderValue::as_bytes).into_iter().chain(authority).all(is_host) {
        return Err(refused("The request names no valid host"));
    }
    match (host, uri.authority()) {
        (Some(_), None) => Ok(None),
        (None, Some(authority)) => {
            let host = HeaderValue::from_str(authority.as_str());
            host.map(Some).map_err(|_| refused("The request's authority names no host"))
        }
        (Some(host), Some(authority)) if host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Ok(None)
        }
        (Some(_), Some(_)) => Err(refused("The Host header and the request's target name different hosts")),
        (None, None) if version == Version::HTTP_10 => Ok(Some(HeaderValue::from_static(""))),
        (None, None) => Err(refused("The request has no Host header")),
    }
}

/// A name or an address, perhaps with a port. Userinfo is not allowed (RFC 9110 §4.2.4), and parsers disagree on which side of
/// the `@` the host is.
fn is_host(host: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let (name, port) = host.split_at(host.iter().position(|byte| !is_plain(byte)).unwrap_or(host.len()));
    match port {
        [] => true,
        [b':', port @ ..] if !name.is_empty() && !port.is_empty() && port.iter().all(u8::is_ascii_digit) => true,
        _ => Authority::try_from(host).is_ok() && !host.contains(&b'@'),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn host_of(uri: &str, hosts: &[&'static str]) -> Result<String, &'static str> {
        let mut request = Request::builder().uri(uri).body(()).expect("the test's targets are right");
        for value in hosts {
            request.headers_mut().append(HOST, HeaderValue::from_static(value));
        }
        let missing = missing_host(&Fields::of(request.headers()), request.uri(), request.version());
        let missing = missing.map_err(|denial| denial.reason().name())?;
        let host = missing.as_ref().or_else(|| request.headers().get(HOST)).expect("some host is named");
        Ok(String::from_utf8_lossy(host.as_bytes()).into_owned())
    }

    #[test]
    fn a_request_names_one_host() {
        assert_eq!(host_of("/a", &["api.example"]), Ok("api.example".to_owned()));
        assert_eq!(host_of("http://api.example/a", &[]), Ok("api.example".to_owned()));
        assert_eq!(host_of("http://api.example/a", &["API.example"]), Ok("API.example".to_owned()));
        for (uri, hosts) in [
            ("/a", &[][..]),
            ("/a", &["a.example", "a.example"]),
            ("http://a.example/a", &["b.example"]),
            ("/a", &["a b"]),
            ("/a", &["a/b"]),
            ("/a", &["u@a"]),
            ("http://u@a/a", &[]),
        ] {
            assert_eq!(host_of(uri, hosts), Err("bad_request"), "{uri} {hosts:?}");
        }
    }
}
