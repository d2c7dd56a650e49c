//! What a store keeps of a limit: for each window its state, and never the limit itself, so that a changed limit acts at once.
//!
//! The bytes are read and written by sidecars of different versions and configurations, and by `decide.lua`, which packs
//! the very same ones: version, then per entry its algorithm and four little-endian doubles (Lua has no other number).

use super::{Algorithm, BucketAsk};

/// The state of all windows of one limit and one subject.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bucket {
    pub entries: Vec<Entry>,
}

/// The state of one window. What `mark`, `used` and `previous` mean depends on the algorithm:
///
/// | algorithm | mark | used | previous |
/// |---|---|---|---|
/// | fixed | start of the window | spent in it | 0 |
/// | sliding | start of the current window | spent in it | spent in the window before |
/// | token | when `used` was true | units not yet refilled, `duration_ms` units to a token | 0 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub algorithm: Algorithm,
    pub duration_ms: u64,
    pub mark_ms: u64,
    pub used: u64,
    pub previous: u64,
}

const VERSION: u8 = 1;
const STRIDE: usize = 1 + 4 * 8;

/// The largest whole number up to which a double counts without gaps.
const MOST: f64 = (1_u64 << 53) as f64;

impl Bucket {
    /// Reads what `encode` or `decide.lua` wrote; `None` for anything else. Only the script meets buckets in which a later
    /// release counts by an algorithm of its own: it keeps such an entry until two durations after its mark.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        if version != VERSION || !rest.len().is_multiple_of(STRIDE) {
            return None;
        }
        let entries = rest.chunks_exact(STRIDE).map(Entry::decode).collect::<Option<_>>()?;
        Some(Self { entries })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.entries.len() * STRIDE);
        bytes.push(VERSION);
        for entry in &self.entries {
            entry.encode(&mut bytes);
        }
        bytes
    }

    /// The time from which on nothing in here matters any more; 0 for an empty bucket.
    pub fn ends_ms(&self) -> u64 {
        self.entries.iter().map(Entry::ends_ms).max().unwrap_or(0)
    }

    /// The position of the window's state, if there is one.
    pub(super) fn position(&self, algorithm: Algorithm, duration_ms: u64) -> Option<usize> {
        self.entries.iter().position(|e| e.algorithm == algorithm && e.duration_ms == duration_ms)
    }

    /// Whether anything in here still matters.
    pub fn counts_at(&self, now_ms: u64) -> bool {
        self.entries.iter().any(|entry| entry.counts_at(now_ms))
    }

    /// Drops what counts no more, save the windows of the asker, who has just written them.
    pub(super) fn prune(&mut self, ask: &BucketAsk, now_ms: u64) {
        let asked = |e: &Entry| {
            e.algorithm == ask.algorithm && ask.windows.as_slice().iter().any(|w| w.duration_ms == e.duration_ms)
        };
        self.entries.retain(|entry| asked(entry) || entry.counts_at(now_ms));
    }
}

impl Entry {
    /// A window that nothing was spent in.
    pub fn fresh(algorithm: Algorithm, duration_ms: u64, now_ms: u64) -> Self {
        let mark_ms = match algorithm {
            Algorithm::Fixed | Algorithm::Sliding => now_ms - now_ms % duration_ms,
            Algorithm::Token => now_ms,
        };
        Self { algorithm, duration_ms, mark_ms, used: 0, previous: 0 }
    }

    /// When the entry counts no more, whatever the limit: a token bucket of any size refills within its duration.
    pub fn ends_ms(&self) -> u64 {
        match self.algorithm {
            Algorithm::Fixed | Algorithm::Token => self.mark_ms + self.duration_ms,
            Algorithm::Sliding => self.mark_ms + 2 * self.duration_ms,
        }
    }

    /// Whether it is marked so far ahead that the store's clock has gone back, and it has to begin anew: else a limit would stay
    /// closed until the clock is there again. By less than a duration it may go back when one node takes over from another, and
    /// then nothing that was counted is given back early.
    pub(super) fn is_ahead(&self, now_ms: u64) -> bool {
        self.mark_ms > now_ms.saturating_add(self.duration_ms)
    }

    fn counts_at(&self, now_ms: u64) -> bool {
        self.ends_ms() > now_ms && !self.is_ahead(now_ms)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&algorithm, numbers) = bytes.split_first()?;
        let algorithm = match algorithm {
            0 => Algorithm::Fixed,
            1 => Algorithm::Sliding,
            2 => Algorithm::Token,
            _ => return None,
        };
        let mut numbers = numbers.chunks_exact(8).map(|eight| eight.try_into().map(f64::from_le_bytes));
        let mut number = || numbers.next()?.ok().filter(|x| whole(*x));
        let (duration, mark, used, previous) = (number()?, number()?, number()?, number()?);
        // So that whatever is made of these numbers is exact in a double as well: the end, and a sliding window's estimate.
        let exact = duration >= 1.0
            && mark + 2.0 * duration <= MOST
            && (algorithm != Algorithm::Sliding || (used + previous) * duration <= MOST);
        exact.then_some(Self {
            algorithm,
            duration_ms: duration as u64,
            mark_ms: mark as u64,
            used: used as u64,
            previous: previous as u64,
        })
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(match self.algorithm {
            Algorithm::Fixed => 0,
            Algorithm::Sliding => 1,
            Algorithm::Token => 2,
        });
        for number in [self.duration_ms, self.mark_ms, self.used, self.previous] {
            bytes.extend_from_slice(&(number as f64).to_le_bytes());
        }
    }
}

/// Whether a double is a count; NaN is not.
fn whole(x: f64) -> bool {
    (0.0..=MOST).contains(&x) && x.fract() == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(algorithm: Algorithm) -> Entry {
        Entry { algorithm, duration_ms: 60_000, mark_ms: 1_774_276_200_000, used: 7, previous: 3 }
    }

    #[test]
    fn a_bucket_is_read_back_as_it_was_written() {
        let bucket = Bucket { entries: [Algorithm::Fixed, Algorithm::Sliding, Algorithm::Token].map(entry).to_vec() };
        let bytes = bucket.encode();
        assert_eq!(bytes.len(), 1 + 3 * STRIDE);
        assert_eq!(Bucket::decode(&bytes), Some(bucket));
        assert_eq!(Bucket::decode(&[VERSION]), Some(Bucket::default()));
    }

    #[test]
    fn bytes_that_no_sidecar_wrote_are_refused() {
        let good = Bucket { entries: vec![entry(Algorithm::Sliding)] }.encode();
        let with = |at: usize, number: f64| {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        for wrong in [f64::NAN, f64::INFINITY, -1.0, 0.5, MOST * 2.0] {
            for field in 0..4 {
                assert_eq!(Bucket::decode(&with(2 + 8 * field, wrong)), None, "{wrong} in field {field}");
            }
        }
        assert_eq!(Bucket::decode(&with(2, 0.0)), None, "no duration");
        assert_eq!(Bucket::decode(&with(10, MOST)), None, "an end that is not exact");
        assert_eq!(Bucket::decode(&with(18, MOST / 2.0)), None, "an estimate that is not exact");
        for (at, byte) in [(0, 0), (0, 2), (1, 3)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(Bucket::decode(&bytes), None);
        }
        assert_eq!(Bucket::decode(b""), None);
        assert_eq!(Bucket::decode(&good[..good.len() - 1]), None);
    }
}
