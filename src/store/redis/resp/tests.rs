//! The decoder beside the crate's own parser: the same bytes, wherever they are split, mean the same to both, or are refused here.

use std::io::Cursor;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use redis::Parser;

use super::*;

/// What is read of bytes that arrive in these pieces, and why it ended, if it did.
fn read_in_pieces(bytes: &[u8], splits: &[Index]) -> (Vec<Value>, Option<ProtocolError>) {
    let mut ends: Vec<usize> = splits.iter().map(|split| split.index(bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let (mut decoder, mut values, mut start) = (ReplyDecoder::new(), Vec::new(), 0);
    for end in ends {
        decoder.buffer().extend_from_slice(&bytes[start..end]);
        start = end;
        loop {
            match decoder.next() {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(error) => return (values, Some(error)),
            }
        }
    }
    (values, None)
}

/// What the crate's parser reads of them.
fn read_by_the_crate(bytes: &[u8]) -> Vec<Value> {
    let (mut parser, mut bytes) = (Parser::new(), Cursor::new(bytes));
    std::iter::from_fn(|| parser.parse_value(&mut bytes).ok()).collect()
}

fn reply() -> impl Strategy<Value = Vec<u8>> {
    let text = |bytes: Vec<u8>| [format!("${}\r\n", bytes.len()).as_bytes(), &bytes, END].concat();
    let line = prop_oneof!["[+-][ -~]{0,12}\r\n", "[+-][A-Z]{2,9} [ -~]{0,12}\r\n"].prop_map(String::into_bytes);
    let number = any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes());
    let nil = prop_oneof![Just(b"$-1\r\n".to_vec()), Just(b"*-1\r\n".to_vec())];
    let leaf = prop_oneof![4 => vec(any::<u8>(), 0..40).prop_map(text), 1 => line, 1 => number, 1 => nil];
    leaf.prop_recursive(4, 24, 5, |inner| {
        vec(inner, 0..5).prop_map(|inner| [format!("*{}\r\n", inner.len()).into_bytes(), inner.concat()].concat())
    })
}

/// A byte changed, left out, or put in; or all cut off.
fn spoil(mut bytes: Vec<u8>, spoilings: Vec<(u8, Index, u8)>) -> Vec<u8> {
    for (how, at, byte) in spoilings {
        let at = at.index(bytes.len() + 1);
        match how {
            0 if at < bytes.len() => bytes[at] = byte,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.insert(at, byte),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Bytes that mean something to the protocol, more often than others.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![proptest::sample::select(b"\r\n$*+-:0123456789>%_,#!=(|~".to_vec()), any::<u8>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_read_alike_however_they_are_split(
        decoder in vec(reply(), 0..6),
        splits in vec(any::<Index>(), 0..12),
    ) {
        let bytes = decoder.concat();
        let (values, ended) = read_in_pieces(&bytes, &splits);
        prop_assert_eq!(ended, None);
        prop_assert_eq!(values.len(), decoder.len());
        prop_assert_eq!(values, read_by_the_crate(&bytes));
    }

    #[test]
    fn spoiled_answers_are_refused_or_read_alike(
        decoder in vec(reply(), 1..5),
        spoilings in vec((0..4_u8, any::<Index>(), byte()), 1..4),
        splits in vec(any::<Index>(), 0..6),
    ) {
        let bytes = spoil(decoder.concat(), spoilings);
        let (values, ended) = read_in_pieces(&bytes, &splits);
        let by_the_crate = read_by_the_crate(&bytes);
        // The crate cannot read an error that is no text.
        prop_assume!(!values.iter().any(|value| format!("{value:?}").contains(char::REPLACEMENT_CHARACTER)));
        prop_assert!(by_the_crate.starts_with(&values), "{:?} is no part of {:?}", values, by_the_crate);
        // What waits for more has nothing that the other one could read.
        prop_assert!(ended.is_some() || values.len() == by_the_crate.len(), "{:?}: {:?}", values, by_the_crate);
        // Where it is split makes no difference.
        prop_assert_eq!((values, ended), read_in_pieces(&bytes, &[]));
    }
}

#[test]
fn what_is_claimed_takes_no_memory_and_what_is_too_long_is_refused() {
    let refused = |bytes: &[u8]| read_in_pieces(bytes, &[]).1.map(|ProtocolError(why)| why);
    for claims in ["$1000000000\r\n", "*1000000000\r\n", "$99999999999999999999999999\r\n"] {
        assert!(refused(claims.as_bytes()).is_some(), "{claims}");
    }
    let claims = ["$67108864\r\n", "*4000\r\n", &"*1\r\n".repeat(1000)];
    for claims in claims {
        let mut decoder = ReplyDecoder::new();
        decoder.buffer().extend_from_slice(claims.as_bytes());
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.bytes.capacity() < KEPT, "{claims}");
    }
    assert_eq!(refused(&b"+".repeat(LONGEST_LINE)), Some("a line of it does not end"));
    assert_eq!(refused(&[b"$".as_slice(), &b"0".repeat(40)].concat()), Some("a line of it does not end"));
    // Each text is short enough, and all of them are not.
    let mut decoder = ReplyDecoder::new();
    decoder.buffer().extend_from_slice(b"*100\r\n");
    let text = [b"$8000000\r\n".as_slice(), &vec![b'x'; 8_000_000], END].concat();
    let refused = (0..10).find_map(|_| {
        decoder.buffer().extend_from_slice(&text);
        decoder.next().err()
    });
    assert_eq!(refused, Some(ProtocolError("it is too long")));
}

#[test]
fn arrays_within_arrays_without_end_are_refused() {
    for (depth, why) in [(1000, "it cannot be read"), (1_000_000, "it is too long")] {
        let deep = [b"*1\r\n".repeat(depth).as_slice(), b":1\r\n"].concat();
        assert_eq!(read_in_pieces(&deep, &[]), (vec![], Some(ProtocolError(why))));
    }
}

#[test]
fn an_answer_of_very_many_parts_is_refused_before_it_has_arrived() {
    for many in [b"*4096\r\n".to_vec(), [b"*4000\r\n".as_slice(), &b"*1\r\n".repeat(100)].concat()] {
        assert_eq!(read_in_pieces(&many, &[]), (vec![], Some(ProtocolError("it is too long"))));
    }
    let most = [b"*4095\r\n".as_slice(), &b":1\r\n".repeat(4095)].concat();
    assert_eq!(read_in_pieces(&most, &[]).1, None);
}

#[test]
fn an_error_that_is_no_text_is_an_answer_all_the_same() {
    let (values, ended) = read_in_pieces(b"-ERR unknown command, with args beginning with: '\xff\xfe'\r\n", &[]);
    assert!(matches!(&values[..], [Value::ServerError(_)]) && ended.is_none(), "{values:?}, {ended:?}");
}

#[test]
fn what_nobody_asks_for_is_refused_at_once() {
    for kind in b">%~_,#!=(|x\r\n" {
        assert_eq!(read_in_pieces(&[*kind], &[]).1, Some(ProtocolError("it has a type that nobody asked for")));
    }
}

#[test]
fn memory_for_a_long_answer_is_given_back() {
    let mut decoder = ReplyDecoder::new();
    decoder.buffer().extend_from_slice(&[b"$1000000\r\n".as_slice(), &vec![b'x'; 1_000_000], b"\r\n"].concat());
    assert!(decoder.next().is_ok_and(|value| value.is_some()));
    assert!(decoder.buffer().capacity() <= KEPT);
}
