//! One reading of the path: what is decided on is what the upstream gets, byte for byte, or the request is refused.
//!
//! Every case looks at the answer and at what the upstream saw. The rows have precedents: CVE-2019-9901, CVE-2021-31920,
//! CVE-2021-29492, CVE-2025-66490.

use serde_json::json;

use crate::support::{Answer, AnswerTo as _, Gate, Stage, client::exchange};

const YAML: &str = "
routes:
  /public/**: public
  /admin: admin
  GET /items/{id}: public
  GET,POST /items/new: public
  GET /items/{id}/parts/**: public
  PUT /items/{id}: public
  /opened/**: {public: true, paths: [encoded-slash, semicolon]}
  /opened/admin: admin
  /opened/x: admin
  /opened/x/admin: admin
  /lenient/{name}: {public: true, lenient: true}
  /lenient/admin: admin
  /strict/{name}: public
  /strict/admin: admin
";

#[tokio::test]
async fn a_path_with_two_readings_is_refused() {
    let yard = Yard::set();
    for target in [
        "/public/../admin",
        "/public/..",
        "/public/./x",
        "/public/.",
        "/public/%2e%2e/admin",
        "/public/.%2E/admin",
        "/public/%2e/x",
        "//admin",
        "/public//..//admin",
        "/public//x",
        "/public/a//",
        "/public%2f..%2fadmin",
        "/public/a%2Fb",
        "/public/..%5cadmin",
        "/public/..\\admin",
        "/public\\..\\admin",
        "/public/%00",
        "/public/%0a",
        "/public/%7f",
        "/public/%c0%af",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%ff",
        "/public/%ed%a0%80",
        "/public/%252e%252e/admin",
        "/public/%252f",
        // Encoded twice, in pieces: the second encoding shows once the first is undone.
        "/public/%25%32%65%25%32%65/admin",
        "/public/%25%32f",
        "/public/%252%66",
        // Dots that stand alone once a backend drops white space, parameters, or what shows nothing (CVE-2014-9390).
        "/public/..%20/admin",
        "/public/%20../admin",
        "/public/..%20./admin",
        "/public/..%c2%a0/admin",
        "/public/.%e2%80%8b./admin",
        "/public/..%3fx/admin",
        "/public/..%23/admin",
        "/public/%",
        "/public/%2",
        "/public/%zz",
        "/public/%ef%bc%8fx",
        "/public/%ef%bc%bcx",
        "/public/%ef%bc%8e%ef%bc%8e/admin",
        "/public/%ef%bc%85",
        "/public/%ef%bc%9b",
        "/public/;params",
        "/public;x/admin",
        "/public/..;/admin",
        "/public/a%3bb",
    ] {
        yard.refused(target.as_bytes(), &[400]);
    }
}

#[tokio::test]
async fn raw_bytes_above_ascii_are_refused() {
    let yard = Yard::set();
    for target in [&b"/public/\xc3\xa9"[..], b"/public/\xff", b"/public/\xc0\xaf", b"/public/\x80", b"/admin\xa0"] {
        yard.refused(target, &[400]);
    }
}

#[tokio::test]
async fn a_near_miss_of_a_route_is_no_route() {
    let yard = Yard::set();
    for target in [
        "/ADMIN",
        "/Admin",
        "/admin/",
        "/admin.",
        "/admin%20",
        "/admin%3Fx",
        "/admin%23",
        "/admi",
        "/adminx",
        "/",
        "/admin/x",
        "/strict/ADMIN",
        "/strict/admin.",
        "/strict/admin%20",
        "/strict/%41dmin",
        "/strict/%20admin",
        "/strict/admin%3Fx",
        "/strict/admin%23x",
        "/strict/adm%C4%B1n",
        "/strict/ad%C2%ADmin",
        "/strict/%EF%BC%A1dmin",
        "/PUBLIC/x",
        "/publicx",
    ] {
        yard.refused(target.as_bytes(), &[404]);
    }
}

#[tokio::test]
async fn an_unreserved_character_is_decoded_once_decided_on_and_forwarded_so() {
    let yard = Yard::set();
    for target in ["/%61dmin", "/adm%69n", "/%61%64%6d%69%6E"] {
        let refused = yard.get(target, &yard.reader);
        assert_eq!(refused.denial(), (403, "insufficient_scope".to_owned()), "{target}");
        assert!(yard.stage.upstream.seen().is_empty());
        assert_eq!(yard.get(target, &yard.admin).status, 200, "{target}");
        assert_eq!(yard.stage.upstream.only().target, "/admin");
    }
    assert_eq!(yard.get("/public/%7Ea%2Db%5F", &yard.reader).status, 200);
    assert_eq!(yard.stage.upstream.only().target, "/public/~a-b_");
}

#[tokio::test]
async fn what_has_one_reading_is_forwarded_byte_for_byte() {
    let yard = Yard::set();
    for target in [
        "/public",
        "/public/",
        "/public/a%20b",
        "/public/%e2%82%ac",
        "/public/%E2%82%AC",
        "/public/a:b@c!$&'()*+,=",
        "/public/%3Fq",
        "/public/x?a=../../admin&b=%2e%2e%2f&c=//;%00",
        "/public/x?",
        "/public/...",
        "/public/..a",
    ] {
        assert_eq!(yard.get(target, &yard.reader).status, 200, "{target}");
        assert_eq!(yard.stage.upstream.only().target, target);
    }
}

#[tokio::test]
async fn an_encoded_slash_or_a_semicolon_passes_where_the_route_says_so() {
    let yard = Yard::set();
    for target in ["/opened/a%2Fb", "/opened/a%2fb", "/opened/a;v=1"] {
        assert_eq!(yard.get(target, &yard.reader).status, 200, "{target}");
        assert_eq!(yard.stage.upstream.only().target, target);
    }
    for target in [
        "/opened/..%2fadmin",
        "/opened/%2e%2e%2fadmin",
        "/opened/..;/admin",
        "/opened/a%2f..%2fadmin",
        // Another route's, to a backend that drops parameters or splits what it has decoded.
        "/opened/admin;v=1",
        "/opened/admin;v%2f=1",
        "/opened/admin%3bv=1",
        "/opened/%2Fadmin",
        "/opened/x%2F",
        "/opened/x%2fadmin",
    ] {
        yard.refused(target.as_bytes(), &[400]);
    }
}

#[tokio::test]
async fn a_lenient_route_takes_what_another_route_would_look_like() {
    let yard = Yard::set();
    assert_eq!(yard.get("/lenient/ADMIN", &yard.reader).status, 200);
    assert_eq!(yard.stage.upstream.only().target, "/lenient/ADMIN");
    assert_eq!(yard.get("/lenient/admin", &yard.reader).status, 403);
    assert_eq!(yard.get("/strict/other", &yard.reader).status, 200);
}

#[tokio::test]
async fn the_most_specific_pattern_wins_and_a_known_path_with_another_method_is_405() {
    let yard = Yard::set();
    for (method, target, status, allow) in [
        ("GET", "/items/7", 200, None),
        ("HEAD", "/items/7", 200, None),
        ("PUT", "/items/7", 200, None),
        ("POST", "/items/7", 405, Some("GET, HEAD, PUT")),
        ("POST", "/items/new", 200, None),
        // No fall-through to `PUT /items/{id}`, which is broader.
        ("PUT", "/items/new", 405, Some("GET, HEAD, POST")),
        ("GET", "/items/7/parts", 200, None),
        ("GET", "/items/7/parts/1/2", 200, None),
        ("DELETE", "/items/7/parts/1", 405, Some("GET, HEAD")),
        ("GET", "/items", 404, None),
        ("GET", "/items/7/other", 404, None),
        ("BREW", "/public/x", 200, None),
    ] {
        let answer = yard.gate.raw(method, target, &[]);
        assert_eq!(answer.status, status, "{method} {target}");
        if let Some(allow) = allow {
            let mut allowed: Vec<&str> = answer.header("allow").unwrap_or_default().split(", ").collect();
            allowed.sort_unstable();
            assert_eq!(allowed.join(", "), allow, "{method} {target}");
        }
    }
}

#[tokio::test]
async fn what_no_route_takes_is_told_what_its_own_path_takes() {
    let yard = Yard::set();
    for (method, target, allow) in [
        ("TRACE", "/items/7", "GET, HEAD, PUT"),
        ("TRACE", "/items/new", "GET, HEAD, POST"),
        ("TRACE", "/public/x", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        ("TRACE", "/nowhere", ""),
        ("TRACE", "/items//7", ""),
        ("CONNECT", "upstream.example:443", ""),
    ] {
        let answer = yard.gate.raw(method, target, &[]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {target}");
    }
    assert!(yard.stage.upstream.seen().is_empty());
}

#[tokio::test]
async fn only_the_ordinary_form_of_a_target_is_routed() {
    let yard = Yard::set();
    assert_eq!(yard.gate.raw("OPTIONS", "*", &[]).status, 204);
    yard.refused(b"*", &[400]);
    assert_eq!(yard.gate.raw("CONNECT", "upstream.example:443", &[]).status, 405);
    let other = yard.gate.raw("GET", "http://other.example/public/x", &[]);
    assert_eq!(other.status, 400, "{other:?}");
    assert!(yard.stage.upstream.seen().is_empty());
    for target in
        ["http://u@a/public/x", "http:///public/x", "//other.example/public/x", "/public/x HTTP/1.1\r\nHost: b\r\nX:"]
    {
        yard.refused(target.as_bytes(), &[400]);
    }
    let own = yard.gate.raw("GET", yard.gate.url("/public/x"), &[]);
    assert_eq!(own.status, 200);
    assert_eq!(yard.stage.upstream.only().target, "/public/x");
}

#[tokio::test]
async fn a_request_names_exactly_one_host() {
    let yard = Yard::set();
    for hosts in
        ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n", "Host: a b\r\n", "Host: a/b\r\n", "Host: u@a\r\n"]
    {
        let request = format!("GET /public/x HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        assert_eq!(Answer::parse(&exchange(yard.gate.address, request.as_bytes())).status, 400, "{hosts:?}");
    }
    assert!(yard.stage.upstream.seen().is_empty());
}

#[tokio::test]
async fn routes_stand_below_the_base_path_and_nothing_else_does() {
    let stage = Stage::set();
    let gate = stage.gate("base_path: /api\nroutes: {/**: public}");
    for (path, status) in [("/api", 200), ("/api/", 200), ("/api/x", 200), ("/apix", 404), ("/x", 404), ("/", 404)] {
        assert_eq!(gate.get(path).answer().await.status, status, "{path}");
    }
    assert_eq!(stage.upstream.take().pop().expect("three passed").target, "/api/x");
}

struct Yard {
    stage: Stage,
    gate: Gate,
    /// A key without the scope `admin`, which must never make the upstream serve anything like `/admin`.
    reader: String,
    admin: String,
}

impl Yard {
    fn set() -> Self {
        let stage = Stage::set();
        let gate = stage.gate(YAML);
        let key = |scope: &str| stage.redis.mint(json!({"business": "acme", "scopes": [scope]})).text;
        let (reader, admin) = (key("other"), key("admin"));
        Self { stage, gate, reader, admin }
    }

    fn get(&self, target: impl AsRef<[u8]>, key: &str) -> Answer {
        self.gate.raw("GET", target, &[format!("Authorization: Bearer {key}").as_bytes()])
    }

    /// Whoever asks, with any key or none, and the upstream sees nothing of it.
    fn refused(&self, target: &[u8], statuses: &[u16]) {
        let answers =
            [self.get(target, &self.reader), self.get(target, &self.admin), self.gate.raw("GET", target, &[])];
        for answer in answers {
            let text = String::from_utf8_lossy(target);
            assert!(statuses.contains(&answer.status), "{text}: {}", answer.status);
            assert!(self.stage.upstream.seen().is_empty(), "{text} reached the upstream");
        }
    }
}
