//! Which file names which, read as the compiler reads paths.
//!
//! A path counts for the file that defines what it ends at, through however many `pub use` it is reached; a path that ends at a
//! module names nothing by itself, but what is taken out of that module by its name does. What a module hands on of its own
//! children (`pub use child::Name`) is the children's, and no naming of them; if its own code uses them it is.

use std::collections::{HashMap, HashSet};

use crate::source::{Source, Token};

/// One file names what another one defines.
#[derive(Debug, Clone)]
pub struct Naming {
    pub from: String,
    pub to: String,
    pub line: usize,
    pub path: String,
}

/// From the crate's root, or from where it stands.
type Path = Vec<String>;

/// A file's names, as far as other files are concerned.
struct Module {
    file: String,
    path: Path,
    defined: HashSet<String>,
    imports: Vec<Import>,
    /// Paths in the code, each with its line.
    uses: Vec<(Path, usize)>,
}

struct Import {
    path: Path,
    /// What it is called here; `*` for all that is there.
    name: String,
    line: usize,
    handed_on: bool,
}

/// All namings between files, in the order of files and lines.
pub fn namings(sources: &[Source]) -> Vec<Naming> {
    let modules: Vec<_> = sources.iter().filter(|source| source.path != "main.rs").map(Module::read).collect();
    let all = Modules(modules.iter().map(|module| (module.path.as_slice(), module)).collect());
    let mut namings = Vec::new();
    for module in &modules {
        let imports = module.imports.iter().filter(|import| !module.is_of_a_child(import) || !import.handed_on);
        let named = imports.map(|import| (&import.path, import.line));
        for (path, line) in named.chain(module.uses.iter().map(|(path, line)| (path, *line))) {
            if let Some(to) = all.absolute(path, module).and_then(|absolute| all.definer(&absolute))
                && to.path != module.path
            {
                namings.push(Naming { from: module.file.clone(), to: to.file.clone(), line, path: path.join("::") });
            }
        }
    }
    namings
}

struct Modules<'m>(HashMap<&'m [String], &'m Module>);

impl<'m> Modules<'m> {
    /// The path from the root; `None` where it leads to another crate, or nowhere but into the file itself.
    fn absolute(&self, path: &[String], from: &Module) -> Option<Path> {
        let (first, rest) = path.split_first()?;
        let above = |levels: usize| from.path[..from.path.len().saturating_sub(levels)].to_vec();
        let mut start = match first.as_str() {
            "crate" => Vec::new(),
            "self" => above(0),
            "super" => {
                let more = rest.iter().take_while(|step| *step == "super").count();
                return Some([above(1 + more), rest[more..].to_vec()].concat());
            }
            // `use redis::{self, …}` is another crate's, of whatever name a child is.
            _ => match from.imports.iter().find(|import| import.name == *first && import.path[0] != *first) {
                Some(import) => self.absolute(&import.path, from)?,
                None => self.child(from, first)?,
            },
        };
        start.extend_from_slice(rest);
        Some(start)
    }

    fn child(&self, of: &Module, name: &str) -> Option<Path> {
        let path = [of.path.clone(), vec![name.to_owned()]].concat();
        self.0.contains_key(path.as_slice()).then_some(path)
    }

    /// The file that defines what stands at the path; `None` where that is a module, or another crate's.
    fn definer(&self, path: &[String]) -> Option<&'m Module> {
        let deepest = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]))?;
        let module = self.0[&path[..deepest]];
        let (name, rest) = path[deepest..].split_first()?;
        if name == "*" || module.defined.contains(name) {
            return Some(module);
        }
        match module.imports.iter().find(|import| import.name == *name) {
            Some(import) => {
                let onwards = [self.absolute(&import.path, module)?, rest.to_vec()].concat();
                self.definer(&onwards)
            }
            None => Some(module),
        }
    }
}

