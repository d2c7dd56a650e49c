//! The decision script's wire format: questions into one call's keys and argument, its answer back into answers.
//!
//! What the script does stands at its head (`scripts/decide.lua`); a connection and its errors are left to `connect`.

use std::collections::HashMap;
use std::fmt;
use std::vec;

use bytes::Bytes;
use serde::de::{self, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::limit::{Algorithm, Answer, Ask, Believed, BucketAsk, Document, Outcome, Question, WindowNow};
use crate::store::StoreError;
use crate::store::layout::Layout;

pub const DECIDE: &str = include_str!("scripts/decide.lua");
pub const GIVE_BACK: &str = include_str!("scripts/give_back.lua");

/// The line in which the script reads the store's clock, so that a test can put its own there.
pub const CLOCK_LINE: &str = "local now = clock()\n";

/// What goes out: `EVALSHA <sha> <keys.len()> <keys…> <blob> <texts…>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub keys: Vec<String>,
    /// The questions.
    pub blob: Vec<u8>,
    /// The documents that are believed, as they are: the script's MessagePack knows no bytes, only text.
    pub texts: Vec<Bytes>,
}

/// Each key and each belief goes out once, however many questions share it.
pub fn encode(layout: &Layout, questions: &[Question]) -> Call {
    let mut names = Names::new(layout, 4 * questions.len());
    // The script reads all strings at once, so they come before the sets.
    let asks = || questions.iter().flat_map(|question| &question.asks);
    let mut strings = Vec::with_capacity(4 * questions.len());
    for ask in asks() {
        strings.extend(ask.documents.iter().map(|document| names.place(&ask.slot, &document.name)));
        strings.extend(ask.buckets.iter().map(|bucket| names.place(&ask.slot, &bucket.name)));
    }
    let count = names.keys.len();
    let members: Vec<usize> =
        asks().filter_map(|ask| ask.member.as_ref().map(|member| names.place(&ask.slot, &member.set))).collect();
    let mut writer = Writer {
        strings: strings.into_iter(),
        members: members.into_iter(),
        beliefs: Vec::with_capacity(2 * questions.len()),
        texts: Vec::new(),
    };
    let questions: Vec<QuestionOut<'_>> = questions
        .iter()
        .map(|question| {
            QuestionOut(number(question.cost), question.n, question.asks.iter().map(|a| writer.ask(a)).collect())
        })
        .collect();
    let Writer { beliefs, texts, .. } = writer;
    let beliefs: Vec<_> = beliefs.into_iter().map(|(key, _, out)| (key, out)).collect();
    let blob = rmp_serde::to_vec(&(count, beliefs, questions))
        .expect("numbers, strings and lists are always representable in MessagePack");
    Call { keys: names.keys, blob, texts }
}

/// Reads what the script returned for these very questions. Anything but the documented shape is an error.
pub fn decode(questions: &[Question], bytes: &[u8]) -> Result<Vec<Answer>, StoreError> {
    let unreadable = || StoreError::Broken("the decision script's answer".to_owned());
    let (now_ms, outcomes): (u64, Vec<OutcomeIn>) = rmp_serde::from_slice(bytes).map_err(|_| unreadable())?;
    if outcomes.len() != questions.len() {
        return Err(unreadable());
    }
    let fits = questions.iter().zip(&outcomes).all(|(question, outcome)| outcome.answers(question));
    if !fits {
        return Err(unreadable());
    }
    Ok(outcomes.into_iter().map(|OutcomeIn(outcome)| Answer { now_ms, outcome }).collect())
}

/// The keys of a call and where each stands in KEYS (from 1, as Lua counts).
struct Names<'a> {
    layout: &'a Layout,
    keys: Vec<String>,
    /// By slot and name.
    places: HashMap<(&'a str, &'a str), usize>,
}

impl<'a> Names<'a> {
    fn new(layout: &'a Layout, expected: usize) -> Self {
        Self { layout, keys: Vec::with_capacity(expected), places: HashMap::with_capacity(expected) }
    }

    fn place(&mut self, slot: &'a str, name: &'a str) -> usize {
        *self.places.entry((slot, name)).or_insert_with(|| {
            self.keys.push(self.layout.in_slot(slot, name));
            self.keys.len()
        })
    }
}

/// The script's MessagePack reads what is above 2⁶³ as negative, and Lua has no more than 2⁵³ without gaps. A cost or a time
/// of that size is beyond every limit and every clock, so a smaller one that is beyond them too means the same.
fn number(count: u64) -> u64 {
    count.min(1 << 53)
}

