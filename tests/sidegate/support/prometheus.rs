//! A real Prometheus of the test's own, with the files of `deploy/prometheus` but for what they cannot know: where the gate is,
//! and that a test has no minutes to wait.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Answer, Gate, Port, client, in_repository, until};

pub struct Prometheus {
    server: Child,
    port: Port,
    _folder: TempDir,
}

/// One series of an answer, and its latest value.
#[derive(Debug)]
pub struct Sample {
    pub labels: Value,
    pub value: f64,
}

impl Prometheus {
    /// Scrapes the gate by both jobs of `scrape.yaml` and follows `sidegate.rules.yaml`.
    pub fn watching(gate: &Gate) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let files = [
            ("scrape.yaml", at(gate.admin)),
            ("sidegate.rules.yaml", at_once(&shipped("sidegate.rules.yaml"))),
            ("pods.json", pods(gate.admin).to_string()),
        ];
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("the folder is writable");
        }
        let port = Port::reserve();
        Self { server: serve(port.address(), &folder), port, _folder: folder }
    }

    /// What an expression comes to now.
    pub fn ask(&self, expression: &str) -> Vec<Sample> {
        let answer = self.api(&format!("query?query={}", encoded(expression)));
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let result = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{expression}: {answer}"));
        let sample = |series: &Value| {
            let value = series["value"][1].as_str().and_then(|text| text.parse().ok());
            let value = value.unwrap_or_else(|| panic!("{expression}: {series} has no value"));
            Sample { labels: series["metric"].clone(), value }
        };
        result.iter().map(sample).collect()
    }

    /// Waits until an expression comes to numbers.
    pub fn gives(&self, expression: &str) -> Vec<Sample> {
        until(expression, || {
            let samples = self.ask(expression);
            samples.iter().any(|sample| sample.value.is_finite()).then_some(samples)
        })
    }

    /// Every name that a series has.
    pub fn names(&self) -> Vec<String> {
        serde_json::from_value(self.api("label/__name__/values")["data"].take()).expect("names are texts")
    }

    /// The alerts of this name that fire.
    pub fn firing(&self, name: &str) -> Vec<Value> {
        let answer = self.api("alerts");
        let alerts = answer["data"]["alerts"].as_array().expect("alerts are a list");
        let meant = |alert: &&Value| alert["labels"]["alertname"] == name && alert["state"] == "firing";
        alerts.iter().filter(meant).cloned().collect()
    }

    fn api(&self, path: &str) -> Value {
        get(self.port.address(), &format!("/api/v1/{path}")).json()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A file of `deploy/prometheus`.
pub fn shipped(name: &str) -> String {
    let path = in_repository("deploy/prometheus").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The configuration as it stands, before this gate: asked twice a second, and instead of a cluster's pods those of a file, whose
/// labels the shipped job reads.
fn at(gate: SocketAddr) -> String {
    let mut config = shipped("scrape.yaml");
    for (theirs, ours) in [
        ("127.0.0.1:9901", gate.to_string().as_str()),
        ("_interval: 15s", "_interval: 500ms"),
        ("kubernetes_sd_configs: [{role: pod}]", "file_sd_configs: [{files: [pods.json]}]"),
    ] {
        assert!(config.contains(theirs), "scrape.yaml does not say {theirs} any more");
        config = config.replace(theirs, ours);
    }
    config
}

/// The rules with a second in place of every wait.
fn at_once(rules: &str) -> String {
    let line = |line: &str| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 1s\n"),
        _ => format!("{line}\n"),
    };
    rules.lines().map(line).collect()
}

/// What the discovery of pods tells: one with the sidecar, one whose port is another's, one that has ended.
fn pods(gate: SocketAddr) -> Value {
    let pod = |name: &str, port: &str, phase: &str| {
        json!({"targets": [gate.to_string()], "labels": {
            "__meta_kubernetes_namespace": "prod",
            "__meta_kubernetes_pod_name": name,
            "__meta_kubernetes_pod_phase": phase,
            "__meta_kubernetes_pod_label_app_kubernetes_io_name": "shop",
            "__meta_kubernetes_pod_container_name": "sidegate",
            "__meta_kubernetes_pod_container_port_name": port,
        }})
    };
    json!([
        pod("shop-1", "sidegate-probes", "Running"),
        pod("shop-2", "http", "Running"),
        pod("shop-3", "sidegate-probes", "Succeeded"),
    ])
}

fn serve(address: SocketAddr, folder: &TempDir) -> Child {
    let storage = folder.path().join("storage");
    let mut server = Command::new("prometheus")
        .arg(format!("--config.file={}", folder.path().join("scrape.yaml").display()))
        .arg(format!("--storage.tsdb.path={}", storage.display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--log.level=error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("prometheus: {error}; install it with `apt-get install prometheus`"));
    until("prometheus to be ready", || {
        assert_eq!(server.try_wait().expect("the child can be asked"), None, "prometheus ends at its start");
        std::net::TcpStream::connect(address).ok()?;
        (get(address, "/-/ready").status == 200).then_some(())
    });
    server
}

/// As HTTP/1.0, which has no chunks.
fn get(address: SocketAddr, target: &str) -> Answer {
    Answer::parse(&client::exchange(address, format!("GET {target} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes()))
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
