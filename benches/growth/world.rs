//! What the server holds, and the questions about it: so many keys, each of a business of its own, each counted apart.
//!
//! A question is what the gate asks in the steady state: the key's document and the business's absence to confirm, one
//! bucket to spend from. Every bucket stands before anything is measured.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use sidegate::limit::{Algorithm, Ask, Believed, BucketAsk, Document, Outcome, Question, Windows};
use tokio::task::JoinSet;

use super::server::{Asker, RedisServer, Unexpected};
use super::{Cell, Job};

/// Windows of one bucket.
pub const WINDOWS: [usize; 3] = [1, 3, 6];

const LIMITS: [&str; 6] = ["10000000/1h", "10000000/1m", "10000000/1d", "10000000/10m", "10000000/6h", "10000000/12h"];
/// What one call of the filling writes.
const CHUNK: usize = 1_000;
/// As many questions as one call takes.
const MOST: usize = 32;
/// Calls of the filling that are under way at once.
const FILLERS: usize = 8;

#[derive(Debug, Clone)]
pub struct World {
    keys: usize,
    windows: [Arc<Windows>; 3],
    memory: Vec<(String, f64)>,
}

impl World {
    /// Fills the server up to `keys`.
    pub async fn grow(server: &RedisServer, keys: usize) -> Result<Self, Box<dyn Error>> {
        let windows = WINDOWS.map(|count| {
            Arc::new(Windows::parse(LIMITS[..count].iter().copied()).expect("the limits above are windows"))
        });
        let mut world = Self { keys, windows, memory: Vec::new() };
        let before = server.used_memory()?;
        world.write_documents(server)?;
        world.note(keys, "a key's document", before, server.used_memory()?);
        world.write_records(server)?;
        for windows in WINDOWS {
            let before = server.used_memory()?;
            world.touch(&server.asker().await?, windows).await?;
            world.note(keys, &format!("a bucket, windows: {windows}"), before, server.used_memory()?);
        }
        Ok(world)
    }

    /// Bytes of the server's memory, where there are enough keys to tell.
    pub fn memory(&self) -> Vec<(String, f64)> {
        self.memory.clone()
    }

    /// One call of the cell's kind; returns how many requests it decided on. Identical ones are folded, as in the gate.
    pub async fn ask(&self, store: &Asker, cell: Cell, turn: u64) -> Result<u64, Unexpected> {
        let index = spread(turn, self.keys);
        match cell.job {
            Job::Decide => return self.decide(store, cell, turn).await,
            Job::Read => match store.read(&keys_of(index)).await? {
                2 => {}
                other => return Err(Unexpected::Control(format!("{other} of a document and a bucket"))),
            },
            Job::CountAsPeersDo => {
                let status = store.count_as_peers_do(&record(index), &format!("peers:count:{}", key_id(index))).await?;
                if !status.starts_with("200 ") {
                    return Err(Unexpected::Control(status));
                }
            }
        }
        Ok(1)
    }

    async fn decide(&self, store: &Asker, cell: Cell, turn: u64) -> Result<u64, Unexpected> {
        let batch = u32::try_from(cell.batch).unwrap_or(u32::MAX);
        let questions: Vec<_> = match self.keys {
            1 => vec![self.question(0, cell.windows, batch)],
            keys => (0..u64::from(batch))
                .map(|n| self.question(spread(turn * u64::from(batch) + n, keys), cell.windows, 1))
                .collect(),
        };
        granted(store, &questions).await
    }

    /// Makes every bucket, some calls at a time so that neither side waits for the other.
    async fn touch(&self, store: &Asker, windows: usize) -> Result<(), Box<dyn Error>> {
        let mut fillers = JoinSet::new();
        for filler in 0..FILLERS {
            let (store, world) = (store.clone(), self.clone());
            fillers.spawn_local(async move {
                for first in (filler * MOST..world.keys).step_by(FILLERS * MOST) {
                    let indices = first..world.keys.min(first + MOST);
                    let questions: Vec<_> = indices.map(|index| world.question(index, windows, 1)).collect();
                    granted(&store, &questions).await?;
                }
                Ok::<_, Unexpected>(())
            });
        }
        while let Some(filled) = fillers.join_next().await {
            filled??;
        }
        Ok(())
    }

    fn write_documents(&self, server: &RedisServer) -> Result<(), Box<dyn Error>> {
        let mut connection = server.connection()?;
        for first in (0..self.keys).step_by(CHUNK) {
            let mut pipe = redis::pipe();
            for index in first..self.keys.min(first + CHUNK) {
                pipe.cmd("SET").arg(in_slot(index, &document_name(index))).arg(document(index).as_ref()).ignore();
            }
            pipe.query::<()>(&mut connection)?;
        }
        Ok(())
    }

