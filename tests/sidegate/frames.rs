//! HTTP/2 as no library would write it: what cannot be said in HTTP/1.1, or means something else there, never gets that far.
//!
//! Each case looks at the stream's end and at what the upstream saw. Precedents: the downgrade attacks of "HTTP/2: the sequel
//! is always worse" (2021), CVE-2021-33193 (`:method`), CVE-2022-31813 (hop-by-hop fields).

use serde_json::json;

use crate::support::{
    Gate, PATIENCE, Stage,
    frames::{Connection, END_HEADERS, GOAWAY, block, frame},
    h2::{self, Field, Outcome},
};

const YAML: &str = "
upstream: {url: '${UPSTREAM_URL}', identity: {X-User-Id: '{user}'}}
routes:
  /public/**: public
  /things/**: any
  /admin: admin
";

#[test]
fn an_ordinary_request_in_frames_is_served() {
    let yard = Yard::set();
    assert_eq!(yard.ask(&[(b":path", b"/public/x")], &[], b""), Outcome::Answered(200));
    assert_eq!(yard.stage.upstream.only().target, "/public/x");
    assert_eq!(yard.ask(&[(b":path", b"/nowhere")], &[], b""), Outcome::Answered(404));
    assert_eq!(yard.ask(&[(b":path", b"/things/x")], &[], b""), Outcome::Answered(401));
}

#[test]
fn fields_of_one_connection_have_no_place_in_http2() {
    let yard = Yard::set();
    let fields: [Field<'_>; 8] = [
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"keep-alive"),
        (b"connection", b"x-user-id"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
    ];
    for field in fields {
        yard.refused_field(field);
    }
}

#[test]
fn a_field_that_would_be_two_in_http1_is_refused() {
    let yard = Yard::set();
    let fields: [Field<'_>; 16] = [
        (b"x-a", b"b\r\nx-user-id: 1"),
        (b"x-a", b"b\nx-user-id: 1"),
        (b"x-a", b"b\r"),
        (b"x-a", b"b\0c"),
        (b"x-a\r\nx-user-id", b"1"),
        (b"x-a\n", b"1"),
        (b"x-a: 1\r\nx-user-id", b"1"),
        (b"x-a:", b"1"),
        (b"x a", b"1"),
        (b" x-a", b"1"),
        (b"x-a ", b"1"),
        (b"", b"1"),
        (b"X-User-Id", b"1"),
        (b"x-User-id", b"1"),
        (b"x\0a", b"1"),
        (b"x\xffa", b"1"),
    ];
    for field in fields {
        yard.refused_field(field);
    }
}

#[test]
fn a_pseudo_header_that_would_be_another_request_line_is_refused() {
    let yard = Yard::set();
    let fields: [Field<'_>; 24] = [
        (b":path", b""),
        (b":path", b"public/x"),
        (b":path", b"*"),
        (b":path", b"/public/x HTTP/1.1\r\nX-User-Id: 1"),
        (b":path", b"/public/x\r\n"),
        (b":path", b"/public/x y"),
        (b":path", b"/public/\0"),
        (b":path", b"/public/\xc3\xa9"),
        (b":path", b"/public/../admin"),
        (b":path", b"/public/..%2fadmin"),
        (b":path", b"//admin"),
        (b":path", b"http://other.example/admin"),
        (b":path", b"/public\\..\\admin"),
        (b":method", b""),
        (b":method", b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\nGET"),
        (b":method", b"GET "),
        (b":method", b"G T"),
        (b":authority", b"a/b"),
        (b":authority", b"u@a"),
        (b":authority", b"a b"),
        (b":authority", b"a\r\nx-user-id: 1"),
        (b":scheme", b"http\r\n"),
        (b":status", b"200"),
        (b":unknown", b"1"),
    ];
    for field in fields {
        let outcome = yard.ask(&[(b":path", b"/public/x"), field], &[], b"");
        yard.is_refused(outcome, field);
    }
}

#[test]
fn pseudo_headers_stand_first_and_once() {
    let yard = Yard::set();
    let whole: [Field<'_>; 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/public/x"), (b":authority", b"a")];
    for twice in whole {
        let outcome = h2::exchange(yard.gate.address, &[&whole[..], &[twice]].concat(), b"", None);
        yard.is_refused(outcome, twice);
    }
    let two_paths = [&whole[..3], &[(b":path", b"/admin")], &whole[3..]].concat();
    yard.is_refused(h2::exchange(yard.gate.address, &two_paths, b"", None), two_paths[3]);
    let late = [&whole[..2], &[(b"x-a", b"1")], &whole[2..]].concat();
    yard.is_refused(h2::exchange(yard.gate.address, &late, b"", None), late[2]);
    for missing in 0..3 {
        let mut fields = whole.to_vec();
        let field = fields.remove(missing);
        yard.is_refused(h2::exchange(yard.gate.address, &fields, b"", None), field);
    }
}

#[test]
fn the_authority_and_the_host_are_one_name() {
    let yard = Yard::set();
    yard.refused_field((b"host", b"other.example"));
    let two: [Field<'_>; 2] = [(b"host", b"a.example"), (b"host", b"a.example")];
    let outcome = yard.ask(&[(b":path", b"/public/x"), (b":authority", b"a.example")], &two, b"");
    yard.is_refused(outcome, two[0]);
    assert_eq!(yard.ask(&[(b":path", b"/public/x")], &[(b"host", b"a.example")], b""), Outcome::Answered(200));
    assert_eq!(yard.stage.upstream.only().all("host"), ["a.example"]);
}

#[test]
fn a_body_of_another_length_than_announced_is_refused() {
    let yard = Yard::set();
    for (length, body) in [
        (&b"5"[..], &b"hello and more"[..]),
        (b"50", b"hello"),
        (b"0", b"hello"),
        (b"5", b""),
        (b"+5", b"hello"),
        (b"5, 5", b"hello"),
        (b"-1", b""),
    ] {
        let fields: [Field<'_>; 2] = [(b":method", b"POST"), (b":path", b"/public/x")];
        let outcome = yard.ask(&fields, &[(b"content-length", length)], body);
        assert!(outcome.is_refusal(), "{}: {outcome:?}", length.escape_ascii());
        let whole = yard.stage.upstream.take().into_iter().filter(|seen| seen.complete && !seen.body.is_empty());
        assert_eq!(whole.count(), 0, "{} of {}", length.escape_ascii(), body.len());
    }
    let two: [Field<'_>; 2] = [(b"content-length", b"5"), (b"content-length", b"6")];
    assert!(yard.ask(&[(b":method", b"POST"), (b":path", b"/public/x")], &two, b"hello").is_refusal());
}

#[test]
fn trace_and_connect_go_nowhere() {
    let yard = Yard::set();
    assert_eq!(yard.ask(&[(b":method", b"TRACE"), (b":path", b"/public/x")], &[], b""), Outcome::Answered(405));
    let connect: [Field<'_>; 2] = [(b":method", b"CONNECT"), (b":authority", b"upstream.example:443")];
    let outcome = h2::exchange(yard.gate.address, &connect, b"", None);
    assert!(outcome == Outcome::Answered(405) || outcome.is_refusal(), "{outcome:?}");
    let extended: [Field<'_>; 5] = [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"http"),
        (b":path", b"/public/x"),
        (b":authority", b"a"),
    ];
    let outcome = h2::exchange(yard.gate.address, &extended, b"", None);
    assert!(outcome == Outcome::Answered(405) || outcome.is_refusal(), "{outcome:?}");
    assert!(yard.stage.upstream.seen().is_empty());
}

#[test]
fn an_identity_is_forged_neither_in_fields_nor_in_trailers() {
    let yard = Yard::set();
    let key = yard.stage.redis.mint(json!({"business": "acme", "user": "u_42"})).text;
    let forged: [Field<'_>; 3] = [(b"x-user-id", b"u_1"), (b"x_user_id", b"u_1"), (b"x-user_id", b"u_1")];
    let fields = [&forged[..], &[(b"x-api-key", key.as_bytes())]].concat();
    let head: [Field<'_>; 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/things/x"), (b":authority", b"a")];
    let whole = [&head[..], &fields].concat();
    assert_eq!(h2::exchange(yard.gate.address, &whole, b"body", Some(&forged)), Outcome::Answered(200));
    let seen = yard.stage.upstream.only();
    let named = |(name, _): &&(String, String)| name.replace('_', "-") == "x-user-id";
    let values: Vec<&str> =
        seen.headers.iter().chain(&seen.trailers).filter(named).map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["u_42"]);
}

/// RFC 9113 §8.1 has no pseudo-header in trailers; what becomes of the request, the upstream is told none.
#[test]
fn a_pseudo_header_in_trailers_reaches_nobody() {
    for forged in [(b":path".as_slice(), b"/admin".as_slice()), (b":method", b"DELETE"), (b":authority", b"b.example")]
    {
        let yard = Yard::set();
        let head: [Field<'_>; 4] =
            [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/public/x"), (b":authority", b"a")];
        let outcome = h2::exchange(yard.gate.address, &head, b"body", Some(&[forged]));
        let seen = yard.stage.upstream.seen();
        assert_eq!((outcome, seen.len()), (Outcome::Answered(200), 1), "{forged:?}");
        for seen in seen {
            assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/public/x"), "{forged:?}");
            let fields = seen.headers.iter().chain(&seen.trailers);
            let values: Vec<&str> = fields.map(|(_, value)| value.as_str()).collect();
            assert!(seen.trailers.is_empty() && !values.contains(&"b.example"), "{seen:?}");
        }
    }
}

/// RFC 9113 §8.4: a client that promises something is told to go, and it is no request.
#[test]
fn a_client_cannot_push() {
    const PUSH_PROMISE: u8 = 5;
    let yard = Yard::set();
    let mut connection = Connection::open(yard.gate.address, &[]);
    let promised = [&2_u32.to_be_bytes()[..], &block(&[(":path", "/public/x")])].concat();
    assert!(connection.send(&frame(PUSH_PROMISE, END_HEADERS, 1, &promised)));
    let told = connection.find(PATIENCE, |frame| frame.kind == GOAWAY);
    assert_eq!(told.expect("the client is told").payload[4..8], [0, 0, 0, 1], "PROTOCOL_ERROR");
    assert!(yard.stage.upstream.seen().is_empty());
}

#[test]
fn two_credentials_are_ambiguous_in_frames_too() {
    let yard = Yard::set();
    let key = yard.stage.redis.mint(json!({"business": "acme"})).text;
    let bearer = format!("Bearer {key}");
    let (header, bearer): (Field<'_>, Field<'_>) =
        ((b"x-api-key", key.as_bytes()), (b"authorization", bearer.as_bytes()));
    for two in [[header, header], [bearer, bearer], [header, bearer]] {
        assert_eq!(yard.ask(&[(b":path", b"/things/x")], &two, b""), Outcome::Answered(400));
    }
    assert!(yard.stage.upstream.seen().is_empty());
    assert_eq!(yard.ask(&[(b":path", b"/things/x")], &[header], b""), Outcome::Answered(200));
}

struct Yard {
    stage: Stage,
    gate: Gate,
}

impl Yard {
    fn set() -> Self {
        let stage = Stage::set();
        let gate = stage.gate(YAML);
        Self { stage, gate }
    }

    /// A request with these pseudo-headers in place of the ordinary ones; the last of a name is the one that is sent.
    fn ask(&self, pseudo: &[Field<'_>], fields: &[Field<'_>], body: &[u8]) -> Outcome {
        let mut whole: Vec<Field<'_>> =
            vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example")];
        for field in pseudo {
            whole.retain(|(name, _)| name != &field.0);
            whole.push(*field);
        }
        whole.extend_from_slice(fields);
        h2::exchange(self.gate.address, &whole, body, None)
    }

    fn refused_field(&self, field: Field<'_>) {
        let outcome = self.ask(&[(b":path", b"/public/x")], &[field], b"");
        self.is_refused(outcome, field);
    }

    fn is_refused(&self, outcome: Outcome, (name, value): Field<'_>) {
        let what = format!("{}: {}", name.escape_ascii(), value.escape_ascii());
        assert!(outcome.is_refusal(), "{what}: {outcome:?}");
        assert!(self.stage.upstream.seen().is_empty(), "{what} reached the upstream");
    }
}
