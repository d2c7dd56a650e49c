//! The decision script's wire format: questions into one call's keys and argument, its answer back into answers.
//!
//! What the script does stands at its head (`scripts/decide.lua`); a connection and its errors are left to `connect`.

use std::iter;
use std::sync::Arc;

use bytes::Bytes;
use rmp::decode::{read_array_len, read_int, read_str_len};
use smallvec::SmallVec;

use super::encoded::{Encoded, FlatList, Kind, Mention, write_argument, write_head};
use crate::limit::{Answer, Ask, BucketsNow, Outcome, Question, WindowNow, WindowsNow};
use crate::store::StoreError;
use crate::store::layout::Layout;

pub const DECIDE: &str = include_str!("scripts/decide.lua");
pub const GIVE_BACK: &str = include_str!("scripts/give_back.lua");

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

/// What goes out: `EVALSHA <sha> <number of keys> <keys…> <blob> <texts…>`. The blob is the questions; the texts are the documents
/// that are believed, as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// With the first two.
    count: usize,
    /// As they go over the wire, those behind the sha.
    arguments: Vec<u8>,
}

impl Call {
    /// One of a script that takes these keys and this blob.
    pub(super) fn new(keys: &[String], blob: &[u8]) -> Self {
        let mut call = Self::with_capacity(keys.len(), 0);
        keys.iter().for_each(|key| call.argument(key.as_bytes()));
        call.argument(blob);
        call
    }

    fn with_capacity(keys: usize, bytes: usize) -> Self {
        let mut call = Self { count: 2, arguments: Vec::with_capacity(bytes) };
        call.argument(itoa::Buffer::new().format(keys).as_bytes());
        call
    }

    fn argument(&mut self, argument: &[u8]) {
        write_argument(&mut self.arguments, argument);
        self.count += 1;
    }

    fn encoded(&mut self, argument: &[u8]) {
        self.arguments.extend_from_slice(argument);
        self.count += 1;
    }

    /// The arguments behind the sha, for who sends them by other means.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.arguments.as_slice();
        iter::from_fn(move || {
            let head = rest.iter().position(|byte| *byte == b'\n')?;
            let length = str::from_utf8(&rest[1..head]).ok()?.trim_end().parse().ok()?;
            let (argument, behind) = rest[head + 1..].split_at_checked(length)?;
            rest = behind.strip_prefix(b"\r\n")?;
            Some(argument)
        })
    }

    /// The command as it goes over the wire.
    pub(super) fn write_evalsha(&self, sha: &str, to: &mut Vec<u8>) {
        to.reserve(BEFORE_KEYS + sha.len() + self.arguments.len());
        write_head(to, b'*', self.count);
        write_argument(to, b"EVALSHA");
        write_argument(to, sha.as_bytes());
        to.extend_from_slice(&self.arguments);
    }
}

/// Bytes before the sha, and between it and the keys.
const BEFORE_KEYS: usize = 40;

/// Each key and each belief goes out once, however many questions share it.
pub fn encode(layout: &Layout, questions: &[Question]) -> Call {
    let encoded: SmallVec<[_; USUAL]> = questions.iter().map(|question| Encoded::of(layout, &question.asks)).collect();
    let mut keys = Keys::default();
    let places = keys.gather(&encoded);
    let mut blob = FlatList::with_capacity(BLOB_OF_ONE * (1 + questions.len()));
    Kind::ALL[..4].iter().for_each(|kind| blob.index(keys.of(*kind).len()));
    blob.index(questions.len());
    let (first, mut places) = (keys.first_indices(), places.into_iter());
    for (question, encoded) in questions.iter().zip(&encoded) {
        blob.number(question.cost);
        blob.number(question.n.into());
        let kinds = encoded.mentions.iter().map(|mention| mention.kind);
        blob.asks(encoded, kinds.zip(&mut places).map(|(kind, place)| first[kind as usize] + place));
    }
    let blob = blob.finish();
    let size: usize = encoded.iter().map(|encoded| encoded.size()).sum();
    let mut call = Call::with_capacity(keys.count(), BEFORE_KEYS + size + blob.len());
    keys.each().for_each(|key| call.encoded(key.encoded.key(key.mention)));
    call.argument(&blob);
    keys.of(Kind::Text).iter().for_each(|key| call.encoded(key.encoded.text(key.mention)));
    call
}