    /// What the peers' script reads, and its counters.
    fn write_records(&self, server: &RedisServer) -> Result<(), Box<dyn Error>> {
        let mut connection = server.connection()?;
        for first in (0..self.keys).step_by(CHUNK) {
            let mut pipe = redis::pipe();
            for index in first..self.keys.min(first + CHUNK) {
                let (id, business) = (key_id(index), format!("business-{index}"));
                pipe.cmd("HSET").arg(record(index)).arg(&["id", &id, "business", &business]).ignore();
                pipe.cmd("HSET").arg(record(index)).arg(&["scopes", " items:read ", "limit", "100000000"]).ignore();
                pipe.cmd("SET").arg(format!("peers:count:{id}")).arg(&["1", "EX", "86400"]).ignore();
            }
            pipe.query::<()>(&mut connection)?;
        }
        Ok(())
    }

    fn note(&mut self, keys: usize, what: &str, before: f64, after: f64) {
        if keys >= 1_000_000 {
            self.memory.push((what.to_owned(), (after - before) / keys as f64));
        }
    }

    fn question(&self, index: usize, windows: usize, n: u32) -> Question {
        let of_count = WINDOWS.iter().position(|count| *count == windows).expect("cells have these counts of windows");
        let documents = vec![
            Document { name: document_name(index).into(), believed: Believed::Is(document(index)) },
            Document { name: "business".into(), believed: Believed::Absent },
        ];
        let bucket = BucketAsk {
            name: bucket_name(index, windows).into(),
            algorithm: Algorithm::Fixed,
            windows: self.windows[of_count].clone(),
            observes: false,
        };
        let ask =
            Ask { slot: slot(index).into(), documents: documents.into(), buckets: [bucket].into(), ..Ask::default() };
        Question { asks: [ask].into(), cost: 1, n }
    }
}

async fn granted(store: &Asker, questions: &[Question]) -> Result<u64, Unexpected> {
    let mut sum = 0;
    for answer in store.decide(questions).await? {
        match answer.outcome {
            Outcome::Spent { granted, .. } if granted > 0 => sum += u64::from(granted),
            other => return Err(Unexpected::Outcome(other)),
        }
    }
    Ok(sum)
}

/// Some key for each turn, all over the server's memory.
fn spread(turn: u64, keys: usize) -> usize {
    (scrambled(turn) % keys as u64) as usize
}

/// The same for the same key, and different for each that is asked for.
fn noise(index: usize, which: u64) -> u64 {
    scrambled(8 * index as u64 + which)
}

/// A Weyl sequence, scrambled (Steele et al., SplitMix64).
fn scrambled(turn: u64) -> u64 {
    let mut x = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn slot(index: usize) -> String {
    format!("b:business-{index}")
}

/// Names are as long as the gate's, and as random: Redis and Lua hash them, and a row of zeros would collide in places.
fn document_name(index: usize) -> String {
    format!("key:{:016x}{:016x}{:016x}{:016x}", noise(index, 1), noise(index, 2), noise(index, 3), noise(index, 4))
}

fn key_id(index: usize) -> String {
    let noise = format!("{:016x}{:016x}", noise(index, 5), noise(index, 6));
    format!("{}-{}-{}-{}-{}", &noise[..8], &noise[8..12], &noise[12..16], &noise[16..20], &noise[20..])
}

fn bucket_name(index: usize, windows: usize) -> String {
    format!("count:of-{windows}:{}", key_id(index))
}

fn in_slot(index: usize, name: &str) -> String {
    format!("sg:{{{}}}:{name}", slot(index))
}

/// The keys that a question about one window touches.
fn keys_of(index: usize) -> [String; 3] {
    [document_name(index), bucket_name(index, 1), "business".to_owned()].map(|name| in_slot(index, &name))
}

/// The key of what the peers' script reads.
fn record(index: usize) -> String {
    format!("peers:{}", document_name(index))
}

/// Of the length that `keys create` writes.
fn document(index: usize) -> Bytes {
    let (id, hint) = (key_id(index), noise(index, 7) as u32);
    Bytes::from(format!(
        r#"{{"business":"business-{index}","created_at":"2026-11-22T00:00:00Z","hint":"sg_{hint:08x}","id":"{id}","name":"Key {index}","scopes":["items:read"],"user":"u"}}"#
    ))
}
