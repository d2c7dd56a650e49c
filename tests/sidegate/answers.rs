//! What a denial looks like: problem+json, challenges, templates, gRPC, and the request id on everything.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Answer, AnswerTo as _, Gate, PATIENCE, Port, Stage, client,
    frames::{self, Connection},
    upstream,
};

const YAML: &str = "
limits: {per-key: {by: key, windows: 1/1h}}
routes:
  GET /things: {scopes: ['things:read'], limits: [per-key]}
  POST /things: 'things:write'
  POST /things/Once: {scopes: ['things:read'], limits: [per-key]}
  GET /read: 'things:read'
  /upload: {public: true, max_body: 1KiB}
  /public: public
";

#[tokio::test]
async fn a_denial_is_a_problem_with_all_its_members() {
    let (stage, gate) = yard(YAML);
    let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]})).text;
    stage.redis.room(3_600_000, 20_000);
    is_problem(&gate.raw("GET", "/a//b", &[]), 400, "bad_path", "Bad Request");
    let unrouted = gate.get("/elsewhere").answer().await;
    is_problem(&unrouted, 404, "route_not_found", "Not Found");
    assert_eq!(unrouted.json()["detail"], "Not found");
    let unknown_method = gate.request("DELETE", "/things").answer().await;
    is_problem(&unknown_method, 405, "method_not_allowed", "Method Not Allowed");
    assert_eq!(unknown_method.json()["detail"], "Method not allowed");
    let missing = gate.get("/things").answer().await;
    is_problem(&missing, 401, "missing_key", "Unauthorized");
    assert_eq!(missing.json()["detail"], "Missing API key");
    let unknown = gate.get("/things").bearer_auth("sg_unknown").answer().await;
    is_problem(&unknown, 401, "invalid_api_key", "Unauthorized");
    assert_eq!(unknown.json()["detail"], "Invalid API key");
    let forbidden = gate.post("/things").bearer_auth(&key).answer().await;
    is_problem(&forbidden, 403, "insufficient_scope", "Forbidden");
    assert_eq!(forbidden.json()["detail"], "Insufficient permissions");
    let challenge = forbidden.header("www-authenticate").unwrap_or_default();
    assert!(
        challenge.contains("error=\"insufficient_scope\"") && challenge.contains("scope=\"things:write\""),
        "{challenge}"
    );
    assert_eq!(gate.get("/things").bearer_auth(&key).answer().await.status, 200);
    let limited = gate.get("/things").bearer_auth(&key).answer().await;
    is_problem(&limited, 429, "rate_limited", "Too Many Requests");
    let wait = limited.number("retry-after");
    assert_eq!(limited.json()["detail"], format!("Too many requests. Try again in {wait} seconds."));
    assert!(limited.json()["violated-policies"].as_array().is_some_and(|policies| !policies.is_empty()), "{limited:?}");
    let large = gate.post("/upload").body(vec![b'x'; 2000]).answer().await;
    is_problem(&large, 413, "body_too_large", "Payload Too Large");
}

