//! The fuzz targets on the stable toolchain: every file of the corpus, then a moment of mutations that start from it.
//!
//! `scripts/fuzz` runs the same targets for as long as one likes; `FUZZ_TARGET` and `FUZZ_SECONDS` do that here where no
//! nightly toolchain is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

#[path = "../fuzz/targets/mod.rs"]
mod targets;

/// For each target.
const MOMENT: Duration = Duration::from_millis(1200);
/// Mutations of one run at most, so that a fast machine does the same as a slow one on most days.
const MOST: usize = 50_000;

#[test]
fn the_corpus_breaks_no_promise() {
    for (name, target) in targets::ALL {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
        for (file, data) in corpus {
            held(target, &data, &format!("{}", file.display()));
        }
    }
}

#[test]
fn mutations_of_the_corpus_break_no_promise() {
    let only = env::var("FUZZ_TARGET").ok();
    let seconds = env::var("FUZZ_SECONDS").ok().map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
    let (moment, most) = seconds.map_or((MOMENT, MOST), |seconds| (Duration::from_secs(seconds), usize::MAX));
    for (name, target) in targets::ALL {
        if only.as_ref().is_none_or(|only| only == name) {
            mutate(name, target, moment, most);
        }
    }
}

fn mutate(name: &str, target: targets::Target, moment: Duration, most: usize) {
    let corpus: Vec<Vec<u8>> = corpus(name).into_iter().map(|(_, data)| data).collect();
    let until = Instant::now() + moment;
    // Each long run is another one; the short one is always the same.
    let seed = if most == usize::MAX { u64::from(std::process::id()) } else { 1 };
    let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ seed);
    let mut tried = 0;
    while tried < most && Instant::now() < until {
        let mut data = random.pick(&corpus).clone();
        for _ in 0..=random.below(4) {
            random.change(&mut data, &corpus);
        }
        held(target, &data, name);
        tried += 1;
    }
    println!("{name}: {tried} mutations of {} files", corpus.len());
}

/// A panic says what is broken; this says with which bytes.
fn held(target: targets::Target, data: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(data))).is_err() {
        panic!("{what} is broken by {:?}", data.escape_ascii().to_string());
    }
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("the folder is readable").path()).collect();
    files.sort_unstable();
    files.into_iter().map(|file| (file.clone(), fs::read(&file).expect("a seed is readable"))).collect()
}

/// xorshift64: the same mutations on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a usize")
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// One change: bytes put in, taken out, doubled, swapped for others, or a piece of another seed.
    fn change(&mut self, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        const PIECES: &[&[u8]] = &[
            b"%",
            b"%2f",
            b"%2F",
            b"%2e",
            b"%25",
            b"%5c",
            b"%3b",
            b"%3F",
            b"%20",
            b"%00",
            b"%c2%a0",
            b"%e2%80%8b",
            b"%EF%BC%8F",
            b"%C4%B1",
            b"/",
            b"//",
            b"..",
            ".".as_bytes(),
            b"/../",
            b";",
            b"\\",
            b"?",
            b"#",
            b"&",
            b"=",
            b"[]",
            b"+",
            b",",
            b" ",
            b"\t",
            b"\n",
            b"\0",
            b"\xff",
            b":",
            b"{",
            b"}",
            b"{{",
            b"|string",
            b"admin",
            b"ADMIN",
            b"secret",
            b"Bearer ",
            b"limit",
            b"\"",
            b"-",
            b"0",
            b"null",
            b"${",
            b"  ",
        ];
        let at = self.below(data.len() + 1);
        let end = (at + self.below(8)).min(data.len());
        let piece = self.pick(PIECES).to_vec();
        match self.below(7) {
            0 => drop(data.splice(at..at, piece)),
            1 => drop(data.splice(at..end, piece)),
            2 => drop(data.drain(at..end)),
            3 => {
                let copy = data[at..end].to_vec();
                drop(data.splice(at..at, copy));
            }
            4 => {
                let byte = self.next().to_le_bytes()[0];
                data.insert(at, byte);
            }
            5 => {
                // One byte as its triplet.
                if let Some(&byte) = data.get(at) {
                    drop(data.splice(at..=at, format!("%{byte:02x}").into_bytes()));
                }
            }
            _ => {
                let other = self.pick(corpus).clone();
                let from = self.below(other.len() + 1);
                drop(data.splice(at..end, other[from..].iter().copied().take(64)));
            }
        }
    }
}
