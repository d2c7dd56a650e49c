//! What a key looks like: prefix, length, alphabet, checksum. What does not fit is refused without asking a store.
//!
//! The configuration builds `Formats`; the gate reads a credential with it, `mint` and `mask` follow the same shapes.

use std::ops::RangeInclusive;

use thiserror::Error;

/// The longest key that is ever looked up, in characters.
pub const LONGEST: usize = 512;
/// How many characters of a key carry its checksum.
pub const CHECKSUM_LENGTH: usize = 6;

const MINTED_LENGTH: usize = 43;
const MINTED_PREFIX: &str = "sg_";
const FEWEST_BITS: f64 = 128.0;
const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BASE64_URL: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const HEX: &[u8] = b"0123456789abcdef";

/// The characters after the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alphabet {
    #[default]
    Base62,
    Base64Url,
    /// Minted in lower case, read in either.
    Hex,
}

/// What becomes of a request whose key has this format.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FormatAction {
    #[default]
    Accept,
    /// Refused by its prefix alone, with this text.
    Reject(String),
    /// Forwarded to the upstream of this name, whatever the route says.
    Upstream(String),
}

/// One shape of key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    prefix: Box<str>,
    /// Characters after the prefix, the checksum included.
    length: RangeInclusive<usize>,
    minted_length: usize,
    alphabet: Alphabet,
    checksum: bool,
    action: FormatAction,
}

/// The shapes that a gate accepts, or none: then any key is looked up, and `sg_` + 43 base62 is minted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formats {
    /// As configured; the first that is not rejected is minted.
    configured: Vec<Format>,
    /// The same, the longest prefix first: the order in which a value is tried.
    by_prefix: Vec<Format>,
    standard: Format,
}

/// What a value is, by its looks alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading<'a> {
    Ours(&'a Format),
    /// No formats are configured, and the value may be a key.
    Any,
    /// A prefix that is refused, with the text that says why.
    Foreign(&'a str),
    NotOurs,
}

/// Why a format cannot be, and what to write instead.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FormatError {
    #[error("the prefix is empty; write the characters that every key of this format begins with, such as `sg_live_`")]
    EmptyPrefix,
    #[error("the prefix `{0}` holds something else than letters, digits, `_` and `-`; write one such as `sg_live_`")]
    Prefix(String),
    #[error("the length [{min}, {max}] ends before it begins; write the smaller number first")]
    Backwards { min: usize, max: usize },
    #[error("a length of 0 leaves nothing after the prefix; write at least 1 as the smaller number")]
    NoLength,
    #[error("a length of {0} is above {LONGEST}, the longest key that is looked up; write at most {LONGEST}")]
    TooLong(usize),
    #[error(
        "a minted key would hold {bits} random bits, fewer than 128; write a length of at least {enough} \
         ([min, {enough}] still recognises shorter keys that exist)"
    )]
    TooFewBits { bits: usize, enough: usize },
    #[error("no format has the prefix `{prefix}`; these can be minted: {known}")]
    NotConfigured { prefix: String, known: String },
    #[error("keys with the prefix `{0}` are rejected by this gate, so none is minted; choose another format")]
    Rejected(String),
    #[error("every configured format is rejected, so no key can be minted; configure one that is accepted")]
    AllRejected,
}

impl Formats {
    pub fn new(configured: Vec<Format>) -> Self {
        let mut by_prefix = configured.clone();
        // Stable: formats that share a prefix stay in the order of the configuration.
        by_prefix.sort_by_key(|format| std::cmp::Reverse(format.prefix.len()));
        Self { configured, by_prefix, standard: Format::standard() }
    }

