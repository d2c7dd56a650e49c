//! Whose address a request has, by the word of proxies that are trusted; and the networks that are trusted, denied and allowed,
//! however they are written.

use serde_json::{Value, json};

use crate::support::{
    AnswerTo as _, Gate, Stage,
    gate::{on_config, text},
    whole,
};

/// All ways to write a network that holds 127.0.0.1.
const LOOPBACK: [&str; 7] = [
    "127.0.0.1",
    "127.0.0.0/8",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1/128",
    "::ffff:127.0.0.0/104",
    "::FFFF:7f00:0/104",
    "::ffff:0:0/96",
];
const ELSEWHERE: [&str; 3] = ["::ffff:10.0.0.0/104", "::ffff:127.0.0.2", "2001:db8::/32"];

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

#[test]
fn an_ipv4_network_is_denied_in_whichever_form_it_is_written() {
    for (networks, status) in [(&LOOPBACK[..], 403), (&ELSEWHERE, 200)] {
        for network in networks {
            let (_stage, gate) = yard("", &format!("deny: {{addresses: ['{network}']}}"));
            assert_eq!(gate.raw("GET", "/public", &[]).status, status, "{network}");
        }
    }
}

#[test]
fn an_ipv4_network_is_trusted_in_whichever_form_it_is_written() {
    for (networks, status) in [(&LOOPBACK[..], 403), (&ELSEWHERE, 200)] {
        for network in networks {
            let deny = "deny: {addresses: ['::ffff:203.0.113.9']}";
            let (_stage, gate) = yard(&format!("trusted_proxies: ['{network}']"), deny);
            for named in ["203.0.113.9", "::ffff:203.0.113.9", "[::ffff:203.0.113.9]:4711"] {
                let line = format!("X-Forwarded-For: {named}");
                assert_eq!(gate.raw("GET", "/public", &[line.as_bytes()]).status, status, "{network} {named}");
            }
        }
    }
}

#[tokio::test]
async fn an_ipv4_network_is_allowed_to_a_key_in_whichever_form_it_is_written() {
    let (stage, gate) = yard("", "");
    for (networks, status) in [(&LOOPBACK[..], 200), (&ELSEWHERE, 403)] {
        for network in networks {
            let made = gate.command(&[
                "keys",
                "create",
                "--name",
                "n",
                "--business",
                "acme",
                "--allow-addresses",
                network,
                "--json",
            ]);
            assert_eq!(made.status.code(), Some(0), "{network}: {}", text(&made.stderr));
            let made: Value = serde_json::from_slice(&made.stdout).expect("--json is one document");
            let created = made["key"].as_str().expect("it is shown once").to_owned();
            // As another service would write it.
            let minted = stage.redis.mint(json!({"business": "acme", "allow_addresses": [network]})).text;
            for key in [created, minted] {
                assert_eq!(gate.get("/keyed").bearer_auth(&key).answer().await.status, status, "{network}");
            }
        }
    }
}

#[test]
fn a_network_that_holds_more_than_all_of_ipv4_in_its_ipv6_form_is_refused() {
    let network = "::ffff:0:0/90";
    is_refused_in_the_configuration(network, network);
    let (_stage, gate) = yard("", "");
    let output = gate.command(&["keys", "create", "--name", "n", "--business", "acme", "--allow-addresses", network]);
    assert_ne!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

/// Wherever the configuration takes a network, `check` names the field and says this.
fn is_refused_in_the_configuration(network: &str, said: &str) {
    let stage = Stage::set();
    for (field, yaml) in [
        ("deny.addresses", format!("deny: {{addresses: ['{network}']}}")),
        ("listen.trusted_proxies", format!("listen: {{address: '127.0.0.1:0', trusted_proxies: ['{network}']}}")),
    ] {
        let output =
            on_config(&whole(&format!("{yaml}\nroutes: {{/public: public}}")), &["check"], &stage.environment());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(field) && error.contains(said), "{error}");
    }
}

/// `127.0.0.1/8` for `/32` would shut everybody out, or let them in.
#[test]
fn bits_behind_a_networks_prefix_are_refused_by_every_way_in() {
    let (network, advice) = ("127.0.0.1/8", "has bits behind its prefix; write `127.0.0.0/8`, or the address alone");
    is_refused_in_the_configuration(network, advice);
    let (_stage, gate) = yard("", "");
    let output = gate.command(&["keys", "create", "--name", "n", "--business", "acme", "--allow-addresses", network]);
    assert!(text(&output.stderr).contains(advice), "{}", text(&output.stderr));
    let line = json!({"sha256": "0".repeat(64), "name": "n", "business": "acme", "allow_addresses": [network]});
    let output = gate.command_reading(&["keys", "import"], &line.to_string());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(advice), "{}", text(&output.stderr));
}

#[test]
fn the_proxy_protocol_without_anybody_to_trust_is_refused() {
    let stage = Stage::set();
    for (trusted, code) in [("", 2), (", trusted_proxies: []", 2), (", trusted_proxies: [127.0.0.0/8]", 0)] {
        let listen = format!("listen: {{address: '127.0.0.1:0', proxy_protocol: true{trusted}}}");
        let output =
            on_config(&whole(&format!("{listen}\nroutes: {{/public: public}}")), &["check"], &stage.environment());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{trusted}: {error}");
        let told = error.contains("listen.proxy_protocol") && error.contains("trusted_proxies");
        assert_eq!(told, code == 2, "{trusted}: {error}");
    }
}

#[test]
fn check_says_whom_the_gate_believes_and_whom_it_shuts_out() {
    let stage = Stage::set();
    let summary = |listen: &str, more: &str| {
        let yaml = whole(&format!("listen: {{address: '127.0.0.1:0'{listen}}}\n{more}\nroutes: {{/public: public}}"));
        text(&on_config(&yaml, &["check"], &stage.environment()).stdout)
    };
    let nothing = summary("", "");
    assert!(!nothing.contains("\nproxies ") && !nothing.contains("\ndeny "), "{nothing}");
    let trusting = summary(", trusted_proxies: [10.0.0.0/8, '::ffff:192.0.2.1']", "");
    assert!(trusting.contains("\nproxies   10.0.0.0/8, 192.0.2.1/32: ") && !trusting.contains("PROXY"), "{trusting}");
    let said = summary(
        ", proxy_protocol: true, trusted_proxies: [10.0.0.0/8]",
        "deny: {keys: [9f1c6a52-0000-4000-8000-000000000000], addresses: ['203.0.113.0/24', '2001:db8::1']}",
    );
    for told in ["\nproxies   10.0.0.0/8: ", "PROXY", "\ndeny      1 key", "203.0.113.0/24, 2001:db8::1/128"] {
        assert!(said.contains(told), "no {told:?} in\n{said}");
    }
}

/// A gate with this in `listen`, and these sections besides.
fn yard(listen: &str, more: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    let listen = format!("listen: {{address: '127.0.0.1:0'{}{listen}}}", if listen.is_empty() { "" } else { ", " });
    let gate = stage.gate(&format!("{listen}\n{more}\nroutes: {{/public: public, /keyed: any}}"));
    (stage, gate)
}
