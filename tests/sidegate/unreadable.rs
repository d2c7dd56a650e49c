//! What stands in the store and cannot be read: it harms those whom it is about, and the operator is told which it is.

use serde_json::{Value, json};

use crate::support::{AnswerTo as _, Gate, Key, Stage};

const YAML: &str = "
limits: {per-business: {by: business, windows: 60/1m}}
routes: {/things: {any: true, limits: [per-business]}}
";

#[tokio::test]
async fn a_business_whose_document_cannot_be_read_is_named_to_the_operator_once() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    let [acme, other] = ["acme", "other"].map(|business| stage.redis.mint(json!({"business": business})));
    assert_eq!(gate.metric("sidegate_documents_unreadable_total", &[]), 0.0);
    assert!(gate.operators("/metrics").text().contains("sidegate_documents_unreadable_total 0"));
    assert_eq!(asks(&gate, &acme).await["http.response.status_code"], 200);
    stage.redis.set_business("acme", json!({"limits": {"per-business": "sixty a minute"}}));
    for _ in 0..3 {
        let line = asks(&gate, &acme).await;
        for (name, value) in [
            ("http.response.status_code", json!(503)),
            ("sidegate.reason", json!("store_unavailable")),
            ("sidegate.key_id", json!(acme.id)),
            ("sidegate.business", json!("acme")),
        ] {
            assert_eq!(line[name], value, "{name} in {line}");
        }
    }
    assert_eq!(asks(&gate, &other).await["http.response.status_code"], 200);
    let said = gate.said("cannot be read; requests that need it are refused");
    for part in ["WARN", "the document of business acme", "per-business"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert_eq!(gate.written().matches("cannot be read; requests that need it are refused").count(), 1);
    assert_eq!(gate.metric("sidegate_documents_unreadable_total", &[]), 3.0);

    let explained = gate.command_reading(&["explain", "/things"], &acme.text);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("the document of business acme: "), "{explained}");
    assert!(!explained.contains(&acme.text));
}

#[tokio::test]
async fn a_key_whose_document_cannot_be_read_is_named_as_the_store_names_it() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    let key = stage.redis.mint(json!({"business": "acme", "limits": {"per-key": "x"}}));
    assert_eq!(asks(&gate, &key).await["http.response.status_code"], 503);
    let said = gate.said("cannot be read; requests that need it are refused");
    assert!(
        said.contains(&format!("the document of key {}", sidegate::keys::Digest::of(&key.text).to_hex())),
        "{said}"
    );
}

async fn asks(gate: &Gate, key: &Key) -> Value {
    let answer = gate.get("/things").bearer_auth(&key.text).answer().await;
    gate.logged(answer.header("x-request-id").expect("every answer has one"))
}