#[tokio::test]
async fn what_the_upstream_did_is_told_as_502() {
    let stage = Stage::set();
    let nobody = Port::reserve();
    let refused = stage.gate(&format!("upstream: http://{}\nroutes: {{/public: public}}", nobody.address()));
    is_problem(&refused.get("/public").answer().await, 502, "upstream_unreachable", "Bad Gateway");
    for said in
        [&b"nonsense\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"", b"HTTP/1.1 2000 OK\r\n\r\n"]
    {
        let gate = stage.gate(&format!("upstream: http://{}\nroutes: {{/public: public}}", upstream::that_says(said)));
        let answer = gate.post("/public").answer().await;
        is_problem(&answer, 502, "upstream_invalid", "Bad Gateway");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_is_told_as_504() {
    let (stage, gate) = yard("routes: {/slow: {public: true, response_timeout: 1s}}");
    stage.upstream.fall_silent();
    is_problem(&gate.post("/slow").body("x").answer().await, 504, "upstream_timeout", "Gateway Timeout");
}

#[tokio::test]
async fn a_body_that_grows_beyond_its_bound_is_cut_off() {
    let (stage, gate) = yard(YAML);
    let mut request = format!(
        "POST /upload HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        gate.address
    );
    for _ in 0..3 {
        request += &format!("200\r\n{}\r\n", "x".repeat(512));
    }
    let answer = Answer::parse(&client::exchange(gate.address, (request + "0\r\n\r\n").as_bytes()));
    assert_eq!(answer.status, 413);
    assert!(stage.upstream.seen().iter().all(|seen| seen.body.len() <= 1024), "no more than the bound went through");
    assert_eq!(gate.post("/upload").body(vec![b'x'; 1024]).answer().await.status, 200);
}

#[tokio::test]
async fn every_answer_has_a_request_id_of_the_gates_own() {
    let (stage, gate) = yard(YAML);
    let theirs = Uuid::new_v4().to_string();
    for (path, status) in [("/public", 200), ("/elsewhere", 404), ("/things", 401)] {
        let answer = gate.get(path).header("X-Request-Id", &theirs).answer().await;
        assert_eq!(answer.status, status);
        let id = answer.header("x-request-id").unwrap_or_default().to_owned();
        assert!(Uuid::parse_str(&id).is_ok() && id != theirs, "{path}: {id}, from a peer that is not trusted");
        assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1);
    }
    stage.upstream.respond_with(200, &[("X-Request-Id", "upstream")], "");
    let answer = gate.get("/public").answer().await;
    assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1);
    assert!(Uuid::parse_str(answer.header("x-request-id").unwrap_or_default()).is_ok());
}

#[tokio::test]
async fn a_trusted_peers_request_id_is_kept_when_it_is_a_uuid() {
    let (stage, gate) =
        yard("listen: {address: '127.0.0.1:0', trusted_proxies: [127.0.0.1/32]}\nroutes: {/public: public}");
    let theirs = Uuid::new_v4().to_string();
    let kept = gate.get("/public").header("X-Request-Id", &theirs).answer().await;
    assert_eq!(kept.header("x-request-id"), Some(theirs.as_str()));
    assert_eq!(stage.upstream.only().all("x-request-id"), [theirs.as_str()]);
    let replaced = gate.get("/public").header("X-Request-Id", "drop table").answer().await;
    assert!(Uuid::parse_str(replaced.header("x-request-id").unwrap_or_default()).is_ok());
}

#[tokio::test]
async fn a_denied_head_has_the_headers_and_no_body() {
    let (_stage, gate) = yard(YAML);
    let answer = gate.raw("HEAD", "/things", &[]);
    assert_eq!((answer.status, answer.body.len()), (401, 0));
    assert!(answer.headers.contains_key("www-authenticate"));
}

/// RFC 9110 §9.3.2: as long as what GET would get, and nothing of it. HTTP/2 ends the stream with the head.
#[tokio::test]
async fn whatever_the_gate_says_itself_a_head_over_http2_has_its_length_and_no_body() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
limits: {few: {by: ip, windows: 1/1d}}
routes: {/things: any, /public: public, POST /posted: public, /limited: {public: true, limits: [few]}}
management: {session: '${SESSION_URL}', roles: [admin]}
",
    );
    let client = client::http(&[]).http2_prior_knowledge().build().expect("the client's settings are valid");
    stage.redis.room(86_400_000, 20_000);
    assert_eq!(client.get(gate.url("/limited")).answer().await.status, 200);
    for (path, status) in [
        ("/things", 401),
        ("/elsewhere", 404),
        ("/posted", 405),
        ("/a//b", 400),
        ("/limited", 429),
        ("/v1/keys", 401),
        ("/v1/keys/openapi.json", 200),
    ] {
        let got = client.get(gate.url(path)).answer().await;
        assert_eq!((got.status, got.number("content-length") as usize), (status, got.body.len()), "{path}");
        for told in [client.head(gate.url(path)).answer().await, gate.raw("HEAD", path, &[])] {
            assert_eq!((told.status, told.body.len()), (status, 0), "HEAD {path}");
            assert_eq!(told.number("content-length") as usize, got.body.len(), "HEAD {path}");
            assert_eq!(told.header("content-type"), got.header("content-type"), "HEAD {path}");
        }
        let mut connection = Connection::open(gate.address, &[]);
        let whole = frames::END_HEADERS | frames::END_STREAM;
        connection.send(&frames::frame(frames::HEADERS, whole, 1, &frames::request("HEAD", path, &[])));
        let head = connection.find(PATIENCE, |frame| frame.stream == 1).expect("it is answered");
        assert_eq!((head.kind, head.flags & frames::END_STREAM), (frames::HEADERS, frames::END_STREAM), "{path}");
    }
}

