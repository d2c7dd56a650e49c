//! What is left of limits, whose they are, and who uses them up.

use serde_json::{Value, json};

use super::{run, works};
use crate::support::{AnswerTo as _, Gate, Stage};

const YAML: &str = "
drain: {delay: 0s}
limits:
  shared: {by: business, windows: 60/1m}
  per-key: {by: key, windows: 60/1m}
  all: {by: global, windows: 9000/1m}
plans: {default: {}, pro: {limits: {shared: 600/1m}}}
routes: {/things: {any: true, limits: [shared, per-key, all]}}
";

#[test]
fn a_business_without_an_active_key_still_has_its_limits() {
    let stage = Stage::set();
    for store in ["", "store: file:keys.yaml"] {
        let gate = stage.gate(&format!("{store}{YAML}"));
        let key = gate.keys_create(&["--name", "n", "--business", "acme"]);
        works(&gate, &["business", "set", "acme", "--plan", "pro"]);
        let with_key = gate.json(&["business", "usage", "acme", "--json"])["limits"].clone();
        assert_eq!((&with_key[0]["window"], with_key.as_array().map(Vec::len)), (&json!("600/1m"), Some(1)));
        works(&gate, &["keys", "revoke", key["id"].as_str().expect("an id")]);
        let without = gate.json(&["business", "usage", "acme", "--json"])["limits"].clone();
        assert_eq!((&without[0]["window"], &without[0]["from"]), (&json!("600/1m"), &json!("plan pro")), "{without}");
        let said = works(&gate, &["business", "usage", "acme"]);
        assert!(said.contains("600/1m") && said.contains("None of its keys (1) is active."), "{said}");
        works(&gate, &["business", "set", "acme", "--status", "suspended"]);
        let said = works(&gate, &["business", "usage", "acme"]);
        assert!(said.contains("acme is suspended"), "{said}");
        for command in [&["business", "usage", "never"][..], &["business", "usage", "never", "--json"]] {
            let (code, said) = run(&gate, command, "");
            assert!(
                code == Some(1) && said.contains("60/1m") && said.contains("nothing is known of `never`"),
                "{said}"
            );
        }
    }
}

#[test]
fn a_limit_says_whose_it_is() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    let key = stage.redis.mint(json!({"business": "acme", "limits": {"per-key": "7/1m"}}));
    let whose = |usage: &Value, name: &str| {
        let found = usage.as_array().and_then(|limits| limits.iter().find(|limit| limit["name"] == name));
        found.unwrap_or_else(|| panic!("{name} in {usage}"))["from"].as_str().unwrap_or_default().to_owned()
    };
    let tells = |per_key: &str, shared: &str| {
        let verified = gate.command_reading(&["keys", "verify", "--json"], &key.text);
        let verified: Value = serde_json::from_slice(&verified.stdout).expect("one JSON document");
        let usage = gate.json(&["keys", "usage", &key.id, "--json"]);
        for limits in [&verified["windows"], &usage["limits"]] {
            assert_eq!(whose(limits, "per-key"), per_key, "{limits}");
            assert_eq!((whose(limits, "shared").as_str(), whose(limits, "all").as_str()), (shared, "configuration"));
        }
        let business = gate.json(&["business", "usage", "acme", "--json"]);
        assert_eq!(whose(&business["limits"], "shared"), shared);
        let table = works(&gate, &["keys", "usage", &key.id]);
        let row = table.lines().find(|line| line.starts_with("shared")).unwrap_or_else(|| panic!("{table}"));
        assert!(table.contains("  FROM  ") && row.contains(shared), "{table}");
    };
    tells("key", "configuration");
    stage.redis.set_business("acme", json!({"plan": "pro"}));
    tells("key", "plan pro");
    stage.redis.rewrite(&key, json!({"limits": {}}));
    stage.redis.set_business("acme", json!({"plan": "pro", "limits": {"shared": "8/1m", "per-key": "9/1m"}}));
    tells("business", "business");
}

#[tokio::test]
async fn use_is_told_day_by_day() {
    let stage = Stage::set();
    let mut gate: Gate = stage.gate(YAML);
    let key = stage.redis.mint(json!({"business": "acme"}));
    stage.redis.room(86_400_000, 60_000);
    let today = sidegate::clock::rfc3339(stage.redis.now_ms())[..10].to_owned();
    for _ in 0..3 {
        assert_eq!(gate.get("/things").bearer_auth(&key.text).answer().await.status, 200);
    }
    gate.terminate();
    assert!(gate.ended().success());
    let row = [today.as_str(), "3", "0"];
    for command in [["keys", "usage", &key.id], ["business", "usage", "acme"]] {
        let said = works(&gate, &command);
        let told = said.lines().any(|line| line.split_whitespace().eq(row));
        assert!(told && said.contains("DAY") && said.contains("in 90 days 3 (0 denied)"), "{said}");
    }
}
