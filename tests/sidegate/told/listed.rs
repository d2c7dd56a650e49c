//! The list of keys, narrowed to what somebody is to look after.

use serde_json::{Value, json};

use super::{member, run, works};
use crate::support::Stage;

const DAY_MS: u64 = 86_400_000;

#[test]
fn keys_are_listed_by_state_and_by_what_ends_soon_and_the_first_to_end_comes_first() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/things: any}");
    let in_days = |days: u64| sidegate::clock::rfc3339(stage.redis.now_ms() + days * DAY_MS);
    let mint = |name: &str, more: Value| {
        let mut document = json!({"name": name, "business": "acme", "id": name});
        document.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        stage.redis.mint(document);
    };
    mint("endless", json!({}));
    mint("later", json!({"expires_at": in_days(60)}));
    mint("second", json!({"expires_at": in_days(20)}));
    mint("first", json!({"expires_at": in_days(3), "business": "b2"}));
    mint("ended", json!({"expires_at": "2026-03-24T00:00:00Z"}));
    mint("revoked", json!({"revoked_at": "2026-03-24T00:00:00Z", "expires_at": in_days(5)}));
    mint("rotated", json!({"rotated_to": "endless", "expires_at": in_days(1)}));
    let listed = |more: &[&str]| {
        let list = gate.json(&[&["keys", "list", "--json"], more].concat());
        let keys = list["keys"].as_array().expect("a list").clone();
        keys.iter().map(|key| format!("{} {}", member(key, "id"), member(key, "state"))).collect::<Vec<_>>()
    };
    assert_eq!(listed(&["--state", "expired"]), ["ended expired"]);
    assert_eq!(listed(&["--state", "revoked,rotated"]), ["revoked revoked", "rotated rotated"]);
    assert_eq!(listed(&["--state", "active"]).len(), 4);
    let soon = ["rotated rotated", "first active", "second active"];
    assert_eq!(listed(&["--expires-within", "30d"]), soon);
    assert_eq!(listed(&["--expires-within", "30d", "--per-page", "1", "--page", "2"]), soon[1..2]);
    assert_eq!(listed(&["--expires-within", "30d", "--state", "active", "--business", "acme"]), soon[2..]);
    let table = works(&gate, &["keys", "list", "--expires-within", "30d"]);
    let at = |name: &str| table.lines().position(|line| line.ends_with(name)).unwrap_or_else(|| panic!("{table}"));
    assert!(table.lines().count() == 4 && at("rotated") < at("first") && at("first") < at("second"), "{table}");
    let none = works(&gate, &["keys", "list", "--state", "unreadable"]);
    assert!(none.starts_with("No key matches."), "{none}");
    for (wrong, said) in [(["--state", "gone"], "rotated"), (["--expires-within", "soon"], "`90d`")] {
        let (code, error) = run(&gate, &[&["keys", "list"][..], &wrong].concat(), "");
        assert!(code == Some(2) && error.contains(said), "{error}");
    }
    assert_eq!(gate.json(&["keys", "show", "rotated", "--json"])["state"], "rotated");
}
