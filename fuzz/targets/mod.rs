//! What is fuzzed, as plain functions: each takes any bytes and panics when a promise is broken. libFuzzer drives them for as
//! long as one likes (`scripts/fuzz`), `tests/fuzz.rs` replays the corpus and mutates it for a moment on the stable toolchain.

pub mod answer;
pub mod config;
pub mod credential;
pub mod document;
pub mod path;
pub mod query;
pub mod template;
pub mod trace;

/// Takes any bytes; panics when they break a promise.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus folder.
pub const ALL: [(&str, Target); 8] = [
    ("path", path::run),
    ("query", query::run),
    ("credential", credential::run),
    ("template", template::run),
    ("config", config::run),
    ("document", document::run),
    ("trace", trace::run),
    ("answer", answer::run),
];
