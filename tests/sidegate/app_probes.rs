//! The service's own probes, asked through the gate: what the kubelet would ask a service that it cannot reach on loopback.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use crate::support::{
    Answer, Gate, Stage, client,
    gate::{on_config, text},
    in_repository,
    scripted::Scripted,
    until, whole,
};

#[test]
fn the_services_answer_decides_and_stays_with_the_gate() {
    let stage = Stage::set();
    let port = port_of(&stage.upstream.url());
    let target = format!("http://127.0.0.1:{port}/ok?deep=1");
    let gate = stage.gate(&format!(
        "probes: {{address: '127.0.0.1:0', app: [{{path: /app/web/readyz, target: '{target}', timeout: 20s, headers: {{X-Probe: [a, b]}}}}]}}\n\
         routes: {{/public: public}}"
    ));
    let probes = listening(&gate);
    for (status, expected) in [(200, 200), (204, 200), (302, 200), (399, 200), (400, 503), (404, 503), (500, 503)] {
        stage.upstream.respond_with(status, &[("location", "http://192.0.2.1/elsewhere")], "a secret of the service");
        let answer = asked(probes, "/app/web/readyz");
        assert_eq!(answer.status, expected, "{status}: {}", answer.text());
        assert!(!answer.text().contains("secret"), "{}", answer.text());
        let seen = stage.upstream.only();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/ok?deep=1"));
        assert_eq!(seen.header("host"), Some(format!("127.0.0.1:{port}").as_str()));
        assert!(seen.header("user-agent").is_some_and(|agent| agent.starts_with("kube-probe/")));
        assert_eq!(seen.all("x-probe"), ["a", "b"]);
        stage.upstream.take();
    }
    assert_eq!(asked(probes, "/livez").status, 200);
    assert_eq!(asked(probes, "/app/web/livez").status, 404);
    // Only on this listener, and only there.
    assert_eq!(gate.operators("/app/web/readyz").status, 404);
}

#[test]
fn a_service_that_is_silent_or_gone_is_not_well_in_time() {
    let stage = Stage::set();
    stage.upstream.fall_silent();
    let silent = stage.upstream.url();
    let gate = stage.gate(&format!(
        "probes:\n  address: 127.0.0.1:0\n  app:\n  - {{path: /silent, target: '{silent}', timeout: 100ms}}\n  \
         - {{path: /there, target: 'tcp://{}', timeout: 20s}}\n  - {{path: /gone, target: 'tcp://127.0.0.1:1', timeout: 20s}}\n\
         routes: {{/public: public}}",
        silent.trim_start_matches("http://")
    ));
    let probes = listening(&gate);
    let silent = asked(probes, "/silent");
    assert_eq!(silent.status, 503);
    assert!(silent.text().contains("no answer within 100ms"), "{}", silent.text());
    assert_eq!(asked(probes, "/there").status, 200);
    assert_eq!(asked(probes, "/gone").status, 503);
}

