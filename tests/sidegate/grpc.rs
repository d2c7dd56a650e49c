//! gRPC through the gate, with Python's `grpcio` on both sides: four call shapes, trailers, deadlines, and denials as statuses.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use serde_json::json;

use crate::support::{Gate, Key, Port, Stage, client::printed_by, in_repository};

const HINT: &str = "run scripts/test once, which installs grpcio";

#[test]
fn all_four_call_shapes_pass_with_their_trailers() {
    let yard = Yard::set("");
    let printed = yard.calls("shapes", &yard.key.text);
    let expected = "one meta 7 00ff\na b c\nd e\nF G\n9 FAILED_PRECONDITION not now: 100 % sure\n";
    assert_eq!(printed, expected);
}

#[test]
fn a_deadline_is_the_clients_to_set_and_the_gates_timeout_cuts_no_stream() {
    let yard = Yard::set("");
    let printed = yard.calls("deadlines", &yard.key.text);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], "OK", "a longer deadline than the gate's own");
    assert!(lines[1].starts_with("4 DEADLINE_EXCEEDED"), "{printed}");
    assert!(lines[2].starts_with("4 DEADLINE_EXCEEDED"), "the gate's own, where the client sets none: {printed}");
    assert_eq!(lines[3], "OK", "as long as the client goes on, nothing is late");
}

#[test]
fn a_denial_is_a_status_that_grpc_knows() {
    let yard = Yard::set("");
    yard.stage.redis.room(3_600_000, 60_000);
    for (case, key, said) in [
        ("Unary", "", "16 UNAUTHENTICATED Missing API key"),
        ("Unary", "sg_0123456789012345678901234567890123456789012", "16 UNAUTHENTICATED Invalid API key"),
        ("Admin", &yard.key.text, "7 PERMISSION_DENIED Insufficient permissions"),
        ("Once", &yard.key.text, "12 UNIMPLEMENTED Method not found!"),
        ("Once", &yard.key.text, "8 RESOURCE_EXHAUSTED Too many requests. Try again in "),
        ("Gone", &yard.key.text, "14 UNAVAILABLE "),
        ("Nowhere/Else", &yard.key.text, "12 UNIMPLEMENTED Not found"),
    ] {
        let printed = yard.calls(case, key);
        assert!(printed.starts_with(said), "{case}: {printed}");
    }
}

#[test]
fn a_stream_ends_when_its_key_is_revoked() {
    let yard = Yard::set("streams: {recheck: 200ms}");
    let mut python = yard.python("ends", &yard.key.text).stdout(Stdio::piped()).spawn().expect(HINT);
    let mut printed = BufReader::new(python.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    printed.read_line(&mut line).expect("the program writes");
    assert_eq!(line, "begun\n");
    yard.stage.redis.rewrite(&yard.key, json!({"revoked_at": "2026-03-23T14:30:00Z"}));
    let mut rest = String::new();
    printed.read_to_string(&mut rest).expect("the program writes");
    assert_eq!(rest, "ended UNAUTHENTICATED Invalid API key\n");
    assert!(python.wait().expect("the program ends").success());
}

struct Yard {
    stage: Stage,
    gate: Gate,
    key: Key,
    /// Where the program's service listens.
    port: Port,
    _nobody: Port,
}

impl Yard {
    fn set(yaml: &str) -> Self {
        let stage = Stage::set();
        let (port, nobody) = (Port::reserve(), Port::reserve());
        let gate = stage.gate(&format!(
            "
upstreams:
  default: {{url: 'h2c://{}', response_timeout: 3s}}
  gone: h2c://{}
limits: {{one: {{by: key, windows: 1/1h}}}}
routes:
  POST /test.Echo/{{call}}: any
  POST /test.Echo/Admin: admin
  POST /test.Echo/Once: {{any: true, limits: [one]}}
  POST /test.Echo/Gone: {{any: true, upstream: gone}}
{yaml}
",
            port.address(),
            nobody.address()
        ));
        let key = stage.redis.mint(json!({"business": "acme", "scopes": []}));
        Self { stage, gate, key, port, _nobody: nobody }
    }

    fn python(&self, case: &str, key: &str) -> Command {
        let mut python = Command::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/clients/python/bin/python"));
        python.arg(in_repository("tests/sidegate/clients/calls.py"));
        python.args([&self.port.number.to_string(), &self.gate.address.to_string(), case, key]);
        python
    }

    fn calls(&self, case: &str, key: &str) -> String {
        printed_by(&mut self.python(case, key), HINT)
    }
}
