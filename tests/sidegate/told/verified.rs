//! `keys verify` says what the gate would say, and why.

use serde_json::{Value, json};

use super::{member, run};
use crate::support::{AnswerTo as _, Gate, Stage, gate::text};

const FORMATS: &str = "
keys:
  formats:
    - {prefix: kc_live_, length: 44, alphabet: base64url}
    - {prefix: ck_, length: 46, checksum: true}
    - {prefix: kc_test_, reject: Test keys are not available yet}
routes: {/things: any}
";
const PLAIN: &str = "
limits: {per-key: {by: key, windows: 60/1m}}
plans: {default: {}, free: {api: false}}
routes: {/things: {any: true, limits: [per-key]}}
";

#[tokio::test]
async fn what_is_no_key_by_its_looks_is_refused_for_the_gates_reason_and_says_in_what() {
    let stage = Stage::set();
    let gate = stage.gate(FORMATS);
    let (short, mistyped) = ("k".repeat(43), "k".repeat(46));
    for (given, reason, why) in [
        (
            format!("kc_live_{short}"),
            "malformed_key",
            "begins with `kc_live_`, but has 43 characters after it instead of 44",
        ),
        (format!("kc_live_{short}+"), "malformed_key", "something else than letters, digits, `-` and `_` after it"),
        (format!("ck_{mistyped}"), "malformed_key", "its checksum is wrong: it is mistyped"),
        ("kc_test_abc".to_owned(), "foreign_format", "Test keys are not available yet"),
        ("other".to_owned(), "malformed_key", "they begin with `kc_live_` or `kc_test_` or `ck_`"),
        ("two words".to_owned(), "malformed_key", "white space within it"),
        (format!("'kc_live_{short}k'"), "malformed_key", "quotes around it"),
        (format!("Bearer kc_live_{short}k"), "malformed_key", "a scheme such as `Bearer` stands in front of it"),
        (format!("kc_live_{short}k,x"), "ambiguous_key", "it holds a comma"),
        (format!("kc_live_{short}k"), "unknown_key", "The store holds no such key"),
    ] {
        let (status, gates) = refused(&gate, &given).await;
        assert_eq!(gates, reason, "{given}");
        let (code, said) = run(&gate, &["keys", "verify"], &format!("{given}\n"));
        assert!(code == Some(1) && said.contains(why), "{given}: no {why:?} in {said}");
        assert!(said.contains(&format!("refused with {status} ({reason})")), "{given}: {said}");
        let document = json_of(&gate, &given);
        assert_eq!((&document["stands"], &document["reason"]), (&json!(false), &json!(reason)), "{given}");
        assert!(!said.contains(&short), "what was given may be a key all the same: {said}");
    }
    for nothing in ["", "\n"] {
        let (code, said) = run(&gate, &["keys", "verify"], nothing);
        assert!(code == Some(2) && said.contains("nothing stands on standard input"), "{said}");
        assert_eq!(run(&gate, &["keys", "show", "-"], nothing).0, Some(2));
    }
}

#[test]
fn what_was_copied_along_with_a_key_is_told() {
    let stage = Stage::set();
    let gate = stage.gate(PLAIN);
    let key = gate.new_key(&["--name", "n", "--business", "acme"]);
    assert_eq!(run(&gate, &["keys", "verify"], &format!("  {key} \n")).0, Some(0));
    for (given, told) in [
        (format!("\"{key}\""), "there are quotes around it"),
        (format!("x-api-key:{key}"), "a header's name and a colon stand in front of it"),
        (format!("Authorization: Bearer {key}"), "a header's name and a colon stand in front of it"),
        (format!("bearer {key}"), "a scheme such as `Bearer` stands in front of it"),
    ] {
        let (code, said) = run(&gate, &["keys", "verify"], &given);
        assert!(code == Some(1) && said.contains(told) && !said.contains(&key), "{said}");
        assert!(member(&json_of(&gate, &given), "detail").contains(told));
    }
}

#[test]
fn a_key_that_is_refused_says_since_when_and_opens_nothing() {
    let stage = Stage::set();
    let gate = stage.gate(PLAIN);
    let minted = |document: Value| {
        let mut whole = json!({"business": "acme"});
        whole.as_object_mut().expect("an object").extend(document.as_object().expect("an object").clone());
        stage.redis.mint(whole)
    };
    stage.redis.set_business("poor", json!({"plan": "free"}));
    stage.redis.set_business("closed", json!({"status": "suspended"}));
    for (document, why) in [
        (json!({"expires_at": "2020-10-13T00:00:00Z"}), "401 (expired_key): it expired at 2020-10-13T00:00:00Z."),
        (json!({"revoked_at": "2026-03-23T14:30:00Z"}), "401 (revoked_key): it was revoked at 2026-03-23T14:30:00Z."),
        (
            json!({"business": "closed"}),
            "403 (business_suspended): closed is suspended; `sidegate business set closed ",
        ),
        (json!({"business": "poor"}), "403 (plan_required): poor has the plan `free`, which does not include the API"),
    ] {
        let key = minted(document);
        let (code, said) = run(&gate, &["keys", "verify"], &key.text);
        assert!(code == Some(1) && said.contains(&format!("It is refused with {why}")), "no {why} in {said}");
        assert!(!said.contains("opens") && !said.contains("LIMIT") && !said.contains("No limit"), "{said}");
        let document = json_of(&gate, &key.text);
        assert_eq!((&document["routes"], &document["windows"]), (&json!([]), &json!([])), "{document}");
    }
    let valid = works_with(&gate, &minted(json!({})).text);
    assert!(valid.contains("opens     /things") && valid.contains("LIMIT"), "{valid}");
}

fn works_with(gate: &Gate, key: &str) -> String {
    let (code, said) = run(gate, &["keys", "verify"], key);
    assert_eq!(code, Some(0), "{said}");
    said
}

fn json_of(gate: &Gate, given: &str) -> Value {
    let output = gate.command_reading(&["keys", "verify", "--json"], given);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

/// The gate's own answer to this as a bearer's key: its status, and its reason in the log.
async fn refused(gate: &Gate, key: &str) -> (u16, String) {
    let answer = gate.get("/things").header("authorization", format!("Bearer {key}")).answer().await;
    let line = gate.logged(answer.header("x-request-id").expect("every answer has one"));
    (answer.status, member(&line, "sidegate.reason").to_owned())
}
