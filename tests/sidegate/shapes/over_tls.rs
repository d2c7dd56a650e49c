//! Redis over TLS in each of its shapes: alone, behind sentinels, as a cluster; every server asks for a certificate.

use std::{
    fs,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::support::{
    AnswerTo as _, Stage,
    cluster::{Cluster, Server},
    figures::Figures,
    gate::{on_config, text},
    load::{Ask, Load, Who},
    until, whole,
};

use super::{YAML, linked, settled};

#[tokio::test]
async fn redis_over_tls_with_its_own_authority_and_a_client_certificate() {
    let stage = Stage::set();
    let (ours, other) = (Authority::new(), Authority::new());
    let secured = ours.of_server();
    let redis = Server::plain(&secured.iter().map(String::as_str).collect::<Vec<_>>());
    let secure = format!("'rediss://127.0.0.1:{}'", redis.tls);
    let three = "{by: business, windows: 3/1d}";
    let gate = stage.gate(&over_tls(&secure, &ours, &ours, three));
    let key = gate.new_key(&["--name", "test", "--business", "acme", "--scopes", "*"]);
    let status = async || gate.get("/things").bearer_auth(&key).answer().await.status;
    assert_eq!((status().await, status().await, status().await, status().await), (200, 200, 200, 429));
    for (wrong, said) in [
        (over_tls(&secure, &other, &ours, three), "invalid peer certificate"),
        (over_tls(&secure, &ours, &other, three), "out of reach"),
        (format!("store: {{redis: {secure}}}{YAML}"), "invalid peer certificate"),
        (format!("store: {{redis: 'redis://127.0.0.1:{}'}}{YAML}", redis.tls), "out of reach"),
    ] {
        let gate = stage.unready_gate(&wrong);
        assert_eq!(gate.get("/free").bearer_auth(&key).answer().await.status, 503, "{said}");
        assert_eq!(gate.operators("/readyz").status, 503);
        until(said, || gate.written().contains(said).then_some(()));
    }
    let gate = stage.unready_gate(&over_tls(&secure, &other, &ours, three));
    let began = Instant::now();
    // To a gate that cannot ask, the key that stands in the store is unknown too.
    let load = Load::of(&[Ask { who: Who::Unknown, key }], &gate, 4);
    sleep(Duration::from_millis(500)).await;
    Figures::of(&load.end(), began, Instant::now()).report("TLS, of another authority");
}

#[test]
fn certificates_that_cannot_be_read_are_said_by_check() {
    let yaml = whole(&format!("store: {{redis: 'rediss://127.0.0.1:1', tls: {{ca: none.pem}}}}{YAML}"));
    let output = on_config(&yaml, &["check"], &Stage::set().environment());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("store.tls: none.pem"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_failover_over_tls_is_followed() {
    let stage = Stage::set();
    let ours = Authority::new();
    let secured = ours.of_server();
    let secured: Vec<&str> = secured.iter().map(String::as_str).collect();
    let mut master = Server::plain(&secured);
    let of = master.tls.to_string();
    let replica = Server::plain(&[&secured[..], &["--replicaof", "127.0.0.1", &of]].concat());
    linked(&replica);
    let sentinels: Vec<Server> = (0..3).map(|_| Server::sentinel(master.tls, &secured)).collect();
    settled(&sentinels);
    let urls: Vec<String> = sentinels.iter().map(|sentinel| format!("'rediss://127.0.0.1:{}'", sentinel.tls)).collect();
    let store = format!("{{sentinels: [{}], master: main}}", urls.join(", "));
    let gate = stage.gate(&over_tls(&store, &ours, &ours, "{by: business, windows: 100000/1d}"));
    let key = gate.new_key(&["--name", "test", "--business", "acme", "--scopes", "*"]);
    let load = Load::start(&gate, &key, 4);
    load.passed(100).await;
    assert_eq!(master.ask::<u32>(&["WAIT", "1", "5000"]), 1);
    master.kill();
    until("the failover", || {
        // Who promotes it closes its connections, this one too.
        let role = replica.try_ask::<Vec<redis::Value>>(&["ROLE"]).ok()?;
        (role[0] == is("master")).then_some(())
    });
    let before = load.count(200);
    load.passed(before + 100).await;
    let answers = load.end();
    assert!(answers.iter().all(|one| [200, 503].contains(&one.status)), "{answers:?}");
}

#[tokio::test]
async fn a_cluster_over_tls_counts_exactly() {
    let stage = Stage::set();
    let ours = Authority::new();
    let secured = ours.of_server();
    let secured: Vec<&str> = secured.iter().map(String::as_str).chain(["--tls-cluster", "yes"]).collect();
    let of_client = ours.of_client();
    let of_client: Vec<&str> = of_client.iter().map(String::as_str).collect();
    let cluster = Cluster::with(&secured, |node| node.tls, &of_client);
    let store = format!("{{cluster: ['rediss://127.0.0.1:{}']}}", cluster.nodes[0].tls);
    let gate = stage.gate(&over_tls(&store, &ours, &ours, "{by: business, windows: 3/1d}"));
    // Of several businesses, so that every node is asked.
    for business in ["acme", "umbrella", "initech", "hooli", "globex", "stark"] {
        let key = gate.new_key(&["--name", "test", "--business", business, "--scopes", "*"]);
        let status = async || gate.get("/things").bearer_auth(&key).answer().await.status;
        assert_eq!(
            (status().await, status().await, status().await, status().await),
            (200, 200, 200, 429),
            "{business}"
        );
    }
}

fn is(text: &str) -> redis::Value {
    redis::Value::BulkString(text.as_bytes().to_vec())
}

/// A configuration for `redis`, trusting one authority and showing a certificate of another, with this limit.
fn over_tls(redis: &str, trusted: &Authority, own: &Authority, limit: &str) -> String {
    let (ca, cert, key) = (trusted.file("ca.pem"), own.file("node.pem"), own.file("node.key"));
    format!(
        "store: {{redis: {redis}, tls: {{ca: '{ca}', cert: '{cert}', key: '{key}'}}, deadline: 5s}}
limits: {{per-business: {limit}}}
routes: {{/things: {{any: true, limits: [per-business]}}, /free: any}}"
    )
}

/// A certificate authority, and one certificate of it for 127.0.0.1, for the server and for clients.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let write = |name: &str, pem: String| fs::write(folder.path().join(name), pem).expect("the folder is writable");
        let ca_key = KeyPair::generate().expect("a key can be made");
        let mut ca = CertificateParams::new(Vec::new()).expect("no name is a valid subject");
        // Else it would be called as the certificates that it signs are, which would look self-signed.
        ca.distinguished_name.push(DnType::CommonName, "the test's authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", ca.self_signed(&ca_key).expect("the authority signs itself").pem());
        let key = KeyPair::generate().expect("a key can be made");
        let node = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a valid subject");
        let signed = node.signed_by(&key, &Issuer::new(ca, ca_key)).expect("the authority signs");
        write("node.pem", signed.pem());
        write("node.key", key.serialize_pem());
        Self(folder)
    }

    /// Arguments for a server that speaks TLS, also to its like, and asks its clients for a certificate of this authority.
    fn of_server(&self) -> Vec<String> {
        let files = [("--tls-ca-cert-file", "ca.pem"), ("--tls-cert-file", "node.pem"), ("--tls-key-file", "node.key")];
        let files = files.map(|(argument, file)| [argument.to_owned(), self.file(file)]);
        let rest = ["--tls-port", "{tls}", "--tls-auth-clients", "yes", "--tls-replication", "yes"];
        files.into_iter().flatten().chain(rest.map(str::to_owned)).collect()
    }

    /// Arguments for `redis-cli`.
    fn of_client(&self) -> Vec<String> {
        let files = [("--cacert", "ca.pem"), ("--cert", "node.pem"), ("--key", "node.key")];
        let files = files.map(|(argument, file)| [argument.to_owned(), self.file(file)]);
        ["--tls".to_owned()].into_iter().chain(files.into_iter().flatten()).collect()
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}
