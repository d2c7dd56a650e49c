//! What keys leave behind where people look: whom one replaces, who changed what, and what is left once the last has gone.

use serde_json::Value;

use crate::support::{Gate, Stage, gate::text};

const YAML: &str = "
routes: {/any: any}
management: {path: /v1/keys, session: 'http://127.0.0.1:9/', roles: [admin], max_active_keys: 10}
";

#[test]
fn a_rotated_key_and_its_successor_name_each_other() {
    let (_stage, gate) = yard();
    let old = create(&gate);
    let new = gate.json(&["keys", "rotate", id(&old), "--overlap", "1h", "--json"]);
    let shown = works(&gate, &["keys", "show", id(&old)]);
    assert!(shown.contains(&format!("  successor {}", id(&new))), "{shown}");
    let shown = works(&gate, &["keys", "show", id(&new)]);
    assert!(shown.contains("  replaces  ") && shown.contains(&format!("id {})", id(&old))), "{shown}");
    assert_eq!(gate.json(&["keys", "show", id(&new), "--json"])["rotated_from"], id(&old));
}

#[test]
fn the_audit_is_read_line_by_line() {
    let (_stage, gate) = yard();
    let key = create(&gate);
    works(&gate, &["keys", "update", id(&key), "--name", "other", "--actor", "ada"]);
    let audit = works(&gate, &["keys", "audit"]);
    let lines: Vec<&str> = audit.lines().collect();
    assert_eq!(lines.len(), 2, "{audit}");
    assert!(lines[0].contains("ada (cli)  key_updated ") && lines[0].ends_with(r#": name "n" → "other""#), "{audit}");
    assert!(lines[1].contains("key_created ") && lines[1].contains(id(&key)), "{audit}");
    assert!(lines.iter().all(|line| line.chars().count() < 200), "{audit}");
}

/// A business that has left leaves nothing that its keys were counted with.
#[test]
fn what_keys_are_counted_with_goes_some_time_after_the_last_of_them() {
    let (stage, gate) = yard();
    let [one, two] = [(); 2].map(|()| create(&gate));
    let left = || stage.redis.ask::<i64>(&["TTL", "sg:{b:acme}:minted"]);
    works(&gate, &["keys", "delete", id(&one)]);
    assert_eq!(left(), -1, "there is a key left");
    works(&gate, &["keys", "delete", id(&two)]);
    assert!((1..=3600).contains(&left()), "{}", left());
    create(&gate);
    assert_eq!(left(), -1, "a business that comes back goes on");
}

fn yard() -> (Stage, Gate) {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    (stage, gate)
}

fn create(gate: &Gate) -> Value {
    gate.json(&["keys", "create", "--name", "n", "--business", "acme", "--scopes", "*", "--json"])
}

fn works(gate: &Gate, arguments: &[&str]) -> String {
    let output = gate.command(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn id(key: &Value) -> &str {
    key["id"].as_str().expect("every key has an id")
}
