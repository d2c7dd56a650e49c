//! A configuration that changes while the gate serves: read on SIGHUP or when its content differs, in force as a whole or not at
//! all, on connections that are open too.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::sleep;

use crate::support::{Answer, AnswerTo as _, Gate, PATIENCE, Redis, Stage, Upstream, client, until};

#[tokio::test]
async fn a_hangup_acts_on_the_next_request_of_an_open_connection() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/old: public}");
    let mut h1 = Connection::to(&gate);
    // Its connection is to outlast the reload, however long that takes.
    let h2 = client::http(&[]).http2_prior_knowledge().pool_idle_timeout(PATIENCE).build();
    let h2 = h2.expect("the client's settings are valid");
    let ask = async |path: &str| h2.get(gate.url(path)).answer().await.status;
    assert_eq!((h1.get("/old").status, h1.get("/new").status), (200, 404));
    assert_eq!((ask("/old").await, ask("/new").await), (200, 404));
    let connections = gate.metric("sidegate_connections", &[]);
    gate.reload("routes: {/new: public}");
    assert_eq!((h1.get("/old").status, h1.get("/new").status), (404, 200));
    assert_eq!((ask("/old").await, ask("/new").await), (404, 200));
    assert!(
        (gate.metric("sidegate_connections", &[]) - connections).abs() < f64::EPSILON,
        "the connections are the same"
    );
}

#[tokio::test]
async fn a_hangup_reads_again_even_where_nothing_has_changed() {
    let stage = Stage::set();
    let yaml = "routes: {/a: public}";
    let gate = stage.gate(yaml);
    gate.reload(yaml);
    assert_eq!((gate.reloads("success"), gate.reloads("failure")), (1, 0));
    assert_eq!(gate.get("/a").answer().await.status, 200);
}

#[tokio::test]
async fn a_reload_that_wants_more_connections_than_the_system_gives_says_so() {
    let stage = Stage::set();
    let yaml = |connections| {
        format!("listen: {{address: '127.0.0.1:0', limits: {{connections: {connections}}}}}\nroutes: {{/a: public}}")
    };
    let few = "fewer files may be open";
    let gate = stage.gate(&yaml(10));
    assert!(!gate.written().contains(few), "{}", gate.written());
    gate.reload(&yaml(10_000_000));
    gate.said(few);
}

/// Kubernetes puts a ConfigMap's files below a link, and swaps the link.
#[tokio::test]
async fn a_link_that_is_swapped_above_the_file_is_a_change() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/one: public}");
    let at = |path: &str| gate.folder().join(path);
    for version in ["v1", "v2"] {
        fs::create_dir(at(version)).expect("the folder is writable");
    }
    let yaml = fs::read_to_string(at("sidegate.yaml")).expect("the configuration is there");
    fs::write(at("v1/sidegate.yaml"), &yaml).expect("the folder is writable");
    fs::write(at("v2/sidegate.yaml"), yaml.replace("/one", "/two")).expect("the folder is writable");
    symlink("v1", at("data")).expect("links can be made");
    symlink("data/sidegate.yaml", at("link")).expect("links can be made");
    fs::rename(at("link"), at("sidegate.yaml")).expect("the folder is writable");
    symlink("v2", at("data.new")).expect("links can be made");
    fs::rename(at("data.new"), at("data")).expect("the folder is writable");
    until("the reload", || (gate.reloads("success") >= 1).then_some(()));
    assert_eq!(gate.get("/two").answer().await.status, 200);
    assert_eq!(gate.get("/one").answer().await.status, 404);
}

