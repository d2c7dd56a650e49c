//! The walls of the house: which room may name which, and which file may name which crate. Read from the sources, so that a
//! new line in the wrong room fails here and says so.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the ground up: each may name those before it, and itself.
const ROOMS: [&str; 19] = [
    "secret",
    "clock",
    "log_throttle",
    "network",
    "limit",
    "keys",
    "policy",
    "store",
    "gate",
    "observe",
    "proxy",
    "listen",
    "admin",
    "manage",
    "inject",
    "config",
    "reload",
    "process",
    "cli",
];

/// Foreign crates that only these files or folders may name.
const CONFINED: [(&str, &[&str]); 7] = [
    ("httparse", &["proxy/upstream/h1"]),
    ("redis", &["store/redis"]),
    ("rustls", &["listen/tls.rs", "proxy/connector.rs", "store/redis/tls.rs"]),
    ("tokio_rustls", &["listen/tls.rs", "proxy/connector.rs", "store/redis/tls.rs"]),
    ("anyhow", &["cli"]),
    ("sd_notify", &["process/systemd.rs"]),
    (
        "prometheus",
        &["gate/unknown.rs", "observe/counts.rs", "observe/metrics.rs", "process", "store/calls.rs", "store/mod.rs"],
    ),
];

/// Rooms and files of pure rules, and what they must not name.
const PURE: [&str; 17] = [
    "network.rs",
    "inject",
    "limit",
    "keys",
    "policy",
    "gate/asks.rs",
    "gate/business.rs",
    "gate/credential.rs",
    "gate/denial.rs",
    "gate/documents.rs",
    "gate/path.rs",
    "gate/permit.rs",
    "gate/preflight.rs",
    "gate/query.rs",
    "gate/standing.rs",
    "gate/trail.rs",
    "gate/weigh.rs",
];
const IMPURE: [&str; 4] = ["hyper", "hyper_util", "tokio", "redis"];

#[test]
fn each_room_names_only_rooms_below_it() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(room) = room(&source.path) else { continue };
        for (line, named) in source.mentions("crate::") {
            let Some(other) = ROOMS.iter().position(|room| *room == named) else { continue };
            if other > room {
                wrong.push(format!("{}:{line} names crate::{named}, which is built on it", source.path));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_room_is_known_here() {
    let mut unknown: Vec<_> = sources().into_iter().filter(|s| room(&s.path).is_none()).map(|s| s.path).collect();
    unknown.retain(|path| !["main.rs", "lib.rs"].contains(&path.as_str()));
    assert_eq!(unknown, Vec::<String>::new(), "give each new room its place in ROOMS");
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (foreign, homes) in CONFINED {
            if !homes.iter().any(|home| is_in(&source.path, home)) && source.names_crate(foreign) {
                wrong.push(format!("{} names {foreign}, which belongs to {homes:?}", source.path));
            }
        }
        for foreign in IMPURE {
            if PURE.iter().any(|pure| is_in(&source.path, pure)) && source.names_crate(foreign) {
                wrong.push(format!("{} names {foreign}, but is pure", source.path));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn nothing_on_the_way_of_a_request_names_the_configuration() {
    for source in sources() {
        let above =
            ["config", "reload", "process", "cli", "main.rs", "lib.rs"].iter().any(|room| is_in(&source.path, room));
        assert!(above || !source.code().contains("crate::config"), "{} names crate::config", source.path);
    }
}

#[test]
fn every_file_says_what_it_is_for_and_none_grows_too_long() {
    for source in sources().into_iter().chain(tests()) {
        assert!(source.text.starts_with("//!"), "{} does not begin with //!", source.path);
        let lines = source.text.lines().count();
        assert!(lines <= 500, "{} has {lines} lines; is there a seam?", source.path);
    }
}

#[test]
fn only_the_gate_makes_a_permit() {
    for source in sources() {
        let makes = ["public", "preflight", "key"].iter().any(|how| source.code().contains(&format!("Permit::{how}(")));
        assert!(!makes || is_in(&source.path, "gate"), "{} makes a Permit", source.path);
    }
}

struct Source {
    /// Below the folder that it was looked for in.
    path: String,
    text: String,
}

impl Source {
    /// The text without comments: they may speak of any room.
    fn code(&self) -> String {
        let lines = self.text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Each word that follows `start`, with its line.
    fn mentions(&self, start: &str) -> Vec<(usize, String)> {
        let code = self.code();
        let lines = code.lines().enumerate();
        let words = lines.flat_map(|(number, line)| line.split(start).skip(1).map(move |rest| (number + 1, rest)));
        let mut found = Vec::new();
        for (number, rest) in words {
            // `crate::{a, b::c}` names several.
            let list = rest.strip_prefix('{').map(|list| list.split('}').next().unwrap_or(list));
            for part in list.unwrap_or(rest).split(',').take(if list.is_some() { usize::MAX } else { 1 }) {
                let word: String = part.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((number, word));
            }
        }
        found
    }

    /// Whether a path begins with the crate; a module of ours with the same name is `self::`, `super::` or imported.
    fn names_crate(&self, foreign: &str) -> bool {
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
}

fn sources() -> Vec<Source> {
    below("src")
}

fn tests() -> Vec<Source> {
    below("tests")
}

fn below(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    collect(&root, &mut files);
    let source = |file: PathBuf| {
        let path = file.strip_prefix(&root).expect("it was found below it").display().to_string();
        Source { path, text: fs::read_to_string(&file).expect("a source is readable UTF-8") }
    };
    files.into_iter().map(source).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are readable") {
        let path = entry.expect("the sources are readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn room(path: &str) -> Option<usize> {
    let first = path.split('/').next().unwrap_or(path);
    ROOMS.iter().position(|room| first.strip_suffix(".rs").unwrap_or(first) == *room)
}

fn is_in(path: &str, place: &str) -> bool {
    path == place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}
