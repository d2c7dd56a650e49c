//! TLS at the listener: both versions, both protocols, the certificate that the client's name asks for.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use rustls::{
    ClientConnection, ProtocolVersion, Stream,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};

use crate::support::{Answer, AnswerTo as _, Certificate, Gate, Stage, Upstream, client, until};

#[tokio::test]
async fn tls_1_2_and_1_3_carry_http_1_and_http_2() {
    let yard = Yard::set();
    for (version, spoken) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for (offered, chosen) in
            [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
        {
            let config = client::tls_versions(&yard.trusted, offered, &[version]);
            let mut connection = connection(config, "one.example");
            let mut stream = TcpStream::connect(yard.gate.address).expect("the gate listens");
            until("the handshake", || {
                connection.complete_io(&mut stream).expect("the handshake succeeds");
                (!connection.is_handshaking()).then_some(())
            });
            assert_eq!(connection.protocol_version(), Some(spoken));
            assert_eq!(connection.alpn_protocol(), chosen, "{spoken:?}");
            if chosen != Some(b"h2") {
                assert_eq!(
                    over(&mut Stream::new(&mut connection, &mut stream), "one.example").status,
                    200,
                    "{spoken:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_client_gets_the_certificate_of_the_name_it_asks_for_and_else_the_first() {
    let yard = Yard::set();
    for (name, expected) in [("one.example", 0), ("two.example", 1)] {
        for builder in [client::http(&yard.trusted[expected..=expected]), client::http(&yard.trusted).http1_only()] {
            let client = builder.resolve(name, yard.gate.address).build().expect("the client's settings are valid");
            let url = format!("https://{name}:{}/public", yard.gate.address.port());
            assert_eq!(client.get(url).answer().await.status, 200, "{name}");
        }
    }
    // For a name that no certificate has, the handshake shows the first; the client then refuses it by itself.
    let mut connection = connection(client::tls(&yard.trusted, &[]), "three.example");
    let mut stream = TcpStream::connect(yard.gate.address).expect("the gate listens");
    let refused = until("the handshake to end", || connection.complete_io(&mut stream).err());
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
}

#[tokio::test]
async fn a_request_for_another_certificates_host_is_misdirected() {
    let yard = Yard::set();
    for (host, status) in [("one.example", 421), ("ONE.example:443", 421), ("two.example", 200), ("other.example", 200)]
    {
        let mut connection = connection(client::tls(&yard.trusted, &[]), "two.example");
        let mut stream = TcpStream::connect(yard.gate.address).expect("the gate listens");
        let answer = over(&mut Stream::new(&mut connection, &mut stream), host);
        assert_eq!(answer.status, status, "{host}");
    }
    let seen = yard.stage.upstream.seen();
    assert!(seen.iter().all(|seen| !seen.header("host").unwrap_or_default().eq_ignore_ascii_case("one.example")));
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn over_tls_the_upstream_learns_of_https() {
    let yard = Yard::set();
    let client = client::http(&yard.trusted).resolve("one.example", yard.gate.address);
    let url = format!("https://one.example:{}/public", yard.gate.address.port());
    let answer = client.build().expect("the client's settings are valid").get(url).answer().await;
    assert_eq!(answer.status, 200);
    let seen = yard.stage.upstream.only();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    let host = format!("one.example:{}", yard.gate.address.port());
    assert_eq!(seen.header("x-forwarded-host"), Some(host.as_str()), "HTTP/2 names the host in :authority");
}

#[tokio::test]
async fn plain_text_on_a_tls_port_harms_nobody() {
    let yard = Yard::set();
    client::exchange(yard.gate.address, b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
    let silent = TcpStream::connect(yard.gate.address).expect("the gate listens");
    let client = client::http(&yard.trusted).resolve("one.example", yard.gate.address);
    let url = format!("https://one.example:{}/public", yard.gate.address.port());
    let answer = client.build().expect("the client's settings are valid").get(url).answer().await;
    assert_eq!(answer.status, 200);
    drop(silent);
    assert_eq!(yard.stage.upstream.take().len(), 1);
}

#[tokio::test]
async fn the_upstream_may_speak_tls_and_must_prove_its_name() {
    let stage = Stage::set();
    let (its_own, another) = (Certificate::of("localhost"), Certificate::of("localhost"));
    let upstream = Upstream::start_tls(&its_own);
    for (trusted, name, status) in
        [(&its_own, "localhost", 200), (&another, "localhost", 502), (&its_own, "127.0.0.1", 502)]
    {
        let gate = stage.gate(&format!(
            "upstream: {{url: 'https://{name}:{}', connect_timeout: 30s, tls: {{ca: '{}'}}}}\nroutes: {{/public: public}}",
            upstream.address.port(),
            trusted.cert_file().display(),
        ));
        assert_eq!(gate.post("/public").body("body").answer().await.status, status, "{name}");
    }
    assert_eq!(upstream.only().body, b"body");
}

struct Yard {
    stage: Stage,
    gate: Gate,
    /// The certificates of one.example, which is the default, and two.example.
    trusted: Vec<CertificateDer<'static>>,
}

impl Yard {
    fn set() -> Self {
        let stage = Stage::set();
        let certificates = ["one.example", "two.example"].map(Certificate::of);
        let [one, two] = certificates
            .each_ref()
            .map(|made| format!("{{cert: '{}', key: '{}'}}", made.cert_file().display(), made.key_file().display()));
        // A gate has read its certificates when it is ready: the files may go.
        let gate = stage.gate(&format!(
            "listen: {{address: '127.0.0.1:0', tls: {{certificates: [{one}, {two}]}}}}\nroutes: {{/public: public}}"
        ));
        Self { stage, gate, trusted: certificates.map(|made| made.der).into() }
    }
}

fn connection(config: rustls::ClientConfig, name: &'static str) -> ClientConnection {
    let name = ServerName::try_from(name).expect("a DNS name");
    ClientConnection::new(Arc::new(config), name).expect("the configuration is complete")
}

/// One HTTP/1.1 request over a connection that stands.
fn over(stream: &mut Stream<'_, ClientConnection, TcpStream>, host: &str) -> Answer {
    let request = format!("GET /public HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the gate reads");
    let mut answer = Vec::new();
    // Without a close_notify the end is an error; what was read still stands.
    let _ = stream.read_to_end(&mut answer);
    Answer::parse(&answer)
}
