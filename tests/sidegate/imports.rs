//! What exists elsewhere is taken over: keys by their digests, and businesses, as JSON lines, on both stores.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{
    AnswerTo as _, Gate, Stage,
    cluster::{GATE_ACL, KEEPER_ACL, Server},
    gate::text,
    in_repository,
    redis::sha256,
    until,
};

const YAML: &str = "
limits:
  per-key: {by: key, windows: 60/1m}
  per-business: {by: business, windows: 600/1m}
plans: {default: {}, pro: {}}
routes:
  GET /orders: {scopes: orders:read, limits: [per-key, per-business]}
  POST /orders: orders:write
";

/// The same gate over each of the two stores.
fn gates() -> [(Stage, Gate); 2] {
    ["", "store: file:keys.yaml\n"].map(|store| {
        let stage = Stage::set();
        let gate = stage.gate(&format!("{store}{YAML}"));
        (stage, gate)
    })
}

fn key(name: &str, more: Value) -> Value {
    let mut line =
        json!({"sha256": sha256(&format!("key {name}")), "name": name, "business": "acme", "scopes": ["orders:read"]});
    crate::support::redis::merge(&mut line, more);
    line
}

fn imported(gate: &Gate, what: &str, options: &[&str], lines: &[Value]) -> Output {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    gate.command_reading(&[&[what, "import"], options].concat(), &lines)
}

/// The sum, after the exit code was looked at.
fn sum(output: &Output, code: i32) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    out.lines().last().unwrap_or_default().to_owned()
}

