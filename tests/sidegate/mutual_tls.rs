//! Mutual TLS: clients that have to prove themselves to the gate, and the gate to its upstream.

use std::{fs, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use crate::support::{AnswerTo as _, Authority, Certificate, Gate, PATIENCE, Stage, Upstream, client};

#[tokio::test]
async fn without_a_certificate_of_the_authority_no_connection_comes_about() {
    let stage = Stage::set();
    let (server, authority) = (Certificate::of("one.example"), Authority::new());
    let gate = stage.gate(&yaml(&server, &authority));
    let (known, stranger) = (authority.sign("client"), Authority::new().sign("client"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        assert_eq!(asked(&gate, &server, Some(&known), version).await, Some(200), "{version:?}");
        assert_eq!(asked(&gate, &server, Some(&stranger), version).await, None, "{version:?}");
        assert_eq!(asked(&gate, &server, Some(&Certificate::of("client")), version).await, None, "{version:?}");
        assert_eq!(asked(&gate, &server, None, version).await, None, "{version:?}");
    }
    assert_eq!(stage.upstream.take().len(), 2, "only who proved itself was served");
}

#[tokio::test]
async fn another_authority_acts_at_the_reload() {
    let stage = Stage::set();
    let (server, authority) = (Certificate::of("one.example"), Authority::new());
    let gate = stage.gate(&yaml(&server, &authority));
    let (former, latter) = (authority.sign("client"), Authority::new());
    let version = &rustls::version::TLS13;
    assert_eq!(asked(&gate, &server, Some(&former), version).await, Some(200));
    gate.reload(&yaml(&server, &latter));
    assert_eq!(asked(&gate, &server, Some(&former), version).await, None);
    assert_eq!(asked(&gate, &server, Some(&latter.sign("client")), version).await, Some(200));
}

#[tokio::test]
async fn a_file_without_an_authority_is_refused_with_its_name() {
    let server = Certificate::of("one.example");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("ca.crt");
    fs::write(&file, "no certificate").expect("the folder is writable");
    let tls = format!(
        "certificates: {{cert: '{}', key: '{}'}}, client_ca: '{}'",
        server.cert_file().display(),
        server.key_file().display(),
        file.display(),
    );
    let yaml = format!(
        "listen: {{address: '127.0.0.1:0', tls: {{{tls}}}}}\nupstream: http://127.0.0.1:1\nstore: redis://127.0.0.1:1\n\
         routes: {{/public: public}}\n"
    );
    let output = crate::support::gate::on_config(&yaml, &["check"], &[]);
    let said = crate::support::gate::text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("listen.tls") && said.contains("ca.crt"), "{said}");
}

#[tokio::test]
async fn the_gate_proves_itself_to_an_upstream_that_asks_it_to() {
    let stage = Stage::set();
    let (server, authority) = (Certificate::of("localhost"), Authority::new());
    let upstream = Upstream::start_mutual(&server, &authority);
    let (known, stranger) = (authority.sign("gate"), Authority::new().sign("gate"));
    for (client, status) in [(Some(&known), 200), (Some(&stranger), 502), (None, 502)] {
        let own = client.map_or(String::new(), |own| {
            format!(", cert: '{}', key: '{}'", own.cert_file().display(), own.key_file().display())
        });
        let gate = stage.gate(&format!(
            "upstream: {{url: 'https://localhost:{}', connect_timeout: 30s, tls: {{ca: '{}'{own}}}}}\nroutes: {{/public: public}}",
            upstream.address.port(),
            server.cert_file().display(),
        ));
        assert_eq!(gate.get("/public").answer().await.status, status);
    }
    assert_eq!(upstream.take().len(), 1);
}

#[tokio::test]
async fn a_client_certificate_that_is_replaced_is_used_for_the_next_request() {
    let stage = Stage::set();
    let (server, authority) = (Certificate::of("localhost"), Authority::new());
    let upstream = Upstream::start_mutual(&server, &authority);
    let (mine, another) = (Authority::new().sign("gate"), authority.sign("gate"));
    let yaml = format!(
        "upstream: {{url: 'https://localhost:{}', connect_timeout: 30s, tls: {{ca: '{}', cert: '{}', key: '{}'}}}}\nroutes: {{/public: public}}",
        upstream.address.port(),
        server.cert_file().display(),
        mine.cert_file().display(),
        mine.key_file().display(),
    );
    let gate = stage.gate(&yaml);
    assert_eq!(gate.get("/public").answer().await.status, 502);
    for (from, to) in [(another.cert_file(), mine.cert_file()), (another.key_file(), mine.key_file())] {
        fs::copy(from, to).expect("the folder is writable");
    }
    gate.reload(&yaml);
    assert_eq!(gate.get("/public").answer().await.status, 200);
}

fn yaml(server: &Certificate, clients: &Authority) -> String {
    format!(
        "listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{}', key: '{}'}}, client_ca: '{}'}}}}\n\
         routes: {{/public: public}}",
        server.cert_file().display(),
        server.key_file().display(),
        clients.file().display(),
    )
}

/// What a client with this certificate is answered; nothing where the gate does not talk to it.
async fn asked(
    gate: &Gate,
    server: &Certificate,
    own: Option<&Certificate>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Option<u16> {
    let mut roots = RootCertStore::empty();
    roots.add(server.der.clone()).expect("a self-signed certificate is its own authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .expect("aws-lc-rs speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder
            .with_client_auth_cert(vec![own.der.clone()], own.private_key())
            .expect("the key belongs to the certificate"),
    };
    let client = client::http(&[]).use_preconfigured_tls(config).resolve("one.example", gate.address).timeout(PATIENCE);
    let url = format!("https://one.example:{}/public", gate.address.port());
    let response = client.build().expect("the client's settings are valid").get(url).send().await;
    response.ok().map(|response| response.status().as_u16())
}
