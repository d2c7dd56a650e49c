//! Reading the configuration again: when its content has changed, and what of it cannot act before a restart.
//!
//! Content is compared, not times or events of the file system: Kubernetes swaps a link far above the file, editors put another
//! file in its place, and some file systems tell nobody. What a reload does to those who serve is left to `process`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

use crate::config::Settings;
use crate::config::load::{self, Loaded};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Whoever changes several files changes them one after the other: they are read once they have been still for so long.
const STILL: Duration = Duration::from_millis(250);
/// How often they may be found changing before they are read all the same.
const RESTLESS: usize = 20;
/// More of a file is not looked at; the configuration itself may have 4 MiB.
const LARGEST: u64 = 8 * 1024 * 1024;

/// A configuration that was read, and how to notice that its files no longer say that.
#[derive(Debug)]
pub struct Reading {
    pub loaded: Loaded,
    seen: Fingerprint,
}

/// Reads the configuration. The files are looked at before they are read, so that no change between the two is missed; which
/// files they are, only reading tells: so where they are not those that are `expected`, it is read once more.
pub fn read(config: &Path, expected: Vec<PathBuf>) -> Reading {
    settled(expected, || load::load(config))
}

fn settled(expected: Vec<PathBuf>, load: impl Fn() -> Loaded) -> Reading {
    let (seen, loaded) = (Fingerprint::of(&expected), load());
    if loaded.files == expected {
        return Reading { loaded, seen };
    }
    // Were they others again, they would differ at the next look and be read then.
    let seen = Fingerprint::of(&loaded.files);
    Reading { loaded: load(), seen }
}

/// Looks at the files of a configuration.
#[derive(Debug)]
pub struct Watch {
    config: PathBuf,
    files: Files,
}

impl Watch {
    pub fn new(config: &Path, reading: &Reading) -> Self {
        Self { config: config.to_owned(), files: Files::seen(reading) }
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The files of the last reading.
    pub fn files(&self) -> &[PathBuf] {
        &self.files.files
    }

    /// Resolves once the content differs from what was last read and has come to rest. May be dropped and asked again.
    pub async fn changed(&self) {
        self.files.changed().await;
    }

    /// From now on another reading counts, whatever came of it: what cannot be used is told once, not at every look.
    pub fn restart(&mut self, reading: &Reading) {
        self.files = Files::seen(reading);
    }
}

/// Files, and what they held when they were last looked at.
#[derive(Debug)]
pub struct Files {
    files: Vec<PathBuf>,
    seen: Fingerprint,
}

impl Files {
    /// As they are now: to be called before they are read, so that no change between the two is missed.
    pub fn now(files: Vec<PathBuf>) -> Self {
        Self { seen: Fingerprint::of(&files), files }
    }

    fn seen(reading: &Reading) -> Self {
        Self { files: reading.loaded.files.clone(), seen: reading.seen.clone() }
    }

    /// Resolves once the content differs and has come to rest. May be dropped and asked again. Warns once of files that were
    /// replaced where they come from: nothing will ever change in them.
    pub async fn changed(&self) {
        let mut warned = false;
        loop {
            sleep(LOOK_EVERY).await;
            if !warned {
                let replaced = self.replaced().await;
                replaced.iter().for_each(|file| warn!(file = %file.display(), "{REPLACED}"));
                warned = !replaced.is_empty();
            }
            let mut now = self.look().await;
            if now == self.seen {
                continue;
            }
            for _ in 0..RESTLESS {
                sleep(STILL).await;
                let later = self.look().await;
                if later == now {
                    break;
                }
                now = later;
            }
            return;
        }
    }

    async fn look(&self) -> Fingerprint {
        let files = self.files.clone();
        // A look that fails is one that saw no change; so does one without a descriptor to look with.
        let looked = spawn_blocking(move || Fingerprint::look_at(&files)).await;
        looked.ok().flatten().unwrap_or_else(|| self.seen.clone())
    }

    async fn replaced(&self) -> Vec<PathBuf> {
        let files = self.files.clone();
        spawn_blocking(move || files.into_iter().filter(|file| is_replaced(file)).collect()).await.unwrap_or_default()
    }
}

/// What to do about a file that `is_replaced`.
pub const REPLACED: &str = "this file is mounted by itself, and outside it was deleted or another took its place: no edit there acts; \
                            mount its folder instead, and restart";

/// Whether the file has no name in any folder any more. A mount of a single file holds on to it when an editor, or whatever else
/// writes a new file and renames it, puts another in its place.
pub fn is_replaced(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 0)
}

/// What files hold: for each a digest, or none where it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fingerprint(Vec<Option<[u8; 32]>>);

impl Fingerprint {
    fn of(files: &[PathBuf]) -> Self {
        Self(files.iter().map(|file| digest(file).ok()).collect())
    }

    /// `None`: there was no descriptor to look with, which says nothing of the files.
    fn look_at(files: &[PathBuf]) -> Option<Self> {
        let look = |file: &PathBuf| match digest(file) {
            Err(error) if is_exhaustion(&error) => None,
            looked => Some(looked.ok()),
        };
        Some(Self(files.iter().map(look).collect::<Option<_>>()?))
    }
}

fn digest(file: &Path) -> io::Result<[u8; 32]> {
    // Asked before opening: to open a named pipe would wait for its writer.
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(Sha256::digest(&bytes).into())
}

