//! What YAML itself, the fields' shapes and the file get wrong: one error, with its line and column.

use super::{each_has_one_error, errors, good, load, whole};
use crate::config::load::from_file;
use crate::limit::Window;

fn said(text: &str) -> String {
    errors(text)[0].to_string()
}

#[test]
fn yamls_own_errors_name_line_and_column() {
    for (text, expected) in [
        ("listen: [a\n", "gate.yaml:2:1: did not find expected ',' or ']'"),
        ("a: b\n c: d\n", "gate.yaml:2:3: mapping values are not allowed in this context"),
        ("listen: *x\n", "gate.yaml:1:9: unknown anchor"),
        ("listen: a\nadress: b\n", "gate.yaml:2:1: there is no field `adress` here; write one of `listen`"),
        ("listen: {adress: b}\n", "gate.yaml:1:10: listen: there is no field `adress` here; did you mean `address`?"),
        ("listen: a\nlisten: b\n", "gate.yaml:2:1: `listen` stands there twice; keep one of them"),
        ("listen: [a, b]\n", "gate.yaml:1:9: listen: a list stands here; write a text, or fields"),
        ("deny:\n  keys: {a: b}\n", "gate.yaml:2:9: deny.keys: a map stands here; write one value"),
        ("keys: bearer\n", "gate.yaml:1:7: keys: a text stands here; write the fields of `keys`"),
        (
            "upstream:\n  identity: {X-A: {key_id}}\n",
            "gate.yaml:2:19: upstream.identity.X-A: a map stands here; write one value (in quotes",
        ),
        ("<<: {a: b}\n", "gate.yaml:1:1: merge keys (`<<`) are not read"),
        ("- a\n", "gate.yaml:1:1: a list stands here; write the fields of a sidegate configuration"),
        ("listen: a\n---\nlisten: b\n", "gate.yaml: there is more than one document"),
        ("", "gate.yaml: it is empty"),
        ("# nothing\n\n", "gate.yaml: it is empty"),
    ] {
        let said = said(text);
        assert!(said.starts_with(expected), "{text}\n{said}");
    }
}

#[test]
fn a_name_that_stands_there_twice_is_an_error_at_the_second() {
    for (text, expected) in [
        ("routes:\n  /a: any\n  /a: public\n", "gate.yaml:3:3: routes: `/a` stands there twice; keep one of them"),
        ("limits: {l: {by: ip, windows: 1/s}, l: {}}\n", "gate.yaml:1:37: limits: `l` stands there twice"),
        ("errors:\n  default: {body: {a: 1, a: 2}}\n", "gate.yaml:2:26: errors.default.body: `a` stands there twice"),
    ] {
        let said = said(text);
        assert!(said.starts_with(expected), "{text}\n{said}");
    }
}

#[test]
fn a_field_with_nothing_in_it_is_no_default() {
    each_has_one_error(&[
        ("listen:\n  address: 127.0.0.1:1\n  tls:\n", "listen.tls", "nothing stands here; write a value"),
        ("admin:\n", "admin", "nothing stands here"),
        ("plans: {pro: }\n", "plans.pro", "nothing stands here"),
        ("keys: {require: [business, ~]}", "keys.require[1]", "nothing stands here"),
    ]);
    good("errors: {default: {body: {data: null}}}");
}

#[test]
fn tags_are_refused_and_laughs_end() {
    assert!(
        said(&whole("admin: !port 9900")).contains("a YAML tag (`!…`) stands here"),
        "{}",
        said(&whole("admin: !port 9900"))
    );
    assert!(load(&whole("realm: !x y")).is_err());
    let mut laughs = "errors:\n  default:\n    body:\n      a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let aliases = format!("*a{}, ", level - 1).repeat(9);
        laughs.push_str(&format!("      a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(said(&whole(&laughs)).contains("aliases repeat too much"));
    let nested = format!("errors: {{default: {{body: {}1{}}}}}", "[".repeat(500), "]".repeat(500));
    assert!(said(&whole(&nested)).contains("nested too deeply"));
}

#[test]
fn anchors_may_save_writing() {
    let settings = good(
        "limits:\n  a: {by: key, windows: &w [5/1s, 9/1m]}\n  b: {by: user, windows: *w}\ndefaults: {limits: [a, b]}",
    );
    assert_eq!(settings.policy.limits["a"].windows, settings.policy.limits["b"].windows);
}

#[test]
fn a_list_of_one_may_be_its_element_and_texts_may_look_like_numbers() {
    let settings = good(
        "listen:\n  address: 127.0.0.1:1\n  trusted_proxies: 10.0.0.0/8\nlimits: {l: {by: ip, windows: 5/1m}}\n\
         keys: {from: {header: X-Key}, require: user, formats: {prefix: 123, length: 43}}\n\
         scopes: {default: 42}\nroutes: {/a: 7, /b: {scopes: [true], limits: l}}\nbusiness: {from: {query: b}}",
    );
    assert_eq!(settings.listen.trusted_proxies.len(), 1);
    assert_eq!(settings.policy.limits["l"].windows.as_slice(), [Window { limit: 5, duration_ms: 60_000 }]);
    assert_eq!(settings.keys.default_scopes, ["42"]);
    assert_eq!(settings.keys.known_scopes, ["42", "7", "true"]);
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("gate.yaml");
    let said = || match from_file(&file) {
        Ok(_) => panic!("the file is no configuration"),
        Err(errors) => errors.to_string(),
    };
    assert!(said().contains("there is no such file; name it with `--config FILE`"));
    std::fs::write(&file, b"listen: \xff\n").expect("a file");
    assert!(said().contains("it is not UTF-8 (at byte 8)"));
    std::fs::write(&file, "#".repeat(5 * 1024 * 1024)).expect("a file");
    assert!(said().contains("larger than 4 MiB"));
    std::fs::remove_file(&file).expect("the file is there");
    std::fs::create_dir(&file).expect("a folder");
    assert!(said().contains("it is a directory"));
}

#[test]
fn a_byte_order_mark_does_no_harm() {
    assert!(load(&format!("\u{feff}{}", whole(""))).is_ok());
}