    /// What `value` is; its checksum is verified, nothing is looked up.
    pub fn read(&self, value: &str) -> Reading<'_> {
        let is_visible = || !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic());
        if self.configured.is_empty() {
            let fits = value.len() <= LONGEST && is_visible() && !value.contains(',');
            return if fits { Reading::Any } else { Reading::NotOurs };
        }
        match self.by_prefix.iter().find(|format| format.has_shape_of(value)) {
            Some(Format { action: FormatAction::Reject(text), .. }) if is_visible() => Reading::Foreign(text),
            // Prefixes, alphabets and checksums hold nothing but visible ASCII.
            Some(format) if !format.is_rejected() && (!format.checksum || ends_in_checksum(value)) => {
                Reading::Ours(format)
            }
            Some(_) | None => Reading::NotOurs,
        }
    }

    /// The format to mint: the one with this prefix, else the first configured, else `sg_` + 43 base62.
    pub fn to_mint(&self, prefix: Option<&str>) -> Result<&Format, FormatError> {
        let mut mintable = self.in_order().iter().filter(|format| !format.is_rejected());
        let Some(prefix) = prefix else {
            return mintable.next().ok_or(FormatError::AllRejected);
        };
        if let Some(format) = mintable.clone().find(|format| *format.prefix == *prefix) {
            return Ok(format);
        }
        if self.configured.iter().any(|format| *format.prefix == *prefix) {
            return Err(FormatError::Rejected(prefix.to_owned()));
        }
        let known = mintable.map(|format| format!("`{}`", format.prefix)).collect::<Vec<_>>().join(", ");
        Err(FormatError::NotConfigured { prefix: prefix.to_owned(), known })
    }

    /// The formats by which a key can be told from other text, the longest prefix first.
    pub fn by_prefix(&self) -> &[Format] {
        if self.by_prefix.is_empty() { std::slice::from_ref(&self.standard) } else { &self.by_prefix }
    }

    /// Whether any value may be a key, since no formats are configured.
    pub fn take_any(&self) -> bool {
        self.configured.is_empty()
    }

    /// Whether a text is, by its looks, a key that this gate knows or mints; a wrong checksum is no excuse.
    pub fn claim(&self, text: &str) -> bool {
        self.by_prefix().iter().any(|format| format.has_shape_of(text))
    }

    fn in_order(&self) -> &[Format] {
        if self.configured.is_empty() { std::slice::from_ref(&self.standard) } else { &self.configured }
    }
}

impl Default for Formats {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Format {
    /// `length` counts the characters after the prefix, the checksum included; `None` mints 43 and accepts 1 to 512.
    /// A rejected format is its prefix alone: nothing else of it is looked at.
    pub fn new(
        prefix: &str,
        length: Option<RangeInclusive<usize>>,
        alphabet: Alphabet,
        checksum: bool,
        action: FormatAction,
    ) -> Result<Self, FormatError> {
        if prefix.is_empty() {
            return Err(FormatError::EmptyPrefix);
        }
        if !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(FormatError::Prefix(prefix.to_owned()));
        }
        let minted_length = length.as_ref().map_or(MINTED_LENGTH, |length| *length.end());
        let length = length.unwrap_or(1..=LONGEST);
        check_length(&length)?;
        let format = Self { prefix: prefix.into(), length, minted_length, alphabet, checksum, action };
        if !format.is_rejected() {
            format.check_strength()?;
        }
        Ok(format)
    }

    /// `sg_` + 43 base62: 256 random bits.
    fn standard() -> Self {
        Self {
            prefix: MINTED_PREFIX.into(),
            length: 1..=LONGEST,
            minted_length: MINTED_LENGTH,
            alphabet: Alphabet::Base62,
            checksum: false,
            action: FormatAction::Accept,
        }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Characters after the prefix, the checksum included.
    pub fn length(&self) -> &RangeInclusive<usize> {
        &self.length
    }

    pub fn alphabet(&self) -> Alphabet {
        self.alphabet
    }

    pub fn checksum(&self) -> bool {
        self.checksum
    }

    pub fn action(&self) -> &FormatAction {
        &self.action
    }

    pub fn is_rejected(&self) -> bool {
        matches!(self.action, FormatAction::Reject(_))
    }

    /// How many characters of a minted key are drawn at random.
    pub fn random_length(&self) -> usize {
        self.minted_length.saturating_sub(self.checksum_length())
    }

    fn checksum_length(&self) -> usize {
        if self.checksum { CHECKSUM_LENGTH } else { 0 }
    }

    /// Whether prefix, length and alphabet fit; the checksum is not looked at.
    pub fn has_shape_of(&self, value: &str) -> bool {
        let Some(rest) = value.strip_prefix(&*self.prefix) else { return false };
        if self.is_rejected() {
            return true;
        }
        // The checksum is base62 whatever the alphabet; `ends_in_checksum` reads it.
        let random = &rest.as_bytes()[..rest.len().saturating_sub(self.checksum_length())];
        self.length.contains(&rest.len()) && self.alphabet.holds(random)
    }

    fn check_strength(&self) -> Result<(), FormatError> {
        let per_character = (self.alphabet.characters().len() as f64).log2();
        let bits = self.random_length() as f64 * per_character;
        if bits >= FEWEST_BITS {
            return Ok(());
        }
        let enough = (FEWEST_BITS / per_character).ceil() as usize + self.checksum_length();
        Err(FormatError::TooFewBits { bits: bits as usize, enough })
    }
}

impl Alphabet {
    /// What a minted key is drawn from.
    pub fn characters(self) -> &'static [u8] {
        match self {
            Self::Base62 => BASE62,
            Self::Base64Url => BASE64_URL,
            Self::Hex => HEX,
        }
    }

