//! The configuration from outside: text in, settings or errors out.

mod defaults;
mod garbage;
mod meaning;
mod schema;
mod shapes;
mod stated;
mod values;
mod warnings;

use std::ffi::OsString;
use std::path::Path;

use super::load::{Errors, from_sources};
use super::replace::Sources;
use super::{ConfigError, Settings};

const FIELDS: [(&str, &str); 4] = [
    ("listen", "listen: 127.0.0.1:8080\n"),
    ("upstream", "upstream: http://127.0.0.1:3000\n"),
    ("store", "store: redis://127.0.0.1:6379/0\n"),
    ("routes", "routes: {GET /v1/a: any}\n"),
];

/// A whole configuration: what is given, and what it lacks to be one after it.
fn whole(given: &str) -> String {
    let mut text = given.to_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, line) in FIELDS {
        let is_given =
            given.lines().any(|l| l.starts_with(name) && l[name.len()..].trim_start_matches('s').starts_with(':'));
        if !is_given {
            text.push_str(line);
        }
    }
    text
}

fn load(text: &str) -> Result<Settings, Errors> {
    let variable = |name: &str| match name {
        "SECRET" => Some(OsString::from("hunter2")),
        "NUMBER" => Some(OsString::from("7")),
        "TRUE" => Some(OsString::from("true")),
        "YAML" => Some(OsString::from("{a: [b")),
        _ => None,
    };
    let read = from_sources(text, Sources { variable: &variable, folder: Path::new("/etc/gate") }, "gate.yaml");
    schema::agrees(text, &read);
    read
}

fn good(given: &str) -> Settings {
    match load(&whole(given)) {
        Ok(settings) => settings,
        Err(errors) => panic!("{given}\n{errors}"),
    }
}

fn errors(text: &str) -> Vec<ConfigError> {
    match load(text) {
        Ok(_) => panic!("this is no good configuration, but it was taken for one:\n{text}"),
        Err(Errors(errors)) => errors,
    }
}

/// Each configuration has exactly one error, with this path and these words in it.
fn each_has_one_error(cases: &[(&str, &str, &str)]) {
    for (given, path, words) in cases {
        let found = errors(&whole(given));
        let [error] = found.as_slice() else { panic!("{given}\n{}", Errors(found)) };
        assert_eq!(error.path, *path, "{given}\n{error}");
        assert!(error.message.contains(words), "{given}\n{error}\nlacks: {words}");
        assert!(!error.to_string().contains("hunter2"), "a secret is repeated: {error}");
    }
}
