//! What reaches the upstream and what comes back: streamed, without hop-by-hop headers, with an identity nobody can forge.

use serde_json::json;

use crate::support::{
    AnswerTo as _, Gate, Stage,
    client::{self, exchange},
    upstream::{self, frames},
};

const YAML: &str = "
upstream:
  url: '${UPSTREAM_URL}'
  identity:
    X-Key-Id: '{key_id}'
    X-Key-Name: '{key_name}'
    X-Business-Id: '{business}'
    X-User-Id: '{user}'
    X-Scopes: '{scopes}'
    X-Plan: '{plan}'
  headers: {X-Gate-Secret: passed}
routes:
  /things/**: any
  /public/**: public
";

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_streamed_as_it_comes() {
    let (stage, gate) = yard();
    for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
        let body = stage.upstream.stream();
        let request = client.build().expect("the client's settings are valid").get(gate.url("/public/x"));
        let mut response = request.send().await.expect("the head comes before the body");
        for part in ["first", "second"] {
            body.send(part);
            assert_eq!(response.chunk().await.expect("the connection stands").as_deref(), Some(part.as_bytes()));
        }
        drop(body);
        // HTTP/2 may end with an empty frame.
        assert!(response.bytes().await.expect("the body ends cleanly").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_body_is_streamed_as_it_comes() {
    let (stage, gate) = yard();
    for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
        let (sender, body) = frames();
        let request = client.build().expect("the client's settings are valid").post(gate.url("/public/x"));
        let answer = tokio::spawn(request.body(reqwest::Body::wrap(body)).answer());
        sender.send("first");
        let seen = stage.upstream.until("the first part alone", |seen| seen.body == b"first");
        assert!(!seen.complete, "it arrived before the body was complete");
        sender.send("second");
        drop(sender);
        assert_eq!(answer.await.expect("the request goes through").status, 200);
        assert_eq!(stage.upstream.only().body, b"firstsecond");
    }
}

#[tokio::test]
async fn a_body_of_any_size_arrives_whole_in_both_directions() {
    let (stage, gate) = yard();
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[i as usize % 3]).collect();
    stage.upstream.respond_with(200, &[("content-type", "application/octet-stream")], large.clone());
    let answer = gate.post("/public/x").body(large.clone()).answer().await;
    assert!(answer.body == large, "{} bytes came back", answer.body.len());
    assert!(stage.upstream.only().body == large);
}

#[tokio::test]
async fn http2_from_the_client_is_forwarded_like_http1() {
    let (stage, gate) = yard();
    let key = stage.redis.mint(json!({"business": "acme"}));
    let client = client::http(&[]).http2_prior_knowledge().build().expect("the client's settings are valid");
    let request = client.put(gate.url("/things/7?a=%20b")).bearer_auth(&key.text);
    let request = request.header("cookie", "a=1").header("cookie", "b=2").header("x-user-id", "u_1");
    assert_eq!(request.body("body").answer().await.status, 200);
    let seen = stage.upstream.only();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str(), seen.body.as_slice()),
        ("PUT", "/things/7?a=%20b", &b"body"[..])
    );
    assert_eq!((seen.header("x-key-id"), seen.header("x-user-id")), (Some(key.id.as_str()), None));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"), "one line for HTTP/1 (RFC 9113 §8.2.3)");
}

#[tokio::test]
async fn the_upstream_may_speak_http2() {
    let stage = Stage::set();
    let yaml = format!("upstream: h2c://{}\nroutes: {{/public: public}}", stage.upstream.address);
    let gate = stage.gate(&yaml);
    assert_eq!(gate.post("/public").body("body").answer().await.status, 200);
    let seen = stage.upstream.only();
    assert_eq!((seen.version.as_str(), seen.body.as_slice()), ("HTTP/2.0", &b"body"[..]));
}

#[tokio::test]
async fn the_identity_is_set_by_the_gate_and_by_nobody_else() {
    let (stage, gate) = yard();
    let key = stage.redis.mint(json!({"name": "CRM", "business": "acme", "user": "u_42", "scopes": ["a:read", "b"]}));
    let bearer = format!("Authorization: Bearer {}", key.text);
    let forged: &[&[u8]] = &[
        b"X-User-Id: u_1",
        b"x-user-id: u_2",
        b"X_User_Id: u_1",
        b"x_USER-id: u_1",
        b"X-Key-Id: 1",
        b"X_Key_Id: 1",
        b"X-Business-Id: other",
        b"X-Plan: pro",
        b"X-Gate-Secret: guessed",
        b"X_Gate_Secret: guessed",
        b"Connection: x-user-id, x-key-id, X-Business-Id, x-gate-secret, x-request-id, x-forwarded-for",
    ];
    assert_eq!(gate.raw("GET", "/things/7", &[forged, &[bearer.as_bytes()]].concat()).status, 200);
    let seen = stage.upstream.only();
    for (name, value) in [
        ("x-key-id", key.id.as_str()),
        ("x-key-name", "CRM"),
        ("x-business-id", "acme"),
        ("x-user-id", "u_42"),
        ("x-gate-secret", "passed"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    let scopes: Vec<&str> =
        seen.header("x-scopes").unwrap_or_default().split([' ', ',']).filter(|s| !s.is_empty()).collect();
    assert_eq!(scopes, ["a:read", "b"]);
    assert_eq!(seen.header("x-plan"), None, "an empty value omits the header");
    assert!(seen.headers.iter().all(|(name, _)| !name.contains('_')), "{seen:?}");
    assert!(seen.header("x-request-id").is_some() && seen.header("x-forwarded-for").is_some());

    assert_eq!(gate.raw("GET", "/public/x", forged).status, 200);
    let seen = stage.upstream.only();
    for name in ["x-user-id", "x_user_id", "x-key-id", "x_key_id", "x-business-id", "x-plan"] {
        assert_eq!(seen.header(name), None, "{name} on a public route");
    }
    assert_eq!(seen.all("x-gate-secret"), ["passed"]);
}

#[tokio::test]
async fn the_identity_cannot_be_forged_in_trailers() {
    let (stage, gate) = yard();
    let key = stage.redis.mint(json!({"business": "acme", "user": "u_42"})).text;
    let request = format!(
        "POST /things/7 HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\nTransfer-Encoding: chunked\r\n\
         Trailer: X-User-Id, X_User_Id, X-Sum\r\nTE: trailers\r\nConnection: close\r\n\r\n\
         4\r\nbody\r\n0\r\nX-User-Id: u_1\r\nX_User_Id: u_1\r\nX-Sum: 4\r\n\r\n",
        gate.address
    );
    exchange(gate.address, request.as_bytes());
    let seen = stage.upstream.until("the whole request", |seen| seen.complete);
    assert_eq!(seen.body, b"body");
    let forged = seen.trailers.iter().filter(|(name, _)| name.replace('_', "-") == "x-user-id");
    assert_eq!(forged.count(), 0, "{:?}", seen.trailers);
}

#[tokio::test]
async fn what_belongs_to_one_connection_stays_there() {
    let (stage, gate) = yard();
    let headers: &[&[u8]] = &[
        b"Connection: X-Hop, upgrade, HTTP2-Settings",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic dTpw",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        b"TE: gzip",
        b"X-End: 1",
    ];
    stage.upstream.respond_with(
        200,
        &[("connection", "x-inner"), ("x-inner", "1"), ("keep-alive", "timeout=5"), ("x-end", "2")],
        "",
    );
    let answer = gate.raw("GET", "/public/x", headers);
    let seen = stage.upstream.only();
    for name in ["x-hop", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade", "http2-settings", "te"] {
        assert_eq!(seen.header(name), None, "{name} to the upstream");
    }
    assert!(seen.header("connection").is_none_or(|value| value == "keep-alive"), "{seen:?}");
    assert_eq!(seen.header("x-end"), Some("1"));
    for name in ["x-inner", "keep-alive"] {
        assert_eq!(answer.header(name), None, "{name} to the client");
    }
    assert_eq!(answer.header("x-end"), Some("2"));
}

#[tokio::test]
async fn an_option_that_is_no_text_hides_no_other() {
    let (stage, gate) = yard();
    for options in
        [&b"Connection: \xff, X-Hop"[..], b"Connection: X-Hop,\xc3\xbc", b"Connection: close, X\xff ,\tX-Hop"]
    {
        assert_eq!(gate.raw("GET", "/public/x", &[options, b"X-Hop: 1", b"X-End: 1"]).status, 200);
        let seen = stage.upstream.only();
        assert_eq!((seen.header("x-hop"), seen.header("x-end")), (None, Some("1")), "{}", options.escape_ascii());
    }
    let inner =
        upstream::that_says(b"HTTP/1.1 200 OK\r\nConnection: \xff, X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n");
    let gate = stage.gate(&format!("upstream: http://{inner}\nroutes: {{/public: public}}"));
    assert_eq!(gate.raw("GET", "/public", &[]).header("x-hop"), None);
}

#[tokio::test]
async fn the_upstream_learns_whose_request_it_is_and_through_whom_it_came() {
    let (stage, gate) = yard();
    let headers: [&[u8]; 3] =
        [b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: other.example"];
    gate.raw("GET", "/public/x", &headers);
    let seen = stage.upstream.only();
    let chain = seen.all("x-forwarded-for").join(", ");
    assert_eq!(chain.rsplit(", ").next(), Some("127.0.0.1"), "{chain}");
    assert_eq!(seen.all("x-forwarded-proto"), ["http"], "an untrusted peer's word is not passed on");
    assert_eq!(seen.all("x-forwarded-host"), [gate.address.to_string()]);
    assert!(seen.header("via").is_some_and(|via| via.starts_with("1.1 ")), "{seen:?}");
    assert!(seen.header("x-request-id").is_some());
}

#[tokio::test]
async fn what_the_configuration_says_stands_alone_in_place_of_the_gates_own() {
    let fixed = [
        ("Via", "1.1 us"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-Host", "api.example"),
        ("X-Forwarded-Proto", "https"),
        ("Host", "inner"),
    ];
    let fields: Vec<String> = fixed.iter().map(|(name, value)| format!("{name}: '{value}'")).collect();
    let clients: [&[u8]; 6] = [
        b"Via: 1.1 them",
        b"X-Forwarded-For: 192.0.2.9",
        b"X-Forwarded-Host: other.example",
        b"X-Forwarded-Proto: http",
        b"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"Tracestate: a=1",
    ];
    for trusted in ["[]", "[127.0.0.1/32]"] {
        let stage = Stage::set();
        let gate = stage.gate(&format!(
            "
listen: {{address: '127.0.0.1:0', trusted_proxies: {trusted}}}
upstream:
  url: '${{UPSTREAM_URL}}'
  identity: {{X-Request-Id: 'id-{{request_id}}', Traceparent: 'of-{{request_id}}', Tracestate: 'of-us'}}
  headers: {{{}}}
routes: {{/public/**: public}}
",
            fields.join(", ")
        ));
        assert_eq!(gate.raw("GET", "/public/x", &clients).status, 200);
        let seen = stage.upstream.only();
        for (name, value) in fixed {
            assert_eq!(seen.all(&name.to_lowercase()), [value], "{seen:?}");
        }
        for (name, begins) in [("x-request-id", "id-"), ("traceparent", "of-"), ("tracestate", "of-us")] {
            let values = seen.all(name);
            assert!(values.len() == 1 && values[0].starts_with(begins), "{name}: {values:?}");
        }
    }
}

#[tokio::test]
async fn a_service_may_be_told_of_no_proxy() {
    let stage = Stage::set();
    let upstream = |via: &str| format!("upstream: {{url: '${{UPSTREAM_URL}}'{via}}}\nroutes: {{/public: public}}");
    for (via, told) in [
        ("", &["1.1 before", "1.1 sidegate"][..]),
        (", via: true", &["1.1 before", "1.1 sidegate"]),
        (", via: false", &[]),
    ] {
        let gate = stage.gate(&upstream(via));
        assert_eq!(gate.raw("GET", "/public", &[b"Via: 1.1 before"]).status, 200);
        let seen = stage.upstream.take().pop().expect("it was forwarded");
        assert_eq!(seen.all("via"), told, "{via}: {seen:?}");
    }
}

#[tokio::test]
async fn a_service_may_be_told_the_clients_address_in_a_header_of_its_own() {
    for (trusted, client) in [("[]", "127.0.0.1"), ("[127.0.0.0/8]", "2001:db8::7")] {
        let stage = Stage::set();
        let gate = stage.gate(&format!(
            "
listen: {{address: '127.0.0.1:0', trusted_proxies: {trusted}}}
upstream: {{url: '${{UPSTREAM_URL}}', identity: {{X-Real-IP: '{{client}}', X-Who: '{{user}} at {{client}}'}}}}
routes: {{/public: public, /things: any}}
"
        ));
        let key = stage.redis.mint(json!({"business": "acme", "user": "u_42"})).text;
        let key = format!("X-API-Key: {key}");
        let lines: [&[u8]; 4] = [
            b"X-Forwarded-For: 192.0.2.66, 2001:db8::7",
            b"X-Real-IP: 192.0.2.1",
            b"X_Real_IP: 192.0.2.1",
            key.as_bytes(),
        ];
        // The second time what was told before of the same key is remembered.
        for (path, who) in [("/public", " at"), ("/things", "u_42 at"), ("/things", "u_42 at")] {
            assert_eq!(gate.raw("GET", path, &lines).status, 200);
            let seen = stage.upstream.take().pop().expect("it was forwarded");
            assert_eq!(seen.all("x-real-ip"), [client], "{trusted} {path}: {seen:?}");
            assert_eq!(seen.all("x_real_ip"), [""; 0], "{seen:?}");
            assert_eq!(seen.header("x-who").map(str::trim), Some(format!("{who} {client}").trim()), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn headers_that_would_change_the_method_or_the_path_are_stripped() {
    let (stage, gate) = yard();
    let names = [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-URL",
        "X-Original-URI",
        "X-Rewrite-URL",
    ];
    let lines: Vec<String> = names.iter().map(|name| format!("{name}: /admin")).collect();
    let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
    assert_eq!(gate.raw("GET", "/public/x", &lines).status, 200);
    let seen = stage.upstream.only();
    assert!(names.iter().all(|name| seen.header(&name.to_lowercase()).is_none()), "{seen:?}");
}

#[tokio::test]
async fn a_clients_word_on_its_address_is_believed_of_trusted_proxies_alone_and_no_proxy_is_named_to_a_service() {
    let stage = Stage::set();
    let addresses = ["True-Client-IP", "CF-Connecting-IP", "X-Real-IP", "True_Client_IP", "CF_Connecting_IP"];
    let lines: Vec<String> = addresses.iter().map(|name| format!("{name}: 192.0.2.1")).collect();
    let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).chain([&b"Proxy: http://192.0.2.2/"[..]]).collect();
    for (trusted, passed) in [("", &[][..]), (", trusted_proxies: [127.0.0.0/8]", &addresses[..3])] {
        for mode in ["enforce", "observe"] {
            let gate = stage.gate(&format!(
                "listen: {{address: '127.0.0.1:0'{trusted}}}\nmode: {mode}\nroutes: {{/public: public}}"
            ));
            assert_eq!(gate.raw("GET", "/public", &lines).status, 200);
            let seen = stage.upstream.take().pop().expect("it was forwarded");
            let came = addresses.iter().filter(|name| seen.header(&name.to_lowercase()).is_some());
            assert_eq!(came.copied().collect::<Vec<_>>(), passed, "{trusted} {mode}: {seen:?}");
            assert_eq!(seen.header("proxy"), None, "{trusted} {mode}");
        }
    }
}

/// What CGI, WSGI and Rack make of a header's name: everything that is no letter and no digit is `_` there.
#[tokio::test]
async fn what_a_backend_would_take_for_a_header_of_ours_is_stripped_too() {
    let (stage, gate) = yard();
    let names = [
        "X_HTTP_Method_Override",
        "X-HTTP_Method",
        "X_Original_URL",
        "X_Rewrite-URL",
        "X_Forwarded_For",
        "X-Forwarded_Proto",
        "X_Forwarded_Host",
        "X_Real_IP",
        "X_Request_Id",
        "X.User.Id",
        "X_User-Id",
        "X_Gate.Secret",
        "Transfer_Encoding",
        "Content_Length",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X_Forwarded_Server",
    ];
    let lines: Vec<String> = names.iter().map(|name| format!("{name}: forged")).collect();
    let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
    assert_eq!(gate.raw("GET", "/public/x", &lines).status, 200);
    let seen = stage.upstream.only();
    let forged: Vec<_> = seen.headers.iter().filter(|(_, value)| value.contains("forged")).collect();
    assert!(forged.is_empty(), "{forged:?}");
}

#[tokio::test]
async fn a_header_that_was_decided_by_reaches_the_upstream_in_one_spelling() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
keys: {from: [{header: X-Acme-Key}], forward: true}
business: {from: [{header: X-Business-Id}]}
routes: {/things: any}
",
    );
    let key = stage.redis.mint(json!({"business": "acme"})).text;
    let key = format!("X-Acme-Key: {key}");
    let lines: [&[u8]; 4] = [key.as_bytes(), b"X_Acme_Key: other", b"X-Business-Id: acme", b"X_Business_Id: other"];
    assert_eq!(gate.raw("GET", "/things", &lines).status, 200);
    let seen = stage.upstream.only();
    assert_eq!(seen.header("x-business-id"), Some("acme"));
    assert!(seen.headers.iter().all(|(_, value)| value != "other"), "{seen:?}");
}

/// RFC 9110 §6.5.1: what routes, frames or identifies a request has no place behind its body.
#[tokio::test]
async fn a_trailer_says_nothing_that_belongs_into_the_head() {
    let stage = Stage::set();
    for scheme in ["http", "h2c"] {
        let gate = stage.gate(&format!("upstream: {scheme}://{}\nroutes: {{/public: public}}", stage.upstream.address));
        let names = [
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "Authorization",
            "X-API-Key",
            "X-Forwarded-For",
            "X_Forwarded_For",
            "X-Forwarded-Host",
            "X-HTTP-Method-Override",
            "X_HTTP_Method",
            "X-Original-URL",
            "X-Original-URI",
            "True_Client_IP",
            "CF-Connecting-IP",
            "Proxy",
            "X-Request-Id",
            "Connection",
            "TE",
        ];
        let trailers: String = names.iter().map(|name| format!("{name}: forged\r\n")).collect();
        let request = format!(
            "POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: {}, X-Sum\r\nTE: trailers\r\n\
             Connection: close\r\n\r\n4\r\nbody\r\n0\r\n{trailers}X-Sum: 4\r\n\r\n",
            names.join(", ")
        );
        exchange(gate.address, request.as_bytes());
        let seen = stage.upstream.take();
        let forged = seen.iter().flat_map(|seen| &seen.trailers).filter(|(_, value)| value == "forged");
        assert_eq!(forged.collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "{scheme}");
    }
}

#[tokio::test]
async fn a_clamp_changes_the_value_and_nothing_else_in_the_query() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/public: {public: true, max_query: {limit: 100, depth: 3}}}");
    for (asked, forwarded) in [
        ("limit=101", "limit=100"),
        ("a=%20&limit=500&&b=+&depth=9#", "a=%20&limit=100&&b=+&depth=3"),
        ("limit=0100", "limit=0100"),
        ("limit=00101", "limit=100"),
        ("limits=500&x=limit=500", "limits=500&x=limit=500"),
        ("", ""),
    ] {
        assert_eq!(gate.raw("GET", format!("/public?{asked}"), &[]).status, 200, "{asked}");
        assert_eq!(stage.upstream.only().target, format!("/public?{forwarded}"));
    }
    assert_eq!(gate.raw("GET", "/public?%6cimit=500", &[]).status, 200);
    let seen = stage.upstream.only().target;
    assert!(seen.ends_with("imit=100"), "{seen}: names are compared percent-decoded");
    assert_eq!(
        gate.raw("GET", "/public?Limit=500", &[]).status,
        400,
        "a service that ignores case would not be clamped"
    );
    assert_eq!(stage.upstream.take().len(), 0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_complete() {
    let stage = Stage::set();
    for said in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let yaml = format!("upstream: http://{}\nroutes: {{/public: public}}", upstream::that_says(said));
        let gate = stage.gate(&yaml);
        for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
            let client = client.build().expect("the client's settings are valid");
            let whole = async { client.get(gate.url("/public")).send().await?.bytes().await };
            assert!(whole.await.is_err(), "a truncated body was taken for a whole one");
        }
    }
}

#[tokio::test]
async fn connections_to_the_upstream_are_kept_and_a_gone_upstream_is_found_again() {
    let (stage, gate) = yard();
    for _ in 0..20 {
        assert_eq!(gate.get("/public/x").answer().await.status, 200);
    }
    assert_eq!(stage.upstream.take().len(), 20);
    // The upstream forgets its connections: the next request finds it again, and reaches it once.
    stage.upstream.hang_up();
    assert_eq!(gate.get("/public/x").answer().await.status, 200);
    assert_eq!(stage.upstream.take().len(), 1);
}

fn yard() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    (stage, gate)
}