/// RFC 9110 §15.1: a cache may keep some statuses though nothing says for how long, and a key in `X-API-Key` does not stop it.
#[tokio::test]
async fn no_cache_keeps_what_the_gate_says_of_one_request() {
    let stage = Stage::set();
    let gate = stage.gate(
        "routes: {GET /things: any, /open: public}\nerrors: {method_not_allowed: {headers: {Cache-Control: max-age=1}}}",
    );
    let kept = async |method: &str, path: &str| {
        let answer = gate.request(method, path).answer().await;
        (answer.status, answer.header("cache-control").map(str::to_owned))
    };
    assert_eq!(kept("GET", "/nowhere").await, (404, Some("no-store".to_owned())));
    assert_eq!(kept("POST", "/things").await, (405, Some("max-age=1".to_owned())), "as it is configured");
    // Not kept without being told to.
    assert_eq!(kept("GET", "/things").await, (401, None));
    assert_eq!(kept("GET", "/open").await, (200, None), "the service's own");
}

/// Neither is there anybody to name as whom the client asked for.
#[test]
fn a_client_of_http_1_0_without_a_host_asks_for_the_service_by_its_name() {
    let (stage, gate) = yard("routes: {/public: public}");
    let answer = client::exchange(gate.address, b"GET /public HTTP/1.0\r\n\r\n");
    assert!(
        answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let seen = stage.upstream.only();
    assert_eq!(seen.all("host"), [stage.upstream.url().trim_start_matches("http://")]);
    assert_eq!(seen.all("x-forwarded-host"), Vec::<&str>::new());
}

#[tokio::test]
async fn templates_keep_types_and_the_most_specific_entry_wins() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
limits: {per-key: {by: key, windows: 1/1h}}
routes: {/things: {any: true, limits: [per-key]}, /admin: admin}
errors:
  default:
    headers: {X-Kind: '{code}'}
    body: {n: '{status}', s: '{status|string}', mixed: 'a {status} b', brace: '{{x}}', id: '{request_id}', list: ['{title}', 7, true, null]}
  '403': {detail: By status}
  insufficient_scope: {status: 404, title: Hidden, body: {was: '{reason}', now: '{status}', detail: '{detail}', scope: '{scope}'}}
  rate_limited: {code: slow_down, body: {limit: '{limit}', remaining: '{remaining}', reset: '{reset}', window: '{window}', after: '{retry_after}'}}
",
    );
    let key = stage.redis.mint(json!({"business": "acme", "scopes": ["other"]})).text;
    stage.redis.room(3_600_000, 20_000);
    let missing = gate.get("/things").answer().await;
    let expected = json!({
        "n": 401, "s": "401", "mixed": "a 401 b", "brace": "{x}", "id": missing.header("x-request-id"),
        "list": ["Unauthorized", 7, true, null],
    });
    assert_eq!(missing.json(), expected);
    assert_eq!(missing.header("x-kind"), Some("missing_key"));
    assert_eq!(missing.header("content-type"), Some("application/json"));

    let hidden = gate.get("/admin").bearer_auth(&key).answer().await;
    assert_eq!(hidden.status, 404);
    let expected = json!({"was": "insufficient_scope", "now": 404, "detail": "By status", "scope": "admin"});
    assert_eq!(hidden.json(), expected);

    assert_eq!(gate.get("/things").bearer_auth(&key).answer().await.status, 200);
    let limited = gate.get("/things").bearer_auth(&key).answer().await;
    let body = limited.json();
    assert_eq!((&body["limit"], &body["remaining"]), (&json!(1), &json!(0)));
    assert_eq!(body["after"], Value::from(limited.number("retry-after")));
    assert_eq!(body["reset"], Value::from(limited.number("x-ratelimit-reset")));
    assert_eq!(limited.header("x-kind"), Some("slow_down"));
}

#[tokio::test]
async fn a_template_names_the_window_that_refused_as_it_is_configured() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
limits: {per-business: {by: business, windows: [60/1m, 1000/1d]}}
routes: {/things: {any: true, limits: [per-business]}}
errors:
  default: {body: {policy: '{policy}', message: 'Limit: {policy}.'}}
",
    );
    for (business, windows, policy) in [("acme", ["0/1h", "9/1d"], "0/1h"), ("globex", ["9/60m", "0/48h"], "0/2d")] {
        let key = stage.redis.mint(json!({"business": business})).text;
        stage.redis.set_business(business, json!({"limits": {"per-business": windows}}));
        let answer = gate.get("/things").bearer_auth(&key).answer().await;
        let words = json!({"policy": policy, "message": format!("Limit: {policy}.")});
        assert_eq!((answer.status, answer.json()), (429, words));
    }
    let unknown = gate.get("/things").bearer_auth("sg_unknown").answer().await;
    assert_eq!(unknown.json(), json!({"policy": null, "message": "Limit: ."}));
}

