//! What is right as it was written and yet does not do what somebody may expect.

use serde_json::{Value, json};

use super::{member, run, works};
use crate::support::{Stage, gate::text};

const YAML: &str = "
business: {from: [{header: X-Business-Id}]}
plans: {free: {api: false}, pro: {}}
routes: {/things: things, /others: others}
";

#[test]
fn a_new_key_that_its_business_or_its_user_cannot_use_says_so() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    let create = |owner: &[&str]| {
        let arguments = ["keys", "create", "--name", "n", "--scopes", "things", "--json"];
        let output = gate.command(&[&arguments[..], owner].concat());
        assert!(output.status.success());
        serde_json::from_slice::<Value>(&output.stdout).expect("one JSON document");
        text(&output.stderr)
    };
    stage.redis.set_business("rich", json!({"plan": "pro"}));
    stage.redis.set_business("poor", json!({"plan": "free"}));
    stage.redis.set_business("closed", json!({"plan": "pro", "status": "suspended"}));
    stage.redis.own("owner", "rich");
    for (owner, told) in [
        (["--business", "rich"], ""),
        (["--business", "poor"], "poor has the plan `free`, which does not include the API"),
        (["--business", "new"], "new has no plan, and none of those that are configured is called `default`"),
        (["--business", "closed"], "closed is suspended; `sidegate business set closed --status active`"),
        (["--user", "owner"], ""),
        (["--user", "other"], "other owns no business in this store"),
    ] {
        let said = create(&owner);
        assert!(said.contains(told) && said.contains("note: ") != told.is_empty(), "{owner:?}: {said}");
    }
    let key = stage.redis.mint(json!({"user": "other"}));
    let (_, said) = run(&gate, &["keys", "verify"], &key.text);
    assert!(said.contains("note: other owns no business in this store"), "{said}");
}

#[test]
fn a_revoked_key_stays_so_and_a_change_of_it_says_that() {
    let stage = Stage::set();
    for store in ["", "store: file:keys.yaml"] {
        let gate = stage.gate(&format!("{store}{YAML}"));
        let key = gate.keys_create(&["--name", "n", "--business", "acme", "--scopes", "things"]);
        let update = ["keys", "update", member(&key, "id"), "--expires", "90d"];
        assert!(!works(&gate, &update).contains("warning"));
        works(&gate, &["keys", "revoke", member(&key, "id")]);
        assert!(works(&gate, &update).contains("warning: the key is revoked and stays so"));
    }
}

#[test]
fn lists_may_have_spaces_after_their_commas() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    let lists = ["--scopes", "things, others", "--allow-addresses", "10.0.0.0/8, 127.0.0.1"];
    let key = gate.keys_create(&[&["--name", "n", "--business", "acme"][..], &lists].concat());
    assert_eq!(key["scopes"], json!(["things", "others"]));
    let updated = gate.json(&["keys", "update", member(&key, "id"), "--scopes", "others , things", "--json"]);
    assert_eq!(updated["scopes"], json!(["others", "things"]));
}

#[test]
fn a_business_that_is_taken_for_a_key_is_told() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    gate.keys_create(&["--name", "n", "--business", "acme", "--scopes", "things"]);
    works(&gate, &["business", "set", "empty", "--plan", "pro"]);
    for (name, told) in [("acme", true), ("empty", true), ("never", false)] {
        let (code, said) = run(&gate, &["keys", "show", name], "");
        assert!(code == Some(1) && said.contains("no key has this id or hint"), "{said}");
        let advice = format!("`{name}` is a business: `sidegate keys list --business {name}`");
        assert_eq!(said.contains(&advice), told, "{said}");
    }
}
