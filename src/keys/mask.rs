//! Keeps keys out of logs and errors: whatever looks like a key of a configured format is cut down to its prefix.
//!
//! Generous on purpose: a mistyped key, or one with something stuck to it, gives nearly as much away as the whole. Only
//! what a hint shows anyway (eight characters after the prefix) stays readable.

use std::borrow::Cow;

use super::format::Formats;
use super::mint::HINT_LENGTH;

/// `text` with every key in it replaced by its prefix and `…`; borrowed where there is none.
pub fn mask<'a>(text: &'a str, formats: &Formats) -> Cow<'a, str> {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(key) = first_key(rest, formats) {
        masked.push_str(&rest[..key.after_prefix]);
        masked.push('…');
        rest = &rest[key.end..];
    }
    if masked.is_empty() {
        return Cow::Borrowed(text);
    }
    masked.push_str(rest);
    Cow::Owned(masked)
}

struct Found {
    start: usize,
    after_prefix: usize,
    end: usize,
}

/// The leftmost key in `text`; of several prefixes at one place the longest, which stands first in `by_prefix`.
fn first_key(text: &str, formats: &Formats) -> Option<Found> {
    formats.by_prefix().iter().filter_map(|format| key_with(text, format.prefix())).min_by_key(|found| found.start)
}

fn key_with(text: &str, prefix: &str) -> Option<Found> {
    if text.len() <= prefix.len() + HINT_LENGTH {
        return None;
    }
    let mut from = 0;
    loop {
        let start = from + text[from..].find(prefix)?;
        let after_prefix = start + prefix.len();
        let length = text.as_bytes()[after_prefix..].iter().take_while(|&&b| is_of_key(b)).count();
        if length > HINT_LENGTH {
            return Some(Found { start, after_prefix, end: after_prefix + length });
        }
        // A prefix is ASCII: one byte further is a character's beginning.
        from = start + 1;
    }
}

/// What any of the alphabets and prefixes holds.
fn is_of_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::super::format::{Alphabet, Format, FormatAction};
    use super::*;

    fn formats(prefixes: &[&str]) -> Formats {
        let format = |prefix: &&str| Format::new(prefix, None, Alphabet::Base64Url, false, FormatAction::Accept);
        Formats::new(prefixes.iter().map(format).collect::<Result<_, _>>().expect("good formats"))
    }

    #[test]
    fn a_key_is_cut_down_to_its_prefix_wherever_it_stands() {
        let formats = formats(&["kc_live_", "kc_test_"]);
        let key = format!("kc_live_{}", "Ab3_-".repeat(8));
        assert_eq!(mask(&format!("/v1/{key}/x?k={key}"), &formats), "/v1/kc_live_…/x?k=kc_live_…");
        assert_eq!(mask(&format!("Bearer%20{key}"), &formats), "Bearer%20kc_live_…");
        assert_eq!(mask(&format!("{key}ü kc_test_123456789 end"), &formats), "kc_live_…ü kc_test_… end");
        assert_eq!(mask(&format!("{key}{key}"), &formats), "kc_live_…");
    }

    #[test]
    fn a_part_of_a_key_that_says_more_than_its_hint_is_masked_too() {
        let formats = Formats::default();
        assert_eq!(mask("sg_123456789", &formats), "sg_…");
        assert!(matches!(mask("sg_12345678", &formats), Cow::Borrowed("sg_12345678")));
        assert_eq!(mask("sg_ sg_sg_1234567", &formats), "sg_ sg_…");
    }

    #[test]
    fn other_text_is_borrowed() {
        for text in ["", "GET /v1/agents", "grüße", "sg_", "sg"] {
            assert!(matches!(mask(text, &Formats::default()), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn the_longest_prefix_at_a_place_is_the_one_that_is_kept() {
        assert_eq!(mask("kc_live_0123456789", &formats(&["kc_", "kc_live_"])), "kc_live_…");
        assert_eq!(mask("kc_other_0123456789", &formats(&["kc_", "kc_live_"])), "kc_…");
    }
}