#[tokio::test]
async fn a_file_that_a_value_comes_from_is_part_of_the_configuration() {
    let stage = Stage::set();
    let yaml = "upstream: {url: '${UPSTREAM_URL}', headers: {X-Secret: '${file:secret}'}}\nroutes: {/a: public}";
    let gate = stage.gate("routes: {/a: public}");
    fs::write(gate.folder().join("secret"), "one").expect("the folder is writable");
    gate.reload(yaml);
    let secret = async || {
        assert_eq!(gate.get("/a").answer().await.status, 200);
        stage.upstream.only().header("x-secret").map(str::to_owned)
    };
    assert_eq!(secret().await.as_deref(), Some("one"));
    fs::write(gate.folder().join("secret"), "two").expect("the folder is writable");
    let began = Instant::now();
    while secret().await.as_deref() != Some("two") {
        assert!(began.elapsed() < PATIENCE, "the new secret does not act");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing_and_is_told_whole_in_one_line() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/a: public}");
    let hash = config_hash(&gate);
    gate.configure("routes: {/b: public, nothing: public}\nlimits: {l: {by: key, windows: 0/1s}}");
    until("the failure", || (gate.reloads("failure") == 1).then_some(()));
    assert_eq!((gate.get("/a").answer().await.status, gate.get("/b").answer().await.status), (200, 404));
    assert_eq!((gate.reloads("success"), config_hash(&gate)), (0, hash.clone()));
    let said = gate.said("not reloaded");
    for told in ["sidegate.yaml:1:", "nothing", "sidegate.yaml:2:", "limits.l"] {
        assert!(said.contains(told), "no {told:?} in {said}");
    }
    // What is wrong is told once; what is right again acts without being asked.
    gate.configure("routes: {/b: public}");
    until("the reload", || (gate.reloads("success") == 1).then_some(()));
    assert_eq!((gate.get("/a").answer().await.status, gate.get("/b").answer().await.status), (404, 200));
    assert_eq!(gate.reloads("failure"), 1);
    assert_ne!(config_hash(&gate), hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_where_it_began_and_the_next_goes_to_the_new_upstream() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/a: public}");
    let body = stage.upstream.stream();
    let client = client::http(&[]).build().expect("the client's settings are valid");
    let mut begun = client.get(gate.url("/a")).send().await.expect("the head comes before the body");
    let elsewhere = Upstream::start();
    gate.reload(&format!("upstream: {}\nroutes: {{/a: public}}", elsewhere.url()));
    assert_eq!(gate.get("/a").answer().await.status, 200);
    elsewhere.only();
    body.send("late");
    drop(body);
    assert_eq!(begun.chunk().await.expect("the answer is finished").as_deref(), Some(&b"late"[..]));
    assert_eq!(begun.chunk().await.expect("the answer is finished"), None);
    assert_eq!(stage.upstream.seen().len(), 1);
}

#[tokio::test]
async fn the_store_the_known_keys_and_the_counts_outlive_a_reload() {
    let stage = Stage::set();
    let yaml = |limit: &str| {
        format!(
            "workers: 1\nlimits: {{l: {{by: key, windows: {limit}}}}}\nroutes: {{/a: {{any: true, limits: l}}, /b: public}}"
        )
    };
    let gate = stage.gate(&yaml("3/1h"));
    let key = stage.redis.mint(json!({"business": "acme"})).text;
    stage.redis.room(3_600_000, 60_000);
    let ask = async || gate.get("/a").bearer_auth(&key).answer().await;
    let remaining = |answer: &Answer| answer.header("x-ratelimit-remaining").map(str::to_owned);
    assert_eq!(remaining(&ask().await).as_deref(), Some("2"));
    let connections = connections(&stage.redis);
    gate.reload(&yaml("7/1h").replace("/b", "/c"));
    let mut watch = stage.redis.watch();
    assert_eq!(remaining(&ask().await).as_deref(), Some("5"), "the new limit, less what was spent before");
    assert_eq!(watch.calls(), ["evalsha"], "the key is known still");
    assert!(self::connections(&stage.redis).is_superset(&connections), "the connection to Redis is the same");
    // Series that stayed go on, and those of new routes are there.
    let allowed = |route: &str| {
        let page = gate.operators("/metrics").text();
        page.contains(&format!("sidegate_requests_total{{decision=\"allowed\",route=\"{route}\"")).then(|| {
            gate.metric("sidegate_requests_total", &[&format!("route=\"{route}\""), "decision=\"allowed\""]) as usize
        })
    };
    until("the count", || (allowed("/a") == Some(2)).then_some(()));
    assert_eq!(allowed("/c"), Some(0));
}

