//! A real Prometheus before a real gate: what `deploy/prometheus` and `deploy/grafana` ask for is there, comes to numbers, and
//! alerts begin and end. (`scripts/deploy/prometheus` and `grafana` check the files by themselves.)

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{task::AbortHandle, time::sleep};

use crate::support::{
    AnswerTo as _, Certificate, Gate, PATIENCE, Stage, client, in_repository,
    prometheus::{Prometheus, shipped},
    until,
};

const YAML: &str = "
limits: {per-business: {by: business, windows: 5/1h}, signup: {by: ip, windows: 3/1h}}
upstreams: {default: '${UPSTREAM_URL}', dead: 'http://127.0.0.1:1'}
routes:
  GET /things/**: {scopes: ['things:read'], limits: [per-business]}
  /guarded: admin
  /signup: {public: true, limits: [signup]}
  /dead: {public: true, upstream: dead}
";

/// What no gate has: `inject` tests that the webhook does.
pub const OF_THE_WEBHOOK: [&str; 2] = ["sidegate_injections_total", "sidegate_reviews_refused_total"];

/// The dashboard's expressions, the rules that record, and the queries of the README, each after every kind of answer.
#[tokio::test(flavor = "multi_thread")]
async fn every_panel_rule_and_query_comes_to_numbers() {
    let scene = Scene::set();
    let prometheus = Prometheus::watching(&scene.gate);
    // A reload is an increase where Prometheus has seen what was before.
    prometheus.gives("sidegate_config_reloads_total");
    scene.gate.reload(&scene.yaml);
    let dashboard = read("deploy/grafana/sidegate.json");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("the dashboard is JSON");
    let panels = expressions(&dashboard);
    assert!(panels.len() > 30, "{} expressions", panels.len());
    let queries = queries_of_the_readme();
    assert!(queries.len() >= 6, "{queries:?}");
    let of_a_gate = |expression: &String| !OF_THE_WEBHOOK.iter().any(|name| expression.contains(name));
    for expression in panels.iter().cloned().chain(queries).chain(recorded()).filter(of_a_gate) {
        prometheus.gives(&for_all(&expression));
    }
    knows_every_metric_of(&prometheus, &panels.join("\n"));
}

/// Both jobs of `scrape.yaml`; of the pods the one that has the sidecar and runs.
#[tokio::test(flavor = "multi_thread")]
async fn gates_are_found_and_named_after_their_application() {
    let scene = Scene::set();
    let prometheus = Prometheus::watching(&scene.gate);
    let up = until("both jobs", || Some(prometheus.ask("up == 1")).filter(|up| up.len() >= 2));
    let instance = scene.gate.admin.to_string();
    let mut found: Vec<Value> = up.into_iter().map(|sample| sample.labels).collect();
    found.sort_by_key(|labels| labels["job"].to_string());
    let of_pod = json!({"job": "shop", "namespace": "prod", "pod": "shop-1"});
    for (labels, told) in found.iter().zip([of_pod, json!({"job": "sidegate"})]) {
        let mut told = told;
        told["__name__"] = "up".into();
        told["endpoint"] = "sidegate-probes".into();
        told["instance"] = instance.clone().into();
        assert_eq!(*labels, told);
    }
    assert_eq!(found.len(), 2);
    knows_every_metric_of(&prometheus, &shipped("sidegate.rules.yaml"));
}

/// With the shipped rules, but for their waits.
#[tokio::test(flavor = "multi_thread")]
async fn alerts_begin_when_redis_is_killed_and_end_when_it_is_back() {
    let mut scene = Scene::set();
    let prometheus = Prometheus::watching(&scene.gate);
    prometheus.gives("sidegate_store_up == 1");
    assert_eq!(prometheus.firing("SidegateStoreDown"), Vec::<Value>::new());
    let fires = |name: &str| until(name, || Some(prometheus.firing(name)).filter(|alerts| !alerts.is_empty()));
    let ends = |name: &str| until(name, || prometheus.firing(name).is_empty().then_some(()));

    scene.stage.redis.kill();
    let mut alerts = fires("SidegateStoreDown");
    alerts.extend(fires("SidegateLimitsInFallback"));
    scene.stage.redis.restart();
    ends("SidegateStoreDown");

    scene.gate.configure("routes: {/a: nothing}\nlimits: 3");
    alerts.extend(fires("SidegateReloadFailed"));
    scene.gate.configure(&scene.yaml);
    ends("SidegateReloadFailed");

    for alert in alerts {
        let words = alert["annotations"].to_string();
        assert!(words.contains("summary") && !words.contains("<error") && !words.contains("<no value"), "{words}");
    }
}

/// A real page, with a series for every answer that there is.
#[tokio::test(flavor = "multi_thread")]
async fn promtool_has_nothing_to_say_of_a_page() {
    let scene = Scene::set();
    scene.has_refused_for("rate_limited");
    let mut lint = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}; install it with `apt-get install prometheus`"));
    let page = scene.gate.operators("/metrics");
    let mut stdin = lint.stdin.take().expect("it is piped");
    std::io::Write::write_all(&mut stdin, &page.body).expect("promtool reads");
    drop(stdin);
    let output = lint.wait_with_output().expect("the child can be awaited");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// A gate with TLS under load, which is answered in every way there is: 200, 401, 403, 404, 429, 502.
struct Scene {
    stage: Stage,
    gate: Arc<Gate>,
    yaml: String,
    load: AbortHandle,
    _certificate: Certificate,
}

impl Scene {
    fn set() -> Self {
        let stage = Stage::set();
        let certificate = Certificate::of("gate.example");
        let yaml = format!(
            "listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{}', key: '{}'}}}}}}{YAML}",
            certificate.cert_file().display(),
            certificate.key_file().display()
        );
        let gate = Arc::new(stage.gate(&yaml));
        let load = load(&gate, &stage, &certificate);
        let scene = Self { stage, gate, yaml, load, _certificate: certificate };
        scene.has_refused_for("rate_limited");
        scene
    }

    /// Waits until somebody was refused for this reason.
    fn has_refused_for(&self, reason: &str) {
        let label = format!("reason=\"{reason}\"");
        until(reason, || (self.gate.metric("sidegate_denials_total", &[&label]) > 0.0).then_some(()));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.load.abort();
    }
}

/// Asks on and on, until aborted.
fn load(gate: &Gate, stage: &Stage, certificate: &Certificate) -> AbortHandle {
    let mint = |scope: &str| stage.redis.mint(json!({"business": "acme", "scopes": [scope]})).text;
    let (good, narrow) = (mint("things:read"), mint("other"));
    let asked = ["/things/7", "/guarded", "/nowhere", "/signup", "/dead"];
    let url = |path: &str| format!("https://gate.example:{}{path}", gate.address.port());
    let urls = asked.map(url);
    let client = client::http(std::slice::from_ref(&certificate.der)).resolve("gate.example", gate.address);
    let client = client.timeout(PATIENCE).build().expect("the client's settings are valid");
    let asking = async move {
        loop {
            for url in &urls {
                for key in [Some(&good), Some(&narrow), None] {
                    let request = client.get(url);
                    let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
                    request.answer().await;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::spawn(asking).abort_handle()
}

fn read(path: &str) -> String {
    fs::read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every `expr`, wherever it stands.
fn expressions(part: &Value) -> Vec<String> {
    match part {
        Value::Object(members) => {
            let own = members.get("expr").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(members.values().flat_map(expressions)).collect()
        }
        Value::Array(parts) => parts.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

/// The names that rules record: as many as the file writes down, so that none is passed over.
fn recorded() -> Vec<String> {
    let rules = shipped("sidegate.rules.yaml");
    let document: Value = serde_yaml::from_str(&rules).expect("the rules are YAML");
    let groups = document["groups"].as_array().expect("groups are a list");
    let names = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules are a list"));
    let names: Vec<_> = names.filter_map(|rule| rule["record"].as_str()).map(str::to_owned).collect();
    assert!(!names.is_empty() && names.len() == rules.matches("record:").count(), "{names:?}");
    names
}

/// Each line of its blocks of PromQL.
fn queries_of_the_readme() -> Vec<String> {
    let readme = read("README.md");
    let blocks = readme.split("```promql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(|line| line.split_once(" #").map_or(line, |(query, _)| query).trim());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// As Grafana asks with all namespaces, applications and pods chosen.
fn for_all(expression: &str) -> String {
    let variables = [("$__rate_interval", "1m"), ("$namespace", ".*"), ("$job", ".*"), ("$pod", ".*")];
    let asked = variables.into_iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!asked.contains('$'), "{asked} has a variable that nobody gives a value");
    asked
}

/// Nothing is asked for that no gate has, neither where an answer is mostly empty (an alert) nor behind an `or`.
fn knows_every_metric_of(prometheus: &Prometheus, text: &str) {
    for name in metrics_in(text).into_iter().filter(|name| !OF_THE_WEBHOOK.contains(&name.as_str())) {
        until(&name, || {
            let names = prometheus.names();
            // Words may call a histogram by its name, which none of its series has.
            ["", "_count"].iter().any(|end| names.contains(&format!("{name}{end}"))).then_some(())
        });
    }
}

/// The names of metrics in a text; of comments too, which should not name what is not there either.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("sidegate_") || word.starts_with("process_")).map(str::to_owned).collect()
}