struct Writer<'a> {
    /// Where the keys stand that come next: of each ask its documents, then its buckets.
    strings: vec::IntoIter<usize>,
    members: vec::IntoIter<usize>,
    beliefs: Vec<(usize, &'a Believed, BelievedOut)>,
    texts: Vec<Bytes>,
}

#[derive(Serialize)]
struct QuestionOut<'a>(u64, u32, Vec<AskOut<'a>>);

#[derive(Serialize)]
struct AskOut<'a>(Vec<usize>, OrFalse<(usize, &'a str)>, OrFalse<u64>, Vec<Vec<u64>>);

impl<'a> Writer<'a> {
    fn ask(&mut self, ask: &'a Ask) -> AskOut<'a> {
        let documents = ask.documents.iter().map(|document| self.belief(document)).collect();
        let buckets = ask.buckets.iter().map(|bucket| self.bucket(bucket)).collect();
        let member = ask.member.as_ref().map(|member| (next_place(&mut self.members), member.member.as_str()));
        AskOut(documents, OrFalse(member), OrFalse(ask.not_after_ms.map(number)), buckets)
    }

    fn belief(&mut self, document: &'a Document) -> usize {
        let key = next_place(&mut self.strings);
        let known = self.beliefs.iter().position(|(held, believed, _)| (*held, *believed) == (key, &document.believed));
        known.unwrap_or_else(|| {
            let out = match &document.believed {
                Believed::Unknown => BelievedOut::Plain(true),
                Believed::Absent => BelievedOut::Plain(false),
                Believed::Is(text) => {
                    self.texts.push(text.clone());
                    BelievedOut::Argument(1 + self.texts.len())
                }
            };
            self.beliefs.push((key, &document.believed, out));
            self.beliefs.len() - 1
        }) + 1
    }

    fn bucket(&mut self, bucket: &BucketAsk) -> Vec<u64> {
        let algorithm = match bucket.algorithm {
            Algorithm::Fixed => 0,
            Algorithm::Sliding => 1,
            Algorithm::Token => 2,
        };
        let mut numbers = vec![next_place(&mut self.strings) as u64, algorithm];
        numbers.extend(bucket.windows.as_slice().iter().flat_map(|window| [window.limit, window.duration_ms]));
        numbers
    }
}

/// They were noted down from the same questions in the same order; 0 would be refused by the script.
fn next_place(places: &mut vec::IntoIter<usize>) -> usize {
    places.next().unwrap_or_default()
}

/// `false` for nothing: a nil would cut a Lua list short.
struct OrFalse<T>(Option<T>);

impl<T: Serialize> Serialize for OrFalse<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_bool(false),
        }
    }
}

/// `true` for a document never seen, `false` for an absent one, else where its text stands in ARGV.
#[derive(Serialize)]
#[serde(untagged)]
enum BelievedOut {
    Plain(bool),
    Argument(usize),
}

struct OutcomeIn(Outcome);

impl OutcomeIn {
    /// Whether the answer has the shape that the question asks for.
    fn answers(&self, question: &Question) -> bool {
        match &self.0 {
            Outcome::Broken(_) | Outcome::Expired | Outcome::Refused => true,
            Outcome::Stale(asks) => {
                asks.len() == question.asks.len()
                    && asks.iter().zip(&question.asks).all(|(found, ask)| found.len() == ask.documents.len())
            }
            Outcome::Spent { granted, windows } => {
                let mut asked = question.asks.iter().flat_map(|ask| &ask.buckets);
                *granted <= question.n
                    && windows.iter().all(|w| asked.next().is_some_and(|ask| ask.windows.as_slice().len() == w.len()))
                    && asked.next().is_none()
            }
        }
    }
}

impl<'de> Deserialize<'de> for OutcomeIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(OutcomeVisitor)
    }
}

struct OutcomeVisitor;

impl<'de> Visitor<'de> for OutcomeVisitor {
    type Value = OutcomeIn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer of the decision script")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut answer: A) -> Result<OutcomeIn, A::Error> {
        let outcome = match next::<u8, _>(&mut answer)? {
            0 => Outcome::Broken(next(&mut answer)?),
            1 => {
                let asks: Vec<Vec<Found>> = next(&mut answer)?;
                Outcome::Stale(asks.into_iter().map(|ask| ask.into_iter().map(|Found(text)| text).collect()).collect())
            }
            2 => Outcome::Expired,
            3 => Outcome::Refused,
            4 => {
                let granted = next(&mut answer)?;
                let flat: Vec<Vec<i64>> = next(&mut answer)?;
                let windows = flat.iter().map(|numbers| windows(numbers)).collect::<Option<_>>();
                Outcome::Spent { granted, windows: windows.ok_or_else(|| de::Error::custom("not a window"))? }
            }
            _ => return Err(de::Error::custom("not an outcome")),
        };
        match answer.next_element::<IgnoredAny>()? {
            None => Ok(OutcomeIn(outcome)),
            Some(_) => Err(de::Error::custom("more than an outcome")),
        }
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?.ok_or_else(|| de::Error::custom("less than an outcome"))
}