/// The listener for probes is not on loopback alone.
#[test]
fn a_flood_of_probes_is_no_flood_upon_the_service() {
    const FLOOD: usize = 200;
    let stage = Stage::set();
    let (sent, at_once, most) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begun, asking, highest) = (sent.clone(), at_once.clone(), most.clone());
    let service = Scripted::play(move |line| {
        if line.head().is_some() {
            highest.fetch_max(asking.fetch_add(1, SeqCst) + 1, SeqCst);
            until("the flood", || (begun.load(SeqCst) == FLOOD).then_some(()));
            asking.fetch_sub(1, SeqCst);
            line.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let gate = stage.gate(&format!(
        "probes: {{address: '127.0.0.1:0', app: [{{path: /well, target: 'http://{}', timeout: 60s}}]}}\n\
         routes: {{/public: public}}",
        service.address
    ));
    let probes = listening(&gate);
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        let mut stream = TcpStream::connect(probes).expect("the gate listens for probes");
        stream.write_all(b"GET /well HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("the gate reads");
        flood.push(stream);
    }
    // Whoever does not wait for the answer does not make room for another question.
    drop(flood.drain(..FLOOD / 2));
    sent.store(FLOOD, SeqCst);
    for mut stream in flood {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the gate answers");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(most.load(SeqCst), 1, "the service was asked that often at once");
    let before = service.seen().len();
    assert_eq!(asked(probes, "/well").status, 200);
    assert_eq!(service.seen().len(), before + 1, "an answer is not kept beyond those who waited for it");
}

#[test]
fn grpc_health_is_asked_of_a_real_server() {
    let stage = Stage::set();
    let server = Health::start();
    let app = ["", "good", "bad", "unknown"].map(|service| {
        format!("  - {{path: '/app/{service}', target: 'grpc://127.0.0.1:{}/{service}', timeout: 20s}}\n", server.port)
    });
    let not_grpc =
        format!("  - {{path: /not, target: '{}', timeout: 20s}}\n", stage.upstream.url().replace("http", "grpc"));
    let gate = stage.gate(&format!(
        "probes:\n  address: 127.0.0.1:0\n  app:\n{}{not_grpc}routes: {{/public: public}}",
        app.concat()
    ));
    let probes = listening(&gate);
    for (service, status, said) in [
        ("/app/", 200, "well"),
        ("/app/good", 200, "well"),
        ("/app/bad", 503, "not serving"),
        ("/app/unknown", 503, "gRPC status 5"),
        ("/not", 503, ""),
    ] {
        let answer = asked(probes, service);
        assert_eq!(answer.status, status, "{service}: {}", answer.text());
        assert!(answer.text().contains(said), "{service}: {}", answer.text());
    }
}

/// As injection writes it into the pod.
#[test]
fn probes_of_the_environment_are_added_to_the_configurations() {
    let stage = Stage::set();
    let told = format!(
        r#"[{{"path": "/app/web/livez", "target": "{}/a$b", "timeout": "20s", "headers": {{"x-a": ["${{HOME}}"]}}}}]"#,
        stage.upstream.url()
    );
    let mut environment = stage.environment();
    environment.push(("SIDEGATE_APP_PROBES".to_owned(), told));
    let yaml = whole("probes: 127.0.0.1:0\nroutes: {/public: public}");
    let said = on_config(&yaml, &["check"], &environment);
    assert!(text(&said.stdout).contains("/app/web/livez asks http://127.0.0.1:"), "{}", text(&said.stdout));
    let gate = Gate::start(&yaml, environment.clone()).ready();
    assert_eq!(asked(listening(&gate), "/app/web/livez").status, 200);
    let seen = stage.upstream.only();
    assert_eq!((seen.target.as_str(), seen.header("x-a")), ("/a$b", Some("${HOME}")));

    let without = whole("routes: {/public: public}");
    let said = on_config(&without, &["check"], &environment);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("write `probes: 0.0.0.0:9901`"), "{}", text(&said.stderr));
    for wrong in ["[", "{}", "[{}]", r#"[{"path": "/livez", "target": "tcp://127.0.0.1:1"}]"#, r#"[{"pfad": "/a"}]"#] {
        let last = environment.len() - 1;
        environment[last].1 = wrong.to_owned();
        let said = on_config(&yaml, &["check"], &environment);
        let told = text(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{wrong}: {told}");
        assert!(told.contains("SIDEGATE_APP_PROBES") && told.contains("write"), "{wrong}: {told}");
    }
}

fn port_of(url: &str) -> u16 {
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
    port.expect("an upstream's URL ends with its port")
}

fn listening(gate: &Gate) -> SocketAddr {
    let line: serde_json::Value = serde_json::from_str(&gate.said("probes listening")).expect("the log is JSON");
    line["address"].as_str().and_then(|address| address.parse().ok()).expect("the line names the address")
}

fn asked(probes: SocketAddr, path: &str) -> Answer {
    client::raw(probes, "GET", path, &[])
}

struct Health {
    child: Child,
    port: u16,
}

impl Health {
    fn start() -> Self {
        let mut python = Command::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/clients/python/bin/python"));
        python.arg(in_repository("tests/sidegate/clients/health.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().expect("run scripts/test once, which installs grpcio");
        let mut line = String::new();
        let mut printed = BufReader::new(child.stdout.take().expect("stdout is piped"));
        until("the port", || (printed.read_line(&mut line).expect("the program writes") > 0).then_some(()));
        Self { child, port: line.trim().parse().expect("it prints its port") }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