fn exported(gate: &Gate, what: &str) -> String {
    let output = gate.command(&[what, "export"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn changes(gate: &Gate) -> Vec<Value> {
    gate.json(&["keys", "audit", "--json"])["changes"].as_array().expect("a list").clone()
}

#[test]
fn a_rehearsed_import_says_what_would_be_written_and_writes_nothing() {
    for (_stage, gate) in gates() {
        assert_eq!(
            sum(&imported(&gate, "keys", &[], &[key("one", json!({"id": "k1"}))]), 0),
            "1 imported, 0 already there, 0 failed"
        );
        let before = (exported(&gate, "keys"), exported(&gate, "business"), changes(&gate).len());
        let lines = [
            key("one", json!({"id": "k1", "name": "other"})),
            key("two", json!({"id": "k2"})),
            key("two", json!({"id": "k2"})),
            key("three", json!({"id": "k2"})),
            key("four", json!({"scopes": ["orders:reed"]})),
        ];
        let output = imported(&gate, "keys", &["--dry-run"], &lines);
        assert_eq!(sum(&output, 1), "1 would be imported, 1 already there, 3 failed; nothing was written");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let told =
            r#"line 2: would be imported as {"business":"acme","id":"k2","name":"two","scopes":["orders:read"]}"#;
        assert!(out.contains(told), "{out}");
        for told in [
            "line 1: this key stands there already, as `k1` with another `name`",
            "line 4: the id `k2` belongs",
            "line 5: unknown scope `orders:reed`; did you mean `orders:read`",
        ] {
            assert!(err.contains(told), "no {told:?} in\n{err}");
        }
        let output = imported(&gate, "keys", &["--dry-run", "--update"], &lines[..1]);
        assert_eq!(
            sum(&output, 0),
            "0 would be imported, 1 would be updated, 0 already there, 0 failed; nothing was written"
        );
        assert!(text(&output.stdout).contains(r#"as k1: {"name":"one"} becomes {"name":"other"}"#), "{output:?}");

        let twice = [key("new", json!({})), key("new", json!({"name": "other"})), key("new", json!({"name": "other"}))];
        let output = imported(&gate, "keys", &["--dry-run", "--update"], &twice);
        assert_eq!(
            sum(&output, 0),
            "1 would be imported, 1 would be updated, 1 already there, 0 failed; nothing was written"
        );

        let businesses = [json!({"id": "acme", "plan": "pro"}), json!({"id": "acme", "plan": "pro"})];
        let output = imported(&gate, "business", &["--dry-run"], &businesses);
        assert_eq!(sum(&output, 0), "1 would be imported, 1 already there, 0 failed; nothing was written");
        assert!(text(&output.stdout).contains(r#"line 1: acme would be imported: {"plan":"pro"}"#), "{output:?}");
        assert_eq!((exported(&gate, "keys"), exported(&gate, "business"), changes(&gate).len()), before);
    }
}

#[test]
fn a_name_that_the_configuration_does_not_have_is_refused_as_by_create_unless_it_is_allowed() {
    for (_stage, gate) in gates() {
        let lines = [
            key("one", json!({"scopes": ["orders:reed"]})),
            key("two", json!({"limits": {"per-kye": "5/1m"}})),
            key("three", json!({"limits": {"per-business": "5/1m"}})),
        ];
        let output = imported(&gate, "keys", &[], &lines);
        assert_eq!(sum(&output, 1), "0 imported, 0 already there, 3 failed");
        let err = text(&output.stderr);
        for told in [
            "line 1: unknown scope `orders:reed`; did you mean `orders:read`",
            "line 2: there is no limit `per-kye`; did you mean `per-key`?\n",
            "line 3: the limit `per-business` is not counted by key",
            "`--allow-unknown` takes names that the configuration does not have",
        ] {
            assert!(err.contains(told), "no {told:?} in\n{err}");
        }
        let businesses =
            [json!({"id": "acme", "plan": "prof"}), json!({"id": "b2", "limits": {"per-busines": "5/1m"}})];
        let output = imported(&gate, "business", &[], &businesses);
        assert_eq!(sum(&output, 1), "0 imported, 0 already there, 2 failed");
        let err = text(&output.stderr);
        for told in [
            "line 1: there is no plan `prof`; did you mean `pro`?\n",
            "line 2: there is no limit `per-busines`; did you mean",
        ] {
            assert!(err.contains(told), "no {told:?} in\n{err}");
        }
        for (what, lines) in [("keys", &lines[..]), ("business", &businesses[..])] {
            let output = imported(&gate, what, &["--allow-unknown"], lines);
            assert!(text(&output.stderr).contains("line 1: warning: this has no effect: "), "{output:?}");
            assert!(sum(&output, 0).starts_with(&format!("{} imported", lines.len())), "{output:?}");
            // What stands there is not judged again.
            assert!(
                sum(&imported(&gate, what, &[], lines), 0)
                    .contains(&format!("{} already there, 0 failed", lines.len()))
            );
        }
    }
}

#[tokio::test]
async fn an_import_with_update_changes_what_stands_and_says_so_to_the_audit_once() {
    for (_stage, gate) in gates() {
        let first = key(
            "old key",
            json!({"id": "k1", "hint": "old", "expires_at": "2099-01-01T00:00:00Z", "limits": {"per-key": "9/1m"}}),
        );
        sum(&imported(&gate, "keys", &[], std::slice::from_ref(&first)), 0);
        let other = json!({"name": "other", "scopes": ["orders:write", "orders:read"],
            "limits": {"per-key": ["5/1s", "7/1m"]}, "allow_addresses": ["127.0.0.0/8"]});
        let mut second = key("old key", other);
        second["expires_at"] = Value::Null;
        let output = imported(&gate, "keys", &[], std::slice::from_ref(&second));
        assert!(text(&output.stderr).contains("; `--update` changes it"), "{output:?}");
        sum(&output, 1);
        let updates = |gate: &Gate| {
            changes(gate).into_iter().filter(|change| change["action"] == "key_updated").collect::<Vec<_>>()
        };
        for (updated, there) in [(1, 0), (0, 1)] {
            let output = imported(&gate, "keys", &["--update", "--actor", "ann"], std::slice::from_ref(&second));
            assert_eq!(sum(&output, 0), format!("0 imported, {updated} updated, {there} already there, 0 failed"));
            let said = updates(&gate);
            assert_eq!(said.len(), 1, "{said:?}");
            assert_eq!((&said[0]["actor"], &said[0]["subject"]), (&json!("ann"), &json!("k1")));
            assert_eq!((&said[0]["before"]["name"], &said[0]["after"]["name"]), (&json!("old key"), &json!("other")));
        }
        let shown = gate.json(&["keys", "show", "k1", "--json"]);
        assert_eq!((&shown["hint"], &shown["expires_at"]), (&json!("old"), &Value::Null), "what is left out stays");
        assert_eq!(
            (&shown["scopes"], &shown["limits"]),
            (&json!(["orders:write", "orders:read"]), &json!({"per-key": ["5/1s", "7/1m"]}))
        );
        assert_eq!(
            sum(&imported(&gate, "keys", &[], std::slice::from_ref(&second)), 0),
            "0 imported, 1 already there, 0 failed"
        );
        until("the change to act", || {
            (gate.json(&["keys", "show", "k1", "--json"])["allow_addresses"] == json!(["127.0.0.0/8"])).then_some(())
        });

        // What `keys update` does not do, an import does not either.
        for (more, told) in [
            (json!({"business": "b2"}), "with another `business`"),
            (json!({"revoked_at": "2026-01-01T00:00:00Z"}), "with another `revoked_at`"),
            (json!({"scopes": []}), "takes no key its last scope"),
            (json!({"scopes": ["orders:reed"]}), "did you mean `orders:read`"),
            (json!({"expires_at": "2020-01-01T00:00:00Z"}), "is not in the future"),
        ] {
            let output = imported(&gate, "keys", &["--update"], &[key("old key", more)]);
            sum(&output, 1);
            assert!(text(&output.stderr).contains(told), "no {told:?} in {output:?}");
        }
        assert_eq!(updates(&gate).len(), 1);
    }
}

#[test]
fn a_key_in_clear_and_the_digest_of_nothing_are_refused_and_not_repeated() {
    for (_stage, gate) in gates() {
        let with_end = |end: &str| key("n", json!({"sha256": sha256(&format!("s3cr3t{end}")), "hint": "s3cr3t"}));
        let in_clear = |member: &str| {
            let mut line = key("n", json!({"sha256": sha256("s3cr3t")}));
            line[member] = json!("s3cr3t");
            line
        };
        let mut lines = vec![with_end(""), with_end("\n"), with_end("\r\n")];
        lines.extend(["id", "name", "business", "user"].map(in_clear));
        lines.extend(["", "\n", "\r\n"].map(|nothing| key("n", json!({"sha256": sha256(nothing)}))));
        for option in [&[][..], &["--dry-run"]] {
            let output = imported(&gate, "keys", option, &lines);
            assert!(sum(&output, 1).contains("10 failed"), "{output:?}");
            let err = text(&output.stderr);
            assert_eq!(err.matches("hint: this is the whole key").count(), 3, "{err}");
            assert_eq!(err.matches("this is the key itself").count(), 4, "{err}");
            assert_eq!(err.matches("this is the digest of no key").count(), 3, "{err}");
            assert!(!err.contains("s3cr3t") && !text(&output.stdout).contains("s3cr3t"), "{output:?}");
        }
        assert_eq!(exported(&gate, "keys"), "");
        assert!(
            sum(
                &imported(
                    &gate,
                    "keys",
                    &[],
                    &[key("n", json!({"sha256": sha256("s3cr3t-and-more"), "hint": "s3cr3"}))]
                ),
                0
            )
            .starts_with('1')
        );
    }
}

#[test]
fn a_table_given_as_input_is_told_ten_times_and_once_what_is_wanted() {
    for (_stage, gate) in gates() {
        let rows: String = (0..40).map(|row| format!("customer-{row},org_{row},s3cr3t{row},orders-ro\n")).collect();
        for what in ["keys", "business"] {
            let output = gate.command_reading(&[what, "import"], &rows);
            assert_eq!(sum(&output, 1), "0 imported, 0 already there, 40 failed");
            let err = text(&output.stderr);
            assert_eq!((err.lines().count(), err.matches("this looks like a table").count()), (12, 1), "{err}");
            assert!(err.contains("\n30 more lines: no JSON object; write one line such as {"), "{err}");
            assert!(err.contains(&format!("`sidegate {what} import --help`")) && !err.contains("s3cr3t"), "{err}");
        }
        // Errors of other kinds are told beside them.
        let lines: Vec<Value> = (0..15)
            .map(|row| key(&row.to_string(), json!({"scopes": ["orders:reed"]})))
            .chain([json!({"name": "n"})])
            .collect();
        let output = imported(&gate, "keys", &[], &lines);
        let err = text(&output.stderr);
        assert!(
            err.contains("5 more lines: unknown scope `orders:reed`")
                && err.contains("line 16: missing field `sha256`"),
            "{err}"
        );
    }
}

#[tokio::test]
async fn businesses_are_carried_from_one_store_to_the_other_and_back() {
    let [(_redis_stage, redis), (_file_stage, file)] = gates();
    for change in [
        &["acme", "--plan", "pro", "--limit", "per-business=5/1s,7/1m"][..],
        &["b2", "--status", "suspended"],
        &["b3", "--plan", "pro", "--limit", "per-key=9/1m"],
    ] {
        let output = redis.command(&[&["business", "set"], change].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let lines = exported(&redis, "business");
    let expected = r#"{"id":"acme","limits":{"per-business":["5/1s","7/1m"]},"plan":"pro","status":"active"}"#;
    assert_eq!((lines.lines().count(), lines.lines().next()), (3, Some(expected)));
    for said in ["3 imported, 0 already there, 0 failed", "0 imported, 3 already there, 0 failed"] {
        assert_eq!(sum(&file.command_reading(&["business", "import"], &lines), 0), said);
        assert_eq!(changes(&file).len(), 3, "what is so already is no change");
    }
    assert!(changes(&file).iter().all(|change| change["action"] == "business_changed"));
    assert_eq!(exported(&file, "business"), lines);

    let other =
        [json!({"id": "acme", "plan": null, "limits": {"per-key": "3/1m"}}), json!({"id": "b2", "status": "active"})];
    let output = imported(&file, "business", &[], &other);
    assert_eq!(sum(&output, 1), "0 imported, 0 already there, 2 failed");
    assert!(text(&output.stderr).contains("with another `status`; nothing was changed; `--update` changes it"));
    for said in ["0 imported, 2 updated, 0 already there, 0 failed", "0 imported, 0 updated, 2 already there, 0 failed"]
    {
        assert_eq!(sum(&imported(&file, "business", &["--update"], &other), 0), said);
    }
    let shown = file.json(&["business", "show", "acme", "--json"]);
    assert_eq!((&shown["plan"], &shown["limits"]), (&Value::Null, &json!({"per-key": ["3/1m"]})));
    assert_eq!(changes(&file).len(), 5);
    assert_eq!(
        sum(&file.command_reading(&["business", "import", "--update"], &lines), 0),
        "0 imported, 2 updated, 1 already there, 0 failed"
    );
    assert_eq!(exported(&file, "business"), lines);
}

#[tokio::test]
async fn an_imported_suspension_acts_and_wrong_lines_of_businesses_are_told() {
    for (_stage, gate) in gates() {
        let key = gate.keys_create(&["--name", "n", "--business", "acme", "--scopes", "orders:read"]);
        let key = key["key"].as_str().expect("a key is text");
        sum(&imported(&gate, "business", &[], &[json!({"id": "acme", "status": "suspended"})]), 0);
        let mut status = 0;
        for _ in 0..500 {
            status = gate.get("/orders").bearer_auth(key).answer().await.status;
            if status == 403 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(status, 403);
        for (line, told) in [
            (r#"{"id": "Müller GmbH", "plan": "pro"}"#, "is no id of a business"),
            (r#"{"id": "b2"}"#, "there is nothing to change"),
            (r#"{"id": "b2", "plans": "pro"}"#, "unknown field `plans`"),
            (r#"{"id": "b2", "status": "closed"}"#, "write `active` or `suspended`"),
            (r#"{"id": "b2", "limits": {"per-key": "many"}}"#, "limits.per-key: "),
            (r#"{"id": "b2", "limits": {"per-key": "1/1m", "per-key": "2/1m"}}"#, "stands twice"),
        ] {
            let output = gate.command_reading(&["business", "import"], line);
            sum(&output, 1);
            assert!(text(&output.stderr).contains(told), "no {told:?} in {output:?}");
        }
    }
}

#[test]
fn a_business_that_lets_nobody_in_is_exported_as_suspended() {
    let stage = Stage::set();
    let gate = stage.gate(YAML);
    stage.redis.set_business("acme", json!({"plan": "pro", "status": "closed"}));
    stage.redis.set_business("b2", json!({"limits": {"per-key": "many"}}));
    let output = gate.command(&["business", "export"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        out,
        "{\"id\":\"acme\",\"plan\":\"pro\",\"status\":\"suspended\"}\n{\"id\":\"b2\",\"status\":\"suspended\"}\n"
    );
    assert!(err.contains("\"closed\"") && err.contains("b2 cannot be read"), "{err}");
}

#[test]
fn the_login_that_keeps_keys_suffices_for_every_import() {
    let stage = Stage::set();
    let redis = Server::plain(&[]);
    redis.user("gate", &format!(">gates-secret {GATE_ACL}"));
    redis.user("keeper", &format!(">keepers-secret {KEEPER_ACL}"));
    redis.user("default", "off");
    let store = format!(
        "store: {{redis: 'redis://127.0.0.1:{}', username: gate, password: gates-secret, deadline: 10s}}",
        redis.port
    );
    let management = "management: {path: /v1/keys, session: 'http://127.0.0.1:9/', roles: [admin], \
        redis: {username: keeper, password: keepers-secret}}";
    let gate = stage.gate(&format!("{store}\n{YAML}{management}\n"));
    for name in ["one", "other"] {
        for options in [&["--dry-run", "--update"][..], &["--update"]] {
            sum(&imported(&gate, "keys", options, &[key("one", json!({"id": "k1", "name": name}))]), 0);
            let limits = json!({"id": "acme", "limits": {"per-key": format!("{}/1m", name.len())}});
            sum(&imported(&gate, "business", options, &[limits]), 0);
        }
    }
    assert!(exported(&gate, "keys").contains("\"other\"") && exported(&gate, "business").contains("5/1m"));
}

/// The README's recipe, run as it stands there.
#[test]
fn the_readmes_recipe_makes_lines_of_a_table_that_both_imports_take() {
    let readme = std::fs::read_to_string(in_repository("README.md")).expect("the README can be read");
    let start = readme.find("import csv, hashlib").expect("README.md has the recipe");
    let recipe = &readme[start..start + readme[start..].find("```").expect("the recipe ends")];
    let (_stage, gate) = {
        let [redis, _] = gates();
        redis
    };
    let table = "consumer,custom_id,key,groups,plan,created_at\n\
        Crm,acme,0123456789abcdef,\"orders-ro,orders-rw\",pro,1600000000\n\
        Old,acme,fedcba9876543210,orders-ro,pro,1600000000\n\
        Empty,b2,,orders-ro,pro,1600000000\n";
    std::fs::write(gate.folder().join("consumers.csv"), table).expect("the folder is writable");
    std::fs::write(gate.folder().join("recipe.py"), recipe).expect("the folder is writable");
    let python = std::process::Command::new("python3")
        .arg("recipe.py")
        .current_dir(gate.folder())
        .output()
        .expect("python3 is installed");
    assert!(python.status.success(), "{}", text(&python.stderr));
    let output = gate.command(&["business", "import", "businesses.jsonl"]);
    assert_eq!(sum(&output, 0), "2 imported, 0 already there, 0 failed");
    let output = gate.command(&["keys", "import", "keys.jsonl"]);
    assert_eq!(sum(&output, 1), "2 imported, 0 already there, 1 failed");
    assert!(text(&output.stderr).contains("line 3: sha256: this is the digest of no key"), "{output:?}");
    assert!(exported(&gate, "keys").contains(r#""hint":"01234""#));
}
