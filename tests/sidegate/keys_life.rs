//! A key's whole life as people live it: by the command line, on both stores, before a gate that runs.

mod shapes;

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{AnswerTo as _, Gate, PATIENCE, Stage, gate::text, load::Load, redis::sha256, until};

const YAML: &str = "
keys: {require: [scopes]}
limits:
  per-key: {by: key, windows: 2/1d}
  per-business: {by: business, windows: 1000/1d}
plans: {default: {}, free: {api: false}, pro: {}}
routes:
  GET /contacts/**: {scopes: contacts:read, limits: [per-business]}
  POST /contacts/**: contacts:write
  /webhook: voice-agents:webhook
  /few: {any: true, limits: [per-key]}
  /any: any
  /things: any
management: {path: /v1/keys, session: 'http://127.0.0.1:9/', roles: [admin], max_active_keys: 10}
";
const FILE: &str = "store: file:keys.yaml\n";

/// The same gate over each of the two stores.
struct Yard {
    gate: Gate,
    stage: Stage,
}

fn yards() -> [Yard; 2] {
    ["", FILE].map(|store| {
        let stage = Stage::set();
        Yard { gate: stage.gate(&format!("{store}{YAML}")), stage }
    })
}

fn redis_yard() -> Yard {
    let [redis, _] = yards();
    redis
}

impl Yard {
    /// A new key of `acme` that may read contacts.
    fn key(&self, more: &[&str]) -> Value {
        let arguments = ["--name", "n", "--business", "acme", "--scopes", "contacts:read"];
        self.gate.keys_create(&[&arguments[..], more].concat())
    }

    /// The exit code and what is said on standard error.
    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.gate.command(arguments);
        (output.status.code(), text(&output.stderr))
    }

    fn works(&self, arguments: &[&str]) -> String {
        let output = self.gate.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    async fn status(&self, path: &str, key: &Value) -> u16 {
        self.gate.get(path).bearer_auth(member(key, "key")).answer().await.status
    }

    /// What Redis decides acts on the next request; a file's gate looks once in a second.
    async fn becomes(&self, path: &str, key: &Value, status: u16) {
        if self.is_redis() {
            assert_eq!(self.status(path, key).await, status, "{path}");
        } else {
            self.eventually(path, key, status).await;
        }
    }

    async fn eventually(&self, path: &str, key: &Value, status: u16) {
        let deadline = Instant::now() + PATIENCE;
        while self.status(path, key).await != status {
            assert!(Instant::now() < deadline, "{path} never answers {status}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_redis(&self) -> bool {
        !self.stage.redis.ask::<Vec<String>>(&["KEYS", "*"]).is_empty()
    }
}

fn member<'a>(key: &'a Value, name: &str) -> &'a str {
    key[name].as_str().unwrap_or_else(|| panic!("{name} of {key}"))
}

#[tokio::test]
async fn s3_a_key_needs_a_scope_that_there_is_and_may_do_just_that() {
    for yard in yards() {
        let create = ["keys", "create", "--name", "n", "--business", "acme"];
        let (code, said) = yard.fails(&create);
        assert!(code == Some(2) && said.contains("at least one scope"), "{said}");
        let (code, said) = yard.fails(&[&create[..], &["--scopes", "voice-agent:webhook"]].concat());
        assert!(code == Some(2) && said.contains("did you mean `voice-agents:webhook`?"), "{said}");
        let key = yard.gate.keys_create(&["--name", "n", "--business", "acme", "--scopes", "voice-agents:webhook"]);
        yard.becomes("/webhook", &key, 200).await;
        assert_eq!((yard.status("/contacts", &key).await, yard.status("/any", &key).await), (403, 200));
        let id = member(&key, "id");
        let (code, said) = yard.fails(&["keys", "update", id, "--scopes", "contact:read"]);
        assert!(code == Some(2) && said.contains("did you mean `contacts:read`?"), "{said}");
        yard.works(&["keys", "update", id, "--scopes", "contacts:read"]);
        yard.becomes("/contacts", &key, 200).await;
        assert_eq!(yard.status("/webhook", &key).await, 403);
    }
}

#[tokio::test]
async fn s4_name_and_end_change_at_any_time_and_what_is_deleted_is_gone() {
    for yard in yards() {
        let key = yard.key(&[]);
        let (id, secret) = (member(&key, "id"), member(&key, "key"));
        let hint = member(&key, "hint");
        let updated = yard.gate.json(&["keys", "update", hint, "--name", "other", "--expires", "90d", "--json"]);
        assert_eq!((updated["name"].as_str(), updated["id"].as_str()), (Some("other"), Some(id)));
        assert!(updated["expires_at"].is_string());
        let updated = yard.gate.json(&["keys", "update", id, "--expires", "never", "--json"]);
        assert_eq!(updated["expires_at"], Value::Null);
        yard.becomes("/contacts", &key, 200).await;
        let (code, said) = yard.fails(&["keys", "update", id, "--expires", "2020-01-01T00:00:00Z"]);
        assert!(code == Some(2) && said.contains("not in the future"), "{said}");
        yard.works(&["keys", "update", id, "--expires", "1s"]);
        until("the key to end", || {
            let shown = yard.works(&["keys", "show", id]);
            assert!(!shown.contains(secret) && !shown.contains(&sha256(secret)), "{shown}");
            shown.contains("expired").then_some(())
        });
        yard.becomes("/contacts", &key, 401).await;
        yard.works(&["keys", "update", id, "--expires", "1h"]);
        yard.becomes("/contacts", &key, 200).await;
        yard.works(&["keys", "delete", id]);
        yard.becomes("/contacts", &key, 401).await;
        let list = yard.gate.json(&["keys", "list", "--json"]);
        assert_eq!((list["total"].as_u64(), yard.fails(&["keys", "show", id]).0), (Some(0), Some(1)));
        assert_eq!(yard.stage.redis.ask::<Vec<String>>(&["KEYS", "sg:*key*"]), Vec::<String>::new());
        assert_eq!(yard.stage.redis.ask::<Vec<String>>(&["KEYS", "sg:at:*"]), Vec::<String>::new());
        assert_eq!(yard.stage.redis.ask::<Vec<String>>(&["KEYS", "sg:id:*"]), Vec::<String>::new());
    }
}

#[tokio::test]
async fn c2_of_eleven_keys_created_at_once_ten_are() {
    for yard in yards() {
        let create = ["keys", "create", "--name", "n", "--business", "acme", "--scopes", "*", "--json"];
        let made: Vec<_> = thread::scope(|scope| {
            let started: Vec<_> = (0..11).map(|_| scope.spawn(|| yard.gate.command(&create))).collect();
            started.into_iter().map(|created| created.join().expect("it does not panic")).collect()
        });
        let refused: Vec<_> =
            made.iter().filter(|made| !made.status.success()).map(|made| text(&made.stderr)).collect();
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].contains("acme has 10 active keys already"), "{refused:?}");
        assert_eq!(yard.gate.json(&["keys", "list", "--json"])["total"], 10);
        if yard.is_redis() {
            assert_eq!(yard.stage.redis.ask::<Vec<String>>(&["KEYS", "sg:id:*"]).len(), 10);
        }
        // Another business has its own ten; what ends or is succeeded makes room.
        yard.works(&["keys", "create", "--name", "n", "--business", "b2", "--scopes", "*"]);
        let keys: Vec<Value> = made.iter().filter_map(|made| serde_json::from_slice(&made.stdout).ok()).collect();
        yard.works(&["keys", "rotate", member(&keys[0], "id"), "--overlap", "1h"]);
        assert_eq!(yard.fails(&create).0, Some(1));
        yard.works(&["keys", "revoke", member(&keys[1], "id")]);
        yard.works(&create);
        assert_eq!(yard.fails(&create).0, Some(1));
        yard.works(&["keys", "update", member(&keys[2], "id"), "--expires", "1s"]);
        until("room", || yard.gate.command(&create).status.success().then_some(()));
        let (code, said) = yard.fails(&["keys", "update", member(&keys[2], "id"), "--expires", "1h"]);
        assert!(code == Some(1) && said.contains("10 active keys"), "a key that comes back is one more: {said}");
        let (_, said) = yard.fails(&["keys", "update", member(&keys[0], "id"), "--expires", "never"]);
        assert!(said.contains("its end can only come sooner"), "{said}");
    }
}

#[tokio::test]
async fn c4_the_first_request_after_the_command_returned_is_refused_on_every_gate() {
    let yard = redis_yard();
    let other = yard.stage.gate(YAML);
    for _ in 0..3 {
        let key = yard.key(&[]);
        let secret = member(&key, "key");
        assert_eq!(yard.status("/contacts", &key).await, 200);
        assert_eq!(other.get("/contacts").bearer_auth(secret).answer().await.status, 200);
        yard.works(&["keys", "revoke", member(&key, "id")]);
        assert_eq!(other.get("/contacts").bearer_auth(secret).answer().await.status, 401);
        assert_eq!(yard.status("/contacts", &key).await, 401);
    }
}

#[tokio::test]
async fn g6_a_rotated_key_goes_on_for_its_overlap_and_its_successor_has_the_same_rights() {
    for yard in yards() {
        let old = yard.key(&["--user", "u_1", "--limit", "per-key=1/1d"]);
        let id = member(&old, "id");
        let new = yard.gate.json(&["keys", "rotate", id, "--overlap", "5s", "--json"]);
        for same in ["name", "business", "user", "scopes", "expires_at"] {
            assert_eq!(new[same], old[same], "{same}");
        }
        assert_eq!(new["replaces"]["id"].as_str(), Some(id));
        assert_ne!(new["id"].as_str(), Some(id));
        yard.becomes("/contacts", &new, 200).await;
        yard.becomes("/few", &new, 200).await;
        assert_eq!(yard.status("/few", &new).await, 429, "its own limit goes with it");
        let (code, said) = yard.fails(&["keys", "rotate", id]);
        assert!(code == Some(2) && said.contains(member(&new, "id")), "{said}");
        loop {
            let before = yard.stage.redis.now_ms();
            let status = yard.status("/any", &old).await;
            if status == 401 {
                assert!(yard.stage.redis.now_ms() >= end_of(&new), "it ended early");
                break;
            }
            assert!(status == 200 && before < end_of(&new), "{status}");
            assert_eq!(yard.status("/any", &new).await, 200);
        }
        let last = yard.gate.json(&["keys", "rotate", member(&new, "id"), "--json"]);
        yard.becomes("/contacts", &new, 401).await;
        yard.becomes("/contacts", &last, 200).await;
        let (code, said) = yard.fails(&["keys", "rotate", member(&last, "id"), "--overlap", "31d"]);
        assert!(code == Some(2) && said.contains("30 days at the most"), "{said}");
    }
}

fn end_of(rotated: &Value) -> u64 {
    let end: jiff::Timestamp = member(&rotated["replaces"], "expires_at").parse().expect("RFC 3339");
    u64::try_from(end.as_millisecond()).expect("after 1970")
}

#[tokio::test]
async fn g6_no_request_is_refused_while_a_key_is_rotated_under_load() {
    let Yard { gate, stage: _stage } = redis_yard();
    let old = gate.keys_create(&["--name", "n", "--business", "acme", "--scopes", "*"]);
    let before = Load::start(&gate, member(&old, "key"), 4);
    before.passed(50).await;
    let new = gate.json(&["keys", "rotate", member(&old, "id"), "--overlap", "1h", "--json"]);
    let after = Load::start(&gate, member(&new, "key"), 4);
    after.passed(50).await;
    before.passed(100).await;
    let answers = [before.end(), after.end()].concat();
    assert!(answers.iter().all(|one| one.status == 200), "{answers:?}");
}

#[tokio::test]
async fn what_is_exported_from_one_store_is_imported_into_the_other() {
    let [redis, file] = yards();
    let key = redis.key(&["--allow-addresses", "127.0.0.0/8,::1", "--limit", "per-key=9/1d", "--expires", "90d"]);
    let revoked = redis.key(&[]);
    redis.works(&["keys", "revoke", member(&revoked, "id")]);
    redis.works(&["keys", "rotate", member(&redis.key(&[]), "id"), "--overlap", "1h"]);
    let lines = redis.works(&["keys", "export"]);
    assert_eq!(lines.lines().count(), 4);
    for said in ["4 imported, 0 already there, 0 failed", "0 imported, 4 already there, 0 failed"] {
        let output = file.gate.command_reading(&["keys", "import"], &lines);
        assert!(text(&output.stdout).contains(said), "{}{}", text(&output.stdout), text(&output.stderr));
    }
    let sorted = |lines: &str| {
        let mut lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&file.works(&["keys", "export"])), sorted(&lines));
    file.becomes("/contacts", &key, 200).await;
    assert_eq!(file.status("/contacts", &revoked).await, 401);
}

#[test]
fn a_business_without_a_key_is_told_of_where_it_is_changed() {
    let yard = redis_yard();
    yard.key(&[]);
    for (business, told) in [("acme", false), ("acmee", true)] {
        let output = yard.gate.command(&["business", "set", business, "--status", "suspended"]);
        let said = text(&output.stderr);
        assert_eq!(
            (output.status.code(), said.contains("keys 0: no key is bound to `acmee`")),
            (Some(0), told),
            "{said}"
        );
    }
}

#[tokio::test]
async fn b6_verify_and_usage_tell_without_spending_and_a_limit_can_be_given_back() {
    let yard = redis_yard();
    let key = yard.key(&[]);
    let verify = |key: &str| {
        let output = yard.gate.command_reading(&["keys", "verify", "--json"], &format!("{key}\n"));
        let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        (output.status.code(), document)
    };
    for _ in 0..3 {
        let (code, said) = verify(member(&key, "key"));
        assert_eq!((code, &said["stands"], &said["reason"]), (Some(0), &json!(true), &Value::Null));
        let mut routes: Vec<_> = said["routes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        routes.sort_unstable();
        assert_eq!(routes, ["/any", "/few", "/things", "GET /contacts/**"]);
    }
    assert_eq!((yard.status("/few", &key).await, yard.status("/few", &key).await), (200, 200));
    assert_eq!(yard.status("/few", &key).await, 429);
    let per_key = || {
        let usage = yard.gate.json(&["keys", "usage", member(&key, "id"), "--json"]);
        let windows = usage["limits"].as_array().expect("a list").clone();
        windows.into_iter().find(|window| window["name"] == "per-key").expect("it counts the key")
    };
    assert_eq!((per_key()["used"].as_u64(), per_key()["remaining"].as_u64()), (Some(2), Some(0)));
    assert!(per_key()["resets_at"].as_str().is_some_and(|at| at.ends_with("T00:00:00Z")));
    assert!(yard.works(&["keys", "usage", member(&key, "id")]).contains("per-key"));
    yard.works(&["keys", "usage", member(&key, "id"), "--reset", "per-key"]);
    assert_eq!(per_key()["used"], 0);
    // A gate may know the bucket as exhausted for 100 ms more.
    yard.eventually("/few", &key, 200).await;
    assert_eq!(verify("sg_unknown").1, json!({"stands": false, "reason": "unknown_key"}));
    yard.works(&["keys", "revoke", member(&key, "id")]);
    let (code, said) = verify(member(&key, "key"));
    assert_eq!((code, said["reason"].as_str()), (Some(1), Some("revoked_key")));
    for (given, code) in [("two words", Some(1)), ("", Some(2))] {
        let output = yard.gate.command_reading(&["keys", "verify"], given);
        assert_eq!(output.status.code(), code, "{given}");
    }
}

#[tokio::test]
async fn b3_s7_a_business_is_suspended_put_on_a_plan_and_limited_with_the_next_request() {
    for yard in yards() {
        let key = yard.key(&[]);
        yard.becomes("/contacts", &key, 200).await;
        for (change, status) in [
            (&["--status", "suspended"][..], 403),
            (&["--status", "active"], 200),
            (&["--plan", "free"], 403),
            (&["--plan", "pro"], 200),
            (&["--limit", "per-business=0/1d"], 429),
            (&["--no-limit", "per-business", "--no-plan"], 200),
        ] {
            yard.works(&[&["business", "set", "acme"], change].concat());
            yard.becomes("/contacts", &key, status).await;
        }
        for (wrong, said) in [
            (&["--plan", "prof"][..], "did you mean `pro`?"),
            (&["--status", "closed"], "write `active` or `suspended`"),
            (&["--limit", "per-busines=1/1d"], "did you mean `per-business`?"),
            (&["--limit", "per-business=many"], "is not a window"),
            (&[], "nothing to change"),
        ] {
            let (code, error) = yard.fails(&[&["business", "set", "acme"], wrong].concat());
            assert!(code == Some(2) && error.contains(said), "{error}");
        }
        yard.works(&["business", "set", "acme", "--plan", "pro"]);
        let shown = yard.gate.json(&["business", "show", "acme", "--json"]);
        let expected =
            json!({"id": "acme", "plan": "pro", "status": "active", "limits": {}, "keys": 1, "active_keys": 1});
        assert_eq!(shown, expected);
        assert_eq!(yard.gate.json(&["business", "list", "--json"])["total"], 1);
        let (code, error) = yard.fails(&["keys", "update", member(&key, "id"), "--limit", "per-business=9/1d"]);
        assert!(code == Some(2) && error.contains("not counted by key"), "{error}");
    }
}

#[tokio::test]
async fn a_key_is_used_from_its_addresses_alone() {
    for yard in yards() {
        let key = yard.key(&["--allow-addresses", "10.0.0.0/8"]);
        yard.becomes("/contacts", &key, 403).await;
        yard.works(&["keys", "update", member(&key, "id"), "--from-anywhere"]);
        yard.becomes("/contacts", &key, 200).await;
        yard.works(&["keys", "update", member(&key, "id"), "--allow-addresses", "127.0.0.1,10.0.0.0/8"]);
        yard.becomes("/contacts", &key, 200).await;
        let (code, error) = yard.fails(&["keys", "update", member(&key, "id"), "--allow-addresses", "10.0.0.0/40"]);
        assert!(code == Some(2) && error.contains("neither an address nor a network"), "{error}");
    }
}

#[tokio::test]
async fn s8_keys_that_were_not_rotated_for_long_are_listed() {
    for yard in yards() {
        yard.key(&[]);
        let old = json!({"sha256": sha256("sg_old"), "id": "old", "name": "old", "business": "acme", "hint": "sg_ol",
            "created_at": "2020-01-01T00:00:00Z"});
        yard.gate.keys_import(&[old]);
        let listed = |more: &[&str]| {
            let list = yard.gate.json(&[&["keys", "list", "--json"], more].concat());
            let keys = list["keys"].as_array().expect("a list").iter().map(|key| member(key, "name").to_owned());
            (keys.collect::<Vec<_>>(), list["total"].as_u64())
        };
        assert_eq!(listed(&["--older-than", "90d"]), (vec!["old".to_owned()], Some(1)));
        assert_eq!(listed(&["--page", "2", "--per-page", "1"]), (vec!["n".to_owned()], Some(2)));
        assert_eq!(listed(&["--page", "3", "--per-page", "1"]), (Vec::new(), Some(2)));
        let twin = json!({"sha256": sha256("sg_twin"), "id": "twin", "name": "t", "business": "acme", "hint": "sg_ol"});
        yard.gate.keys_import(&[twin]);
        let (code, said) = yard.fails(&["keys", "revoke", "sg_ol"]);
        assert!(code == Some(1) && said.contains("old") && said.contains("twin"), "{said}");
    }
}

#[tokio::test]
async fn b7_every_change_is_in_the_audit_and_no_key_or_digest_is() {
    for yard in yards() {
        let key = yard.key(&["--actor", "ann"]);
        let id = member(&key, "id");
        yard.works(&["keys", "update", id, "--name", "other", "--actor", "bob"]);
        yard.works(&["keys", "revoke", id]);
        yard.works(&["keys", "delete", id]);
        yard.works(&["business", "set", "acme", "--status", "suspended", "--actor", "bob"]);
        let audit = yard.gate.json(&["keys", "audit", "--json"]);
        let changes = audit["changes"].as_array().expect("a list");
        let actions: Vec<_> = changes.iter().map(|change| member(change, "action")).collect();
        assert_eq!(actions, ["business_changed", "key_deleted", "key_revoked", "key_updated", "key_created"]);
        let update = &changes[3];
        assert_eq!((member(update, "actor"), member(update, "from"), member(update, "subject")), ("bob", "cli", id));
        assert_eq!((&update["before"], &update["after"]), (&json!({"name": "n"}), &json!({"name": "other"})));
        assert_eq!(member(&changes[4], "actor"), "ann");
        let (secret, all) = (member(&key, "key"), audit.to_string());
        assert!(!all.contains(secret) && !all.contains(&sha256(secret)), "{all}");
        assert!(yard.works(&["keys", "audit", "--last", "2"]).contains("business_changed"));
    }
}

#[tokio::test]
async fn a_revocation_that_no_replica_confirms_is_told_and_acts_all_the_same() {
    for yard in yards() {
        let key = yard.key(&[]);
        let (code, said) = yard.fails(&["keys", "revoke", member(&key, "id"), "--wait-replicas", "1"]);
        let wanted = if yard.is_redis() { "only 0 of 1 replicas" } else { "a file has no replicas" };
        assert!(code == Some(1) && said.contains(wanted), "{said}");
        yard.becomes("/contacts", &key, 401).await;
        let (code, said) = yard.fails(&["keys", "revoke", member(&key, "id"), "--wait-replicas", "1"]);
        assert!(code == Some(1) && said.contains(wanted), "asking again confirms nothing: {said}");
        let old = yard.key(&[]);
        let rotated = yard.gate.command(&["keys", "rotate", member(&old, "id"), "--wait-replicas", "1", "--json"]);
        let said = text(&rotated.stderr);
        assert!(rotated.status.code() == Some(1) && said.contains(wanted), "{said}");
        let new: Value = serde_json::from_slice(&rotated.stdout).expect("the new key is shown first, and once");
        yard.becomes("/contacts", &old, 401).await;
        yard.becomes("/contacts", &new, 200).await;
    }
}
