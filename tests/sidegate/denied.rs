//! `deny.keys`: a key is shut out however its id is spelt, and an entry that denies nobody is told of.

use serde_json::json;

use crate::support::{AnswerTo as _, Stage, gate::text};

#[tokio::test]
async fn a_key_is_denied_by_its_uuid_in_either_case() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/things: any}");
    let key = stage.redis.mint(json!({"business": "acme", "id": "01491d84-0220-41bb-8e2b-20041a88d42f"}));
    let status = async || gate.get("/things").bearer_auth(&key.text).answer().await.status;
    assert_eq!(status().await, 200);
    gate.reload("routes: {/things: any}\ndeny: {keys: ['01491D84-0220-41BB-8E2B-20041A88D42F']}");
    assert_eq!(status().await, 401);
}

#[test]
fn check_tells_of_entries_that_deny_nobody() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/things: any}");
    let key = stage.redis.mint(json!({"business": "acme", "id": "01491d84-0220-41bb-8e2b-20041a88d42f"}));
    let (upper, digest) = ("01491D84-0220-41BB-8E2B-20041A88D42F", crate::support::redis::sha256(&key.text));
    let nobody = "0".repeat(64);
    gate.configure(&format!("routes: {{/things: any}}\ndeny: {{keys: ['{upper}', slip, '{digest}', '{nobody}']}}"));
    let output = gate.command(&["check"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let told: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: deny.keys")).collect();
    assert_eq!(told.len(), 2, "{said}");
    assert!(told[0].contains("deny.keys[1]: no key in the store has this id"), "{said}");
    assert!(told[1].contains("deny.keys[3]: no key in the store has this SHA-256"), "{said}");
}
