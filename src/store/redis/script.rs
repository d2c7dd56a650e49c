//! The decision script's wire format: questions into one call's keys and argument, its answer back into answers.
//!
//! What the script does stands at its head (`scripts/decide.lua`); a connection and its errors are left to `connection` and `call`.

use std::{iter, vec};

use bytes::Bytes;
use rmp::decode::{read_array_len, read_int, read_str_len};
use rmp::encode::{write_array_len, write_bool, write_str, write_uint};

use crate::limit::{
    Algorithm, Answer, Ask, Believed, BucketAsk, BucketsNow, Member, Outcome, Question, WindowNow, WindowsNow,
};
use crate::store::StoreError;
use crate::store::layout::Layout;

pub const DECIDE: &str = include_str!("scripts/decide.lua");
pub const GIVE_BACK: &str = include_str!("scripts/give_back.lua");

/// Bytes of a key: most are those of documents, which are named by 64 digits.
const USUAL_KEY: usize = 96;

/// What Redis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    Decide,
    GiveBack,
}

impl Script {
    pub fn text(self) -> &'static str {
        match self {
            Self::Decide => DECIDE,
            Self::GiveBack => GIVE_BACK,
        }
    }
}

/// The line in which the script reads the store's clock, so that a test can put its own there.
pub const CLOCK_LINE: &str = "local now = time[1] * 1000 + floor(time[2] / 1000)\n";

/// Added to the number of a bucket's algorithm where it only observes.
const OBSERVES: u64 = 3;

/// What goes out: `EVALSHA <sha> <number of keys> <keys…> <blob> <texts…>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    pub keys: Keys,
    /// The questions.
    pub blob: Vec<u8>,
    /// The documents that are believed, as they are: the script's MessagePack knows no bytes, only text.
    pub texts: Vec<&'a Bytes>,
}

impl Call<'_> {
    /// The arguments of the command that runs the script, in their order.
    pub fn evalsha(&self, sha: &str, mut argument: impl FnMut(&[u8])) {
        argument(b"EVALSHA");
        argument(sha.as_bytes());
        argument(itoa::Buffer::new().format(self.keys.len()).as_bytes());
        self.keys.iter().for_each(|key| argument(key.as_bytes()));
        argument(&self.blob);
        self.texts.iter().for_each(|text| argument(text));
    }

    /// The same as it goes over the wire.
    pub(super) fn write_evalsha(&self, sha: &str, to: &mut Vec<u8>) {
        let count = 4 + self.keys.len() + self.texts.len();
        let texts: usize = self.texts.iter().map(|text| text.len()).sum();
        to.reserve(64 + sha.len() + self.keys.text.len() + self.blob.len() + texts + AROUND_ARGUMENT * count);
        write_head(to, b'*', count);
        self.evalsha(sha, |argument| {
            write_head(to, b'$', argument.len());
            to.extend_from_slice(argument);
            to.extend_from_slice(b"\r\n");
        });
    }
}

/// Bytes that the wire needs beyond an argument's own; one longer than 999 bytes needs a few more.
const AROUND_ARGUMENT: usize = 8;

fn write_head(to: &mut Vec<u8>, kind: u8, length: usize) {
    to.push(kind);
    to.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    to.extend_from_slice(b"\r\n");
}

/// One behind the other in one piece of memory, since each question has a few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    text: String,
    ends: Vec<usize>,
}

impl Keys {
    pub fn push(&mut self, layout: &Layout, slot: &str, name: &str) {
        layout.push_in_slot(&mut self.text, slot, name);
        self.ends.push(self.text.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let begins = iter::once(&0).chain(&self.ends);
        begins.zip(&self.ends).map(|(&begin, &end)| &self.text[begin..end])
    }
}

/// Each key and each belief goes out once, however many questions share it.
pub fn encode<'a>(layout: &Layout, questions: &'a [Question]) -> Call<'a> {
    let (names, indices) = KeyNames::gather(questions);
    let mut indices = KeyIndices { names: &names, next: indices.into_iter() };
    let mut blob = FlatList::with_capacity(16 * questions.len());
    for count in [names.texts.len(), names.buckets.len(), names.absent.len(), names.unseen.len(), questions.len()] {
        blob.index(count);
    }
    questions.iter().for_each(|question| write_question(&mut blob, &mut indices, question));
    let count = names.in_order().count();
    let mut keys = Keys { text: String::with_capacity(USUAL_KEY * count), ends: Vec::with_capacity(count) };
    names.in_order().for_each(|name| keys.push(layout, name.slot, name.name));
    let texts = names.texts.iter().map(|(_, text)| *text).collect();
    Call { keys, blob: blob.finish(), texts }
}

