//! What the script must do, said once more with `limit::spend`, and the random questions that both are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use sidegate::limit::bucket::Entry;
use sidegate::limit::{
    Algorithm, Ask, Believed, Bucket, BucketAsk, Document, Member, Outcome, Question, Window, Windows, spend,
};

pub const SLOTS: [&str; 3] = ["b:acme", "u:u_42", "global"];
pub const BUCKETS: [&str; 3] = ["count:a:x", "count:b:x", "count:c:y"];
pub const DOCUMENTS: [&str; 2] = ["business", "key:00ff"];
const MEMBERS: [&str; 2] = ["acme", "other"];
const DURATIONS: [u64; 6] = [1000, 2000, 7000, 10_000, 60_000, 86_400_000];
const TEXTS: [&[u8]; 4] = [b"", b"{}", b"{\"plan\":\"pro\"}", b"\xff\x00no text"];

/// A value in the store: what a key may hold, rightly or wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Vec<u8>),
    List,
}

/// A store of plain values, by slot and name.
#[derive(Debug, Default, Clone)]
pub struct Model {
    pub values: BTreeMap<(String, String), Value>,
    pub members: BTreeSet<(String, String)>,
}

impl Model {
    /// Answers as the script must, in its order; `Broken` without its text.
    pub fn decide(&mut self, question: &Question, now_ms: u64) -> Outcome {
        let Some(mut buckets) = self.buckets(question) else { return Outcome::Broken(String::new()) };
        let Some(found) = self.documents(question) else { return Outcome::Broken(String::new()) };
        let believed: Vec<Vec<&Believed>> =
            question.asks.iter().map(|ask| ask.documents.iter().map(|d| &d.believed).collect()).collect();
        let stands = |found: &Option<Bytes>, believed: &Believed| *believed == Believed::from_found(found.clone());
        if !found.iter().flatten().zip(believed.into_iter().flatten()).all(|(found, believed)| stands(found, believed))
        {
            return Outcome::Stale(found);
        }
        if question.asks.iter().any(|ask| ask.not_after_ms.is_some_and(|end| now_ms >= end)) {
            return Outcome::Expired;
        }
        let is_member = |ask: &Ask, m: &Member| self.members.contains(&(ask.slot.to_string(), m.member.to_string()));
        if !question.asks.iter().all(|ask| ask.member.as_ref().is_none_or(|m| is_member(ask, m))) {
            return Outcome::Refused;
        }
        let outcome = spend(&mut buckets, now_ms, question.cost, question.n);
        let Outcome::Spent { granted, observed, .. } = &outcome else { panic!("spending spends") };
        let mut observed = observed.iter();
        let named = question.asks.iter().flat_map(|ask| ask.buckets.iter().map(|b| (ask.slot.to_string(), b)));
        for ((slot, ask), (bucket, _)) in named.zip(buckets) {
            let passed = if ask.observes { observed.next().expect("each that observes is answered") } else { granted };
            if question.cost > 0 && *passed > 0 {
                self.values.insert((slot, ask.name.to_string()), Value::Text(bucket.encode()));
            }
        }
        outcome
    }

    fn buckets<'a>(&self, question: &'a Question) -> Option<Vec<(Bucket, &'a BucketAsk)>> {
        let mut seen = BTreeSet::new();
        let mut buckets = Vec::new();
        for ask in question.asks.iter() {
            for bucket in &ask.buckets {
                let name = (ask.slot.to_string(), bucket.name.to_string());
                let held = match self.values.get(&name) {
                    None => Bucket::default(),
                    Some(Value::Text(bytes)) => Bucket::decode(bytes)?,
                    Some(Value::List) => return None,
                };
                buckets.push((held, bucket));
                if !seen.insert(name) {
                    return None;
                }
            }
        }
        Some(buckets)
    }

    fn documents(&self, question: &Question) -> Option<Vec<Vec<Option<Bytes>>>> {
        let found = |ask: &Ask, document: &Document| match self
            .values
            .get(&(ask.slot.to_string(), document.name.to_string()))
        {
            None => Some(None),
            Some(Value::Text(bytes)) => Some(Some(Bytes::copy_from_slice(bytes))),
            Some(Value::List) => None,
        };
        question.asks.iter().map(|ask| ask.documents.iter().map(|d| found(ask, d)).collect()).collect()
    }
}

