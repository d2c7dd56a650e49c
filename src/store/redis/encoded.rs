//! Asks as a call of the decision script has them: encoded once, and copied into every call that asks the same.
//!
//! Only where in a call a key stands depends on what else is asked there. That, and the call as a whole, are left to `script`.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use rmp::encode::{write_array_len, write_bool, write_str, write_uint};
use smallvec::SmallVec;

use crate::limit::{Algorithm, Ask, Asks, Believed};
use crate::store::layout::Layout;

/// Added to the number of a bucket's algorithm where it only observes.
const OBSERVES: u64 = 3;

#[derive(Debug)]
pub(super) struct Encoded {
    prefix: Arc<str>,
    /// Of each mention the elements that stand before its index, its key as an argument, and as another what is believed to stand
    /// there; then the elements behind the last one. All in one piece: in a call it is read from its begin to its end, and mostly
    /// has to be fetched from memory.
    bytes: Box<[u8]>,
    pub mentions: SmallVec<[Mention; 3]>,
    /// Where the elements behind the last mention begin.
    rest: u32,
    /// How many elements there are, indices included.
    pub length: u32,
}

/// A key that asks name, in the order in which the script reads the indices of keys.
#[derive(Debug)]
pub(super) struct Mention {
    pub kind: Kind,
    /// Of the key and the text. Those that share it are compared.
    pub hash: u64,
    elements: u32,
    key: u32,
    /// The script's MessagePack knows no bytes, only text, so that it is an argument of its own.
    text: u32,
    ends: u32,
}

/// In the order in which the script takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Documents that are believed to hold a text.
    Text,
    Bucket,
    /// Documents that are believed absent.
    Absent,
    /// Documents never seen.
    Unseen,
    Set,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Text, Self::Bucket, Self::Absent, Self::Unseen, Self::Set];
}

impl Encoded {
    /// As it was kept with the asks, if these names were meant.
    pub fn of(layout: &Layout, asks: &Asks) -> Arc<Self> {
        let kept: Arc<Self> = asks.derive(|asks| Self::new(layout, asks));
        if kept.prefix == layout.prefix { kept } else { Arc::new(Self::new(layout, asks)) }
    }

    fn new(layout: &Layout, asks: &[Ask]) -> Self {
        let mut draft = Draft { layout, elements: FlatList::default(), mentions: SmallVec::new(), begun: 0 };
        let documents = || asks.iter().flat_map(|ask| ask.documents.iter().map(move |document| (ask, document)));
        draft.elements.index(documents().count());
        for (ask, document) in documents() {
            let (kind, text) = match &document.believed {
                Believed::Is(text) => (Kind::Text, Some(text)),
                Believed::Absent => (Kind::Absent, None),
                Believed::Unknown => (Kind::Unseen, None),
            };
            draft.mention(kind, ask, &document.name, text);
        }
        // The earliest end is the question's.
        match asks.iter().filter_map(|ask| ask.not_after_ms).min() {
            Some(not_after_ms) => draft.elements.number(not_after_ms),
            None => draft.elements.nothing(),
        }
        let members = || asks.iter().filter_map(|ask| Some((ask, ask.member.as_ref()?)));
        draft.elements.index(members().count());
        for (ask, member) in members() {
            draft.mention(Kind::Set, ask, &member.set, None);
            draft.elements.text(&member.member);
        }
        draft.buckets(asks);
        draft.finish()
    }

    /// What stands before the mention's index.
    pub fn before(&self, mention: &Mention) -> &[u8] {
        self.part(mention.elements, mention.key)
    }

    /// What stands behind the last mention's index.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.rest as usize..]
    }

    /// The mention's key as an argument.
    pub fn key(&self, mention: &Mention) -> &[u8] {
        self.part(mention.key, mention.text)
    }

    /// What is believed to stand there, as an argument.
    pub fn text(&self, mention: &Mention) -> &[u8] {
        self.part(mention.text, mention.ends)
    }

    /// Whether both, whose hashes are the same, mean the same key and the same text there.
    pub fn names_the_same(&self, mention: &Mention, (other, named): (&Self, &Mention)) -> bool {
        self.part(mention.key, mention.ends) == other.part(named.key, named.ends)
    }

    /// It takes less than this in a call.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn part(&self, begin: u32, end: u32) -> &[u8] {
        &self.bytes[begin as usize..end as usize]
    }
}

/// Encoded so far. The elements since the last mention began at `begun`.
struct Draft<'a> {
    layout: &'a Layout,
    elements: FlatList,
    mentions: SmallVec<[Mention; 3]>,
    begun: u32,
}