/// A key's place below the prefix. Two that differ nearly always differ in how they end, so that is compared first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyName<'a> {
    ends: u64,
    slot: &'a str,
    name: &'a str,
}

impl<'a> KeyName<'a> {
    fn new(slot: &'a str, name: &'a str) -> Self {
        // Turned, since both may end alike: what counts a business stands in its slot.
        Self { ends: end(slot).rotate_left(29) ^ end(name), slot, name }
    }
}

/// The last eight bytes; 0 of what is shorter.
fn end(text: &str) -> u64 {
    text.as_bytes().last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The keys of a call, kind by kind, in the order in which the script takes the kinds. They are few, so that looking through
/// them costs less than hashing.
#[derive(Debug, Default)]
struct KeyNames<'a> {
    texts: Vec<(KeyName<'a>, &'a Bytes)>,
    buckets: Vec<KeyName<'a>>,
    absent: Vec<KeyName<'a>>,
    unseen: Vec<KeyName<'a>>,
    sets: Vec<KeyName<'a>>,
}

impl<'a> KeyNames<'a> {
    /// All keys, and for each mention in the order of `write_question` which of its kind it is, from 0.
    fn gather(questions: &'a [Question]) -> (Self, Vec<usize>) {
        let of_each = |most: usize| most * questions.len();
        let mut names =
            Self { texts: Vec::with_capacity(of_each(2)), buckets: Vec::with_capacity(of_each(2)), ..Self::default() };
        let mut indices = Vec::with_capacity(of_each(4));
        for question in questions {
            for ask in question.asks.iter() {
                for document in &ask.documents {
                    let name = KeyName::new(&ask.slot, &document.name);
                    indices.push(match &document.believed {
                        Believed::Is(text) => index_or_push(&mut names.texts, (name, text)),
                        Believed::Absent => index_or_push(&mut names.absent, name),
                        Believed::Unknown => index_or_push(&mut names.unseen, name),
                    });
                }
            }
            for (ask, member) in members(question) {
                indices.push(index_or_push(&mut names.sets, KeyName::new(&ask.slot, &member.set)));
            }
            for (ask, bucket) in buckets(question) {
                indices.push(index_or_push(&mut names.buckets, KeyName::new(&ask.slot, &bucket.name)));
            }
        }
        (names, indices)
    }

    fn in_order(&self) -> impl Iterator<Item = KeyName<'a>> {
        let texts = self.texts.iter().map(|(name, _)| *name);
        let others = [&self.buckets, &self.absent, &self.unseen, &self.sets];
        texts.chain(others.into_iter().flatten().copied())
    }
}

fn index_or_push<T: PartialEq>(held: &mut Vec<T>, wanted: T) -> usize {
    held.iter().position(|one| *one == wanted).unwrap_or_else(|| {
        held.push(wanted);
        held.len() - 1
    })
}

fn members(question: &Question) -> impl Iterator<Item = (&Ask, &Member)> {
    question.asks.iter().filter_map(|ask| Some((ask, ask.member.as_deref()?)))
}

fn buckets(question: &Question) -> impl Iterator<Item = (&Ask, &BucketAsk)> {
    question.asks.iter().flat_map(|ask| ask.buckets.iter().map(move |bucket| (ask, bucket)))
}

/// The indices in KEYS (from 1, as Lua counts) of keys that were gathered, in the same order.
struct KeyIndices<'a> {
    names: &'a KeyNames<'a>,
    next: vec::IntoIter<usize>,
}

impl KeyIndices<'_> {
    /// 0 would be refused by the script.
    fn next(&mut self, first: usize) -> usize {
        self.next.next().map_or(0, |index| first + index + 1)
    }

    fn document(&mut self, believed: &Believed) -> usize {
        let strings = self.names.texts.len() + self.names.buckets.len();
        self.next(match believed {
            Believed::Is(_) => 0,
            Believed::Absent => strings,
            Believed::Unknown => strings + self.names.absent.len(),
        })
    }

    fn set(&mut self) -> usize {
        let KeyNames { texts, buckets, absent, unseen, .. } = self.names;
        self.next(texts.len() + buckets.len() + absent.len() + unseen.len())
    }

    fn bucket(&mut self) -> usize {
        self.next(self.names.texts.len())
    }
}

