//! What the manifests in deploy/kubernetes describe, run as processes on loopback: an application, the gate beside it, key
//! management, and Redis with the two logins. Read from the manifests, so that a manifest which is wrong fails here.

mod pod;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use self::pod::{Pod, app_pre_stop, app_probes, said};
use crate::support::{AnswerTo as _, PATIENCE, Port, Upstream, client, cluster::Server, until};

const ADA: &str = "sid=ada";
const CONTACTS: &str = "/v1/contacts/1";

/// The application, Redis, key management, and what a pod of the application needs.
struct Town {
    app: Upstream,
    redis: Server,
    management: Pod,
}

impl Town {
    fn set() -> Self {
        let (app, redis) = (Upstream::start(), pod::redis());
        app.sign_in(ADA, json!({"user": "u_ada", "businesses": [{"id": "acme", "role": "admin"}]}));
        let management = Pod::management(&app, &url(&redis)).ready();
        Self { app, redis, management }
    }

    fn pod(&self) -> Pod {
        Pod::beside(&self.app, &url(&self.redis)).ready()
    }

    /// A key that somebody who is signed in makes.
    async fn key(&self) -> Value {
        let wanted = json!({
            "name": "Zapier", "business_id": "acme", "scopes": ["contacts:read"], "expires_at": "2099-01-31T00:00:00Z",
        });
        let answer = self.management.gate.signed_in(ADA, "POST", "/v1/keys").json(&wanted).answer().await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        self.app.take();
        answer.json()
    }

    /// Gives the business limits of its own, as an operator does in the management pod.
    fn limit(&self, windows: &[&str]) {
        let mut arguments = vec!["business", "set", "acme"];
        windows.iter().for_each(|window| arguments.extend(["--limit", window]));
        let output = self.management.gate.command(&arguments);
        assert!(output.status.success(), "{}", said(&output));
    }
}

fn url(redis: &Server) -> String {
    format!("redis://127.0.0.1:{}/0", redis.port)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("it is text")
}

#[tokio::test]
async fn a_key_that_is_made_in_one_place_works_in_every_pod_until_it_is_revoked() {
    let town = Town::set();
    let pods = [town.pod(), town.pod()];
    let key = town.key().await;
    for pod in &pods {
        let ask = || pod.gate.get(CONTACTS).bearer_auth(text(&key["key"])).answer();
        assert_eq!(ask().await.status, 200);
        let seen = town.app.only();
        assert_eq!((seen.header("x-business-id"), seen.header("x-user-id")), (Some("acme"), Some("u_ada")));
        assert_eq!(seen.header("authorization"), None);
        let written = pod.gate.post("/v1/contacts").bearer_auth(text(&key["key"])).answer().await;
        assert_eq!(written.denial(), (403, "insufficient_scope".to_owned()));
        assert_eq!(pod.gate.get("/v1/keys").answer().await.status, 404, "a gate manages no keys");
        let created = pod.gate.command(&["keys", "create", "--name", "n", "--business", "acme", "--expires", "1d"]);
        assert!(!created.status.success(), "a gate's login may not mint: {}", said(&created));
    }
    let path = format!("/v1/keys/{}", text(&key["id"]));
    assert_eq!(town.management.gate.signed_in(ADA, "DELETE", &path).answer().await.status, 204);
    for pod in &pods {
        assert_eq!(pod.gate.get(CONTACTS).bearer_auth(text(&key["key"])).answer().await.status, 401);
    }
}

#[tokio::test]
async fn pods_share_a_limit_and_the_metrics_tell_of_it() {
    let town = Town::set();
    let pods = [town.pod(), town.pod()];
    let key = town.key().await;
    town.limit(&["per-key=5/1d"]);
    let requests = (0..30).map(|index| pods[index % 2].gate.get(CONTACTS).bearer_auth(text(&key["key"])));
    let answers = client::together(requests).await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(200), count(429)), (5, 25));
    let counted = |pod: &Pod| {
        let page = pod.get("/metrics").text();
        let over = r#"sidegate_limit_checks_total{limit="per-key",outcome="over"} "#;
        page.lines().find_map(|line| line.strip_prefix(over)).map(|count| count.parse::<usize>().expect("a number"))
    };
    until("what both pods counted", || (pods.iter().filter_map(counted).sum::<usize>() == 25).then_some(()));
}

#[tokio::test]
async fn a_pod_starts_without_redis_and_without_its_application() {
    let nobody = Upstream::start();
    let no_redis = Port::reserve();
    let pod = Pod::beside(&nobody, &format!("redis://127.0.0.1:{}/0", no_redis.number));
    // Dropped, so that nobody listens there any more.
    drop(nobody);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        until(probe, || (pod.asked(probe).status == 200).then_some(()));
    }
    let keyed = pod.gate.get(CONTACTS).bearer_auth("sg_unknown").answer().await;
    assert_eq!(keyed.denial(), (503, "store_unavailable".to_owned()));
}