impl Draft<'_> {
    fn buckets(&mut self, asks: &[Ask]) {
        let buckets = || asks.iter().flat_map(|ask| ask.buckets.iter().map(move |bucket| (ask, bucket)));
        self.elements.index(buckets().count());
        for (ask, bucket) in buckets() {
            self.mention(Kind::Bucket, ask, &bucket.name, None);
            let algorithm = match bucket.algorithm {
                Algorithm::Fixed => 0,
                Algorithm::Sliding => 1,
                Algorithm::Token => 2,
            };
            let windows = bucket.windows.as_slice();
            self.elements.number(if bucket.observes { algorithm + OBSERVES } else { algorithm });
            self.elements.index(windows.len());
            for window in windows {
                self.elements.number(window.limit);
                self.elements.number(window.duration_ms);
            }
        }
    }

    fn mention(&mut self, kind: Kind, ask: &Ask, name: &str, believed: Option<&Bytes>) {
        let elements = self.begun;
        let key = self.at();
        write_argument(&mut self.elements.bytes, self.layout.in_slot(&ask.slot, name).as_bytes());
        let text = self.at();
        if let Some(believed) = believed {
            write_argument(&mut self.elements.bytes, believed);
        }
        let ends = self.at();
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.elements.bytes[key as usize..]);
        self.mentions.push(Mention { kind, hash: hasher.finish(), elements, key, text, ends });
        self.begun = ends;
        // The index.
        self.elements.length += 1;
    }

    fn at(&self) -> u32 {
        u32::try_from(self.elements.bytes.len()).expect("what one question names and believes has less than 4 GiB")
    }

    fn finish(self) -> Encoded {
        let Self { layout, elements: FlatList { bytes, length }, mentions, begun } = self;
        Encoded { prefix: layout.prefix.clone(), bytes: bytes.into(), mentions, rest: begun, length }
    }
}

/// Elements of MessagePack, one behind the other: the script reads them in fewer steps than a list.
#[derive(Debug, Default)]
pub(super) struct FlatList {
    bytes: Vec<u8>,
    length: u32,
}

/// Half of what Lua lets a function return.
const MOST_ON_THE_STACK: u32 = 4_000;

/// Writing to memory has no other way to fail.
const IN_MEMORY: &str = "memory takes whatever is written to it";

impl FlatList {
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), length: 0 }
    }

    /// The script's MessagePack reads what is above 2⁶³ as negative, and Lua has no more than 2⁵³ without gaps. A cost or a
    /// time of that size is beyond every limit and every clock, so a smaller one that is beyond them too means the same.
    pub fn number(&mut self, number: u64) {
        match u8::try_from(number) {
            // Most are small, and stand for themselves.
            Ok(small @ 0..128) => self.bytes.push(small),
            _ => drop(write_uint(&mut self.bytes, number.min(1 << 53)).expect(IN_MEMORY)),
        }
        self.length += 1;
    }

    pub fn index(&mut self, index: usize) {
        self.number(index as u64);
    }

    fn text(&mut self, text: &str) {
        write_str(&mut self.bytes, text).expect(IN_MEMORY);
        self.length += 1;
    }

    /// `false`: a nil would cut a Lua list short.
    fn nothing(&mut self) {
        write_bool(&mut self.bytes, false).expect(IN_MEMORY);
        self.length += 1;
    }

    /// All elements of these asks, their keys at `indices` in the order of the mentions.
    pub fn asks(&mut self, encoded: &Encoded, indices: impl Iterator<Item = usize>) {
        let length = self.length + encoded.length;
        for (mention, index) in encoded.mentions.iter().zip(indices) {
            self.bytes.extend_from_slice(encoded.before(mention));
            self.index(index);
        }
        self.bytes.extend_from_slice(encoded.rest());
        self.length = length;
    }

    /// The elements alone; a list of them where they are too many for Lua's stack.
    pub fn finish(self) -> Vec<u8> {
        if self.length <= MOST_ON_THE_STACK {
            return self.bytes;
        }
        let mut list = Vec::with_capacity(5 + self.bytes.len());
        write_array_len(&mut list, self.length).expect(IN_MEMORY);
        list.extend_from_slice(&self.bytes);
        list
    }
}

const LINE_END: &[u8] = b"\r\n";

/// An argument of a command as it goes over the wire.
pub(super) fn write_argument(to: &mut Vec<u8>, argument: &[u8]) {
    write_head(to, b'$', argument.len());
    to.extend_from_slice(argument);
    to.extend_from_slice(LINE_END);
}

pub(super) fn write_head(to: &mut Vec<u8>, kind: u8, length: usize) {
    to.push(kind);
    to.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    to.extend_from_slice(LINE_END);
}
