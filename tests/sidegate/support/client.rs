//! Clients: reqwest for ordinary HTTP, a raw connection for exact bytes, and programs such as curl for what users copy.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer};

use super::{Answer, AnswerTo as _, PATIENCE};

/// A client that follows no redirect, uses no proxy, and trusts only these certificates.
pub fn http(trusted: &[CertificateDer<'static>]) -> reqwest::ClientBuilder {
    let tls = tls(trusted, &[b"h2", b"http/1.1"]);
    reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        // Less than any bound under test, so that no request meets a connection in the moment in which the gate closes it.
        .pool_idle_timeout(Duration::from_millis(500))
        .timeout(PATIENCE)
}

/// A TLS configuration that offers these protocols by ALPN.
pub fn tls(trusted: &[CertificateDer<'static>], protocols: &[&[u8]]) -> ClientConfig {
    tls_versions(trusted, protocols, rustls::DEFAULT_VERSIONS)
}

pub fn tls_versions(
    trusted: &[CertificateDer<'static>],
    protocols: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("aws-lc-rs speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// Sends these very bytes and reads everything until the other side closes, which it must.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let (answer, closed) = read_for(PATIENCE, address, request);
    assert!(closed, "still open after {:?}", String::from_utf8_lossy(&answer));
    answer
}

/// As `exchange`, where the other side may wait for more: until it has been silent for two seconds.
pub fn provoke(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    read_for(Duration::from_secs(2), address, request).0
}

/// What came, and whether the other side closed, cleanly or not.
fn read_for(silence: Duration, address: SocketAddr, request: &[u8]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(address).expect("the listener accepts");
    stream.set_read_timeout(Some(silence)).expect("a timeout above zero is valid");
    // A server may refuse and close before it has read everything; its answer still stands to be read.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (answer, true),
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) => return (answer, !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        }
    }
}

/// One raw HTTP/1.1 request: this target byte for byte, these header lines, no body, and the connection closed after it.
pub fn raw(address: SocketAddr, method: &str, target: impl AsRef<[u8]>, headers: &[&[u8]]) -> Answer {
    let mut request = format!("{method} ").into_bytes();
    request.extend_from_slice(target.as_ref());
    request.extend_from_slice(format!(" HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n").as_bytes());
    for header in headers {
        request.extend_from_slice(header);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    Answer::parse(&exchange(address, &request))
}

/// What a program prints, when it succeeds. A program that is not installed fails the test with this hint.
pub fn printed_by(command: &mut Command, hint: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{:?}: {error}; {hint}", command.get_program()));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}\n{hint}", output.status);
    stdout.into_owned()
}

/// Sends all of these at the same time, and returns their answers in the order given.
pub async fn together(requests: impl IntoIterator<Item = reqwest::RequestBuilder>) -> Vec<Answer> {
    let sent: Vec<_> = requests.into_iter().map(|request| tokio::spawn(request.answer())).collect();
    let mut answers = Vec::new();
    for answer in sent {
        answers.push(answer.await.expect("a request that fails says why itself"));
    }
    answers
}
