//! What stays open: it flows as it comes, in little memory, and ends when its key no longer stands.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::support::{
    Answer, AnswerTo as _, Gate, Key, Stage,
    bytes::{RawUpstream, Wire},
    client, until,
    upstream::frames,
};

const YAML: &str = "
plans: {free: {api: false}, pro: {}}
limits: {per-key: {by: key, windows: 100/1h}, everyone: {by: global, windows: 100000/1h}}
defaults: {limits: [per-key, everyone]}
streams: {recheck: 200ms}
routes:
  /things/**: {scopes: ['things:read']}
  /public: public
";

/// Time for several questions.
const SEVERAL: Duration = Duration::from_millis(900);

#[tokio::test(flavor = "multi_thread")]
async fn an_open_answer_ends_when_its_key_no_longer_stands() {
    let revoked = json!({"revoked_at": "2026-03-23T14:30:00Z"});
    let expired = json!({"expires_at": "2026-03-23T14:30:00Z"});
    for (name, act) in [
        ("revoked", Act::Key(revoked)),
        ("expired", Act::Key(expired)),
        ("scope gone", Act::Key(json!({"scopes": ["other"]}))),
        ("moved to a network", Act::Key(json!({"allow_addresses": ["192.0.2.0/24"]}))),
        ("deleted", Act::Delete),
        ("plan gone", Act::Business(json!({"plan": "free"}))),
        ("suspended", Act::Business(json!({"plan": "pro", "status": "suspended"}))),
    ] {
        for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
            let yard = Yard::set(YAML);
            let body = yard.stage.upstream.stream();
            let client = client.build().expect("the client's settings are valid");
            let request = client.get(yard.gate.url("/things/1")).bearer_auth(&yard.key.text);
            let mut response = request.send().await.expect("the head comes before the body");
            body.send("begun");
            assert_eq!(response.chunk().await.expect("it stands").as_deref(), Some(&b"begun"[..]));
            yard.act(&act);
            let ended = tokio::time::timeout(Duration::from_secs(20), response.chunk()).await.expect("it ends");
            assert!(ended.is_err(), "{name}: broken off, never as if it were whole: {ended:?}");
            until("the upstream to learn of it", || body.is_unwanted().then_some(()));
            until("nothing in flight", || (yard.gate.metric("sidegate_requests_in_flight", &[]) == 0.0).then_some(()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_denies_a_key_ends_what_it_has_open() {
    let yard = Yard::set(YAML);
    let body = yard.stage.upstream.stream();
    let request = yard.gate.get("/things/1").bearer_auth(&yard.key.text);
    let mut response = request.send().await.expect("the head comes before the body");
    body.send("begun");
    assert!(response.chunk().await.is_ok());
    yard.gate.reload(&format!("{YAML}\ndeny: {{keys: ['{}']}}", yard.key.id));
    let ended = tokio::time::timeout(Duration::from_secs(20), response.chunk()).await.expect("it ends");
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_is_taken_from_the_upstream_all_the_same() {
    for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
        let yard = Yard::set(YAML);
        let body = yard.stage.upstream.stream();
        let much = bytes::Bytes::from(vec![b'x'; 1 << 20]);
        (0..256).for_each(|_| body.send_bytes(much.clone()));
        let client = client.build().expect("the client's settings are valid");
        let request = client.get(yard.gate.url("/things/1")).bearer_auth(&yard.key.text);
        let _unread = request.send().await.expect("the head comes before the body");
        tokio::time::sleep(SEVERAL).await;
        assert!(!body.is_unwanted());
        yard.act(&Act::Key(json!({"revoked_at": "2026-03-23T14:30:00Z"})));
        until("the upstream to learn of it", || body.is_unwanted().then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_answer_whose_key_stands_stays_and_spends_nothing() {
    let yard = Yard::set(YAML);
    yard.stage.redis.room(3_600_000, 20_000);
    let body = yard.stage.upstream.stream();
    let request = yard.gate.get("/things/1").bearer_auth(&yard.key.text);
    let mut response = request.send().await.expect("the head comes before the body");
    assert_eq!(response.headers()["x-ratelimit-remaining"], "99");
    let asked = || yard.gate.metric("sidegate_store_calls_total", &["op=\"decide\""]);
    let before = asked();
    until("several questions", || (asked() >= before + 4.0).then_some(()));
    body.send("late");
    drop(body);
    assert_eq!(response.chunk().await.expect("it stands").as_deref(), Some(&b"late"[..]));
    assert_eq!(response.chunk().await.expect("it ends cleanly"), None);
    yard.stage.upstream.echo();
    let next = yard.gate.get("/things/1").bearer_auth(&yard.key.text).answer().await;
    assert_eq!(next.number("x-ratelimit-remaining"), 98, "asking again costs nothing");
    let after = asked();
    tokio::time::sleep(SEVERAL).await;
    assert_eq!(asked(), after, "nothing is open, so nothing is asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_over_its_limit_keeps_what_is_open() {
    let yard = Yard::set(&YAML.replace("100/1h", "1/1h"));
    yard.stage.redis.room(3_600_000, 20_000);
    let body = yard.stage.upstream.stream();
    let request = yard.gate.get("/things/1").bearer_auth(&yard.key.text);
    let mut response = request.send().await.expect("the head comes before the body");
    let denied = yard.gate.get("/things/1").bearer_auth(&yard.key.text).answer().await;
    assert_eq!(denied.status, 429);
    tokio::time::sleep(SEVERAL).await;
    body.send("still");
    assert_eq!(response.chunk().await.expect("it stands").as_deref(), Some(&b"still"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_upload_is_refused_in_its_middle_when_its_key_is_revoked() {
    for client in [client::http(&[]), client::http(&[]).http2_prior_knowledge()] {
        let yard = Yard::set(YAML);
        let (sender, body) = frames();
        let client = client.build().expect("the client's settings are valid");
        let request = client.post(yard.gate.url("/things/1")).bearer_auth(&yard.key.text);
        let answer = tokio::spawn(request.body(reqwest::Body::wrap(body)).send());
        sender.send("begun");
        yard.stage.upstream.until("the first part", |seen| seen.body == b"begun");
        yard.act(&Act::Key(json!({"revoked_at": "2026-03-23T14:30:00Z"})));
        let answered = answer.await.expect("the request ends");
        // Its answer says why; a client that only sends may see the connection close first.
        assert!(answered.as_ref().is_ok_and(|answer| answer.status() == 401) || answered.is_err(), "{answered:?}");
        assert!(!yard.stage.upstream.only().complete, "the upstream never takes it for a whole one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_open_longer_than_its_greatest_age() {
    let yard = Yard::set(&YAML.replace("recheck: 200ms", "recheck: 100ms, max_age: 500ms"));
    for path in ["/things/1", "/public"] {
        let body = yard.stage.upstream.stream();
        let request = yard.gate.get(path).bearer_auth(&yard.key.text);
        let mut response = request.send().await.expect("the head comes before the body");
        body.send("begun");
        assert!(response.chunk().await.is_ok());
        let ended = tokio::time::timeout(Duration::from_secs(20), response.chunk()).await.expect("it ends");
        assert!(ended.is_err(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_what_cannot_be_confirmed_any_more() {
    let store = "store: {redis: '${REDIS_URL}', deadline: 1s, outage: {keys: OUTAGE}}";
    // (the policy, how long the store is away, whether the stream is still there)
    for (keys, away, stays) in [
        ("deny", Duration::from_millis(300), true),
        ("deny", Duration::from_secs(20), false),
        ("{known_for: 5m}", Duration::from_secs(6), true),
    ] {
        let yaml = YAML.replace("recheck: 200ms", "recheck: 2s");
        let mut yard = Yard::set(&format!("{}\n{yaml}", store.replace("OUTAGE", keys)));
        let body = yard.stage.upstream.stream();
        let request = yard.gate.get("/things/1").bearer_auth(&yard.key.text);
        let mut response = request.send().await.expect("the head comes before the body");
        yard.stage.redis.stop();
        let chunk = tokio::time::timeout(away, response.chunk()).await;
        yard.stage.redis.restart();
        assert_eq!(chunk.is_err(), stays, "{keys} for {away:?}: {chunk:?}");
        if stays {
            tokio::time::sleep(Duration::from_secs(3)).await;
            body.send("still");
            assert_eq!(response.chunk().await.expect("it stands").as_deref(), Some(&b"still"[..]));
        } else {
            assert!(chunk.is_ok_and(|chunk| chunk.is_err()), "broken off");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_stream_asks_no_store() {
    let mut yard = Yard::set(YAML);
    let body = yard.stage.upstream.stream();
    let mut response = yard.gate.get("/public").send().await.expect("the head comes before the body");
    yard.stage.redis.kill();
    tokio::time::sleep(SEVERAL).await;
    body.send("still");
    assert_eq!(response.chunk().await.expect("it stands").as_deref(), Some(&b"still"[..]));
}

#[test]
fn curl_reads_server_sent_events_as_they_come() {
    let yard = Yard::set(YAML);
    let body = yard.stage.upstream.stream();
    let mut curl = Command::new("curl");
    curl.args(["-sN", "-H", "Accept: text/event-stream", "-H", &format!("Authorization: Bearer {}", yard.key.text)]);
    let mut curl = curl.arg(yard.gate.url("/things/events")).stdout(Stdio::piped()).spawn().expect("curl is installed");
    let mut events = BufReader::new(curl.stdout.take().expect("stdout is piped"));
    for event in ["data: one\n", "data: two\n", "data: three\n"] {
        body.send(event);
        let mut line = String::new();
        events.read_line(&mut line).expect("curl writes");
        assert_eq!(line, event, "before the next one is sent");
    }
    drop(body);
    assert_eq!(curl.wait().expect("curl ends").code(), Some(0));
}

#[test]
fn a_side_that_reads_nothing_slows_the_other_and_takes_no_memory() {
    const MUCH: usize = 256 << 20;
    const LITTLE: f64 = (32 << 20) as f64;
    let yard = Yard::set(YAML);
    let upstream = RawUpstream::that_answers(format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n"));
    let gate = yard.stage.gate(&format!("upstream: http://{}\nroutes: {{/public: public}}", upstream.address));
    let memory = || gate.metric("process_resident_memory_bytes", &[]);
    let before = memory();
    let mut client = Wire::to(gate.address);
    client.send(format!("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n"));
    let (_, mut service) = upstream.next();
    assert!(client.fill(MUCH) < MUCH, "the upstream reads nothing");
    assert!(memory() - before < LITTLE, "{}", memory() - before);
    client.head();
    assert!(service.fill(MUCH) < MUCH, "the client reads nothing");
    assert!(memory() - before < LITTLE, "{}", memory() - before);
}

#[test]
fn a_gigabyte_passes_each_way_in_little_memory() {
    const GIGABYTE: usize = 1 << 30;
    let stage = Stage::set();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    let gate = stage.gate(&format!("upstream: http://{address}\nroutes: {{/public: public}}"));
    let memory = || gate.metric("process_resident_memory_bytes", &[]);
    let before = memory();
    let service = thread::spawn(move || {
        let mut wire = Wire::over(listener.accept().expect("the gate comes").0);
        wire.head();
        let read = wire.skip(GIGABYTE);
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIGABYTE}\r\n\r\n"));
        wire.pour(GIGABYTE);
        read
    });
    let mut client = Wire::to(gate.address);
    client.send(format!("POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: {GIGABYTE}\r\n\r\n"));
    client.pour(GIGABYTE / 2);
    let half_up = memory();
    client.pour(GIGABYTE / 2);
    client.head();
    assert_eq!(client.skip(GIGABYTE / 2), GIGABYTE / 2);
    let half_down = memory();
    assert_eq!(client.skip(GIGABYTE / 2), GIGABYTE / 2);
    assert_eq!(service.join().expect("the service keeps to it"), GIGABYTE);
    let grown = half_up.max(half_down) - before;
    assert!(grown < f64::from(32 << 20), "{grown} bytes more");
}

#[test]
fn a_client_that_expects_100_gets_it_only_where_its_body_is_wanted() {
    let yard = Yard::set(YAML);
    let head = |path: &str, key: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Length: 4\r\n\
             Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
    };
    for (path, key, status) in [("/things/1", "sg_wrong", "401"), ("/nowhere", yard.key.text.as_str(), "404")] {
        let mut client = Wire::to(yard.gate.address);
        client.send(head(path, key));
        let first = client.head();
        assert!(first.starts_with(&format!("HTTP/1.1 {status} ")), "{first}");
    }
    assert!(yard.stage.upstream.seen().is_empty());
    let mut client = Wire::to(yard.gate.address);
    client.send(head("/things/1", &yard.key.text));
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send("body");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    assert_eq!(yard.stage.upstream.only().body, b"body");
}

#[test]
fn ranges_conditions_and_bodiless_answers_pass_untouched() {
    for (method, asked, answer, said) in [
        (
            "GET",
            "Range: bytes=0-3\r\n",
            "206 Partial Content\r\nContent-Range: bytes 0-3/10\r\nContent-Length: 4",
            "abcd",
        ),
        ("GET", "If-None-Match: \"x\"\r\n", "304 Not Modified\r\nETag: \"x\"\r\nCache-Control: no-cache", ""),
        (
            "GET",
            "If-Range: \"x\"\r\n",
            "416 Range Not Satisfiable\r\nContent-Range: bytes */10\r\nContent-Length: 0",
            "",
        ),
        ("DELETE", "If-Match: \"x\"\r\n", "204 No Content\r\nETag: \"y\"", ""),
        ("HEAD", "", "200 OK\r\nContent-Length: 1234\r\nETag: \"x\"\r\nAccept-Ranges: bytes", ""),
    ] {
        let upstream = RawUpstream::that_answers(format!("HTTP/1.1 {answer}\r\n\r\n{said}"));
        let stage = Stage::set();
        let gate = stage.gate(&format!("upstream: http://{}\nroutes: {{/public: public}}", upstream.address));
        let mut client = Wire::to(gate.address);
        client.send(format!("{method} /public HTTP/1.1\r\nHost: a\r\n{asked}Connection: close\r\n\r\n"));
        let got = client.rest();
        let (head, _) = upstream.next();
        assert!(head.to_lowercase().contains(&asked.to_lowercase()), "{head}");
        let answered = Answer::parse(got.as_bytes());
        assert_eq!(answered.text(), said, "{got}");
        let mut lines = answer.split("\r\n");
        let status = lines.next().expect("split yields at least one part");
        assert!(got.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{got}");
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            assert_eq!(answered.header(name), Some(value), "{name} in {got}");
        }
    }
}