/// `remaining, reset, wait, owed` for each window, where a wait of -1 is never.
fn windows(numbers: &[i64]) -> Option<Vec<WindowNow>> {
    let fours = numbers.chunks_exact(4);
    if !fours.remainder().is_empty() {
        return None;
    }
    let count = |number: i64| u64::try_from(number).ok();
    fours
        .map(|four| {
            let wait_ms = if four[2] == -1 { None } else { Some(count(four[2])?) };
            Some(WindowNow { remaining: count(four[0])?, reset_ms: count(four[1])?, wait_ms, owed: count(four[3])? })
        })
        .collect()
}

/// A document's bytes, or `false` where none stands.
struct Found(Option<Bytes>);

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FoundVisitor)
    }
}

struct FoundVisitor;

impl Visitor<'_> for FoundVisitor {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document or false")
    }

    fn visit_bool<E: de::Error>(self, found: bool) -> Result<Found, E> {
        if found { Err(E::custom("not a document")) } else { Ok(Found(None)) }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Found, E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Found, E> {
        Ok(Found(Some(Bytes::copy_from_slice(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::limit::{Member, Windows};

    fn question() -> Question {
        let windows = Arc::new(Windows::parse(["60/1m"]).expect("the test's window is valid"));
        let believed = Believed::Is(Bytes::from_static(b"{}"));
        Question {
            asks: vec![Ask {
                slot: "b:acme".to_owned(),
                documents: vec![Document { name: "business".to_owned(), believed }],
                member: Some(Member { set: "businesses".to_owned(), member: "acme".to_owned() }),
                not_after_ms: None,
                buckets: vec![BucketAsk { name: "count:l:acme".to_owned(), algorithm: Algorithm::Fixed, windows }],
            }],
            cost: 1,
            n: 2,
        }
    }

    #[test]
    fn questions_that_share_keys_and_beliefs_send_them_once() {
        let layout = Layout::new("sg");
        let one = encode(&layout, &[question()]);
        assert_eq!(one.keys, ["sg:{b:acme}:business", "sg:{b:acme}:count:l:acme", "sg:{b:acme}:businesses"]);
        let two = encode(&layout, &[question(), question()]);
        assert_eq!(two.keys, one.keys);
        assert_eq!(two.texts, [Bytes::from_static(b"{}")]);
    }

    #[test]
    fn an_answer_of_another_shape_is_refused() {
        let pack = |outcomes: serde_json::Value| {
            rmp_serde::to_vec(&(9_u64, outcomes)).expect("JSON is representable in MessagePack")
        };
        let read = |outcomes| decode(&[question()], &pack(outcomes)).map(|answers| answers[0].outcome.clone());
        let window = WindowNow { remaining: 5, reset_ms: 60_000, wait_ms: None, owed: 7 };
        let spent = Outcome::Spent { granted: 2, windows: vec![vec![window]] };
        assert_eq!(read(serde_json::json!([[4, 2, [[5, 60_000, -1, 7]]]])), Ok(spent));
        assert_eq!(read(serde_json::json!([[1, [[false]]]])), Ok(Outcome::Stale(vec![vec![None]])));
        for wrong in [
            serde_json::json!([]),
            serde_json::json!([[2], [2]]),
            serde_json::json!([[2, 0]]),
            serde_json::json!([[5]]),
            serde_json::json!([[1, [[]]]]),
            serde_json::json!([[1, [[true]]]]),
            serde_json::json!([[4, 3, [[5, 60_000, -1, 7]]]]),
            serde_json::json!([[4, 2, []]]),
            serde_json::json!([[4, 2, [[5, 60_000, -1]]]]),
            serde_json::json!([[4, 2, [[5, 60_000, -2, 7]]]]),
            serde_json::json!([[4, 2, [[5.5, 60_000, 0, 7]]]]),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_clock_stands_in_one_line_of_the_script() {
        assert_eq!(DECIDE.matches(CLOCK_LINE).count(), 1);
    }
}
