//! Certificates that change while the gate serves: all of them or none, for new connections, and no request fails.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use tokio::{task::JoinSet, time::sleep};

use crate::support::{AnswerTo as _, Certificate, Gate, Stage, client, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_replaced_under_load_fails_no_request() {
    let yard = Yard::set();
    let (one, two) = (&yard.certificates[0], &yard.certificates[1]);
    assert_eq!(yard.shown(one).await, Some(200));
    let trusted: Vec<_> = yard.certificates.iter().map(|made| made.der.clone()).collect();
    let load = Load::start(&yard.gate, &trusted);
    load.more(200).await;
    yard.point_to(1);
    until("the rotation", || (yard.gate.reloads("success") == 1).then_some(()));
    load.more(200).await;
    assert_eq!(load.end().await, 0, "requests that failed");
    assert_eq!((yard.shown(two).await, yard.shown(one).await), (Some(200), None));
}

#[tokio::test]
async fn a_connection_that_is_open_goes_on() {
    let yard = Yard::set();
    let client = yard.client(std::slice::from_ref(&yard.certificates[0].der), true);
    assert_eq!(client.get(yard.url()).answer().await.status, 200);
    yard.point_to(1);
    until("the rotation", || (yard.gate.reloads("success") == 1).then_some(()));
    // It trusts the former certificate alone: another connection would fail.
    assert_eq!(client.get(yard.url()).answer().await.status, 200);
}

#[tokio::test]
async fn a_pair_that_does_not_match_leaves_the_former_in_use() {
    let yard = Yard::set();
    fs::create_dir(yard.at("mixed")).expect("the folder is writable");
    fs::copy(yard.at("0/tls.crt"), yard.at("mixed/tls.crt")).expect("the folder is writable");
    fs::copy(yard.at("1/tls.key"), yard.at("mixed/tls.key")).expect("the folder is writable");
    yard.point("mixed");
    until("the failure", || (yard.gate.reloads("failure") == 1).then_some(()));
    assert_eq!(yard.shown(&yard.certificates[0]).await, Some(200));
    assert!(yard.gate.said("not reloaded").contains("must be a certificate and its own key"));
    fs::write(yard.at("mixed/tls.crt"), "garbage").expect("the folder is writable");
    until("the second failure", || (yard.gate.reloads("failure") == 2).then_some(()));
    assert_eq!(yard.shown(&yard.certificates[0]).await, Some(200));
    yard.point_to(1);
    until("the rotation", || (yard.gate.reloads("success") == 1).then_some(()));
    assert_eq!(yard.shown(&yard.certificates[1]).await, Some(200));
}

#[tokio::test]
async fn the_end_of_a_certificate_is_a_metric_and_one_that_has_ended_replaces_no_valid_one() {
    let yard = Yard::set();
    let ends = || yard.gate.metric("sidegate_tls_certificate_not_after_timestamp_seconds", &["tls.crt\""]);
    // What rcgen writes where nobody says otherwise: the end of the year 4095.
    assert!(ends() > 4_000_000_000.0, "{}", ends());
    let expired = Certificate::expired("one.example");
    fs::create_dir(yard.at("expired")).expect("the folder is writable");
    fs::copy(expired.cert_file(), yard.at("expired/tls.crt")).expect("the folder is writable");
    fs::copy(expired.key_file(), yard.at("expired/tls.key")).expect("the folder is writable");
    yard.point("expired");
    until("the failure", || (yard.gate.reloads("failure") == 1).then_some(()));
    let said = yard.gate.said("not reloaded");
    assert!(said.contains("tls.crt: it has expired, and the one in use has not"), "{said}");
    assert!(ends() > 4_000_000_000.0, "{}", ends());
    assert_eq!(yard.shown(&yard.certificates[0]).await, Some(200));
    yard.point_to(1);
    until("the rotation", || (yard.gate.reloads("success") == 1).then_some(()));
    assert_eq!(yard.shown(&yard.certificates[1]).await, Some(200));
}

/// Where it had ended before, nothing gets worse, and the rest of the configuration acts.
#[test]
fn a_certificate_that_had_ended_holds_up_no_reload() {
    let (stage, expired) = (Stage::set(), Certificate::expired("one.example"));
    let yaml = |routes: &str| {
        format!(
            "listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{}', key: '{}'}}}}}}\nroutes: {{{routes}}}",
            expired.cert_file().display(),
            expired.key_file().display(),
        )
    };
    let gate = stage.gate(&yaml("/public: public"));
    gate.said("has expired");
    let ends = gate.metric("sidegate_tls_certificate_not_after_timestamp_seconds", &[]);
    assert!((ends - 1_009_843_200.0).abs() < f64::EPSILON, "2002-01-01, not {ends}");
    gate.reload(&yaml("/public: public, /more: public"));
}

/// A session that one worker began is resumed by another, and after a reload.
#[tokio::test]
async fn a_session_is_resumed_on_whichever_worker() {
    let yard = Yard::set();
    let config = Arc::new(client::tls(&[yard.certificates[0].der.clone()], &[b"http/1.1"]));
    let resumed = |count: usize| {
        (0..count)
            .map(|_| handshake(&config, &yard.gate))
            .filter(|kind| *kind == rustls::HandshakeKind::Resumed)
            .count()
    };
    assert_eq!(resumed(1), 0);
    assert_eq!(resumed(8), 8);
    yard.gate.signal("HUP");
    until("the reload", || (yard.gate.reloads("success") == 1).then_some(()));
    assert_eq!(resumed(2), 2);
}

/// One request over a connection of its own, and whether its session was resumed.
fn handshake(config: &Arc<rustls::ClientConfig>, gate: &Gate) -> rustls::HandshakeKind {
    use std::io::{Read as _, Write as _};
    let name = rustls::pki_types::ServerName::try_from("one.example").expect("a DNS name");
    let mut connection = rustls::ClientConnection::new(config.clone(), name).expect("the configuration is complete");
    let mut stream = std::net::TcpStream::connect(gate.address).expect("the gate listens");
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    tls.write_all(b"GET /public HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n\r\n").expect("the gate reads");
    // Reading takes the tickets in as well.
    let _ = tls.read_to_end(&mut Vec::new());
    connection.handshake_kind().expect("the handshake is done")
}

/// A gate whose certificate stands behind a link, as in a mounted secret.
struct Yard {
    _stage: Stage,
    gate: Arc<Gate>,
    certificates: [Certificate; 2],
    folder: tempfile::TempDir,
}

impl Yard {
    fn set() -> Self {
        let stage = Stage::set();
        stage.upstream.respond_with(200, &[], "ok");
        let certificates = ["one.example", "one.example"].map(Certificate::of);
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for (index, made) in certificates.iter().enumerate() {
            let at = folder.path().join(index.to_string());
            fs::create_dir(&at).expect("the folder is writable");
            fs::copy(made.cert_file(), at.join("tls.crt")).expect("the folder is writable");
            fs::copy(made.key_file(), at.join("tls.key")).expect("the folder is writable");
        }
        symlink("0", folder.path().join("data")).expect("links can be made");
        let data = folder.path().join("data");
        let gate = stage.gate(&format!(
            "workers: 2\nlisten: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{0}/tls.crt', key: '{0}/tls.key'}}}}}}\n\
             routes: {{/public: public}}",
            data.display(),
        ));
        Self { _stage: stage, gate: Arc::new(gate), certificates, folder }
    }

    fn at(&self, path: impl AsRef<Path>) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    fn point_to(&self, index: usize) {
        self.point(&index.to_string());
    }

    /// Swaps the link in one step, as the kubelet does.
    fn point(&self, folder: &str) {
        symlink(folder, self.at("data.new")).expect("links can be made");
        fs::rename(self.at("data.new"), self.at("data")).expect("the folder is writable");
    }

    fn url(&self) -> String {
        url(&self.gate)
    }

    fn client(&self, trusted: &[CertificateDer<'static>], h2: bool) -> reqwest::Client {
        connecting(&self.gate, trusted, h2)
    }

    /// What a new client that trusts this certificate alone is answered.
    async fn shown(&self, trusted: &Certificate) -> Option<u16> {
        let client = self.client(std::slice::from_ref(&trusted.der), true);
        client.get(self.url()).send().await.ok().map(|response| response.status().as_u16())
    }
}

fn url(gate: &Gate) -> String {
    format!("https://one.example:{}/public", gate.address.port())
}

fn connecting(gate: &Gate, trusted: &[CertificateDer<'static>], h2: bool) -> reqwest::Client {
    let builder = client::http(trusted).resolve("one.example", gate.address);
    // A test of the open connection must not lose it between two requests.
    let builder = builder.pool_idle_timeout(Duration::from_secs(60));
    let builder = if h2 { builder } else { builder.http1_only() };
    builder.build().expect("the client's settings are valid")
}

async fn answered_whole(client: &reqwest::Client, url: &str) -> reqwest::Result<String> {
    client.get(url).send().await?.error_for_status()?.text().await
}

/// Clients over new and over kept connections, of both protocols.
struct Load {
    clients: JoinSet<()>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Load {
    fn start(gate: &Arc<Gate>, trusted: &[CertificateDer<'static>]) -> Self {
        let (answered, failed, ended) = (Arc::default(), Arc::default(), Arc::default());
        let mut load = Self { clients: JoinSet::new(), answered, failed, ended };
        for number in 0..6 {
            let (gate, trusted) = (gate.clone(), trusted.to_vec());
            let (answered, failed, ended) = (load.answered.clone(), load.failed.clone(), load.ended.clone());
            let (h2, keeps) = (number % 2 == 0, number < 4);
            load.clients.spawn(async move {
                let mut client = connecting(&gate, &trusted, h2);
                while !ended.load(Ordering::Relaxed) {
                    let answered_whole = answered_whole(&client, &url(&gate)).await.is_ok();
                    let count = if answered_whole { &answered } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                    if !keeps {
                        client = connecting(&gate, &trusted, h2);
                    }
                }
            });
        }
        load
    }

    /// Waits for so many more answers.
    async fn more(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        while self.answered.load(Ordering::Relaxed) < before + count && self.failed.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many failed.
    async fn end(mut self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        self.failed.load(Ordering::Relaxed)
    }
}
