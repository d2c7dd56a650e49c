//! YAML out, as `kubectl` reads it: that is YAML 1.1, in which `yes`, `1_000` and `12:30:45` are no texts, while writers of 1.2 leave
//! them without quotes. So whatever does not look like a plain word stands in quotes.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The document, keys in their order, as `kubectl get -o yaml` lays it out.
pub fn written(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => entries(&mut out, map, 0, false),
        Value::Array(list) if !list.is_empty() => elements(&mut out, list, 0, false),
        scalar => {
            out.push_str(&inline(scalar));
            out.push('\n');
        }
    }
    out
}

/// `begun`: the first line is indented already, by the dash of a list.
fn entries(out: &mut String, map: &Map<String, Value>, indent: usize, begun: bool) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 || !begun {
            pad(out, indent);
        }
        out.push_str(&plain_or_quoted(key));
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                entries(out, map, indent + 2, false);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                elements(out, list, indent, false);
            }
            scalar => after(out, scalar, indent),
        }
    }
}

fn elements(out: &mut String, list: &[Value], indent: usize, begun: bool) {
    for (index, element) in list.iter().enumerate() {
        if index > 0 || !begun {
            pad(out, indent);
        }
        out.push('-');
        match element {
            Value::Object(map) if !map.is_empty() => {
                out.push(' ');
                entries(out, map, indent + 2, true);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push(' ');
                elements(out, list, indent + 2, true);
            }
            scalar => after(out, scalar, indent),
        }
    }
}

/// A scalar behind its key or dash.
fn after(out: &mut String, scalar: &Value, indent: usize) {
    match scalar {
        Value::String(text) if is_lines(text) => {
            out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
            for line in text.lines() {
                if !line.is_empty() {
                    pad(out, indent + 2);
                }
                out.push_str(line);
                out.push('\n');
            }
        }
        scalar => {
            out.push(' ');
            out.push_str(&inline(scalar));
            out.push('\n');
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn inline(scalar: &Value) -> String {
    match scalar {
        Value::String(text) => plain_or_quoted(text),
        other => other.to_string(),
    }
}

/// Whether a text can stand line by line below a `|`.
fn is_lines(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with(['\n', ' '])
        && text.chars().all(|c| c == '\n' || !is_escaped(c))
}

fn plain_or_quoted(text: &str) -> String {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let ends = !text.ends_with([':', ' ']);
    let inside = text.bytes().all(|b| b.is_ascii_alphanumeric() || b" _./:@+=()-".contains(&b)) && !text.contains(": ");
    if begins && ends && inside && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return text.to_owned();
    }
    quoted(text)
}

/// In single quotes nothing is escaped; where something has to be, JSON's quoting is YAML's, save for what YAML does not print.
fn quoted(text: &str) -> String {
    if !text.chars().any(is_escaped) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if is_escaped(c) => {
                // Writing to a String does not fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Control characters, other line breaks, and the byte-order mark (YAML 1.1 §5.1); all have four digits at most.
fn is_escaped(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn read(yaml: &str) -> Value {
        Value::deserialize(serde_yaml::Deserializer::from_str(yaml)).unwrap_or_else(|error| panic!("{error}:\n{yaml}"))
    }

    #[test]
    fn what_older_readers_take_for_something_else_is_quoted() {
        for text in [
            "yes",
            "No",
            "on",
            "OFF",
            "y",
            "N",
            "true",
            "null",
            "~",
            "1_000",
            "12:30:45",
            "2001-01-01",
            "0755",
            "1e3",
            ".5",
            "=",
            "<<",
            "-",
            "",
            " x",
            "x ",
            "a: b",
            "a:",
            "a #b",
            "{a}",
            "[a]",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "3000",
        ] {
            assert!(written(&json!([text])).starts_with("- '"), "{text}: {}", written(&json!([text])));
        }
        for text in ["web", "/etc/sidegate", "example.com/app:1.2", "a b", "run"] {
            assert_eq!(written(&json!({ "k": text })), format!("k: {text}\n"));
        }
    }

    #[test]
    fn documents_look_as_kubectl_writes_them() {
        let document = json!({"b": [{"c": 1, "d": ["x", ["y"]]}], "a": {"e": {}, "f": [], "g": null, "h": true}, "t": "one\n two\n"});
        let expected =
            "a:\n  e: {}\n  f: []\n  g: null\n  h: true\nb:\n- c: 1\n  d:\n  - x\n  - - 'y'\nt: |\n  one\n   two\n";
        assert_eq!(written(&document), expected);
    }

    fn documents() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["\\PC{0,12}", "[ -~\n\t]{0,24}", "(.|\n){0,12}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(|number| json!(number)),
            text.clone().prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map(text.clone(), inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(document in documents()) {
            prop_assert_eq!(read(&written(&document)), document);
        }
    }
}
