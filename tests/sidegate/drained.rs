//! What the end of a drain cuts off: each request that has no answer by then is counted once and logged once, and nothing that
//! was cut looks whole.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Gate, Key, Stage,
    bytes::{RawUpstream, Wire},
    frames::{self, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, frame},
    until,
};

const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn what_outlasts_the_drain_is_told_once_before_the_process_ends() {
    let mut yard = Yard::set("drain: {delay: 0s, deadline: 1s}");
    let held = yard.hold();
    yard.gate.terminate();
    yard.is_told(held);
    assert!(yard.gate.written().contains("the drain's deadline has passed"), "{}", yard.gate.written());
}

#[test]
fn so_is_what_the_second_signal_cuts_off() {
    for delay in ["0s", "10m"] {
        let mut yard = Yard::set(&format!("drain: {{delay: {delay}, deadline: 10m}}"));
        let held = yard.hold();
        yard.gate.terminate();
        yard.gate.said("draining");
        yard.gate.signal("INT");
        yard.is_told(held);
        assert!(!yard.gate.written().contains("a worker is gone"), "{}", yard.gate.written());
    }
}

/// A gate before a service that answers nothing but `/begun`.
struct Yard {
    stage: Stage,
    silent: RawUpstream,
    begun: RawUpstream,
    yaml: String,
    gate: Gate,
    key: Key,
}

/// The clients' ends and the service's.
struct Held {
    wires: Vec<Wire>,
    connections: Vec<Connection>,
    answered: Wire,
    services: Vec<Wire>,
}

impl Yard {
    fn set(drain: &str) -> Self {
        let stage = Stage::set();
        let silent = RawUpstream::that_answers("");
        let begun = RawUpstream::that_answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n");
        let yaml = format!(
            "workers: 2\n{drain}\nupstreams: {{default: 'http://{}', begun: 'http://{}'}}\n\
             routes: {{/silent/**: any, /begun: {{any: true, upstream: begun}}}}",
            silent.address, begun.address
        );
        let gate = stage.gate(&yaml);
        let key = stage.redis.mint(json!({"business": "acme"}));
        Self { stage, silent, begun, yaml, gate, key }
    }

    /// One of each kind in flight, the first from before a reload.
    fn hold(&self) -> Held {
        let wire = |start: &str, body: &str| {
            let mut client = Wire::to(self.gate.address);
            client.send(format!("{start} HTTP/1.1\r\nHost: a\r\nX-API-Key: {}\r\n{body}", self.key.text));
            client
        };
        let mut wires = vec![wire("GET /silent/1", "\r\n")];
        let mut services = vec![self.silent.next().1];
        self.gate.reload(&format!("{}\n# Again.", self.yaml));
        wires.push(wire("POST /silent/2", "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"));
        wires.push(wire("POST /silent/3", "Content-Length: 10\r\n\r\npart"));
        let connections = [("4", END_STREAM), ("5", 0)].map(|(path, ends)| {
            let mut client = Connection::open(self.gate.address, &[]);
            let head = frames::request("POST", &format!("/silent/{path}"), &[("x-api-key", &self.key.text)]);
            client.send(&frame(HEADERS, END_HEADERS | ends, 1, &head));
            if ends == 0 {
                client.send(&frame(DATA, 0, 1, b"part"));
            }
            client
        });
        services.extend((2..=5).map(|_| self.silent.next().1));
        let mut answered = wire("GET /begun", "\r\n");
        answered.until(b"begun");
        services.push(self.begun.next().1);
        Held { wires, connections: connections.into(), answered, services }
    }

    fn is_told(&mut self, held: Held) {
        let Held { wires, connections, mut answered, services } = held;
        let written = self.gate.written_to_the_end();
        assert_eq!(self.gate.ended().code(), Some(0));
        let lines = |part: &str| written.lines().filter(|line| line.contains(part)).collect::<Vec<_>>();
        for path in 1..=5 {
            let told = lines(&format!("\"url.path\":\"/silent/{path}\""));
            assert_eq!(told.len(), 1, "{path}: {written}");
            let line: serde_json::Value = serde_json::from_str(told[0]).expect("a log line is JSON");
            for (name, value) in [
                ("http.response.status_code", json!(503)),
                ("sidegate.decision", json!("failed")),
                ("sidegate.reason", json!("shutting_down")),
                ("sidegate.key_id", json!(self.key.id)),
            ] {
                assert_eq!(line[name], value, "{path}: {name} in {line}");
            }
        }
        let told = lines("\"url.path\":\"/begun\"");
        assert!(told.len() == 1 && told[0].contains(":200"), "it was answered: {told:?}");
        until("each use to be counted", || {
            let usage = self.gate.json(&["keys", "usage", &self.key.id, "--json"]);
            let requests = usage["requests"].as_object().expect("amounts by time");
            (requests.values().filter_map(|amount| amount.as_u64()).sum::<u64>() == 6).then_some(())
        });
        for mut wire in wires {
            assert_eq!(wire.rest(), "");
        }
        assert!(!answered.rest().ends_with("0\r\n\r\n"));
        for mut connection in connections {
            assert!(connection.find(PATIENCE, |frame| frame.flags & END_STREAM != 0 && frame.stream == 1).is_none());
        }
        for mut service in services {
            assert!(!service.rest().ends_with("0\r\n\r\n"));
        }
        assert!(self.stage.upstream.seen().is_empty());
    }
}
