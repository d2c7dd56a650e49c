//! The walls of the house: which room may name which, which file may name which crate, and that files name each other in no
//! circle. Read from the sources, so that a new line in the wrong room fails here and says so.

mod names;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{Naming, namings};
use crate::source::{below, sources};

/// Rooms from the ground up: each may name those before it, and itself.
const ROOMS: [&str; 20] = [
    "secret",
    "clock",
    "log_throttle",
    "network",
    "client_tls",
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
    ("rustls", &["client_tls.rs", "listen/tls.rs", "proxy/connector.rs", "store/redis/tls.rs"]),
    ("tokio_rustls", &["listen/tls.rs", "proxy/connector.rs", "store/redis/tls.rs"]),
    ("anyhow", &["cli"]),
    ("sd_notify", &["process/systemd.rs"]),
    (
        "prometheus",
        &[
            "gate/unknown.rs",
            "observe/counts.rs",
            "observe/durations.rs",
            "observe/metrics.rs",
            "process",
            "store/calls.rs",
            "store/shared.rs",
        ],
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
    "gate/evaluate.rs",
    "gate/path.rs",
    "gate/permit.rs",
    "gate/preflight.rs",
    "gate/query.rs",
    "gate/standing.rs",
    "gate/trail.rs",
];
const IMPURE: [&str; 4] = ["hyper", "hyper_util", "tokio", "redis"];

/// Files that name each other all the same, and why.
const MUTUAL: [(&str, &str, &str); 1] = [(
    "gate/decide.rs",
    "gate/observed.rs",
    "both hold methods of the Gate; apart, so that one file alone makes permits of denials",
)];

#[test]
fn each_room_names_only_rooms_below_it() {
    let mut wrong = Vec::new();
    for Naming { from, to, line, path } in namings(&sources()) {
        if room(&from) < room(&to) && room(&from).is_some() {
            wrong.push(format!("{from}:{line} names {path} of {to}, which is built on it"));
        }
    }
    // Tests that stand in a file are not among these.
    for source in sources() {
        let (Some(room), code) = (room(&source.path), source.code()) else { continue };
        for above in ROOMS.iter().skip(room + 1).filter(|above| code.contains(&format!("crate::{above}::"))) {
            wrong.push(format!("{} names crate::{above}, which is built on it", source.path));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn files_name_each_other_in_no_circle() {
    let mut names: BTreeMap<String, BTreeMap<String, Naming>> = BTreeMap::new();
    for naming in namings(&sources()) {
        names.entry(naming.from.clone()).or_default().entry(naming.to.clone()).or_insert(naming);
    }
    for (from, to, _) in MUTUAL {
        let removed = names.get_mut(from).and_then(|named| named.remove(to));
        assert!(removed.is_some(), "{from} names {to} no more: take it out of MUTUAL");
    }
    let mut circles = String::new();
    let mut seen = BTreeSet::new();
    for file in names.keys() {
        let circle: BTreeSet<_> =
            reached(file, &names).into_iter().filter(|other| reached(other, &names).contains(file)).collect();
        if circle.is_empty() || !seen.insert(circle.clone()) {
            continue;
        }
        circles += &format!("\n{} files name each other in a circle:\n", circle.len());
        for Naming { from, to, line, path } in circle.iter().flat_map(|file| names[*file].values()) {
            if circle.contains(&to) {
                circles += &format!("  {from}:{line} names {path} of {to}\n");
            }
        }
    }
    assert!(
        circles.is_empty(),
        "{circles}cut one of the names, best by moving what is named below both; MUTUAL is for what would be worse cut"
    );
}

/// All files that it names, and those that they name.
fn reached<'n>(file: &str, names: &'n BTreeMap<String, BTreeMap<String, Naming>>) -> BTreeSet<&'n String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![file]);
    while let Some(file) = open.pop() {
        for named in names.get(file).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(named) {
                open.push(named);
            }
        }
    }
    found
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
    for source in sources().into_iter().chain(below("tests")) {
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

fn room(path: &str) -> Option<usize> {
    let first = path.split('/').next().unwrap_or(path);
    ROOMS.iter().position(|room| first.strip_suffix(".rs").unwrap_or(first) == *room)
}

fn is_in(path: &str, place: &str) -> bool {
    path == place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}