/// xorshift64*: the same sequence for the same seed, so that a failure can be repeated.
pub struct Dice {
    state: u64,
    /// Mostly what the gate asks day by day: every bucket has fixed windows, the same each time.
    ordinary: bool,
}

impl Dice {
    pub fn new(seed: u64, ordinary: bool) -> Self {
        Self { state: seed, ordinary }
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) % end
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize].clone()
    }

    /// Where the clock goes: mostly on, by little or to a boundary, sometimes back.
    pub fn step(&mut self, now_ms: u64) -> u64 {
        let duration = self.pick(&DURATIONS);
        match self.below(12) {
            0 | 1 => now_ms,
            2 => now_ms + 1,
            3 | 4 => now_ms + self.below(1500),
            5 => now_ms + self.below(20_000),
            6 => now_ms - now_ms % duration + duration,
            7 => now_ms - now_ms % duration + duration - 1,
            8 => now_ms + duration,
            9 => now_ms - self.below(2 * duration),
            // To the edge of what begins a window anew.
            10 => now_ms - duration - self.below(2),
            _ => now_ms - self.below(5000),
        }
    }

    pub fn questions(&mut self, model: &Model, now_ms: u64) -> Vec<Question> {
        (0..=self.below(4)).map(|_| self.question(model, now_ms)).collect()
    }

    fn question(&mut self, model: &Model, now_ms: u64) -> Question {
        let asks = (0..=self.below(3)).map(|_| self.ask(model, now_ms)).collect();
        let cost = match self.below(12) {
            0 => 0,
            1 => self.below(u64::MAX),
            2 => 1 << 40,
            3..6 => 1 + self.below(5),
            _ => 1,
        };
        Question { asks, cost, n: if self.once_in(10) { u32::MAX } else { 1 + self.below(6) as u32 } }
    }

    fn ask(&mut self, model: &Model, now_ms: u64) -> Ask {
        let slot = self.pick(&SLOTS).to_owned();
        let documents = (0..self.below(3)).map(|_| self.document(model, &slot)).collect();
        let member = Member { set: "businesses".into(), member: self.pick(&MEMBERS).into() };
        let buckets = (0..self.below(3)).map(|_| self.bucket_ask()).collect();
        let not_after_ms = [now_ms, now_ms + 1, now_ms + 1, now_ms + 5000, u64::MAX][self.below(5) as usize];
        Ask {
            slot: slot.into(),
            documents,
            member: self.once_in(5).then(|| Box::new(member)),
            not_after_ms: self.once_in(4).then_some(not_after_ms),
            buckets,
        }
    }

    fn document(&mut self, model: &Model, slot: &str) -> Document {
        let name = self.pick(&DOCUMENTS).to_owned();
        let believed = match model.values.get(&(slot.to_owned(), name.clone())) {
            _ if self.once_in(12) => {
                let text = Believed::Is(Bytes::from_static(self.pick(&TEXTS)));
                self.pick(&[Believed::Unknown, Believed::Absent, text])
            }
            Some(Value::Text(bytes)) => Believed::Is(Bytes::copy_from_slice(bytes)),
            Some(Value::List) | None => Believed::Absent,
        };
        Document { name: name.into(), believed }
    }

    fn algorithm(&mut self) -> Algorithm {
        self.pick(&[Algorithm::Fixed, Algorithm::Sliding, Algorithm::Token])
    }

    fn bucket_ask(&mut self) -> BucketAsk {
        if self.ordinary && !self.once_in(20) {
            return self.ordinary_bucket_ask();
        }
        let mut durations: Vec<u64> = (0..=self.below(3)).map(|_| self.pick(&DURATIONS)).collect();
        durations.sort_unstable();
        durations.dedup();
        let algorithm = self.algorithm();
        let limit = |duration_ms| Window { limit: self.limit(algorithm, duration_ms), duration_ms };
        let windows = durations.into_iter().map(limit);
        let windows = Arc::new(Windows::new(windows.collect()).expect("durations are distinct and limits in range"));
        let name = self.pick(&BUCKETS).to_owned();
        BucketAsk { name: name.into(), algorithm, windows, observes: self.once_in(4) }
    }

    /// One window, two, or three; which, the name says.
    fn ordinary_bucket_ask(&mut self) -> BucketAsk {
        let at = self.below(BUCKETS.len() as u64) as usize;
        let durations = DURATIONS.iter().skip(at).step_by(2).take(at + 1);
        let limit = |&duration_ms| Window { limit: self.limit(Algorithm::Fixed, duration_ms), duration_ms };
        let windows = durations.map(limit).collect();
        let windows = Arc::new(Windows::new(windows).expect("durations are distinct and limits in range"));
        BucketAsk { name: BUCKETS[at].into(), algorithm: Algorithm::Fixed, windows, observes: self.once_in(20) }
    }

    fn limit(&mut self, algorithm: Algorithm, duration_ms: u64) -> u64 {
        match self.below(20) {
            0 => 0,
            1 if algorithm == Algorithm::Fixed => 1_000_000_000_000_000 - 1,
            1 => ((1 << 50) - 1) / duration_ms,
            2..5 => 1 + self.below(5),
            _ => 5 + self.below(40),
        }
    }

    /// Something that somebody else wrote, or that an accident left.
    pub fn value(&mut self, bucket: bool, now_ms: u64) -> Option<Value> {
        match self.below(8) {
            0..3 => None,
            3 => Some(Value::List),
            _ if !bucket => Some(Value::Text(self.pick(&TEXTS).to_vec())),
            4 => Some(Value::Text(self.pick(&TEXTS).to_vec())),
            5 => Some(Value::Text(self.nearly_a_bucket(now_ms))),
            _ => Some(Value::Text(self.bucket(now_ms).encode())),
        }
    }

    /// A readable bucket at the edges of what is readable.
    fn bucket(&mut self, now_ms: u64) -> Bucket {
        let entries = (0..=self.below(3)).map(|_| {
            let (algorithm, duration_ms) = (self.algorithm(), self.pick(&DURATIONS));
            let most = (1 << 53) / duration_ms;
            let used = [self.below(50), self.below(most / 2), most / 2][self.below(3) as usize];
            let previous = if algorithm == Algorithm::Sliding { [0, 7, most / 2][self.below(3) as usize] } else { 0 };
            let start = now_ms - now_ms % duration_ms;
            let mark_ms = match self.below(10) {
                0 => (1 << 53) - 2 * duration_ms,
                1 => now_ms - self.below(3 * duration_ms),
                2 => 0,
                3 | 4 => start - duration_ms,
                5 => start + duration_ms * self.below(4),
                6 => now_ms + duration_ms + self.below(2),
                _ => start,
            };
            Entry { algorithm, duration_ms, mark_ms, used, previous }
        });
        Bucket { entries: entries.collect() }
    }

    fn nearly_a_bucket(&mut self, now_ms: u64) -> Vec<u8> {
        let mut bytes = self.bucket(now_ms).encode();
        let odd = self.pick(&[
            f64::NAN,
            f64::INFINITY,
            -1.0,
            0.5,
            0.0,
            9_007_199_254_740_992.0,
            9_007_199_254_740_994.0,
            4.0e15,
        ]);
        let field = 2 + 8 * self.below(4) as usize;
        match self.below(4) {
            0 => bytes.truncate(bytes.len() - 1),
            // Not the algorithm: one that is not known yet belongs to a later release, and is kept.
            1 => bytes[0] = self.below(256) as u8,
            _ => bytes[field..field + 8].copy_from_slice(&odd.to_le_bytes()),
        }
        bytes
    }
}