    fn holds(self, text: &[u8]) -> bool {
        // Looked at whole, since that is done many bytes at a time; most keys are right.
        let all = |holds: fn(u8) -> bool| text.iter().fold(true, |all, &byte| all & holds(byte));
        match self {
            Self::Base62 => all(|byte| byte.is_ascii_alphanumeric()),
            Self::Base64Url => all(|byte| byte.is_ascii_alphanumeric() | (byte == b'-') | (byte == b'_')),
            Self::Hex => all(|byte| byte.is_ascii_hexdigit()),
        }
    }
}

/// The CRC-32 of everything before it, prefix included, as six base62 digits with leading zeros: the scheme of GitHub's
/// tokens (<https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/>), which
/// leave their prefix out. It tells a mistyped key from an unknown one; it authenticates nothing.
pub fn checksum_of(text: &str) -> [u8; CHECKSUM_LENGTH] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

fn ends_in_checksum(value: &str) -> bool {
    let cut = value.len().checked_sub(CHECKSUM_LENGTH).and_then(|at| value.split_at_checked(at));
    cut.is_some_and(|(text, checksum)| checksum_of(text) == checksum.as_bytes())
}

fn check_length(length: &RangeInclusive<usize>) -> Result<(), FormatError> {
    let (min, max) = (*length.start(), *length.end());
    if min > max {
        return Err(FormatError::Backwards { min, max });
    }
    if min == 0 {
        return Err(FormatError::NoLength);
    }
    if max > LONGEST {
        return Err(FormatError::TooLong(max));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(prefix: &str, length: RangeInclusive<usize>, alphabet: Alphabet, checksum: bool) -> Format {
        Format::new(prefix, Some(length), alphabet, checksum, FormatAction::Accept).expect("a good format")
    }

    fn kaicalls() -> Formats {
        let test = Format::new("kc_test_", None, Alphabet::Base62, false, FormatAction::Reject("Not yet".to_owned()));
        Formats::new(vec![format("kc_live_", 44..=44, Alphabet::Base64Url, false), test.expect("a good format")])
    }

    #[test]
    fn a_value_has_a_format_when_prefix_length_and_alphabet_fit() {
        let formats = kaicalls();
        let good = format!("kc_live_{}", "aB3-_".repeat(9).split_at(44).0);
        assert!(matches!(formats.read(&good), Reading::Ours(format) if format.prefix() == "kc_live_"));
        for wrong in [&good[1..], &good[..51], &format!("{good}a"), &good.replace('3', "+"), "", "kc_live_", "x"] {
            assert_eq!(formats.read(wrong), Reading::NotOurs, "{wrong}");
        }
    }

    #[test]
    fn a_rejected_prefix_is_enough_and_brings_its_text() {
        assert_eq!(kaicalls().read("kc_test_x"), Reading::Foreign("Not yet"));
        assert_eq!(kaicalls().read("kc_test_"), Reading::Foreign("Not yet"));
        assert_eq!(kaicalls().read("kc_test_ x"), Reading::NotOurs);
    }

    #[test]
    fn without_formats_any_visible_text_may_be_a_key() {
        let any = Formats::default();
        assert_eq!(any.read("legacy.key/1="), Reading::Any);
        assert_eq!(any.read(&"k".repeat(512)), Reading::Any);
        for wrong in ["", "a b", "a\tb", "a\u{7f}", "a,b", "schlüssel", " a", "a\n"] {
            assert_eq!(any.read(wrong), Reading::NotOurs, "{wrong:?}");
        }
        assert_eq!(any.read(&"k".repeat(513)), Reading::NotOurs);
    }

    #[test]
    fn a_longer_prefix_is_tried_before_a_shorter_one() {
        let short = format("kc_", 1..=60, Alphabet::Base64Url, false);
        let long = Format::new("kc_test_", None, Alphabet::Base62, false, FormatAction::Upstream("sandbox".to_owned()));
        let formats = Formats::new(vec![short, long.expect("a good format")]);
        assert!(matches!(formats.read("kc_test_abc"), Reading::Ours(format) if format.prefix() == "kc_test_"));
        // What the longer prefix does not fit may still be the shorter one's.
        assert!(matches!(formats.read("kc_test_a-c"), Reading::Ours(format) if format.prefix() == "kc_"));
    }

    #[test]
    fn a_wrong_checksum_is_not_ours_in_any_alphabet() {
        for alphabet in [Alphabet::Base62, Alphabet::Base64Url, Alphabet::Hex] {
            let formats = Formats::new(vec![format("ck_", 46..=46, alphabet, true)]);
            let random = format!("ck_{}", "a1".repeat(20));
            let checksum = String::from_utf8(checksum_of(&random).to_vec()).expect("base62 is ASCII");
            let key = random + &checksum;
            assert!(matches!(formats.read(&key), Reading::Ours(_)), "{alphabet:?}");
            let mistyped = key.replacen('a', "b", 1);
            assert_eq!(formats.read(&mistyped), Reading::NotOurs);
        }
    }

    #[test]
    fn checksums_are_those_of_githubs_tokens() {
        assert_eq!(&checksum_of("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"), b"0mLq17");
        assert_eq!(&checksum_of(""), b"000000");
    }

    #[test]
    fn a_weak_or_impossible_format_says_what_to_write() {
        let new = |prefix: &str, length, alphabet, checksum| {
            Format::new(prefix, length, alphabet, checksum, FormatAction::Accept).map(|_| ())
        };
        let base62 = Alphabet::Base62;
        assert_eq!(new("", None, base62, false), Err(FormatError::EmptyPrefix));
        assert_eq!(new("a b", None, base62, false), Err(FormatError::Prefix("a b".to_owned())));
        assert_eq!(
            new("p_", Some(RangeInclusive::new(30, 20)), base62, false),
            Err(FormatError::Backwards { min: 30, max: 20 })
        );
        assert_eq!(new("p_", Some(0..=30), base62, false), Err(FormatError::NoLength));
        assert_eq!(new("p_", Some(1..=513), base62, false), Err(FormatError::TooLong(513)));
        assert_eq!(new("p_", Some(21..=21), base62, false), Err(FormatError::TooFewBits { bits: 125, enough: 22 }));
        assert_eq!(new("p_", Some(22..=22), base62, true), Err(FormatError::TooFewBits { bits: 95, enough: 28 }));
        assert_eq!(
            new("p_", Some(31..=31), Alphabet::Hex, false),
            Err(FormatError::TooFewBits { bits: 124, enough: 32 })
        );
        assert_eq!(new("p_", Some(16..=22), base62, false), Ok(()));
        assert_eq!(new("p_", None, Alphabet::Hex, true), Ok(()));
    }

    #[test]
    fn the_first_accepted_format_is_minted() {
        assert_eq!(Formats::default().to_mint(None).map(Format::prefix), Ok("sg_"));
        assert_eq!(kaicalls().to_mint(None).map(Format::prefix), Ok("kc_live_"));
        assert_eq!(kaicalls().to_mint(Some("kc_live_")).map(Format::prefix), Ok("kc_live_"));
        assert_eq!(kaicalls().to_mint(Some("kc_test_")), Err(FormatError::Rejected("kc_test_".to_owned())));
        let unknown = kaicalls().to_mint(Some("sk_")).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(unknown, Err("no format has the prefix `sk_`; these can be minted: `kc_live_`".to_owned()));
    }
}
