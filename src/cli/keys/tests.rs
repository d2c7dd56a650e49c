//! The commands as a person and a script see them, against the embedded store.

use std::path::Path;

use clap::Parser;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::words::printable;
use super::*;
use crate::keys::rules::{Required, Rules};
use crate::keys::{Alphabet, Digest, Format, FormatAction, Formats};
use crate::store::audit::{Actor, Origin};
use crate::store::file::FileStore;
use crate::store::keyring::Keyring;
use crate::store::registry::Registry;

const NOW: u64 = 1_774_276_200_000;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    keys: KeysArgs,
}

struct Shell {
    folder: TempDir,
    setting: KeysSetting,
}

struct Output {
    code: u8,
    out: String,
    err: String,
}

fn shell(formats: Formats, require: &[Required]) -> Shell {
    let folder = TempDir::new().expect("a folder");
    let store = FileStore::open(&folder.path().join("keys.yaml")).expect("the store opens");
    let known_scopes = ["contacts:read", "contacts:write"].map(str::to_owned).to_vec();
    let rules = Rules { require: require.to_vec(), known_scopes, ..Rules::default() };
    let keyring = Keyring::new(formats, rules, Registry::File { store });
    Shell { folder, setting: KeysSetting { keyring, policy: None, store: None } }
}

fn standard() -> Shell {
    shell(Formats::default(), &[])
}

impl Shell {
    async fn try_to(&self, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
        let line = Line::try_parse_from(std::iter::once("keys").chain(arguments.iter().copied()))?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let actor = Actor { name: "tester".to_owned(), from: Origin::CommandLine };
        let mut session = Session { input: &mut input.as_bytes(), out: &mut out, err: &mut err, actor, now_ms: NOW };
        let code = perform(line.keys, &self.setting, &mut session).await?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ok(Output { code, out: text(out), err: text(err) })
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Output {
        self.try_to(arguments, input).await.expect("the command ends well")
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(arguments, "").await.out).expect("one JSON document")
    }

    fn file(&self) -> String {
        let path: &Path = self.folder.path();
        std::fs::read_to_string(path.join("keys.yaml")).unwrap_or_default()
    }
}