fn write_question(blob: &mut FlatList, indices: &mut KeyIndices<'_>, question: &Question) {
    let documents = || question.asks.iter().flat_map(|ask| &ask.documents);
    blob.number(question.cost);
    blob.number(question.n.into());
    blob.index(documents().count());
    documents().for_each(|document| blob.index(indices.document(&document.believed)));
    // The earliest end is the question's.
    match question.asks.iter().filter_map(|ask| ask.not_after_ms).min() {
        Some(not_after_ms) => blob.number(not_after_ms),
        None => blob.nothing(),
    }
    blob.index(members(question).count());
    for (_, member) in members(question) {
        blob.index(indices.set());
        blob.text(&member.member);
    }
    blob.index(buckets(question).count());
    for (_, bucket) in buckets(question) {
        let windows = bucket.windows.as_slice();
        blob.index(indices.bucket());
        let algorithm = match bucket.algorithm {
            Algorithm::Fixed => 0,
            Algorithm::Sliding => 1,
            Algorithm::Token => 2,
        };
        blob.number(if bucket.observes { algorithm + OBSERVES } else { algorithm });
        blob.index(windows.len());
        for window in windows {
            blob.number(window.limit);
            blob.number(window.duration_ms);
        }
    }
}

/// Elements of MessagePack, one behind the other: the script reads them in fewer steps than a list.
struct FlatList {
    elements: Vec<u8>,
    length: u32,
}

/// Half of what Lua lets a function return.
const MOST_ON_THE_STACK: u32 = 4_000;

/// Writing to memory has no other way to fail.
const IN_MEMORY: &str = "memory takes whatever is written to it";

impl FlatList {
    fn with_capacity(elements: usize) -> Self {
        Self { elements: Vec::with_capacity(2 * elements), length: 0 }
    }

    /// The script's MessagePack reads what is above 2⁶³ as negative, and Lua has no more than 2⁵³ without gaps. A cost or a
    /// time of that size is beyond every limit and every clock, so a smaller one that is beyond them too means the same.
    fn number(&mut self, number: u64) {
        match u8::try_from(number) {
            // Most are small, and stand for themselves.
            Ok(small @ 0..128) => self.elements.push(small),
            _ => drop(write_uint(&mut self.elements, number.min(1 << 53)).expect(IN_MEMORY)),
        }
        self.length += 1;
    }

    fn index(&mut self, index: usize) {
        self.number(index as u64);
    }

    fn text(&mut self, text: &str) {
        write_str(&mut self.elements, text).expect(IN_MEMORY);
        self.length += 1;
    }

    /// `false`: a nil would cut a Lua list short.
    fn nothing(&mut self) {
        write_bool(&mut self.elements, false).expect(IN_MEMORY);
        self.length += 1;
    }

    /// The elements alone; a list of them where they are too many for Lua's stack.
    fn finish(self) -> Vec<u8> {
        if self.length <= MOST_ON_THE_STACK {
            return self.elements;
        }
        let mut list = Vec::with_capacity(5 + self.elements.len());
        write_array_len(&mut list, self.length).expect(IN_MEMORY);
        list.extend_from_slice(&self.elements);
        list
    }
}

/// Reads what the script returned for these very questions. Anything but the documented shape is an error.
pub fn decode(questions: &[Question], bytes: &[u8]) -> Result<Vec<Answer>, StoreError> {
    read_answers(questions, bytes).ok_or_else(|| StoreError::Broken("the decision script's answer".to_owned()))
}

fn read_answers(questions: &[Question], mut bytes: &[u8]) -> Option<Vec<Answer>> {
    let left = read_array_len(&mut bytes).ok()?;
    let mut list = Elements { bytes, left };
    let now_ms = list.number()?;
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        answers.push(Answer { now_ms, outcome: read_outcome(&mut list, question)? });
    }
    (list.left == 0 && list.bytes.is_empty()).then_some(answers)
}

fn read_outcome(list: &mut Elements<'_>, question: &Question) -> Option<Outcome> {
    let outcome = match list.number()? {
        0 => Outcome::Broken(String::from_utf8_lossy(list.text()??).into_owned()),
        1 => {
            let mut found = || list.text().map(|text| text.map(Bytes::copy_from_slice));
            let of_ask = |ask: &Ask| ask.documents.iter().map(|_| found()).collect();
            Outcome::Stale(question.asks.iter().map(of_ask).collect::<Option<_>>()?)
        }
        2 => Outcome::Expired,
        3 => Outcome::Refused,
        4 => {
            let granted = u32::try_from(list.number()?).ok().filter(|granted| *granted <= question.n)?;
            let (mut windows, mut observed) = (BucketsNow::new(), Vec::new());
            for (_, bucket) in buckets(question) {
                if bucket.observes {
                    observed.push(u32::try_from(list.number()?).ok().filter(|passed| *passed <= granted)?);
                }
                let mut of_bucket = WindowsNow::new();
                for _ in bucket.windows.as_slice() {
                    of_bucket.push(read_window(list)?);
                }
                windows.push(of_bucket);
            }
            Outcome::Spent { granted, windows, observed }
        }
        _ => return None,
    };
    Some(outcome)
}

