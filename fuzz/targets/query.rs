//! A query through the clamp and the reading of a business: however a backend splits it, no clamped number is larger than it
//! may be, and no second business is named.

use http::HeaderMap;
use sidegate::gate::{business, query};
use sidegate::policy::{BusinessSource, percent};

const MOST: u64 = 100;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A query ends where the fragment would begin.
    let text = text.split('#').next().unwrap_or_default();
    let clamps = [("limit".to_owned(), MOST)];
    if let Ok(forwarded) = query::clamped(text, &clamps) {
        assert_eq!(query::clamped(&forwarded, &clamps).ok().as_deref(), Some(&*forwarded), "{text:?}");
        for value in lenient(&forwarded, "limit") {
            let number: u128 = value.parse().unwrap_or_else(|_| panic!("{forwarded:?} passes {value:?} as a number"));
            assert!(number <= u128::from(MOST), "{forwarded:?}");
        }
        assert!(lenient(&forwarded, "limit").len() <= 1, "{forwarded:?} says it twice");
    }
    let sources = [BusinessSource::Query("business_id".to_owned())];
    if let Ok(named) = business::named(&sources, &[], text, &HeaderMap::new()) {
        for value in lenient(text, "business_id") {
            assert_eq!(named.as_deref(), Some(value.as_str()), "{text:?}");
        }
    }
}

/// Every value that some server would give this parameter.
fn lenient(query: &str, name: &str) -> Vec<String> {
    let read = |raw: &str| String::from_utf8_lossy(&percent::decode(raw, true)).into_owned();
    let pairs = query.split(['&', ';']).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let named = pairs.filter(|(raw, _)| {
        let decoded = read(raw);
        let cut = decoded.split('\0').next().unwrap_or_default();
        let base = cut.split('[').next().unwrap_or_default().trim_matches([' ', '\t', '\n', '\r']);
        base.eq_ignore_ascii_case(name) || in_php(cut) == name
    });
    named.map(|(_, value)| read(value)).collect()
}

/// The variable that PHP makes of a parameter (`php_register_variable_ex` in its `main/php_variables.c`).
fn in_php(name: &str) -> String {
    let name = name.trim_start_matches(' ');
    let closed = name.split_once('[').filter(|(_, subscript)| subscript.contains(']'));
    closed.map_or(name, |(base, _)| base).replace(['.', ' ', '['], "_")
}