impl Module {
    fn read(source: &Source) -> Self {
        let steps = source.path.trim_end_matches(".rs").split('/').map(str::to_owned);
        let path: Path = steps.filter(|step| step != "mod" && step != "lib").collect();
        let mut module =
            Self { file: source.path.clone(), path, defined: HashSet::new(), imports: Vec::new(), uses: Vec::new() };
        let tokens = source.tokens();
        let word = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text.as_str());
        let (mut at, mut depth) = (0, 0);
        while at < tokens.len() {
            match word(at) {
                "{" => depth += 1,
                "}" => depth -= 1,
                "use" if word(at + 1) != "<" => {
                    let handed_on = at > 0 && matches!(word(at - 1), "pub" | ")");
                    at = module.import(&tokens, at + 1, &[], handed_on);
                }
                "struct" | "enum" | "trait" | "type" | "fn" | "const" | "static" if depth == 0 => {
                    module.defined.insert(word(at + 1).to_owned());
                }
                _ if is_word(word(at)) && !(at > 0 && matches!(word(at - 1), "." | "::" | "mod")) => {
                    let mut path = vec![word(at).to_owned()];
                    let line = tokens[at].line;
                    while word(at + 1) == "::" && is_word(word(at + 2)) {
                        path.push(word(at + 2).to_owned());
                        at += 2;
                    }
                    module.uses.push((path, line));
                }
                _ => {}
            }
            at += 1;
        }
        module
    }

    /// Reads one branch of a `use`, and gives back where it ends.
    fn import(&mut self, tokens: &[Token], mut at: usize, stem: &[String], handed_on: bool) -> usize {
        let mut path = stem.to_vec();
        let mut name = None;
        let line = tokens[at].line;
        // A list may end with a comma.
        if tokens[at].text == "}" {
            return at;
        }
        loop {
            match tokens[at].text.as_str() {
                "{" => loop {
                    at = self.import(tokens, at + 1, &path, handed_on);
                    if tokens[at].text == "}" {
                        return at + 1;
                    }
                },
                "," | "}" | ";" => break,
                "as" => {
                    at += 1;
                    name = Some(tokens[at].text.clone());
                }
                "::" => {}
                "self" if !path.is_empty() => {}
                step => path.push(step.to_owned()),
            }
            at += 1;
        }
        if let Some(last) = path.last() {
            let name = name.unwrap_or_else(|| last.clone());
            self.imports.push(Import { path, name, line, handed_on });
        }
        at
    }

    fn is_of_a_child(&self, import: &Import) -> bool {
        !["crate", "super"].contains(&import.path[0].as_str())
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[test]
fn a_name_counts_for_the_file_that_defines_it_however_it_is_reached() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let sources = [
        source("lib.rs", "pub mod a;\npub mod b;\n"),
        source(
            "a/mod.rs",
            "mod low;\nmod high;\npub use low::{Low, Other as Renamed};\npub struct Own;\nfn f() { high::f() }\n",
        ),
        source("a/low.rs", "pub struct Low;\npub struct Other;\n// crate::b::B\nconst TEXT: &str = \"crate::b::B\";\n"),
        source("a/high.rs", "use super::{Low, Own};\npub fn f() -> super::super::b::B { loop {} }\n"),
        source("b.rs", "use crate::{a::{self, Renamed}};\npub struct B(a::Low, std::fmt::Error);\n"),
    ];
    let named: Vec<_> =
        namings(&sources).into_iter().map(|n| format!("{}:{} {} {}", n.from, n.line, n.path, n.to)).collect();
    let expected = [
        "a/mod.rs:5 high::f a/high.rs",
        "a/high.rs:1 super::Low a/low.rs",
        "a/high.rs:1 super::Own a/mod.rs",
        "a/high.rs:2 super::super::b::B b.rs",
        "b.rs:1 crate::a::Renamed a/low.rs",
        "b.rs:2 a::Low a/low.rs",
    ];
    assert_eq!(named, expected);
}