#[tokio::test]
async fn a_changed_config_map_acts_in_the_running_pod() {
    let town = Town::set();
    let pod = town.pod();
    let ask = |path: &'static str| pod.gate.get(path).answer();
    assert_eq!((ask("/v1/status").await.status, ask("/v1/health").await.status), (200, 404));
    pod.update(|yaml| yaml.replace("GET /v1/status", "GET /v1/health"));
    until("the reload", || (pod.gate.reloads("success") == 1).then_some(()));
    assert_eq!((ask("/v1/status").await.status, ask("/v1/health").await.status), (404, 200));
}

/// Clients keep their connections; new ones go to the pods that the Service knows, which learns of an end after some time. The
/// application ends when its own hook has, the gate after it.
#[tokio::test]
async fn a_pod_that_ends_fails_no_request() {
    let town = Town::set();
    town.limit(&["per-key=1000000/1d", "per-business=1000000/1d"]);
    let key = town.key().await;
    let app = Upstream::start();
    let (leaving, staying) = (Pod::beside(&app, &url(&town.redis)).ready(), town.pod());
    for app in [&app, &town.app] {
        app.respond_with(200, &[], "ok");
    }
    let service = Arc::new(RwLock::new(vec![leaving.gate.address, staying.gate.address]));
    let load = Load::start(&service, text(&key["key"]), 8);
    load.more(300);

    let app_ends = Instant::now() + app_pre_stop();
    let hook = leaving.pre_stop();
    assert!(hook.status.success(), "{}", said(&hook));
    until("the pod to be unready", || (leaving.asked("readinessProbe").status == 503).then_some(()));
    assert_eq!(leaving.asked("livenessProbe").status, 200);
    load.more(100);
    *service.write().expect("no client panics") = vec![staying.gate.address];
    load.more(100);
    thread::sleep(app_ends.saturating_duration_since(Instant::now()));
    drop(app);
    leaving.gate.terminate();
    assert_eq!(leaving.ended(), Some(0));
    load.more(100);
    assert_eq!(load.end(), 0, "requests that failed");
}

#[tokio::test]
async fn the_kubelet_asks_the_application_through_its_gate() {
    let town = Town::set();
    let pod = town.pod();
    town.app.respond_with(200, &[], "ok");
    for (probe, path) in app_probes() {
        assert_eq!(pod.get(&path).status, 200, "{probe}");
    }
    town.app.respond_with(500, &[], "broken");
    let answered = app_probes().into_iter().map(|(probe, path)| (probe, pod.get(&path).status == 200));
    let expected = [("startupProbe", false), ("readinessProbe", false), ("livenessProbe", true)];
    assert_eq!(answered.collect::<Vec<_>>(), expected.map(|(probe, well)| (probe.to_owned(), well)));
    assert_eq!(pod.asked("livenessProbe").status, 200, "the gate itself is well");
}

/// Clients with a key that ask without end, each on a connection that it keeps as long as it may.
struct Load {
    clients: Vec<JoinHandle<()>>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn start(service: &Arc<RwLock<Vec<SocketAddr>>>, key: &str, clients: usize) -> Self {
        let mut load =
            Self { clients: Vec::new(), answered: Arc::default(), failed: Arc::default(), over: Arc::default() };
        for index in 0..clients {
            let (service, key) = (service.clone(), key.to_owned());
            let (answered, failed, over) = (load.answered.clone(), load.failed.clone(), load.over.clone());
            load.clients.push(thread::spawn(move || {
                let mut turn = index;
                while !over.load(Ordering::Relaxed) {
                    let pods = service.read().expect("the test does not panic with it").clone();
                    turn += 1;
                    let stream = TcpStream::connect(pods[turn % pods.len()]);
                    if !stream.is_ok_and(|stream| ask_while_kept(stream, &key, &answered, &over)) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        load
    }

    /// Waits for so many more answers.
    fn more(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        until("answers", || (self.answered.load(Ordering::Relaxed) >= before + count).then_some(()));
    }

    /// How many requests failed.
    fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().expect("no client panics"));
        self.failed.load(Ordering::Relaxed)
    }
}

/// Asks on this connection until it is told that it closes; false where an answer is not whole, or not 200.
fn ask_while_kept(mut stream: TcpStream, key: &str, answered: &AtomicUsize, over: &AtomicBool) -> bool {
    let request = format!("GET {CONTACTS} HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer {key}\r\n\r\n");
    if stream.set_read_timeout(Some(PATIENCE)).is_err() {
        return false;
    }
    while !over.load(Ordering::Relaxed) {
        if stream.write_all(request.as_bytes()).is_err() {
            return false;
        }
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\nok") {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(length @ 1..) => read.extend_from_slice(&buffer[..length]),
                _ => return false,
            }
        }
        let head = String::from_utf8_lossy(&read).to_lowercase();
        if !head.starts_with("http/1.1 200 ") {
            return false;
        }
        answered.fetch_add(1, Ordering::Relaxed);
        if head.contains("\r\nconnection: close\r\n") {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}
