//! Recognises a CORS preflight, which asks whether a method may be sent (Fetch, "CORS-preflight request"). It never carries a
//! key, so that it can pass only where the configuration says so.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderMap, Method};

/// The method that a preflight asks for; `None` if this is none.
pub fn requested_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let mut methods = headers.get_all(ACCESS_CONTROL_REQUEST_METHOD).iter();
    match (methods.next(), methods.next()) {
        (Some(method), None) => Method::from_bytes(method.as_bytes()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, lines: &[(&'static str, &'static str)]) -> Option<Method> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("the test's headers are right"));
        }
        requested_method(&method, &headers)
    }

    #[test]
    fn it_is_an_options_request_with_an_origin_and_one_method() {
        let (origin, get) = (("origin", "https://a"), ("access-control-request-method", "GET"));
        assert_eq!(asked(Method::OPTIONS, &[origin, get]), Some(Method::GET));
        assert_eq!(asked(Method::GET, &[origin, get]), None);
        assert_eq!(asked(Method::OPTIONS, &[get]), None);
        assert_eq!(asked(Method::OPTIONS, &[origin]), None);
        assert_eq!(asked(Method::OPTIONS, &[origin, get, get]), None);
        assert_eq!(asked(Method::OPTIONS, &[origin, ("access-control-request-method", "G T")]), None);
    }
}
