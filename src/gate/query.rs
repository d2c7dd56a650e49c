//! The query: forwarded byte for byte, except where a route clamps a number (`max_query`).

use std::borrow::Cow;

use super::Denial;
use crate::policy::percent;

/// The query to forward; 400 where a clamped parameter is repeated or is no number.
pub fn clamped<'q>(query: &'q str, clamps: &[(String, u64)]) -> Result<Cow<'q, str>, Denial> {
    let mut forwarded = Cow::Borrowed(query);
    for (name, most) in clamps {
        let mut seen = false;
        let mut changed: Option<String> = None;
        for (at, pair) in pairs(&forwarded) {
            match naming(pair, name) {
                Naming::Another => continue,
                Naming::Alike => return Err(refused(name, READ_DIFFERENTLY)),
                Naming::Exact => {}
            }
            if std::mem::replace(&mut seen, true) {
                return Err(refused(name, "is repeated"));
            }
            let value = pair.split_once('=').map_or("", |(_, value)| value);
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
                return Err(refused(name, "is not a number"));
            }
            // More digits than a u64 holds is more than any clamp.
            if value.parse::<u64>().is_ok_and(|value| value <= *most) {
                continue;
            }
            let start = at + pair.len() - value.len();
            changed = Some(format!("{}{most}{}", &forwarded[..start], &forwarded[start + value.len()..]));
        }
        if let Some(changed) = changed {
            forwarded = Cow::Owned(changed);
        }
    }
    Ok(forwarded)
}

const READ_DIFFERENTLY: &str = "is written in a form that servers read differently";

fn refused(name: &str, what: &str) -> Denial {
    Denial::BadParameter(format!("The query parameter `{name}` {what}").into())
}

/// Why a parameter's value cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Only some servers take its name for this parameter's.
    Alike,
    NotUtf8,
}

impl Unreadable {
    pub fn denial(self, name: &str) -> Denial {
        match self {
            Self::Alike => refused(name, READ_DIFFERENTLY),
            Self::NotUtf8 => refused(name, "is not UTF-8"),
        }
    }
}

/// The values of a parameter, percent-decoded.
pub fn values<'q>(query: &'q str, name: &'q str) -> impl Iterator<Item = Result<String, Unreadable>> + 'q {
    pairs(query).filter_map(move |(_, pair)| match naming(pair, name) {
        Naming::Another => None,
        Naming::Alike => Some(Err(Unreadable::Alike)),
        Naming::Exact => {
            let value = pair.split_once('=').map_or("", |(_, value)| value);
            Some(String::from_utf8(percent::decode(value, true)).map_err(|_| Unreadable::NotUtf8))
        }
    })
}

/// Each `name=value` with its offset.
fn pairs(query: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut next = 0;
    query.split('&').map(move |pair| {
        let at = next;
        next += pair.len() + 1;
        (at, pair)
    })
}

/// Whether a pair names a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    Exact,
    /// The parameter to some servers only: behind a `;`, which was a separator once (CVE-2021-23336), with a subscript
    /// (`limit[]`, which PHP, Rack and qs take for a list), with white space around it, cut by a NUL, with what PHP takes for a
    /// `_` (<https://www.php.net/manual/en/language.variables.external.php>), or in another case (ASP.NET).
    Alike,
    Another,
}

fn naming(pair: &str, name: &str) -> Naming {
    let raw = pair.split('=').next().unwrap_or(pair);
    let decoded = |raw: &str| percent::decode(raw, true);
    if raw == name || (raw.contains(['%', '+']) && decoded(raw) == name.as_bytes()) {
        return Naming::Exact;
    }
    let alike = |part: &str| {
        let decoded = decoded(part.split('=').next().unwrap_or(part));
        let before = |ends: &[u8]| decoded.split(|byte| ends.contains(byte)).next().unwrap_or_default().trim_ascii();
        is_loosely(before(b"\0"), name) || is_loosely(before(b"\0["), name)
    };
    if pair.split(';').any(|part| part.len() >= name.len() && alike(part)) { Naming::Alike } else { Naming::Another }
}

/// Whether the names are equal to a server that ignores case, or that reads `.`, a blank and an unclosed `[` as `_`.
fn is_loosely(written: &[u8], name: &str) -> bool {
    let loose = |byte: &u8| match byte {
        b'.' | b' ' | b'[' => b'_',
        other => other.to_ascii_lowercase(),
    };
    written.iter().map(loose).eq(name.as_bytes().iter().map(loose))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clamp(query: &str) -> Option<String> {
        let clamps = [("limit".to_owned(), 100), ("n".to_owned(), 5)];
        clamped(query, &clamps).ok().map(Cow::into_owned)
    }

    #[test]
    fn a_larger_number_is_clamped_and_all_else_passes_byte_for_byte() {
        for (query, forwarded) in [
            ("", ""),
            ("limit=100", "limit=100"),
            ("limit=101&q=%2B1+x", "limit=100&q=%2B1+x"),
            ("a=b&limit=99999999999999999999999&c", "a=b&limit=100&c"),
            ("%6cimit=500", "%6cimit=100"),
            ("limit=0100", "limit=0100"),
            ("limit=500&n=6", "limit=100&n=5"),
            ("limits=500&x=limit=500&a[limit]=500", "limits=500&x=limit=500&a[limit]=500"),
        ] {
            assert_eq!(clamp(query).as_deref(), Some(forwarded), "{query}");
        }
    }

    #[test]
    fn a_repeated_or_non_numeric_one_is_refused() {
        for query in [
            "limit=1&limit=2",
            "limit=1&%6Cimit=1",
            "limit",
            "limit=",
            "limit=-1",
            "limit=+1",
            "limit=1e3",
            "limit=%31",
            "a=1;limit=500",
            "a;limit",
            "limit;a=500",
            "limit[]=500",
            "limit%5B0%5D=500",
            "limit=1&limit[]=500",
            "+limit=500",
            "limit%20=500",
            "limit%00x=500",
            "Limit=500",
            "limit=1&LIMIT=500",
            "a=1;%4Cimit=500",
        ] {
            assert_eq!(clamp(query), None, "{query}");
        }
    }

    #[test]
    fn values_are_found_by_their_decoded_name() {
        let found: Vec<_> = values("b=1&%62=a%2Bb+c&bb=2&b=%ff&b", "b").collect();
        let ok = |value: &str| Ok(value.to_owned());
        assert_eq!(found, [ok("1"), ok("a+b c"), Err(Unreadable::NotUtf8), ok("")]);
        for query in ["a=1;b=2", "b[]=2", "%20b=2", "b%00=2", "B=2"] {
            assert_eq!(values(query, "b").collect::<Vec<_>>(), [Err(Unreadable::Alike)], "{query}");
        }
    }

    #[test]
    fn a_name_that_php_or_asp_net_would_read_as_another_is_no_third_one() {
        for written in ["b.id", "b%20id", "b+id", "b[id", "b%5Bid", "b%5bid", "B_ID", "+B.Id", "b.id[]", "b.id%00x"] {
            for name in ["b_id", "b.id"].into_iter().filter(|name| *name != written) {
                let query = format!("{written}=2");
                let found: Vec<_> = values(&query, name).collect();
                assert_eq!(found, [Err(Unreadable::Alike)], "{written} for {name}");
            }
        }
        for another in ["b-id", "b[id]", "b__id", "b_i", "b_id_", "bid", "_b_id", "x.b_id"] {
            assert_eq!(values(&format!("{another}=2"), "b_id").count(), 0, "{another}");
        }
    }
}
