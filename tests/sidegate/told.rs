//! What the commands about keys tell: nothing that is not so, and who did it.

mod audited;
mod counted;
mod doubted;
mod listed;
mod verified;

use serde_json::{Value, json};

use crate::support::{
    Gate, Stage,
    gate::{on_config, text},
    whole,
};

const LIMITS: &str = "
limits: {per-business: {by: business, windows: 60/1m}, per-key: {by: key, windows: 60/1m}}
routes: {/things: {any: true, limits: [per-business, per-key]}}
";

#[tokio::test]
async fn an_override_of_a_limit_that_there_is_not_is_marked() {
    let stage = Stage::set();
    let gate = stage.gate(LIMITS);
    stage.redis.set_business("acme", json!({"limits": {"per-busines": "5/1m", "per-business": "6/1m"}}));
    let limits = json!({"per-kye": "5/1m", "per-key": "6/1m", "per-business": "7/1m"});
    let key = stage.redis.mint(json!({"business": "acme", "limits": limits}));
    let of_business = "per-busines 5/1m (no such limit); per-business 6/1m\n";
    let of_key = "per-business 7/1m (no effect: not counted by key); per-key 6/1m; per-kye 5/1m (no such limit)\n";
    for (command, input, marked) in [
        (&["business", "show", "acme"][..], "", of_business),
        (&["business", "list"], "", of_business),
        (&["keys", "show", &key.id], "", of_key),
        (&["keys", "verify"], &key.text, of_key),
    ] {
        let said = text(&gate.command_reading(command, input).stdout);
        assert!(said.contains(marked), "{command:?}: no {marked:?} in\n{said}");
    }
}

#[tokio::test]
async fn an_import_that_allows_unknown_names_warns_of_what_the_gate_will_not_heed() {
    let stage = Stage::set();
    let gate = stage.gate(LIMITS);
    let line = |digit: &str, more: &str| {
        format!("{{\"sha256\": \"{}\", \"name\": \"n\", \"business\": \"acme\"{more}}}\n", digit.repeat(64))
    };
    let wrong = r#", "scopes": ["nothings"], "limits": {"per-business": "5/1m"}"#;
    let lines = line("1", "") + &line("2", wrong);
    let output = gate.command_reading(&["keys", "import", "--allow-unknown"], &lines);
    let said = text(&output.stderr);
    assert!(output.status.success() && text(&output.stdout).contains("2 imported"), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("line 2: warning: ")).count(), 2, "{said}");
    assert!(
        said.contains("unknown scope `nothings`") && said.contains("not counted by key") && !said.contains("line 1")
    );
}

#[tokio::test]
async fn a_page_has_as_many_keys_as_it_is_asked_for() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/things: any}");
    for _ in 0..3 {
        stage.redis.mint(json!({"business": "acme"}));
    }
    let listed = |arguments: &[&str]| {
        let list = gate.json(&[&["keys", "list", "--json"], arguments].concat());
        (list["keys"].as_array().map(Vec::len), list["total"].as_u64())
    };
    assert_eq!(listed(&["--per-page", "2"]), (Some(2), Some(3)));
    assert_eq!(listed(&["--per-page", "2", "--page", "2"]), (Some(1), Some(3)));
    assert_eq!(listed(&["--page", "2"]), (Some(0), Some(3)));
    assert_eq!(listed(&[]), (Some(3), Some(3)));
}

#[test]
fn without_a_users_name_the_audit_has_its_number() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = folder.path().join("keys.yaml");
    let yaml = whole(&format!("store: 'file:{}'\nroutes: {{/things: any}}", store.display()));
    let audited = |user: &str, login: &str| {
        let named = [("USER", user), ("LOGNAME", login), ("UPSTREAM_URL", "http://127.0.0.1:1")];
        let named = named.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let run = |arguments: &[&str]| {
            let output = on_config(&yaml, arguments, &named);
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        run(&["keys", "create", "--name", "n", "--business", "acme"]);
        let audit: Value = serde_json::from_str(&run(&["keys", "audit", "--json"])).expect("a document");
        audit["changes"][0]["actor"].as_str().expect("somebody").to_owned()
    };
    assert_eq!((audited("ann", ""), audited("", "bob")), ("ann".to_owned(), "bob".to_owned()));
    let number = audited("", "");
    assert!(number.strip_prefix("uid ").is_some_and(|uid| uid.parse::<u32>().is_ok()), "{number}");
}

/// The exit code, and what a command says on both of its outputs.
fn run(gate: &Gate, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let output = gate.command_reading(arguments, input);
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn works(gate: &Gate, arguments: &[&str]) -> String {
    let (code, said) = run(gate, arguments, "");
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    said
}

fn member<'a>(document: &'a Value, name: &str) -> &'a str {
    document[name].as_str().unwrap_or_else(|| panic!("{name} of {document}"))
}