/// Whether the process or the system has no more descriptors.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Keeps what is made once, at the start, as it is; gives the fields that say something else now and act after a restart.
///
/// The rest acts all the same: to refuse it would keep a certificate that ends, or a key that was leaked, in use until somebody
/// comes to restart.
pub fn keep_what_is_fixed(in_force: &Settings, new: &mut Settings) -> Vec<&'static str> {
    let mut fixed = Vec::new();
    let mut keep = |field, differs: bool| {
        if differs {
            fixed.push(field);
        }
    };
    keep("listen.address", replace(&mut new.listen.address, &in_force.listen.address));
    keep("workers", replace(&mut new.listen.workers, &in_force.listen.workers));
    keep("admin", replace(&mut new.admin.admin, &in_force.admin.admin));
    keep("probes", replace(&mut new.admin.probes, &in_force.admin.probes));
    keep("probes.app", replace(&mut new.admin.app, &in_force.admin.app));
    keep("ready.store", replace(&mut new.admin.ready_needs_store, &in_force.admin.ready_needs_store));
    keep("log.format", replace(&mut new.observe.format, &in_force.observe.format));
    keep("store", !in_force.store.backend.is_same(&new.store.backend));
    new.store.backend.clone_from(&in_force.store.backend);
    fixed
}

/// Puts the fixed value back; whether it had changed.
fn replace<T: PartialEq + Clone>(new: &mut T, fixed: &T) -> bool {
    let differs = new != fixed;
    new.clone_from(fixed);
    differs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(store: &str, rest: &str) -> Settings {
        let yaml = format!(
            "upstream: http://127.0.0.1:9\nstore: {{redis: 'redis://h', {store}}}\nroutes: {{/a: any}}\n{rest}\n"
        );
        load::from_text(&yaml, Path::new("."), "t").unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn what_is_made_at_the_start_stays_and_is_told() {
        let old = settings("deadline: 100ms", "listen: 127.0.0.1:1");
        for (store, rest, told) in [
            ("deadline: 100ms", "listen: 127.0.0.1:1", vec![]),
            ("deadline: 9ms, outage: {keys: {known_for: 1m}, limits: deny}", "listen: 127.0.0.1:1", vec![]),
            ("prefix: other", "listen: 127.0.0.1:1", vec!["store"]),
            ("password: p", "listen: 127.0.0.1:1", vec!["store"]),
            ("deadline: 1s", "listen: 127.0.0.1:2\nworkers: 77", vec!["listen.address", "workers"]),
            (
                "deadline: 1s",
                "listen: {address: 127.0.0.1:1, trusted_proxies: [10.0.0.0/8]}\nadmin: 127.0.0.1:5\nprobes: 127.0.0.1:6\n\
                 ready: {store: false}\nlog: {format: text, level: debug}",
                vec!["admin", "probes", "ready.store", "log.format"],
            ),
        ] {
            let mut new = settings(store, rest);
            assert_eq!(keep_what_is_fixed(&old, &mut new), told, "{store} {rest}");
            assert_eq!(keep_what_is_fixed(&old, &mut new), Vec::<&str>::new(), "{store} {rest}");
        }
    }

    #[test]
    fn a_login_in_a_file_may_be_rotated() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("password");
        let of = |password: &str| {
            std::fs::write(&file, password).expect("a file in it");
            settings(&format!("password: '${{file:{}}}'", file.display()), "listen: 127.0.0.1:1")
        };
        assert_eq!(keep_what_is_fixed(&of("one"), &mut of("two")), Vec::<&str>::new());
    }

    #[test]
    fn it_is_read_once_where_its_files_are_known_and_a_change_meanwhile_is_no_less_seen() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        let files = vec![at("gate.yaml"), at("secret")];
        let reads = std::cell::Cell::new(0);
        let load = || {
            reads.set(reads.get() + 1);
            // Somebody writes while it is read.
            std::fs::write(at("secret"), format!("{}", reads.get())).expect("the folder is writable");
            Loaded { settings: Err(load::Errors(Vec::new())), files: files.clone() }
        };
        for (expected, times) in [(files.clone(), 1), (vec![at("gate.yaml")], 2), (Vec::new(), 2)] {
            reads.set(0);
            let reading = settled(expected, load);
            assert_eq!(reads.get(), times);
            assert_eq!(reading.loaded.files, files);
            assert_ne!(Fingerprint::of(&files), reading.seen, "it is read again");
            std::fs::write(at("secret"), "at rest").expect("the folder is writable");
        }
    }

    #[test]
    fn every_named_file_is_looked_at() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("secret"), "s").expect("a file in it");
        let yaml = "listen: {address: 127.0.0.1:1, tls: {client_ca: ca, certificates: {cert: c, key: k}}}\n\
                    upstream: {url: https://h, tls: {ca: up, cert: uc, key: uk}, headers: {X-S: '${file:secret}'}}\n\
                    store: file:keys.yaml\nroutes: {/a: any}\n";
        std::fs::write(at("gate.yaml"), yaml).expect("a file in it");
        let mut files = read(&at("gate.yaml"), Vec::new()).loaded.files;
        files.sort();
        assert_eq!(files, ["c", "ca", "gate.yaml", "k", "secret", "uc", "uk", "up"].map(at));
    }
}
