//! Whose address a request has, by the word of proxies that are trusted; and the networks that are trusted, denied and allowed,
//! however they are written.

use crate::support::{Gate, Stage};

#[test]
fn a_hop_that_cannot_be_read_hides_no_client() {
    let (stage, gate) = yard("trusted_proxies: [127.0.0.0/8]", "deny: {addresses: [203.0.113.9]}");
    for lines in [
        &[&b"X-Forwarded-For: 203.0.113.9"[..]][..],
        &[b"X-Forwarded-For: \xff, 203.0.113.9"],
        &[b"X-Forwarded-For: \xff,\t203.0.113.9"],
        &[b"X-Forwarded-For: 192.0.2.1\xff, 203.0.113.9, 127.0.0.2"],
        &[b"X-Forwarded-For: \xc3\xbc, 192.0.2.1, 203.0.113.9:4711"],
        &[b"X-Forwarded-For: \xff", b"X-Forwarded-For: 203.0.113.9"],
        &[b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-For: 127.0.0.3"],
    ] {
        let shown: Vec<_> = lines.iter().map(|line| line.escape_ascii().to_string()).collect();
        assert_eq!(gate.raw("GET", "/public", lines).denial(), (403, "denied_address".to_owned()), "{shown:?}");
    }
    // What stands left of it could be anybody's word.
    assert_eq!(gate.raw("GET", "/public", &[b"X-Forwarded-For: 203.0.113.9, \xff"]).status, 200);
    assert_eq!(stage.upstream.only().header("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
}

#[test]
fn the_upstream_and_the_log_learn_the_client_beside_a_hop_that_cannot_be_read() {
    let (stage, gate) = yard("trusted_proxies: [127.0.0.0/8]", "");
    for (lines, passed) in [
        (&[&b"X-Forwarded-For: \xff, 192.0.2.7"[..]][..], "192.0.2.7, 127.0.0.1"),
        (&[b"X-Forwarded-For: 192.0.2.1, \xffx,,192.0.2.7"], "192.0.2.1, 192.0.2.7, 127.0.0.1"),
        (&[b"X-Forwarded-For: 192.0.2.1, \xff", b"X-Forwarded-For: 192.0.2.7"], "192.0.2.1, 192.0.2.7, 127.0.0.1"),
        (&[b"X-Forwarded-For: _hidden, 192.0.2.7"], "_hidden, 192.0.2.7, 127.0.0.1"),
    ] {
        assert_eq!(gate.raw("GET", "/public", lines).status, 200);
        assert_eq!(stage.upstream.only().all("x-forwarded-for"), [passed]);
    }
    assert_eq!(gate.logged("192.0.2.7")["client.address"], "192.0.2.7");
}

/// A gate with this in `listen`, and these sections besides.
fn yard(listen: &str, more: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let listen = format!("listen: {{address: '127.0.0.1:0'{}{listen}}}", if listen.is_empty() { "" } else { ", " });
    let gate = stage.gate(&format!("{listen}\n{more}\nroutes: {{/public: public, /keyed: any}}"));
    (stage, gate)
}
