//! The audit as support reads it: what became of what, and no more than was asked for.

use super::{member, run, works};
use crate::support::{Gate, Stage};

const YAML: &str = "
limits: {per-business: {by: business, windows: 60/1m}, per-key: {by: key, windows: 60/1m}}
plans: {default: {}, pro: {}}
routes: {/things: {any: true, limits: [per-business, per-key]}}
";

#[test]
fn the_first_override_and_the_last_are_told_like_all_others() {
    let stage = Stage::set();
    for store in ["", "store: file:keys.yaml"] {
        let gate = stage.gate(&format!("{store}{YAML}"));
        works(&gate, &["business", "set", "acme", "--limit", "per-business=5/1m", "--plan", "pro"]);
        let first = last(&gate);
        for told in [r#"limits none → {"per-business":["5/1m"]}"#, r#"plan none → "pro""#] {
            assert!(first.contains("business_changed acme: ") && first.contains(told), "no {told} in {first}");
        }
        works(&gate, &["business", "set", "acme", "--no-limit", "per-business"]);
        let removed = r#"business_changed acme: limits {"per-business":["5/1m"]} → none"#;
        assert!(last(&gate).ends_with(removed), "{}", last(&gate));
        let key = gate.keys_create(&["--name", "n", "--business", "acme", "--limit", "per-key=9/1d"]);
        let created = last(&gate);
        for told in [r#"business "acme""#, r#"limits {"per-key":["9/1d"]}"#, r#"name "n""#] {
            assert!(created.contains(told), "no {told} in {created}");
        }
        works(&gate, &["keys", "update", member(&key, "id"), "--no-limit", "per-key"]);
        assert!(last(&gate).ends_with(r#": limits {"per-key":["9/1d"]} → none"#), "{}", last(&gate));
    }
}

#[test]
fn a_limit_that_was_given_back_is_named_with_its_key() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    let key = gate.keys_create(&["--name", "n", "--business", "acme"]);
    works(&gate, &["keys", "usage", member(&key, "id"), "--reset", "per-business"]);
    let reset = last(&gate);
    let whom = format!("limit_reset {} (id {}): ", member(&key, "hint"), member(&key, "id"));
    assert!(reset.contains(&whom) && reset.contains(r#"limit "per-business""#), "{reset}");
    let found = gate.json(&["keys", "audit", "--business", "acme", "--last", "1", "--json"]);
    assert_eq!(found["changes"][0]["action"], "limit_reset", "{found}");
}

#[test]
fn the_audit_of_one_business_one_key_or_one_time_holds_no_other() {
    let stage = Stage::set();
    for store in ["", "store: file:keys.yaml"] {
        let gate = stage.gate(&format!("{store}{YAML}"));
        let [one, two] = ["acme", "b2"].map(|business| gate.keys_create(&["--name", "n", "--business", business]));
        let new = gate.json(&["keys", "rotate", member(&one, "id"), "--overlap", "1h", "--json"]);
        works(&gate, &["business", "set", "acme", "--plan", "pro"]);
        works(&gate, &["business", "set", "b2", "--plan", "pro"]);
        works(&gate, &["keys", "delete", member(&two, "id")]);
        let actions = |more: &[&str]| {
            let audit = gate.json(&[&["keys", "audit", "--json"], more].concat());
            let changes = audit["changes"].as_array().expect("a list").clone();
            changes.iter().map(|change| member(change, "action").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(actions(&["--business", "acme"]), ["business_changed", "key_rotated", "key_created"]);
        assert_eq!(actions(&["--business", "acme", "--last", "1"]), ["business_changed"]);
        assert_eq!(actions(&["--key", member(&two, "id")]), ["key_deleted", "key_created"]);
        assert_eq!(actions(&["--key", member(&one, "hint")]), ["key_rotated", "key_created"]);
        assert_eq!(actions(&["--key", member(&new, "id")]), ["key_rotated"], "it came to be by this");
        assert_eq!((actions(&["--since", "1h"]).len(), actions(&["--since", "2020-01-01T00:00:00Z"]).len()), (6, 6));
        assert_eq!(actions(&["--since", "2999-01-01T00:00:00Z"]), Vec::<String>::new());
        assert_eq!(actions(&["--key", member(&two, "id"), "--business", "acme"]), Vec::<String>::new());
        assert_eq!(works(&gate, &["keys", "audit", "--business", "never"]), "No recorded change matches.\n");
        let (code, said) = run(&gate, &["keys", "audit", "--since", "yesterday"], "");
        assert!(code == Some(2) && said.contains("`24h`"), "{said}");
        let (code, said) = run(&gate, &["keys", "audit", "--key", member(&one, "key")], "");
        assert!(code == Some(2) && !said.contains(member(&one, "key")), "{said}");
    }
}

fn last(gate: &Gate) -> String {
    let told = works(gate, &["keys", "audit", "--last", "1"]);
    assert_eq!(told.lines().count(), 1, "{told}");
    told.trim_end().to_owned()
}