fn read_window(list: &mut Elements<'_>) -> Option<WindowNow> {
    let (remaining, reset_ms) = (list.number()?, list.number()?);
    let wait_ms = match list.signed()? {
        -1 => None,
        wait => Some(u64::try_from(wait).ok()?),
    };
    Some(WindowNow { remaining, reset_ms, wait_ms, owed: list.number()? })
}

/// What is left of a MessagePack list.
struct Elements<'a> {
    bytes: &'a [u8],
    left: u32,
}

impl<'a> Elements<'a> {
    fn signed(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        read_int(&mut self.bytes).ok()
    }

    fn number(&mut self) -> Option<u64> {
        u64::try_from(self.signed()?).ok()
    }

    /// A text, or `Some(None)` where `false` says that there is none.
    fn text(&mut self) -> Option<Option<&'a [u8]>> {
        self.left = self.left.checked_sub(1)?;
        if let Some((&MARKED_FALSE, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return Some(None);
        }
        let length = read_str_len(&mut self.bytes).ok()?;
        let (text, rest) = self.bytes.split_at_checked(usize::try_from(length).ok()?)?;
        self.bytes = rest;
        Some(Some(text))
    }
}

/// MessagePack's `false`.
const MARKED_FALSE: u8 = 0xc2;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::limit::{Document, Windows};

    fn question() -> Question {
        let windows = Arc::new(Windows::parse(["60/1m"]).expect("the test's window is valid"));
        let believed = Believed::Is(Bytes::from_static(b"{}"));
        Question {
            asks: [Ask {
                slot: "b:acme".into(),
                documents: vec![Document { name: "business".into(), believed }].into(),
                member: Some(Box::new(Member { set: "businesses".into(), member: "acme".into() })),
                not_after_ms: None,
                buckets: [BucketAsk {
                    name: "count:l:acme".into(),
                    algorithm: Algorithm::Fixed,
                    windows,
                    observes: false,
                }]
                .into(),
            }]
            .into(),
            cost: 1,
            n: 2,
        }
    }

    #[test]
    fn questions_that_share_keys_and_beliefs_send_them_once() {
        let layout = Layout::new("sg");
        let questions = [question(), question()];
        let one = encode(&layout, &questions[..1]);
        let keys: Vec<&str> = one.keys.iter().collect();
        assert_eq!(keys, ["sg:{b:acme}:business", "sg:{b:acme}:count:l:acme", "sg:{b:acme}:businesses"]);
        let two = encode(&layout, &questions);
        assert_eq!(two.keys, one.keys);
        assert_eq!(two.texts, [&Bytes::from_static(b"{}")]);
    }

    #[test]
    fn an_answer_of_another_shape_is_refused() {
        let pack = |list: &serde_json::Value| rmp_serde::to_vec(list).expect("JSON is representable in MessagePack");
        let read = |list| decode(&[question()], &pack(&list)).map(|answers| answers[0].outcome.clone());
        let window = WindowNow { remaining: 5, reset_ms: 60_000, wait_ms: None, owed: 7 };
        let spent = Outcome::Spent { granted: 2, windows: [[window].into()].into(), observed: vec![] };
        assert_eq!(read(serde_json::json!([9, 4, 2, 5, 60_000, -1, 7])), Ok(spent));
        assert_eq!(read(serde_json::json!([9, 1, false])), Ok(Outcome::Stale(vec![vec![None]])));
        for wrong in [
            serde_json::json!([]),
            serde_json::json!([9]),
            serde_json::json!([9, 2, 2]),
            serde_json::json!([9, 5]),
            serde_json::json!([9, 0, false]),
            serde_json::json!([9, 1]),
            serde_json::json!([9, 1, true]),
            serde_json::json!([9, 4, 3, 5, 60_000, -1, 7]),
            serde_json::json!([9, 4, 2]),
            serde_json::json!([9, 4, 2, 5, 60_000, -1]),
            serde_json::json!([9, 4, 2, 5, 60_000, -2, 7]),
            serde_json::json!([9, 4, 2, -5, 60_000, 0, 7]),
            serde_json::json!([9, 4, 2, 5.5, 60_000, 0, 7]),
            serde_json::json!([[9, 2]]),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_clock_stands_in_one_line_of_the_script() {
        assert_eq!(DECIDE.matches(CLOCK_LINE).count(), 1);
    }
}
