//! Any pod of a cluster can reach the webhook's port: what one that is no API server may do there, and what stays as it is for those
//! that are.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    thread,
};

use serde_json::json;

use super::{ApiServer, HOST, Webhook, review};
use crate::support::{PATIENCE, client};

/// What the webhook may take in a cluster, in kB.
const MEMORY: u64 = 128 * 1024;

#[test]
fn what_would_become_large_in_memory_is_refused_before_it_does() {
    let webhook = Webhook::start(&[]);
    let elements = vec![r#"{"":0}"#; 400_000].join(",");
    let hidden = elements.replace('"', r#"\""#).replace('{', r"\u007b");
    let hidden = &hidden[..2_900_000 - 2_900_000 % r#"\u007b\"\":0},"#.len()];
    let annotated = format!(r#"{{"metadata":{{"annotations":{{"sidegate.dev/original":"{hidden}"}}}}}}"#);
    for object in [format!("[{elements}]"), annotated, vec!["0"; 1_400_000].join(",")] {
        let body = review("Pod", &json!("OBJECT")).to_string().replace(r#""OBJECT""#, &object);
        assert!(body.len() <= 3 * 1024 * 1024, "{}", body.len());
        let answers: Vec<_> = thread::scope(|scope| {
            let senders: Vec<_> = (0..8).map(|_| scope.spawn(|| webhook.post("/mutate", &body))).collect();
            senders.into_iter().map(|sender| sender.join().expect("a sender does not panic")).collect()
        });
        for answer in answers {
            assert_eq!(answer.status, 413, "{}", answer.text());
            assert!(answer.text().contains("too many maps and elements"), "{}", answer.text());
        }
    }
    // As much as is let through, several at once.
    let pod = json!({"spec": {"containers": vec![json!({"": 0}); 15_000]}});
    let body = review("Pod", &pod).to_string();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(webhook.post("/mutate", &body).status, 200));
        }
    });
    assert!(webhook.peak() < MEMORY, "{} kB", webhook.peak());
}

#[test]
fn large_reviews_wait_for_one_another_and_all_are_answered() {
    let webhook = Webhook::start(&[]);
    let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "padding": "x".repeat(2_900_000)});
    let body = review("Pod", &pod).to_string();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(webhook.post("/mutate", &body).status, 200));
        }
    });
    assert!(webhook.peak() < MEMORY, "{} kB", webhook.peak());
}

#[test]
fn connections_on_which_nothing_is_asked_are_closed_and_others_find_their_place() {
    let webhook = Webhook::start(&[]);
    // All places that there are, by either protocol.
    let protocols: [&[&[u8]]; 2] = [&[b"h2"], &[b"http/1.1"]];
    let mut silent: Vec<_> = (0..200).map(|one| webhook.silent(protocols[one % 2])).collect();
    for (connection, stream) in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).expect("the stream is open");
        // What HTTP/2 says first is read over; the end, with or without TLS's word for it, is what is waited for.
        match rustls::Stream::new(connection, stream).read_to_end(&mut Vec::new()) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => panic!("it is still open"),
            _ => {}
        }
    }
    let pod = json!({"kind": "Pod", "metadata": {"name": "p"}});
    assert_eq!(webhook.admit(&pod), pod);
}

#[test]
fn of_the_api_server_only_namespaces_are_asked() {
    let api = ApiServer::start();
    let webhook = Webhook::start_in(&api);
    let long = "a".repeat(64);
    let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
    for namespace in [
        "default/secrets/x",
        "../../../version",
        "default?a=1",
        "%2e%2e",
        "a#b",
        "a b",
        "Shop",
        "-a",
        "shop\r\n",
        &long,
    ] {
        let mut asked = review("Pod", &pod);
        asked["request"]["namespace"] = json!(namespace);
        let response = webhook.review(&asked).json()["response"].clone();
        let warned = response["warnings"].as_array().is_some_and(|warnings| {
            warnings.iter().any(|warning| warning.as_str().is_some_and(|warning| warning.contains("no name of one")))
        });
        assert!(warned, "{namespace}: {response}");
    }
    webhook.review(&review("Pod", &pod));
    let asked = api.asked.lock().expect("nobody panics with it").clone();
    assert_eq!(asked, ["get /api/v1/namespaces/shop http/1.1"]);
}

impl Webhook {
    /// The most memory that it ever had, in kB.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse().expect("it is a number")
    }

    /// A connection whose handshake is done.
    fn silent(&self, protocols: &[&[u8]]) -> (rustls::ClientConnection, TcpStream) {
        let config = Arc::new(client::tls(std::slice::from_ref(&self.certificate.der), protocols));
        let name = rustls::pki_types::ServerName::try_from(HOST).expect("a DNS name");
        let mut connection = rustls::ClientConnection::new(config, name).expect("the configuration is complete");
        let mut stream = TcpStream::connect(self.address).expect("the webhook listens");
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).expect("the webhook's certificate is trusted");
        }
        let _ = stream.flush();
        (connection, stream)
    }
}