#[tokio::test]
async fn what_needs_a_restart_says_so_and_the_rest_acts() {
    let stage = Stage::set();
    let gate = stage.gate("workers: 1\nroutes: {/a: any}");
    let key = stage.redis.mint(json!({"business": "acme"}));
    assert_eq!(gate.get("/a").bearer_auth(&key.text).answer().await.status, 200);
    gate.reload(&format!(
        "workers: 2\nlisten: 127.0.0.1:1\nstore: 'redis://127.0.0.1:1'\nroutes: {{/a: any}}\ndeny: {{keys: ['{}']}}",
        key.digest
    ));
    let said = gate.said("after a restart");
    for field in ["workers", "listen.address", "store"] {
        assert!(said.contains(field), "no {field} in {said}");
    }
    assert_eq!(gate.get("/a").bearer_auth(&key.text).answer().await.status, 401, "break-glass acts at once");
    assert!((gate.metric("sidegate_config_restart_needed", &[]) - 1.0).abs() < f64::EPSILON);
    gate.reload("workers: 1\nroutes: {/a: any}");
    assert_eq!(gate.get("/a").bearer_auth(&key.text).answer().await.status, 200);
    assert!(gate.metric("sidegate_config_restart_needed", &[]).abs() < f64::EPSILON);
}

#[tokio::test]
async fn words_and_log_level_follow() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/a: public}");
    gate.reload("routes: {/a: public}\nlog: {level: warn}");
    assert_eq!(gate.get("/before").answer().await.status, 404);
    gate.reload("routes: {/a: public}\nlog: {level: info}\nerrors: {route_not_found: {status: 410}}");
    assert_eq!(gate.get("/after").answer().await.status, 410);
    assert_eq!(gate.logged("/after")["http.response.status_code"], 410);
    assert!(!gate.written().contains("/before"), "at `warn` no request is logged");
    gate.said("reloaded");
}

/// The `hash` of `sidegate_config_info`, of which there is one.
fn config_hash(gate: &Gate) -> String {
    let page = gate.operators("/metrics").text();
    let mut series = page.lines().filter(|line| line.starts_with("sidegate_config_info{"));
    let hash = series.next().expect("the metric is there").to_owned();
    assert_eq!(series.next(), None, "one configuration is in force");
    hash
}

/// The connections that Redis has, by their ids there.
fn connections(redis: &Redis) -> BTreeSet<String> {
    let list: String = redis.ask(&["CLIENT", "LIST"]);
    // The one that asks is gone the next time.
    let others = list.lines().filter(|line| !line.contains("cmd=client|list"));
    others.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

/// One HTTP/1.1 connection that is kept.
struct Connection(TcpStream);

impl Connection {
    fn to(gate: &Gate) -> Self {
        Self(TcpStream::connect(gate.address).expect("the gate listens"))
    }

    fn get(&mut self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        self.0.write_all(request.as_bytes()).expect("the connection stands");
        let mut read = Vec::new();
        until("a whole answer", || {
            let mut buffer = [0; 4096];
            let length = self.0.read(&mut buffer).expect("the connection stands");
            assert!(length > 0, "the connection was closed");
            read.extend_from_slice(&buffer[..length]);
            let head = read.windows(4).position(|four| four == b"\r\n\r\n")?;
            let answer = Answer::parse(&read);
            let body: usize = answer.header("content-length")?.parse().ok()?;
            (read.len() >= head + 4 + body).then_some(answer)
        })
    }
}
