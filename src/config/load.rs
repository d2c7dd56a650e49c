//! From a file or a text to settings, or to errors that a person can act on: where, what is wrong, what to write instead.
//!
//! What YAML itself or a field's shape gets wrong ends the reading there, with line and column. Everything else is found by
//! `compile` at once; `place` looks up where each error stands.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::compile::{self, Problem};
use super::raw::Root;
use super::replace::Sources;
use super::{Settings, foreign, precheck, suggestion};
use crate::keys::Digest;

/// A configuration larger than this is another file.
const LARGEST: u64 = 4 * 1024 * 1024;

/// One error: `sidegate.yaml:12:5: routes."GET /v1/x".scopes: …; write …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// Line and column, both from 1.
    pub place: Option<(usize, usize)>,
    /// The field, `routes."GET /v1/x".scopes`; empty when the whole file is meant.
    pub path: String,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<ConfigError>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// What came of a file, and everything it came from.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Result<Settings, Errors>,
    /// The file itself and every file that it names and whose content belongs to it, readable or not.
    pub files: Vec<PathBuf>,
}

/// Reads a file; relative paths in it start at its folder.
pub fn load(path: &Path) -> Loaded {
    let name = path.display().to_string();
    let mut files = vec![path.to_owned()];
    let settings = read(path).map_err(|message| Errors::about(&name, message)).and_then(|text| {
        let folder = path.parent().unwrap_or(Path::new(""));
        compiled(&text, Sources { variable: &|name| env::var_os(name), folder }, &name, &mut files)
    });
    Loaded { settings, files }
}

/// Only the settings of `load`.
pub fn from_file(path: &Path) -> Result<Settings, Errors> {
    load(path).settings
}

/// Reads a text; `folder` is where relative paths start, `name` what errors call it.
pub fn from_text(text: &str, folder: &Path, name: &str) -> Result<Settings, Errors> {
    from_sources(text, Sources { variable: &|name| env::var_os(name), folder }, name)
}

/// The same with any environment.
pub(super) fn from_sources(text: &str, sources: Sources<'_>, name: &str) -> Result<Settings, Errors> {
    compiled(text, sources, name, &mut Vec::new())
}

/// Adds to `files` those that the text names.
fn compiled(text: &str, sources: Sources<'_>, name: &str, files: &mut Vec<PathBuf>) -> Result<Settings, Errors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#')) {
        return Err(Errors::about(name, "it is empty; `config.example.yaml` shows every field"));
    }
    let yaml = |error: serde_yaml::Error| Errors(vec![of_yaml(name, &error)]);
    // First whether it is YAML at all: a bracket that is missing would else be told as the wrong shape of what it opened.
    IgnoredAny::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(yaml)?;
    let empty = precheck::empty_fields(text).map_err(yaml)?;
    let root = Root::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(yaml)?;
    let compile::Compiled { settings: compiled, files: named } = compile::compile(&root, sources);
    files.extend(named);
    if empty.is_empty() {
        let hash = Digest::of(text).to_hex()[..12].to_owned();
        return compiled
            .map(|settings| Settings { hash, ..settings })
            .map_err(|problems| Errors::located(name, text, problems));
    }
    let mut problems = compiled.err().unwrap_or_default();
    problems.retain(|problem| !empty.iter().any(|path| problem.path.begins_with(path)));
    let message = "nothing stands here; write a value, or remove the field";
    problems.extend(empty.into_iter().map(|path| Problem { path, message: message.to_owned() }));
    Err(Errors::located(name, text, problems))
}

impl Errors {
    fn about(name: &str, message: impl fmt::Display) -> Self {
        let file = name.to_owned();
        Self(vec![ConfigError { file, place: None, path: String::new(), message: message.to_string() }])
    }

    fn located(name: &str, text: &str, problems: Vec<Problem>) -> Self {
        let located = problems.into_iter().map(|Problem { path, message }| ConfigError {
            file: name.to_owned(),
            place: path.locate(text),
            path: path.to_string(),
            message,
        });
        let mut errors: Vec<_> = located.collect();
        // Stable: errors at one place, and those of fields that are missing altogether, keep the order they were found in.
        errors.sort_by_key(|error| error.place);
        errors.dedup();
        Self(errors)
    }
}

fn read(path: &Path) -> Result<String, String> {
    let said = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; name it with `--config FILE` or SIDEGATE_CONFIG".to_owned(),
        _ => format!("it cannot be read: {error}; write the path of a readable file"),
    };
    if path.metadata().map_err(said)?.is_dir() {
        return Err("it is a directory; write the path of the YAML file in it".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(said)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() as u64 > LARGEST {
        return Err("it is larger than 4 MiB; is it the configuration?".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("it is not UTF-8 (at byte {at}); save it as UTF-8")
    })
}

/// An error of the YAML reader, in our form: its text is `path: message at line L column C`.
fn of_yaml(name: &str, error: &serde_yaml::Error) -> ConfigError {
    let text = error.to_string();
    let place = error.location().map(|place| (place.line(), place.column()));
    let said = place.and_then(|(line, column)| text.strip_suffix(&format!(" at line {line} column {column}")));
    let said = said.unwrap_or(&text);
    let (path, message) = split_path(said);
    ConfigError { file: name.to_owned(), place, path: path.to_owned(), message: reword(path, message) }
}

/// The path before the message, where there is one. Serde's own messages begin with one of a few words.
fn split_path(said: &str) -> (&str, &str) {
    const BEGINNINGS: [&str; 4] = ["invalid ", "unknown field ", "`", "JSON has "];
    let starts = BEGINNINGS.iter().filter_map(|word| said.find(&format!(": {word}")));
    match starts.min() {
        Some(at) => (&said[..at], &said[at + 2..]),
        None => ("", said),
    }
}

/// Serde's words in ours. What was found is named by its kind alone: it may be a secret in the wrong place.
fn reword(path: &str, message: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (field, rest) = rest.split_once('`').unwrap_or((rest, ""));
        if field == "<<" {
            return "merge keys (`<<`) are not read; write the fields out, or use an alias for a whole value"
                .to_owned();
        }
        if let Some(advice) = foreign::advice(path, field) {
            return format!("there is no field `{field}` here: {advice}");
        }
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        return format!("there is no field `{field}` here; {}", suggestion::advice(field, known));
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "))
    {
        return format!("{} stands here; write {expected}", kind(found));
    }
    match message {
        "deserializing from YAML containing more than one document is not supported" => {
            "there is more than one document (`---`); keep one".to_owned()
        }
        "found character that cannot start any token" => {
            "nothing can begin with this character; a tab is the usual one: indent with spaces, and quote a text that begins with \
             `@`, `` ` `` or `%`"
                .to_owned()
        }
        "repetition limit exceeded" => "aliases repeat too much; write the values out".to_owned(),
        "recursion limit exceeded" => "it is nested too deeply; is it the configuration?".to_owned(),
        _ => message.to_owned(),
    }
}

fn kind(found: &str) -> &'static str {
    match found.split(' ').next().unwrap_or_default() {
        "map" => "a map",
        "sequence" => "a list",
        "unit" | "Option" => "nothing",
        "integer" | "floating" => "a number",
        "boolean" => "true or false",
        "enum" | "newtype" | "tuple" | "struct" => "a YAML tag (`!…`)",
        _ => "a text",
    }
}
