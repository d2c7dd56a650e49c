//! HTTP/2 clients that are not ours: nghttp and h2load, by prior knowledge and over TLS.

use std::process::Command;

use crate::support::{Stage, certificate::Certificate};

const ROUTES: &str = "routes: {/public: public}";

fn told(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} ({error}): apt-get install nghttp2-client"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn all_succeed(url: &str) {
    let told = told("h2load", &["-n", "2000", "-c", "20", "-m", "20", url]);
    assert!(told.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{told}");
    assert!(told.contains("2000 2xx"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_fails_no_request_in_clear_text() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    all_succeed(&gate.url("/public"));
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_fails_no_request_over_tls() {
    let stage = Stage::set();
    let made = Certificate::of("gate.example");
    let (cert, key) = (made.cert_file(), made.key_file());
    let gate = stage.gate(&format!(
        "listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{}', key: '{}'}}}}}}\n{ROUTES}",
        cert.display(),
        key.display()
    ));
    all_succeed(&format!("https://{}/public", gate.address));
}

#[tokio::test(flavor = "multi_thread")]
async fn nghttp_reads_a_denial_and_an_answer() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    let answer = told("nghttp", &["-v", "-n", &gate.url("/public")]);
    assert!(answer.contains(":status: 200"), "{answer}");
    let denial = told("nghttp", &["-v", "-n", &gate.url("/nowhere")]);
    assert!(denial.contains(":status: 404"), "{denial}");
}
