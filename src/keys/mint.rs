//! New keys: drawn without bias from the system's random numbers, in the shape that the gate reads.
//!
//! The source of randomness is an argument, so that a test can watch what becomes of its bytes.

use thiserror::Error;

use super::format::{Alphabet, Format, Formats, Reading, checksum_of};
use crate::secret::Secret;

/// How many characters after the prefix may be shown, stored and logged.
pub const HINT_LENGTH: usize = 8;

#[derive(Debug, Error)]
pub enum MintError {
    #[error("the system gives no random numbers: {0}")]
    NoRandomness(#[from] getrandom::Error),
    /// A longer prefix, or an earlier format with the same one, claims what this format would mint.
    #[error("keys of the format `{0}` are read as another format's; give it a prefix that no other format shares")]
    Shadowed(String),
}

/// A new key of `format`, which is one of `formats`. `fill` is `getrandom::fill`.
pub fn mint(
    formats: &Formats,
    format: &Format,
    mut fill: impl FnMut(&mut [u8]) -> Result<(), getrandom::Error>,
) -> Result<Secret, MintError> {
    // A draw can by chance begin with another format's longer prefix; one that always does is a mistake in the formats.
    for _ in 0..16 {
        let mut key = String::with_capacity(format.prefix().len() + format.random_length() + 6);
        key.push_str(format.prefix());
        draw(format.alphabet(), format.random_length(), &mut key, &mut fill)?;
        if format.checksum() {
            key.extend(checksum_of(&key).map(char::from));
        }
        match formats.read(&key) {
            Reading::Any => return Ok(Secret::new(key)),
            Reading::Ours(read) if read == format => return Ok(Secret::new(key)),
            Reading::Ours(_) | Reading::Foreign(_) | Reading::NotOurs => {}
        }
    }
    Err(MintError::Shadowed(format.prefix().to_owned()))
}

/// The prefix and the first eight characters after it: enough for a person to recognise a key by, too little to use.
pub fn hint(key: &str, format: &Format) -> String {
    key.chars().take(format.prefix().chars().count() + HINT_LENGTH).collect()
}

/// Appends `count` characters, each equally likely: a byte beyond the largest multiple of the alphabet's size is drawn
/// again, since a plain remainder would prefer the first characters.
fn draw(
    alphabet: Alphabet,
    count: usize,
    key: &mut String,
    fill: &mut impl FnMut(&mut [u8]) -> Result<(), getrandom::Error>,
) -> Result<(), getrandom::Error> {
    let characters = alphabet.characters();
    let fair = 256 - 256 % characters.len();
    let mut missing = count;
    let mut bytes = [0u8; 64];
    while missing > 0 {
        fill(&mut bytes)?;
        for byte in bytes.iter().map(|&byte| usize::from(byte)).filter(|&byte| byte < fair).take(missing) {
            key.push(char::from(characters[byte % characters.len()]));
            missing -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::format::FormatAction;
    use super::*;

    fn one(prefix: &str, length: usize, alphabet: Alphabet, checksum: bool) -> (Formats, Format) {
        let format = Format::new(prefix, Some(length..=length), alphabet, checksum, FormatAction::Accept)
            .expect("a good format");
        (Formats::new(vec![format.clone()]), format)
    }

    #[test]
    fn a_minted_key_is_read_as_its_own_format() {
        for alphabet in [Alphabet::Base62, Alphabet::Base64Url, Alphabet::Hex] {
            for checksum in [false, true] {
                let (formats, format) = one("kc_live_", 44, alphabet, checksum);
                let key = mint(&formats, &format, getrandom::fill).expect("a key");
                assert_eq!(key.expose().len(), 52);
                assert_eq!(formats.read(key.expose()), Reading::Ours(&format));
            }
        }
    }

    #[test]
    fn without_formats_sg_and_43_base62_are_minted() {
        let formats = Formats::default();
        let format = formats.to_mint(None).expect("the standard format");
        let (one, other) = (mint(&formats, format, getrandom::fill), mint(&formats, format, getrandom::fill));
        let (one, other) = (one.expect("a key"), other.expect("a key"));
        assert!(one.expose().starts_with("sg_") && one.expose().len() == 46);
        assert!(one.expose()[3..].bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(one, other);
        assert_eq!(hint(one.expose(), format), one.expose()[..11]);
    }

    #[test]
    fn every_character_is_equally_likely() {
        // All 256 byte values once each: rejection must leave every character of the alphabet with the same count.
        let mut key = String::new();
        let mut next = 0u8;
        let mut every = |bytes: &mut [u8]| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(1);
            }
            Ok(())
        };
        draw(Alphabet::Base62, 248, &mut key, &mut every).expect("bytes");
        for &character in Alphabet::Base62.characters() {
            assert_eq!(key.bytes().filter(|&b| b == character).count(), 4);
        }
    }

    #[test]
    fn a_key_that_another_format_would_claim_is_never_handed_out() {
        let format = Format::new("kc_", None, Alphabet::Base62, false, FormatAction::Accept).expect("a good format");
        let earlier = Format::new("kc_", None, Alphabet::Base62, false, FormatAction::Reject("no".to_owned()));
        let formats = Formats::new(vec![earlier.expect("a good format"), format.clone()]);
        assert!(matches!(mint(&formats, &format, getrandom::fill), Err(MintError::Shadowed(_))));
    }

    #[test]
    fn no_randomness_is_an_error_not_a_key() {
        let (formats, format) = one("kc_", 43, Alphabet::Base62, false);
        let broken = |_: &mut [u8]| Err(getrandom::Error::UNSUPPORTED);
        assert!(matches!(mint(&formats, &format, broken), Err(MintError::NoRandomness(_))));
    }
}
