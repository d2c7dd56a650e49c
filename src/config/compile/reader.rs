//! Reads raw values one by one and keeps what is wrong with them, so that all of it is said at once.

use std::fmt::Display;
use std::path::PathBuf;

use crate::config::field_path::FieldPath;
use crate::config::raw::{Entries, List, Scalar};
use crate::config::replace::Sources;
use crate::config::scalar::ScalarError;

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: FieldPath,
    pub message: String,
}

pub struct Reader<'s> {
    sources: Sources<'s>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
    /// Files whose content is part of what was read.
    pub files: Vec<PathBuf>,
}

impl<'s> Reader<'s> {
    pub fn new(sources: Sources<'s>) -> Self {
        Self { sources, problems: Vec::new(), warnings: Vec::new(), files: Vec::new() }
    }

    pub fn fail(&mut self, path: &FieldPath, message: impl Display) {
        self.problems.push(Problem { path: path.clone(), message: message.to_string() });
    }

    pub fn warn(&mut self, path: &FieldPath, message: impl Display) {
        self.warnings.push(format!("{path}: {message}"));
    }

    /// A variable of the environment that belongs to the configuration.
    pub fn variable(&mut self, name: &str) -> Option<String> {
        let value = (self.sources.variable)(name)?;
        value.into_string().map_err(|_| self.fail(&FieldPath::top(name), "it is not UTF-8; set it to a text")).ok()
    }

    /// The value with its replacements; `None` when one fails, which is kept.
    pub fn text(&mut self, path: &FieldPath, scalar: &Scalar) -> Option<String> {
        self.replaced(path, scalar, false)
    }

    /// The same where `${file:…}` may stand.
    pub fn text_or_file(&mut self, path: &FieldPath, scalar: &Scalar) -> Option<String> {
        self.replaced(path, scalar, true)
    }

    /// The file that is all of this value, `${file:…}` and nothing else: one that can be read again when it has changed.
    pub fn whole_file(&self, scalar: &Scalar) -> Option<PathBuf> {
        let path = scalar.0.strip_prefix("${file:")?.strip_suffix('}')?;
        (!path.contains('}')).then(|| self.sources.folder.join(path))
    }

    fn replaced(&mut self, path: &FieldPath, scalar: &Scalar, files: bool) -> Option<String> {
        if files {
            self.files.extend(self.sources.files_in(&scalar.0));
        }
        let replaced = self.sources.replace(&scalar.0, files);
        replaced.map_err(|error| self.fail(path, error)).ok()
    }

    /// The value as `parse` reads it; `default` when there is none, or when it is wrong, which is kept.
    pub fn read<T, E: Display>(
        &mut self,
        path: &FieldPath,
        scalar: Option<&Scalar>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> T {
        scalar.and_then(|scalar| self.parse(path, scalar, parse)).unwrap_or(default)
    }

    pub fn parse<T, E: Display>(
        &mut self,
        path: &FieldPath,
        scalar: &Scalar,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(path, scalar)?;
        let error = match parse(&text) {
            Ok(value) => return Some(value),
            Err(error) => error.to_string(),
        };
        // What came out of a replacement may be a secret in the wrong field: it is told as it was written.
        let is_replaced = text != scalar.0 && !text.is_empty();
        self.fail(path, if is_replaced { error.replace(&text, &scalar.0) } else { error });
        None
    }

    /// A field that has to be there.
    pub fn required<'r>(&mut self, path: &FieldPath, scalar: Option<&'r Scalar>, example: &str) -> Option<&'r Scalar> {
        if scalar.is_none() {
            self.fail(path, format_args!("it is missing; write {example}"));
        }
        scalar
    }

    /// Every element that can be read.
    pub fn parse_all<T>(
        &mut self,
        path: &FieldPath,
        list: Option<&List<Scalar>>,
        mut parse: impl FnMut(&str) -> Result<T, ScalarError>,
    ) -> Vec<T> {
        let Some(list) = list else { return Vec::new() };
        let items = items(path, list);
        items.filter_map(|(path, scalar)| self.parse(&path, scalar, &mut parse)).collect()
    }

    /// A file whose content belongs to the configuration (a certificate, a key), from the configuration's folder.
    pub fn file(&mut self, path: &FieldPath, scalar: &Scalar) -> Option<PathBuf> {
        let file = self.location(path, scalar)?;
        self.files.push(file.clone());
        Some(file)
    }

    /// A path whose content is not the configuration's (a socket, a store's file), from the configuration's folder.
    pub fn location(&mut self, path: &FieldPath, scalar: &Scalar) -> Option<PathBuf> {
        let text = self.text_or_file(path, scalar)?;
        if text.is_empty() {
            self.fail(path, "it is empty; write the path of a file");
            return None;
        }
        Some(self.sources.folder.join(text))
    }
}

/// The elements of a list with their paths; of a list of one, which may stand without brackets, the list's own.
pub fn items<'r, T>(path: &FieldPath, list: &'r List<T>) -> impl Iterator<Item = (FieldPath, &'r T)> {
    let alone = list.0.len() == 1;
    list.0.iter().enumerate().map(move |(index, element)| {
        let path = if alone { path.clone() } else { path.item(index) };
        (path, element)
    })
}

/// The entries of an optional map.
pub fn entries<T>(map: Option<&Entries<T>>) -> &[(String, T)] {
    map.map_or(&[], |entries| &entries.0)
}