#[tokio::test]
async fn an_answer_without_content_has_no_length() {
    for (answer, method) in [("204 No Content", "GET"), ("204 No Content", "HEAD"), ("205 Reset Content", "HEAD")] {
        for http2 in [false, true] {
            let said = format!("HTTP/1.1 {answer}\r\nConnection: close\r\nContent-Length: 5\r\n\r\n");
            let upstream = RawUpstream::that_answers(said);
            let stage = Stage::set();
            let gate = stage.gate(&format!("upstream: http://{}\nroutes: {{/public: public}}", upstream.address));
            let client = client::http(&[]);
            let client = if http2 { client.http2_prior_knowledge() } else { client };
            let client = client.build().expect("the client's settings are valid");
            let request = client.request(method.parse().expect("a method"), gate.url("/public"));
            let got = request.answer().await;
            assert!(answer.starts_with(&got.status.to_string()), "{got:?}");
            let length = got.header("content-length");
            let is_right = length.is_none() || (length == Some("0") && answer.starts_with("205"));
            assert!(is_right, "{answer} to {method}, HTTP/2: {http2}: {length:?}");
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    // It answers once on each connection.
    let said = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
        4\r\nbody\r\n0\r\nX-RateLimit-Limit: 9\r\nRateLimit: \"a\";r=1\r\nX-Request-Id: 1\r\nX-Sum: 7\r\n\r\n";
    let upstream = RawUpstream::that_answers(said);
    let stage = Stage::set();
    let gate = stage.gate(&format!("upstream: http://{}\nroutes: {{/public: public}}", upstream.address));
    let mut client = Wire::to(gate.address);
    client.send("POST /public HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\nTrailer: X-Sum\r\n");
    client.send("Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 4\r\n\r\n");
    let got = client.rest().to_lowercase();
    assert!(got.ends_with("4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n"), "{got}");
    let (_, mut service) = upstream.next();
    assert!(service.until(b"\r\n0\r\nx-sum: 4\r\n\r\n").contains("body"));

    let response = client::http(&[]).http2_prior_knowledge().build().expect("the client's settings are valid");
    let response = response.post(gate.url("/public")).send().await.expect("it is answered");
    let whole = http::Response::from(response).into_body().collect().await.expect("it comes whole");
    let trailers = whole.trailers().expect("trailers come");
    assert_eq!(trailers.get("x-sum").map(|sum| sum.as_bytes()), Some(&b"7"[..]));
    assert_eq!(trailers.len(), 1, "what the gate says in the head is not said otherwise behind it: {trailers:?}");
}

#[test]
fn an_answer_to_a_body_that_turns_out_too_large_breaks_off() {
    let upstream = RawUpstream::that_answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let stage = Stage::set();
    let gate = stage.gate(&format!("upstream: http://{}\nmax_body: 8\nroutes: {{/public: public}}", upstream.address));
    let mut client = Wire::to(gate.address);
    client.send("POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n");
    client.until(b"abc\r\n");
    client.send("8\r\n12345678\r\n0\r\n\r\n");
    assert!(!client.rest().contains("0\r\n\r\n"), "what answers a part of a body was taken for a whole answer");
    let (_, mut service) = upstream.next();
    assert!(!service.rest().contains("12345678"), "the upstream got more than the route takes");
}

#[test]
fn a_body_that_is_too_large_is_refused_wherever_that_shows() {
    let stage = Stage::set();
    let gate = stage.gate("max_body: 8\nroutes: {/public: public, /large: {public: true, max_body: 1MiB}}");
    let ask = |path: &str, framing: &str, body: &str| {
        let mut client = Wire::to(gate.address);
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}\r\n\r\n{body}"));
        client.head()[9..12].to_owned()
    };
    let chunked = "Transfer-Encoding: chunked";
    assert_eq!(ask("/public", "Content-Length: 8", "12345678"), "200");
    assert_eq!(ask("/public", "Content-Length: 9", "123456789"), "413");
    assert_eq!(ask("/public", chunked, "8\r\n12345678\r\n0\r\n\r\n"), "200");
    assert_eq!(ask("/public", chunked, "8\r\n12345678\r\n1\r\n9\r\n"), "413", "in its middle");
    assert_eq!(ask("/large", "Content-Length: 9", "123456789"), "200");
    assert_eq!(stage.upstream.seen().iter().filter(|seen| seen.complete && seen.body.len() > 8).count(), 1);
}

enum Act {
    Key(Value),
    Delete,
    Business(Value),
}

struct Yard {
    stage: Stage,
    gate: Gate,
    key: Key,
}

impl Yard {
    fn set(yaml: &str) -> Self {
        let stage = Stage::set();
        let gate = stage.gate(yaml);
        let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]}));
        stage.redis.set_business("acme", json!({"plan": "pro"}));
        Self { stage, gate, key }
    }

    fn act(&self, act: &Act) {
        match act {
            Act::Key(changes) => self.stage.redis.rewrite(&self.key, changes.clone()),
            Act::Delete => self.stage.redis.delete(&self.key.document()),
            Act::Business(document) => self.stage.redis.set_business("acme", document.clone()),
        }
    }
}
