//! Cross-site request forgery: requests that another site's page has a browser send with its user's cookies are refused first.
//!
//! A browser says where a request comes from in `Sec-Fetch-Site` (W3C Fetch Metadata) and, with all that changes something,
//! in `Origin` (RFC 6454); a page can forge neither. Other clients send neither, and have no cookies that could be misused.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Uri};

use super::refusal::refusal;
use crate::gate::Denial;
use crate::policy::Reason;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Those of the two headers that are present must name this origin.
pub fn check(headers: &HeaderMap) -> Result<(), Denial> {
    let fetched =
        headers.get_all(SEC_FETCH_SITE).iter().all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let sent = headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(|origin| is_of(origin, host)));
    if fetched && sent { Ok(()) } else { Err(refusal(Reason::CrossSite, None)) }
}

/// Whether an origin is that of this host. Its scheme is not compared: TLS may be terminated before the gate.
fn is_of(origin: &str, host: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let port = match uri.scheme_str() {
        Some("https") => ":443",
        Some("http") => ":80",
        _ => return false,
    };
    let Some(authority) = uri.authority() else { return false };
    let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
    bare(authority.as_str()) == bare(host)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_same_origin_and_programs_pass() {
        for (lines, passes) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("origin", "https://api.example.com")], true),
            (&[("origin", "https://API.example.com:443")], true),
            (&[("origin", "http://api.example.com")], true),
            (&[("origin", "http://api.example.com:8080")], false),
            (&[("origin", "https://api.example.com.evil.example")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", "")], false),
            (&[("origin", "api.example.com")], false),
            (&[("origin", "https://api.example.com"), ("sec-fetch-site", "cross-site")], false),
            (&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")], false),
            (&[("origin", "https://api.example.com"), ("origin", "https://evil.example")], false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("api.example.com"));
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(check(&headers).is_ok(), passes, "{lines:?}");
        }
    }
}
