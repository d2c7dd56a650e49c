//! How a gate reaches what is behind it: over unix sockets, by the protocol that TLS agrees on, within the time that it may take;
//! and how it is ready without its store.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{AnswerTo as _, Certificate, Stage, Upstream, until};

/// A service on a unix socket that answers everything with this, and remembers each request's head.
struct OnSocket(Arc<Mutex<Vec<String>>>);

impl OnSocket {
    fn open(path: &Path, body: &str) -> Self {
        let listener = UnixListener::bind(path).expect("the folder is writable");
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (seen, body) = (heads.clone(), body.to_owned());
        // Detached: it waits for connections until the test program ends.
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (seen, body) = (seen.clone(), body.clone());
                thread::spawn(move || {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) {
                        head.push(byte[0]);
                        if head.ends_with(b"\r\n\r\n") {
                            let text = String::from_utf8_lossy(&std::mem::take(&mut head)).into_owned();
                            seen.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
                            let _ = stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes());
                        }
                    }
                });
            }
        });
        Self(heads)
    }

    fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tokio::test]
async fn an_upstream_is_reached_on_a_unix_socket() {
    let (stage, folder) = (Stage::set(), tempfile::tempdir().expect("a temporary folder can be made"));
    let path = folder.path().join("app.sock");
    let service = OnSocket::open(&path, "from the socket");
    let gate = stage.gate(&format!("upstream: 'unix:{}'\nroutes: {{/public: public}}", path.display()));
    for _ in 0..3 {
        let answer = gate.get("/public?a=b").answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "from the socket"));
    }
    let seen = service.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].starts_with("GET /public?a=b HTTP/1.1\r\n"), "{}", seen[0]);
    assert!(seen[0].to_ascii_lowercase().contains(&format!("host: {}\r\n", gate.address)), "{}", seen[0]);
    assert!(stage.upstream.seen().is_empty());
}

#[tokio::test]
async fn a_session_is_asked_for_on_a_unix_socket() {
    let (stage, folder) = (Stage::set(), tempfile::tempdir().expect("a temporary folder can be made"));
    let path = folder.path().join("app.sock");
    let session = json!({"user": "u_1", "businesses": [{"id": "acme", "role": "admin"}]}).to_string();
    let endpoint = OnSocket::open(&path, &session);
    let gate = stage.gate(&format!(
        "routes: {{/things: any}}\nmanagement: {{session: 'unix:{}:/session?of=gate', roles: [admin]}}",
        path.display()
    ));
    let answer = gate
        .signed_in("sid=ada", "POST", "/v1/keys")
        .json(&json!({"name": "n", "business_id": "acme", "scopes": ["*"]}));
    let answer = answer.answer().await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let seen = endpoint.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].starts_with("GET /session?of=gate HTTP/1.1\r\n"), "{}", seen[0]);
    assert!(seen[0].to_ascii_lowercase().contains("cookie: sid=ada\r\n"), "{}", seen[0]);
}

#[tokio::test]
async fn an_https_upstream_is_asked_by_the_protocol_that_it_agrees_on() {
    let (stage, certificate) = (Stage::set(), Certificate::of("localhost"));
    let agreed: [(&[&[u8]], &str); 4] = [
        (&[b"h2", b"http/1.1"], "HTTP/2.0"),
        (&[b"http/1.1", b"h2"], "HTTP/1.1"),
        (&[b"http/1.1"], "HTTP/1.1"),
        (&[], "HTTP/1.1"),
    ];
    for (offered, spoken) in agreed {
        let upstream = Upstream::start_tls_by(&certificate, offered);
        let gate = stage.gate(&format!(
            "upstream: {{url: 'https://localhost:{}', connect_timeout: 30s, tls: {{ca: '{}'}}}}\nroutes: {{/public: public}}",
            upstream.address.port(),
            certificate.cert_file().display(),
        ));
        assert_eq!(gate.get("/public").answer().await.status, 200);
        assert_eq!(gate.post("/public").body("body").answer().await.status, 200);
        let seen = upstream.take();
        assert!(seen.iter().all(|seen| seen.version == spoken), "{offered:?}: {seen:?}");
        assert_eq!((seen.len(), seen[1].body.as_slice()), (2, &b"body"[..]));
    }
}

#[tokio::test]
async fn a_connection_may_take_as_long_as_connect_timeout_says() {
    // The system accepts for it, and nobody ever shakes hands.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = silent.local_addr().expect("a bound listener has an address").port();
    let stage = Stage::set();
    let gate = stage.gate(&format!(
        "upstream: {{url: 'https://localhost:{port}', connect_timeout: 3s}}\nroutes: {{/public: public}}"
    ));
    let began = Instant::now();
    assert_eq!(gate.get("/public").answer().await.status, 502);
    // The default is two seconds.
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    gate.said("in time");
}

#[test]
fn a_gate_may_be_ready_without_its_store() {
    let mut stage = Stage::set();
    stage.redis.kill();
    let down = "ready: {store: false}\nroutes: {/public: public, /things: any}";
    let gate = stage.gate(down);
    assert_eq!((gate.raw("GET", "/public", &[]).status, gate.raw("GET", "/things", &[]).status), (200, 401));
    let strict = stage.unready_gate("ready: {store: true}\nroutes: {/public: public}");
    assert_eq!(strict.operators("/readyz").status, 503);
    stage.redis.restart();
    until("the strict one to be ready", || (strict.operators("/readyz").status == 200).then_some(()));
    stage.redis.kill();
    until("it to see that Redis is away", || (strict.operators("/readyz").status == 503).then_some(()));
    assert_eq!(gate.operators("/readyz").status, 200);
}
