//! The files below `src`, as text and as words.

use std::fs;
use std::path::{Path, PathBuf};

pub struct Source {
    /// Below `src`.
    pub path: String,
    pub text: String,
}

/// A word of Rust, `::`, or any other sign.
pub struct Token {
    pub text: String,
    pub line: usize,
}

impl Source {
    /// The text without comments: they may speak of any room.
    pub fn code(&self) -> String {
        let lines = self.text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether a path begins with the crate; a module of ours with the same name is `self::`, `super::` or imported.
    pub fn names_crate(&self, foreign: &str) -> bool {
        let code = self.code();
        let module_of_ours =
            ["self::", "super::", "store::"].iter().any(|from| code.contains(&format!("{from}{foreign}")))
                || code.contains(&format!("mod {foreign};"));
        let path = format!("{foreign}::");
        code.match_indices(&path).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let starts_here = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
            starts_here && (!module_of_ours || code[..at].ends_with("use "))
        })
    }

    /// The code without comments, texts and the tests that stand in the file itself.
    pub fn tokens(&self) -> Vec<Token> {
        let mut tokens = Vec::new();
        // rustfmt ends such a module with a brace of its own line.
        let (code, tests) = self.text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&self.text, ""));
        assert!(tests.is_empty() || tests.ends_with("\n}\n"), "{} has code behind its tests", self.path);
        let (mut rest, mut line) = (code, 1);
        while let Some(first) = rest.chars().next() {
            let (length, is_code) = token(rest, first);
            if is_code {
                tokens.push(Token { text: rest[..length].to_owned(), line });
            }
            line += rest[..length].matches('\n').count();
            rest = &rest[length..];
        }
        tokens
    }
}

/// How long the first token is, and whether it is one that may be a part of a name.
fn token(rest: &str, first: char) -> (usize, bool) {
    let until = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
    let is_in_word = |c: char| c.is_alphanumeric() || c == '_';
    if rest.starts_with("//") {
        return (until("\n"), false);
    }
    if let Some(raw) = rest.strip_prefix(['r', 'b']).map(|raw| raw.trim_start_matches('r'))
        && raw.trim_start_matches('#').starts_with('"')
        && !rest.starts_with("b\"")
    {
        let hashes = "#".repeat(raw.len() - raw.trim_start_matches('#').len());
        let opening = rest.len() - raw.len() + hashes.len() + 1;
        let end = format!("\"{hashes}");
        return (rest[opening..].find(&end).map_or(rest.len(), |at| opening + at + end.len()), false);
    }
    match first {
        '"' => (1 + quoted(&rest[1..], '"'), false),
        // A lifetime has no second quote so near.
        '\'' if rest[1..].starts_with('\\') => (1 + quoted(&rest[1..], '\''), false),
        '\'' => match rest.char_indices().nth(2) {
            Some((at, '\'')) => (at + 1, false),
            _ => (1, false),
        },
        ':' if rest.starts_with("::") => (2, true),
        c if is_in_word(c) => (rest.find(|c| !is_in_word(c)).unwrap_or(rest.len()), true),
        c => (c.len_utf8(), !c.is_whitespace()),
    }
}

/// Up to and with the quote that ends a text.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = text.char_indices().find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let source = |file: PathBuf| {
        let path = file.strip_prefix(&root).expect("it was found below src").display().to_string();
        Source { path, text: fs::read_to_string(&file).expect("a source is readable UTF-8") }
    };
    files.into_iter().map(source).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
