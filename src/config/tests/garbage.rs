//! Whatever stands in the file, it is settings or errors, and never a panic.

use proptest::prelude::*;

use super::load;

/// Lines that make sense alone, to be thrown together.
const PIECES: &[&str] = &[
    "listen: 127.0.0.1:1",
    "listen: {}",
    "listen:",
    "admin: x",
    "upstream: http://a",
    "upstreams: {default: x}",
    "store: file:a",
    "store: {redis: {}}",
    "store: ${",
    "routes: {/a: any}",
    "routes: {'': any}",
    "routes:",
    "  GET /a: {scopes: a}",
    "  /{a}/**: public",
    "limits: {l: {by: ip, windows: 1/s}}",
    "limits: {l: 1}",
    "defaults: {limits: [l]}",
    "plans: {p: {limits: {l: 0/s}}}",
    "errors: {default: {body: [1, {a: '{x'}]}}",
    "keys: {formats: {prefix: a, length: [1, 0]}}",
    "- x",
    "? y",
    "&a",
    "*a",
    "!t",
    "---",
    "...",
    "'",
    "\"",
    "{",
    "[",
    "]",
    "\u{0}",
    "\u{85}",
    "\t",
    "%YAML 1.1",
    "<<: *a",
    "deny: &x [*x]",
    "base_path: /x",
    "scopes: {implies: {a: ''}}",
    "business: {from: [{path: a}]}",
    "workers: ${NUMBER}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pieces_never_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..12)) {
        let _ = load(&pieces.join("\n"));
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn an_example_with_a_wound_never_panics(at in 0_usize..13_000, cut in 0_usize..40, put in "[\\x00-\\x7f]{0,3}") {
        let mut text = include_str!("../../../config.example.yaml").to_owned();
        let boundary = |text: &str, at: usize| (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let start = boundary(&text, at);
        let end = boundary(&text, start + cut).max(start);
        text.replace_range(start..end, &put);
        let _ = load(&text);
    }
}
