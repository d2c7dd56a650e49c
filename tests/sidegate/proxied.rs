//! The PROXY protocol: a balancer that forwards bytes says whose they are, and nobody else may.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::support::{Answer, Certificate, Gate, Stage, client};

const REQUEST: &str = "GET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn the_address_in_the_header_is_the_clients_for_limits_the_log_and_the_upstream() {
    let (stage, gate) = yard("");
    let (v1, v2) = (v1("192.0.2.7"), v2(0x21, 0x11, &[192, 0, 2, 8, 127, 0, 0, 1, 0, 9, 0, 9]));
    for (header, client) in [(v1, "192.0.2.7"), (v2, "192.0.2.8")] {
        // The limit is one request for each address.
        for status in [200, 429] {
            let answer = Answer::parse(&client::exchange(gate.address, &[&header[..], REQUEST.as_bytes()].concat()));
            assert_eq!(answer.status, status, "{client}");
        }
        let seen = stage.upstream.only();
        assert_eq!(seen.header("x-forwarded-for"), Some(client));
        assert_eq!(gate.logged(client)["client.address"], client);
    }
}

#[test]
fn an_ipv4_client_is_denied_in_whichever_form_its_address_is_written() {
    let stage = Stage::set();
    let gate = stage.gate(&(configuration("") + "\ndeny: {addresses: [192.0.2.7]}"));
    let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 7], &[0; 16], &[0, 9, 0, 9]].concat();
    for header in [
        v1("192.0.2.7"),
        b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 443\r\n".to_vec(),
        v2(0x21, 0x11, &[192, 0, 2, 7, 127, 0, 0, 1, 0, 9, 0, 9]),
        v2(0x21, 0x21, &mapped),
    ] {
        let answer = client::exchange(gate.address, &[&header[..], REQUEST.as_bytes()].concat());
        assert_eq!(Answer::parse(&answer).status, 403, "{}", header.escape_ascii());
    }
}

#[test]
fn a_balancer_that_speaks_for_itself_keeps_its_address() {
    let (stage, gate) = yard("");
    // Both are the balancer's own requests: its address may ask once.
    for (header, status) in [(v2(0x20, 0, &[]), 200), (v2(0x20, 0x11, &[9; 12]), 429)] {
        let answer = client::exchange(gate.address, &[&header[..], REQUEST.as_bytes()].concat());
        assert_eq!(Answer::parse(&answer).status, status);
    }
    assert_eq!(stage.upstream.only().header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn a_header_that_is_missing_malformed_or_too_long_ends_the_connection() {
    let (stage, gate) = yard("");
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    let too_long = [&v2(0x21, 0x11, &[])[..14], &[0xff, 0xff], &[0; 200]].concat();
    for header in [
        &b""[..],
        b"PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
        b"PROXY TCP4 nonsense 198.51.100.7 1 2\r\n",
        b"proxy TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
        &v2(0x31, 0x11, &[0; 12]),
        &v2(0x21, 0x11, &[0; 4]),
        &long,
        &too_long,
    ] {
        let answer = client::exchange(gate.address, &[header, REQUEST.as_bytes()].concat());
        assert_eq!(String::from_utf8_lossy(&answer), "", "{:?}", String::from_utf8_lossy(header));
    }
    assert!(stage.upstream.seen().is_empty());
}

#[test]
fn a_header_that_does_not_end_is_not_waited_for() {
    let (_stage, gate) = yard("limits: {header_read: 1s}, ");
    for begun in [&b""[..], b"PROXY", b"PROXY TCP4 192.0.2.1 ", &v2(0x21, 0x11, &[])[..13], b"\r\n\r\n"] {
        let mut stream = TcpStream::connect(gate.address).expect("the gate listens");
        stream.write_all(begun).expect("the connection stands");
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout above zero is valid");
        // Closed with bytes unread, which a reset says; a timeout would say something else.
        let closed = match stream.read(&mut [0; 1]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(closed, "{begun:?}");
    }
}

#[test]
fn only_a_trusted_peer_may_say_whose_bytes_they_are() {
    for (trusted, status) in [("10.0.0.0/8", None), ("127.0.0.0/8", Some(200))] {
        let stage = Stage::set();
        let gate = stage.gate(&configuration_for(trusted, ""));
        let answer = client::exchange(gate.address, &[&v1("192.0.2.7")[..], REQUEST.as_bytes()].concat());
        assert_eq!((!answer.is_empty()).then(|| Answer::parse(&answer).status), status, "{trusted}");
    }
}

#[test]
fn it_stands_before_tls_and_before_http_2() {
    let (stage, certificate) = (Stage::set(), Certificate::of("a.example"));
    let tls = format!(
        "tls: {{certificates: {{cert: {}, key: {}}}}}, ",
        certificate.cert_file().display(),
        certificate.key_file().display()
    );
    let gate = stage.gate(&configuration(&tls));
    let config = client::tls(std::slice::from_ref(&certificate.der), &[b"http/1.1"]);
    let name = "a.example".try_into().expect("a name");
    let mut tls = rustls::ClientConnection::new(config.into(), name).expect("the settings are valid");
    let mut stream = TcpStream::connect(gate.address).expect("the gate listens");
    stream.write_all(&v1("192.0.2.9")).expect("the connection stands");
    let mut tls = rustls::Stream::new(&mut tls, &mut stream);
    tls.write_all(REQUEST.as_bytes()).expect("the handshake succeeds");
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer);
    assert_eq!(Answer::parse(&answer).status, 200);
    assert_eq!(stage.upstream.only().header("x-forwarded-for"), Some("192.0.2.9"));
}

fn yard(listen: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(&configuration(listen));
    stage.redis.room(3_600_000, 20_000);
    (stage, gate)
}

fn configuration(listen: &str) -> String {
    configuration_for("127.0.0.0/8", listen)
}

fn configuration_for(trusted: &str, listen: &str) -> String {
    format!(
        "listen: {{address: '127.0.0.1:0', {listen}proxy_protocol: true, trusted_proxies: [{trusted}]}}\n\
         limits: {{each: {{by: ip, windows: 1/1h}}}}\n\
         routes: {{/public: {{public: true, limits: [each]}}}}"
    )
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 127.0.0.1 4711 443\r\n").into_bytes()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("the test's headers are short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}
