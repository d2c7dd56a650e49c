//! TLS at the listener: both versions, both protocols, the certificate that the client's name asks for.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use rustls::{
    ClientConnection, ProtocolVersion, Stream,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;

use crate::support::{Answer, AnswerTo as _, Gate, Stage, client, until};

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
                assert_eq!(over(&mut Stream::new(&mut connection, &mut stream)).status, 200, "{spoken:?}");
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

struct Yard {
    stage: Stage,
    gate: Gate,
    /// The certificates of one.example, which is the default, and two.example.
    trusted: Vec<CertificateDer<'static>>,
    _certificates: TempDir,
}

impl Yard {
    fn set() -> Self {
        let stage = Stage::set();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut trusted = Vec::new();
        let mut listed = String::new();
        for name in ["one.example", "two.example"] {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a name is a valid subject");
            let (cert, key) = (folder.path().join(format!("{name}.crt")), folder.path().join(format!("{name}.key")));
            fs::write(&cert, made.cert.pem()).expect("the folder is writable");
            fs::write(&key, made.signing_key.serialize_pem()).expect("the folder is writable");
            listed += &format!("{{cert: '{}', key: '{}'}}, ", cert.display(), key.display());
            trusted.push(made.cert.der().clone());
        }
        let gate = stage.gate(&format!(
            "listen: {{address: '127.0.0.1:0', tls: {{certificates: [{}]}}}}\nroutes: {{/public: public}}",
            listed.trim_end_matches(", ")
        ));
        Self { stage, gate, trusted, _certificates: folder }
    }
}

fn connection(config: rustls::ClientConfig, name: &'static str) -> ClientConnection {
    let name = ServerName::try_from(name).expect("a DNS name");
    ClientConnection::new(Arc::new(config), name).expect("the configuration is complete")
}

/// One HTTP/1.1 request over a connection that stands.
fn over(stream: &mut Stream<'_, ClientConnection, TcpStream>) -> Answer {
    stream
        .write_all(b"GET /public HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n\r\n")
        .expect("the gate reads");
    let mut answer = Vec::new();
    // Without a close_notify the end is an error; what was read still stands.
    let _ = stream.read_to_end(&mut answer);
    Answer::parse(&answer)
}