/// Most questions take less of the blob.
const BLOB_OF_ONE: usize = 32;

/// So many of a thing a call has room for where it need not ask for memory.
const USUAL: usize = 16;

/// A key, by one who mentions it.
struct Key<'a> {
    /// Beside the others, so that looking through them touches no more than this.
    hash: u64,
    encoded: &'a Encoded,
    mention: &'a Mention,
}

/// The keys of a call, kind by kind. They are few, so that looking through them costs less than a map.
#[derive(Default)]
struct Keys<'a>([SmallVec<[Key<'a>; USUAL]>; Kind::ALL.len()]);

impl<'a> Keys<'a> {
    /// Takes all keys in; for each mention which of its kind it is, from 0.
    fn gather(&mut self, encoded: &'a [Arc<Encoded>]) -> SmallVec<[usize; 4 * USUAL]> {
        let mut places = SmallVec::new();
        for encoded in encoded {
            for mention in &encoded.mentions {
                let held = &mut self.0[mention.kind as usize];
                let is_same = |held: &Key<'_>| {
                    held.hash == mention.hash && encoded.names_the_same(mention, (held.encoded, held.mention))
                };
                let place = held.iter().position(is_same);
                places.push(place.unwrap_or(held.len()));
                if place.is_none() {
                    held.push(Key { hash: mention.hash, encoded, mention });
                }
            }
        }
        places
    }

    fn of(&self, kind: Kind) -> &[Key<'a>] {
        &self.0[kind as usize]
    }

    /// In the order in which the script takes them.
    fn each(&self) -> impl Iterator<Item = &Key<'a>> {
        self.0.iter().flatten()
    }

    fn count(&self) -> usize {
        self.0.iter().map(SmallVec::len).sum()
    }

    /// Of each kind where it begins in KEYS, which Lua counts from 1.
    fn first_indices(&self) -> [usize; Kind::ALL.len()] {
        let mut next = 1;
        self.0.each_ref().map(|keys| {
            next += keys.len();
            next - keys.len()
        })
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
            for bucket in question.buckets() {
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
    use super::*;
    use crate::limit::{Algorithm, Believed, BucketAsk, Document, Member, Windows};

    fn question() -> Question {
        let windows = Arc::new(Windows::parse(["60/1m"]).expect("the test's window is valid"));
        let believed = Believed::Is(Bytes::from_static(b"{}"));
        Question {
            asks: [Ask {
                slot: "b:acme".into(),
                documents: vec![Document { name: "business".into(), believed }].into(),
                member: Some(Member { set: "businesses".into(), member: "acme".into() }),
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
        let arguments: Vec<_> = one.arguments().map(String::from_utf8_lossy).collect();
        assert_eq!(arguments[0], "3");
        assert_eq!(arguments[1..4], ["sg:{b:acme}:business", "sg:{b:acme}:count:l:acme", "sg:{b:acme}:businesses"]);
        assert_eq!(arguments[5..], ["{}"]);
        let two = encode(&layout, &questions);
        let but_the_blob = |call: &Call| {
            let arguments = call.arguments().map(<[u8]>::to_vec).enumerate();
            arguments.filter(|(index, _)| *index != 4).map(|(_, argument)| argument).collect::<Vec<_>>()
        };
        assert_eq!(but_the_blob(&two), but_the_blob(&one));
    }

    #[test]
    fn a_question_that_was_asked_elsewhere_is_asked_by_the_names_of_this_store() {
        let question = [question()];
        let first = |prefix| encode(&Layout::new(prefix), &question).arguments().nth(1).map(<[u8]>::to_vec);
        assert_eq!(first("sg").as_deref(), Some(b"sg:{b:acme}:business".as_slice()));
        assert_eq!(first("other").as_deref(), Some(b"other:{b:acme}:business".as_slice()));
    }

    #[test]
    fn the_wire_has_the_arguments_in_their_order() {
        let call = Call::new(&["k".to_owned()], b"a\r\nb");
        let mut wire = Vec::new();
        call.write_evalsha("5a", &mut wire);
        assert_eq!(wire, b"*5\r\n$7\r\nEVALSHA\r\n$2\r\n5a\r\n$1\r\n1\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n");
        assert_eq!(call.arguments().collect::<Vec<_>>(), [b"1".as_slice(), b"k", b"a\r\nb"]);
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