#[tokio::test]
async fn a_limit_of_0_is_not_worded_as_if_waiting_helped() {
    let yaml = include_str!("../../config.example.yaml");
    assert!(!yaml.contains("detail: Too many"), "the default knows when no waiting helps");
    let stage = Stage::set();
    let gate = stage.gate(
        "limits: {per-key: {by: key, windows: 9/1h}}\nroutes: {/things: {any: true, limits: [per-key]}}\n\
         errors: {rate_limited: {body: {error: rate_limited, message: '{detail}', retry_after: '{retry_after}'}}}",
    );
    let key = stage.redis.mint(json!({"business": "acme", "limits": {"per-key": "0/1m"}})).text;
    let denied = gate.get("/things").bearer_auth(&key).answer().await;
    let words = json!({"error": "rate_limited", "message": "Too many requests", "retry_after": null});
    assert_eq!((denied.status, denied.json()), (429, words));
}

#[tokio::test]
async fn a_business_in_another_spelling_of_its_parameter_is_told_so() {
    let stage = Stage::set();
    let gate = stage.gate("business: {from: [{query: business_id}]}\nroutes: {/things: any}");
    let key = stage.redis.mint(json!({"business": "acme"})).text;
    let detail = async |query: &str| {
        let answer = gate.get(&format!("/things?{query}")).bearer_auth(&key).answer().await;
        assert_eq!(answer.status, 400, "{query}");
        answer.json()["detail"].as_str().unwrap_or_default().to_owned()
    };
    for query in ["Business_Id=acme", "business.id=acme", "business_id[]=acme", "a;business_id=acme"] {
        let told = "The query parameter `business_id` is written in a form that servers read differently";
        assert_eq!(detail(query).await, told, "{query}");
    }
    assert_eq!(detail("business_id=%ff").await, "The query parameter `business_id` is not UTF-8");
    assert_eq!(detail("business_id=a/b").await, "The business named is no valid id");
}

#[tokio::test]
async fn grpc_is_denied_as_grpc() {
    let (mut stage, gate) = yard(YAML);
    let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]})).text;
    stage.redis.room(3_600_000, 30_000);
    let http2 = client::http(&[]).http2_prior_knowledge().build().expect("the client's settings are valid");
    let call = |method: &str, path: &str, key: Option<&str>| {
        let request = http2.request(method.parse().expect("a method"), gate.url(path));
        let request = request.header("content-type", "application/grpc+proto").header("te", "trailers");
        match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    };
    let once = call("POST", "/things/Once", Some(&key)).answer().await;
    assert_eq!((once.status, once.header("grpc-status")), (200, None), "the one that passes");
    for (path, key, status) in [
        ("/things", None, "16"),
        ("/things", Some(key.as_str()), "7"),
        ("/things/Once", Some(key.as_str()), "8"),
        ("/elsewhere", None, "12"),
        ("/read", None, "12"),
        ("/a//b", None, "3"),
    ] {
        is_grpc(&call("POST", path, key).answer().await, status, path);
    }
    // What only says that it were one: a cache may keep what is answered to it.
    for (method, path, status) in [("GET", "/things", 401), ("GET", "/elsewhere", 404), ("DELETE", "/things", 405)] {
        let answer = call(method, path, None).answer().await;
        assert_eq!((answer.status, answer.header("grpc-status")), (status, None), "{method} {path}");
    }
    assert_eq!(call("HEAD", "/elsewhere", None).answer().await.status, 404);
    // The first key's denial is remembered for a moment, whatever befalls the store.
    let other = stage.redis.mint(json!({"business": "acme"})).text;
    stage.redis.stop();
    is_grpc(&call("POST", "/things/Once", Some(&other)).answer().await, "14", "without a store");
}

fn yard(yaml: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(yaml);
    (stage, gate)
}

fn is_problem(answer: &Answer, status: u16, code: &str, title: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body = answer.json();
    assert_eq!((&body["status"], &body["code"]), (&Value::from(status), &Value::from(code)), "{body}");
    let told = body["title"].as_str().unwrap_or_default();
    // RFC 9110 renamed 413; either name is one that clients know.
    assert!(told == title || (status == 413 && told == "Content Too Large"), "{body}");
    assert!(body["type"].is_string() && body["detail"].is_string(), "{body}");
    assert_eq!(body["request_id"], Value::from(answer.header("x-request-id")), "{body}");
}

fn is_grpc(answer: &Answer, status: &str, what: &str) {
    assert_eq!(answer.status, 200, "{what}");
    assert_eq!(answer.header("grpc-status"), Some(status), "{what}: {answer:?}");
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/grpc")), "{what}");
    assert!(answer.body.is_empty(), "{what}: trailers alone");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}: it holds for this caller alone");
}
