//! `${NAME}`, `${NAME:-default}` and `${file:path}` in a value: replaced once, after the YAML was read, never read again.
//!
//! `$${` is a `${` that stays. What was replaced may be secret, so no error here repeats it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::secret;

/// Where values come from: the environment (or a test's stand-in), and the folder that paths start at.
#[derive(Clone, Copy)]
pub struct Sources<'s> {
    pub variable: &'s dyn Fn(&str) -> Option<OsString>,
    pub folder: &'s Path,
}

#[derive(Debug, Error)]
pub enum ReplaceError {
    #[error("the environment variable `{0}` is not set; set it, or write `${{{0}:-default}}`")]
    Unset(String),
    #[error("the environment variable `{0}` is not UTF-8; set it to a text")]
    NotText(String),
    #[error("`${{{0}}}` is no replacement; write `${{NAME}}`, `${{NAME:-default}}`, or `$${{` for a literal `${{`")]
    Shape(String),
    #[error("a `${{` is not closed; write `${{NAME}}`, or `$${{` for a literal `${{`")]
    Unclosed,
    #[error(
        "`${{file:{0}}}` may stand in the fields of the store, of TLS and of `upstream.headers` alone; use an \
         environment variable here"
    )]
    FileHere(String),
    #[error("`${{file:{path}}}`: {problem}")]
    File { path: String, problem: String },
}

impl Sources<'_> {
    /// The text with every `${…}` replaced; `files` says whether `${file:…}` may stand here.
    pub fn replace(&self, text: &str, files: bool) -> Result<String, ReplaceError> {
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if let Some(before) = rest[..at].strip_suffix('$') {
                replaced.push_str(before);
                replaced.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            replaced.push_str(&rest[..at]);
            let (inside, after) = rest[at + 2..].split_once('}').ok_or(ReplaceError::Unclosed)?;
            replaced.push_str(&self.value(inside, files)?);
            rest = after;
        }
        replaced.push_str(rest);
        Ok(replaced)
    }

    /// The files that a text names as `${file:…}`, readable or not.
    pub fn files_in(&self, text: &str) -> Vec<PathBuf> {
        let named = text.split("${file:").skip(1).filter_map(|rest| rest.split_once('}'));
        named.map(|(path, _)| self.folder.join(path)).collect()
    }

    fn value(&self, inside: &str, files: bool) -> Result<String, ReplaceError> {
        if let Some(path) = inside.strip_prefix("file:") {
            if !files {
                return Err(ReplaceError::FileHere(path.to_owned()));
            }
            return secret::in_file(&self.folder.join(path))
                .map_err(|problem| ReplaceError::File { path: path.to_owned(), problem });
        }
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err(ReplaceError::Shape(inside.to_owned()));
        }
        match ((self.variable)(name), default) {
            // As in a shell, `:-` also stands in for a variable that is set to nothing.
            (None, Some(default)) => Ok(default.to_owned()),
            (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
            (None, None) => Err(ReplaceError::Unset(name.to_owned())),
            (Some(value), _) => value.into_string().map_err(|_| ReplaceError::NotText(name.to_owned())),
        }
    }
}

fn is_name(text: &str) -> bool {
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    starts && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn replaced(text: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("secret"), "from a file\r\n\n").expect("a file in it");
        fs::write(folder.path().join("large"), "x".repeat(65 * 1024)).expect("a file in it");
        let variable = |name: &str| match name {
            "A" => Some(OsString::from("${B} {x}")),
            "NONE" => Some(OsString::new()),
            _ => None,
        };
        let sources = Sources { variable: &variable, folder: folder.path() };
        sources.replace(text, true).map_err(|e| e.to_string())
    }

    #[test]
    fn variables_defaults_and_files_are_replaced_once() {
        for (text, expected) in [
            ("plain $A {A} $", "plain $A {A} $"),
            ("${A}", "${B} {x}"),
            ("<${A}|${B:-b c}|${B:-}>", "<${B} {x}|b c|>"),
            ("${NONE}${NONE:-n}", "n"),
            ("$${A} $$${A}", "${A} $${A}"),
            ("${file:secret}", "from a file\r\n"),
        ] {
            assert_eq!(replaced(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_says_what_to_write() {
        for (text, part) in [
            ("${B}", "`B` is not set; set it, or write `${B:-default}`"),
            ("${}", "no replacement"),
            ("${a b}", "no replacement"),
            ("${A", "not closed"),
            ("${file:absent}", "readable file"),
            ("${file:.}", "no regular file"),
            ("${file:large}", "larger than 64 KiB"),
        ] {
            let said = replaced(text).expect_err(text);
            assert!(said.contains(part), "{text}: {said}");
        }
        let sources = Sources { variable: &|_| None, folder: Path::new(".") };
        assert!(matches!(sources.replace("${file:x}", false), Err(ReplaceError::FileHere(_))));
    }
}