fn import_line(key: &str, more: &str) -> String {
    format!(r#"{{"sha256":"{}","name":"the {key}","business":"acme"{more}}}"#, Digest::of(key).to_hex()) + "\n"
}

#[tokio::test]
async fn create_prints_the_document_of_the_contract_and_stores_no_key() {
    let shell = standard();
    let arguments = ["create", "--name", "job", "--business", "acme", "--user", "u_42"];
    let more = ["--scopes", "contacts:read,contacts:*", "--expires", "24h", "--json"];
    let output = shell.run(&[&arguments[..], &more[..]].concat(), "").await;
    let created: Value = serde_json::from_str(&output.out).expect("one JSON document");
    let key = created["key"].as_str().expect("a key").to_owned();
    let id = created["id"].as_str().expect("an id").to_owned();
    assert_eq!(uuid::Uuid::parse_str(&id).map(|id| id.get_version_num()), Ok(4));
    let expected = json!({
        "id": id, "key": key, "hint": key[..11], "name": "job", "business": "acme", "user": "u_42",
        "scopes": ["contacts:read", "contacts:*"],
        "created_at": "2026-03-23T14:30:00Z", "expires_at": "2026-03-24T14:30:00Z",
    });
    assert_eq!(created, expected);
    let order =
        ["\"id\"", "\"key\"", "\"hint\"", "\"name\"", "\"business\"", "\"user\"", "\"scopes\"", "\"created_at\""];
    assert!(order.map(|member| output.out.find(member)).is_sorted());
    assert!(!shell.file().contains(&key) && shell.file().contains(&Digest::of(&key).to_hex()));
}

#[tokio::test]
async fn a_person_is_told_that_the_key_is_shown_once() {
    let shell = standard();
    let output = shell.run(&["create", "--name", "job", "--user", "u_42"], "").await;
    assert!(
        output.out.contains("shown this once") && output.out.contains("every business that u_42 owns"),
        "{}",
        output.out
    );
    assert!(output.out.contains("expires   never"), "{}", output.out);
    assert_eq!(shell.json(&["list", "--json"]).await["keys"][0]["business"], Value::Null);
}

#[tokio::test]
async fn a_new_key_that_is_not_known_at_once_or_opens_nothing_says_so_beside_the_document() {
    let mut shell = standard();
    for (routes, warned) in [("/a: contacts:read, /b: public", true), ("/a: contacts:read, /b: any", false)] {
        let yaml = format!("listen: 127.0.0.1:1\nupstream: http://h\nstore: file:keys.yaml\nroutes: {{{routes}}}\n");
        let settings = crate::config::load::from_text(&yaml, Path::new("."), "gate.yaml").expect("it is good");
        shell.setting.policy = Some(settings.policy);
        for (scopes, warned) in [(&[][..], warned), (&["--scopes", "contacts:read"], false)] {
            let output =
                shell.run(&[&["create", "--name", "job", "--business", "acme", "--json"], scopes].concat(), "").await;
            serde_json::from_str::<Value>(&output.out).expect("one JSON document");
            assert!(output.err.contains("within a second"), "{}", output.err);
            assert_eq!(output.err.contains("the key has no scopes"), warned, "{routes}: {}", output.err);
        }
    }
}

#[tokio::test]
async fn a_broken_rule_is_exit_code_2_and_creates_nothing() {
    let shell = shell(Formats::default(), &[Required::Business, Required::Scopes]);
    for (arguments, wanted) in [
        (&["--user", "u"][..], "every key must have a business"),
        (&["--business", "acme"], "at least one scope"),
        (&["--business", "acme", "--scopes", "contact:read"], "did you mean `contacts:read`"),
        (&["--business", "acme", "--scopes", "*", "--expires", "2020-01-01T00:00:00Z"], "not in the future"),
        (&["--business", "acme", "--scopes", "*", "--format", "kc_"], "no format has the prefix `kc_`"),
    ] {
        let output = shell.run(&[&["create", "--name", "job"], arguments].concat(), "").await;
        assert_eq!((output.code, output.out.as_str()), (2, ""));
        assert!(output.err.contains(wanted), "{}", output.err);
    }
    assert_eq!(shell.file(), "");
}

#[tokio::test]
async fn the_format_is_picked_by_its_prefix() {
    let format = |prefix: &str| Format::new(prefix, Some(44..=44), Alphabet::Base64Url, true, FormatAction::Accept);
    let formats = [format("kc_live_"), format("kc_test_")].into_iter().collect::<Result<_, _>>();
    let shell = shell(Formats::new(formats.expect("good formats")), &[]);
    let key = shell.json(&["create", "--name", "n", "--user", "u", "--format", "kc_test_", "--json"]).await;
    assert!(key["key"].as_str().is_some_and(|key| key.starts_with("kc_test_") && key.len() == 52));
    assert_eq!(key["hint"].as_str().map(str::len), Some(16));
}

#[tokio::test]
async fn list_is_a_table_or_one_document() {
    let shell = standard();
    assert!(shell.run(&["list"], "").await.out.starts_with("No keys"));
    for (name, business) in [("one", "acme"), ("two", "b2")] {
        shell.run(&["create", "--name", name, "--business", business], "").await;
    }
    let lines = import_line("old", r#","id":"k1","expires_at":"2026-03-23T14:30:00Z""#)
        + &import_line("gone", r#","id":"k2","revoked_at":null"#);
    assert_eq!(shell.run(&["import"], &lines).await.code, 0);
    let list = shell.json(&["list", "--json"]).await;
    assert_eq!((list["total"].as_u64(), list["keys"].as_array().map(Vec::len)), (Some(4), Some(4)));
    let list = shell.json(&["list", "--business", "b2", "--json"]).await;
    assert_eq!((list["total"].as_u64(), list["keys"][0]["name"].as_str()), (Some(1), Some("two")));
    let table = shell.run(&["list", "--business", "acme"], "").await.out;
    for state in ["active", "expired", "revoked"] {
        assert_eq!(table.lines().filter(|line| line.contains(state)).count(), 1, "{table}");
    }
}

#[tokio::test]
async fn a_key_is_revoked_by_id_by_hint_and_from_standard_input() {
    let shell = standard();
    for name in ["id", "hint", "-"] {
        let key = shell.json(&["create", "--name", "n", "--user", "u", "--json"]).await;
        let text = |member: &str| key[member].as_str().expect("a text").to_owned();
        let argument = if name == "-" { "-".to_owned() } else { text(name) };
        let output = shell.run(&["revoke", &argument], &format!("{}\n", text("key"))).await;
        assert_eq!(output.code, 0);
        assert!(output.out.starts_with(&format!("Revoked {}", text("hint"))), "{}", output.out);
        let again = shell.run(&["revoke", "--json", &text("id")], "").await;
        let again: Value = serde_json::from_str(&again.out).expect("one JSON document");
        assert_eq!(again["revoked_at"], json!("2026-03-23T14:30:00Z"));
        assert!(shell.run(&["revoke", &text("id")], "").await.out.contains("was revoked already"));
    }
}

#[tokio::test]
async fn a_key_as_an_argument_is_refused_and_not_repeated() {
    let shell = standard();
    let key = shell.json(&["create", "--name", "n", "--user", "u", "--json"]).await;
    let key = key["key"].as_str().expect("a key");
    let output = shell.run(&["revoke", key], "").await;
    assert_eq!(output.code, 2);
    assert!(output.err.contains("looks like a whole key") && !output.err.contains(key), "{}", output.err);
    let output = shell.run(&["create", "--name", "n", "--user", "u", "--format", key], "").await;
    assert!(output.code == 2 && !output.err.contains(key), "{}", output.err);
    assert_eq!(shell.json(&["list", "--json"]).await["keys"][0]["revoked_at"], Value::Null);
}

#[tokio::test]
async fn an_unknown_key_is_an_error() {
    let shell = standard();
    let unknown = shell.try_to(&["revoke", "k1"], "").await.map(|_| ()).map_err(|error| error.to_string());
    assert!(unknown.is_err_and(|text| text.starts_with("no key has this id or hint")));
    assert!(shell.try_to(&["revoke", "-"], "unknown").await.is_err());
    assert_eq!(shell.run(&["revoke", "-"], "two words").await.code, 2);
    assert_eq!(shell.run(&["revoke", "-"], "").await.code, 2);
}

#[tokio::test]
async fn import_goes_on_after_a_bad_line_and_is_idempotent() {
    let shell = standard();
    let bad = [
        "nonsense\n".to_owned(),
        "\u{fffd}\n".to_owned(),
        format!("\"sg_{}\"\n", "k".repeat(43)),
        "{\"sha256\":\"12\",\"name\":\"n\",\"business\":\"acme\"}\n".to_owned(),
        import_line("typo", r#","expire_at":"2026-03-23T14:30:00Z""#),
        import_line("twice", r#","scopes":["a"],"scopes":["*"]"#),
        import_line("expiry", r#","expires_at":"soon""#),
        import_line("hint", r#","hint":"sg_123456789""#),
        import_line("other", r#","id":"k1""#),
    ];
    let good = import_line("one", r#","id":"k1","scopes":["contacts:read"]"#) + "\n" + &import_line("two", "");
    let lines = good.clone() + &bad.concat() + &import_line("three", "");
    for (imported, already_there) in [(3, 0), (0, 3)] {
        let output = shell.run(&["import"], &lines).await;
        assert_eq!(output.code, 1);
        let tally = format!("{imported} imported, {already_there} already there, {} failed\n", bad.len());
        assert!(output.out.ends_with(&tally), "{}{}", output.out, output.err);
        assert_eq!(output.err.lines().count(), bad.len(), "{}", output.err);
        assert!(!output.err.contains("kkk"), "{}", output.err);
    }
    assert_eq!(shell.run(&["import"], &good).await.code, 0);
    let path = shell.folder.path().join("lines");
    std::fs::write(&path, &good).expect("the lines are written");
    assert_eq!(shell.run(&["import", path.to_str().expect("a path")], "").await.code, 0);
}

#[tokio::test]
async fn what_has_no_effect_is_told_at_import_and_marked_when_shown() {
    let mut shell = standard();
    shell.setting.keyring.rules.known_limits = vec![("per-key".to_owned(), true), ("all".to_owned(), false)];
    let more = r#","id":"k1","scopes":["contact:read","contacts:read"],"limits":{"per-key":"5/1m","per-kye":"5/1m","all":"5/1m"}"#;
    assert_eq!(shell.run(&["import"], &import_line("one", more)).await.code, 1);
    let output = shell.run(&["import", "--allow-unknown"], &import_line("one", more)).await;
    assert_eq!((output.code, output.err.lines().count()), (0, 3), "{}", output.err);
    for told in [
        "line 1: warning: this has no effect: unknown scope `contact:read`; did you mean `contacts:read`?",
        "line 1: warning: this has no effect: there is no limit `per-kye`; did you mean `per-key`?",
        "line 1: warning: this has no effect: the limit `all` is not counted by key",
    ] {
        assert!(output.err.contains(told), "no {told:?} in\n{}", output.err);
    }
    let shown = shell.run(&["show", "k1"], "").await.out;
    let limits = "all 5/1m (no effect: not counted by key); per-key 5/1m; per-kye 5/1m (no such limit)\n";
    assert!(shown.contains(limits), "{shown}");
}

#[tokio::test]
async fn what_a_key_got_of_its_own_stands_in_what_create_prints() {
    let mut shell = standard();
    shell.setting.keyring.rules.known_limits = vec![("per-key".to_owned(), true)];
    let create = ["create", "--name", "n", "--user", "u", "--limit", "per-key=3/1s,9/1m"];
    let addresses = ["--allow-addresses", "10.0.0.0/8,192.0.2.7", "--json"];
    let created = shell.json(&[&create[..], &addresses].concat()).await;
    assert_eq!(created["limits"], json!({"per-key": ["3/1s", "9/1m"]}));
    assert_eq!(created["allow_addresses"], json!(["10.0.0.0/8", "192.0.2.7/32"]));
    for (more, wanted) in [
        (["--limit", "per-key=4/1s"], "the limit `per-key` is given twice"),
        (["--allow-addresses", "10.0.0.1/8"], "write `10.0.0.0/8`, or the address alone"),
    ] {
        let output = shell.run(&[&create[..], &more].concat(), "").await;
        assert!(output.code == 2 && output.err.contains(wanted), "{}", output.err);
    }
}

#[tokio::test]
async fn a_list_that_finds_nothing_does_not_say_that_there_are_no_keys() {
    let shell = standard();
    shell.run(&["create", "--name", "n", "--user", "u"], "").await;
    let output = shell.run(&["list", "--older-than", "1d"], "").await.out;
    assert!(output.starts_with("No key matches."), "{output}");
}

#[tokio::test]
async fn an_import_tells_what_new_keys_would_have_to_have() {
    let shell = shell(Formats::default(), &[Required::Expiry, Required::User]);
    let lines = import_line("one", r#","user":"u""#)
        + &import_line("two", r#","user":"u","expires_at":"2027-01-01T00:00:00Z""#);
    // As Windows writes it.
    let output = shell.run(&["import"], &format!("\u{feff}{lines}")).await;
    assert_eq!(
        (output.code, output.err.as_str()),
        (0, "line 1: warning: every key must have an expiry here; give one\n")
    );
}

#[tokio::test]
async fn an_import_tells_that_keys_of_another_form_are_refused() {
    let format = Format::new("kc_live_", Some(44..=44), Alphabet::Base64Url, false, FormatAction::Accept)
        .expect("a good format");
    let shell = shell(Formats::new(vec![format]), &[]);
    let hinted = |name: &str, hint: &str| import_line(name, &format!(r#","hint":"{hint}""#));
    let output = shell.run(&["import"], &(hinted("one", "kc_live_12345678") + &hinted("two", "old_1234"))).await;
    assert_eq!((output.code, output.err.lines().count()), (0, 1), "{}", output.err);
    assert!(
        output.err.starts_with("line 2: warning: the hint `old_1234` begins as no key here does"),
        "{}",
        output.err
    );
    let output = shell.run(&["import"], &import_line("three", "")).await;
    assert!(output.code == 0 && output.err.starts_with("note: keys that have none of the forms"), "{}", output.err);
}

#[test]
fn a_terminal_gets_no_control_characters() {
    assert_eq!(printable("a\u{1b}[2Jb\nü"), "a\\u{1b}[2Jb\\nü");
}
