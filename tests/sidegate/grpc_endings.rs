//! gRPC streams that the gate ends in their middle: their clients read a status and a message from trailers, where others see the
//! answer break off.

use std::time::Duration;

use h2::RecvStream;
use http::Request;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{
    Gate, Key, Stage,
    bytes::Wire,
    frames::{self, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Upstream, frame},
    until,
};

const PATIENCE: Duration = Duration::from_secs(15);
const PAST: &str = "2026-03-23T14:30:00Z";
const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");

const IDLE: &str = "listen: {address: '127.0.0.1:0', limits: {stream_idle: 2s}}";

/// (what ends it, the configuration, its status, its message)
type Case<'a> = (&'a str, &'a str, &'a str, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_learns_from_trailers_why_its_stream_was_ended() {
    let recheck = "streams: {recheck: 200ms}";
    let cases: [Case<'_>; 8] = [
        ("revoked", recheck, "16", "Invalid API key"),
        ("expired", recheck, "16", "Invalid API key"),
        ("scope", recheck, "7", "Insufficient permissions"),
        ("suspended", recheck, "7", "Insufficient permissions"),
        ("age", "streams: {recheck: 100ms, max_age: 1500ms}", "14", "The stream has reached its greatest age"),
        ("idle", IDLE, "14", "Nothing has passed on the stream for too long"),
        ("deadline", "drain: {delay: 0s, deadline: 300ms}", "14", "The gate is shutting down"),
        ("second signal", "", "14", "The gate is shutting down"),
    ];
    for (name, yaml, status, message) in cases {
        let mut yard = Yard::set(yaml);
        // A part of a message: that it is not whole is said by the status behind it.
        let (mut service, mut answer) = yard.begin(b"\0\0\0\0\x09part").await;
        yard.act(name);
        let trailers = tokio::time::timeout(PATIENCE, answer.trailers()).await.expect("it ends");
        let trailers = trailers.unwrap_or_else(|error| panic!("{name}: {error}")).expect("trailers come");
        assert_eq!(trailers["grpc-status"], status, "{name}");
        assert_eq!(trailers["grpc-message"], message, "{name}");
        assert_eq!(trailers.len(), 2, "{name}: {trailers:?}");
        if message.contains("shutting down") {
            assert!(service.closes(PATIENCE), "{name}: the service learns of it");
            assert_eq!(yard.gate.ended().code(), Some(0), "{name}");
        } else {
            service.find(PATIENCE, |frame| frame.kind == RST_STREAM).expect("the service learns of it");
            yard.is_over(name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_ones_own_is_percent_encoded() {
    let own = "errors: {revoked_key: {detail: 'Schlüssel zu 100 % gesperrt'}}";
    let yard = Yard::set(&format!("streams: {{recheck: 200ms}}\n{own}"));
    let (_service, mut answer) = yard.begin(b"part").await;
    yard.act("revoked");
    let trailers = answer.trailers().await.expect("no reset").expect("trailers come");
    assert_eq!(trailers["grpc-message"], "Schl%C3%BCssel zu 100 %25 gesperrt");
}

/// Other answers, other clients, and what has promised its length, are broken off: nothing else would tell that they are not whole.
#[test]
fn what_takes_no_status_breaks_off_as_before() {
    for (asked, answered) in [
        (&[GRPC][..], &[("content-type", "text/html")][..]),
        (&[GRPC], &[("content-type", "application/grpc-web")]),
        (&[], &[GRPC]),
        (&[GRPC], &[GRPC, ("content-length", "100")]),
    ] {
        let yard = Yard::set("streams: {recheck: 200ms}");
        let mut client = Connection::open(yard.gate.address, &[]);
        let key = [("x-api-key", yard.key.text.as_str())];
        let head = frames::request("POST", "/echo/Watch", &[asked, &key].concat());
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head));
        let _service = yard.answers(answered, b"part");
        client.find(PATIENCE, |frame| frame.kind == DATA).expect("the answer begins");
        yard.act("revoked");
        let last =
            client.find(PATIENCE, |frame| frame.stream == 1 && matches!(frame.kind, DATA | HEADERS | RST_STREAM));
        assert_eq!(last.expect("it ends").kind, RST_STREAM, "{asked:?} {answered:?}");
        yard.is_over("");
    }
    let yard = Yard::set("streams: {recheck: 200ms}");
    let mut client = Wire::to(yard.gate.address);
    client.send(format!("POST /echo/Watch HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n", yard.key.text));
    client.send("Content-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 0\r\n\r\n");
    let _service = yard.answers(&[GRPC], b"part");
    client.until(b"part\r\n");
    yard.act("revoked");
    assert_eq!(client.rest(), "", "no last chunk");
}

/// A gate before a service that speaks gRPC in the test's own frames.
struct Yard {
    stage: Stage,
    upstream: Upstream,
    gate: Gate,
    key: Key,
}

impl Yard {
    fn set(yaml: &str) -> Self {
        let (stage, upstream) = (Stage::set(), Upstream::open());
        let gate = stage.gate(&format!(
            "upstream: 'h2c://{}'\nplans: {{pro: {{}}}}\nroutes: {{POST /echo/Watch: 'things:read'}}\n{yaml}",
            upstream.address
        ));
        let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]}));
        stage.redis.set_business("acme", json!({"plan": "pro"}));
        Self { stage, upstream, gate, key }
    }

    /// Asks, and has the answer begin with this; the service's side, and the answer.
    async fn begin(&self, data: &'static [u8]) -> (Connection, RecvStream) {
        let stream = TcpStream::connect(self.gate.address).await.expect("the gate listens");
        let (mut client, connection) = h2::client::handshake(stream).await.expect("the gate speaks HTTP/2");
        tokio::spawn(connection);
        let request = Request::post(format!("http://{}/echo/Watch", self.gate.address));
        let request = request.header("x-api-key", &self.key.text).header(GRPC.0, GRPC.1).header("te", "trailers");
        // The request goes on, as a stream's may.
        let (answer, _sends) = client.send_request(request.body(()).expect("it is valid"), false).expect("it is sent");
        let service = self.answers(&[GRPC], data);
        let mut answer = answer.await.expect("the head comes").into_body();
        let came = answer.data().await.expect("a part comes").expect("it stands");
        assert_eq!(came, data);
        (service, answer)
    }

    fn answers(&self, fields: &[(&str, &str)], data: &[u8]) -> Connection {
        let mut service = self.upstream.next();
        service.find(PATIENCE, |frame| frame.kind == HEADERS).expect("the request comes");
        let head = frames::block(&[&[(":status", "200")], fields].concat());
        service.send(&[frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, data)].concat());
        service
    }

    fn act(&self, name: &str) {
        let rewrite = |changes| self.stage.redis.rewrite(&self.key, changes);
        match name {
            "revoked" => rewrite(json!({"revoked_at": PAST})),
            "expired" => rewrite(json!({"expires_at": PAST})),
            "scope" => rewrite(json!({"scopes": ["other"]})),
            "suspended" => self.stage.redis.set_business("acme", json!({"plan": "pro", "status": "suspended"})),
            "deadline" => self.gate.terminate(),
            "second signal" => {
                self.gate.terminate();
                self.gate.said("leaving");
                self.gate.signal("INT");
            }
            _ => {}
        }
    }

    /// Ended by the gate, and by nobody else.
    fn is_over(&self, case: &str) {
        until("nothing in flight", || (self.gate.metric("sidegate_requests_in_flight", &[]) == 0.0).then_some(()));
        let broken = |by| self.gate.metric("sidegate_answers_broken_total", &[by]);
        assert_eq!((broken("by=\"gate\""), broken("")), (1.0, 1.0), "{case}");
        assert!(self.gate.said("a stream was ended").contains("reason"), "{case}");
    }
}
