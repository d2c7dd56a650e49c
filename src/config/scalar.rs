//! What a single value may say: durations, sizes, shares, choices. Each error says what to write instead.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::suggestion;
use crate::clock;
use crate::network::NetworkError;

/// Why a value cannot be read, and what to write instead.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ScalarError {
    #[error("`{0}` is no duration; write a whole number and a unit (ms, s, m, h, d), such as `15s`")]
    Duration(String),
    #[error("`{0}` is no time at all; write a duration above zero, such as `15s`")]
    ZeroDuration(String),
    #[error("`{0}` is no size; write bytes (`65536`) or a unit (`64KiB`, `1MiB`, `10MB`)")]
    Size(String),
    #[error("`{text}` is no whole number from {least} to {most}; write one")]
    Number { text: String, least: u64, most: u64 },
    #[error("`{0}` is neither true nor false; write one of them")]
    Flag(String),
    #[error("`{0}` is no share; write a fraction above 0 and up to 1, such as `1/4`")]
    Share(String),
    #[error("`{0}` is no part from 0 to 1; write one such as `0.1`")]
    Part(String),
    #[error("there is no `{text}` here; {advice}")]
    Choice { text: String, advice: String },
    #[error("`{text}` is no {what}; write one such as `{example}`")]
    Other { text: String, what: &'static str, example: &'static str },
    #[error("{0}")]
    Network(NetworkError),
}

/// Longer than any that is meant; it keeps additions to a clock from overflowing.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// `100ms`, `2s`, `5m`, `1h`, `2d`, `0s`.
pub fn duration(text: &str) -> Result<Duration, ScalarError> {
    let wrong = || ScalarError::Duration(text.to_owned());
    let (count, unit) = split_unit(text).ok_or_else(wrong)?;
    let unit_ms = if unit == "ms" { 1 } else { clock::unit_ms(unit).ok_or_else(wrong)? };
    let duration = count.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)?;
    if duration > LONGEST { Err(wrong()) } else { Ok(duration) }
}

/// A duration that may not be zero.
pub fn time(text: &str) -> Result<Duration, ScalarError> {
    let duration = duration(text)?;
    if duration.is_zero() { Err(ScalarError::ZeroDuration(text.to_owned())) } else { Ok(duration) }
}

/// `65536`, `64KiB`, `1MiB`, `10MB` (1 KiB is 1024, 1 kB is 1000).
pub fn size(text: &str) -> Result<u64, ScalarError> {
    let wrong = || ScalarError::Size(text.to_owned());
    let (count, unit) = split_unit(text).ok_or_else(wrong)?;
    let bytes: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    count.checked_mul(bytes).filter(|size| *size < 1 << 53).ok_or_else(wrong)
}

/// The digits, and what follows them.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// Digits alone, within bounds.
pub fn number(least: u64, most: u64) -> impl FnOnce(&str) -> Result<u64, ScalarError> {
    move |text| {
        let number = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        number.filter(|number| (least..=most).contains(number)).ok_or_else(|| ScalarError::Number {
            text: text.to_owned(),
            least,
            most,
        })
    }
}

/// The same for what is counted in memory.
pub fn count(least: u32, most: u32) -> impl FnOnce(&str) -> Result<usize, ScalarError> {
    move |text| {
        let number = number(u64::from(least), u64::from(most))(text)?;
        usize::try_from(number).map_err(|_| ScalarError::Number { text: text.to_owned(), least: 0, most: 65_535 })
    }
}

/// `true` or `false`, as YAML 1.2 spells them.
pub fn flag(text: &str) -> Result<bool, ScalarError> {
    match text {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        _ => Err(ScalarError::Flag(text.to_owned())),
    }
}

/// `1/4`, as part and whole.
pub fn share(text: &str) -> Result<(u64, u64), ScalarError> {
    let wrong = || ScalarError::Share(text.to_owned());
    let (part, whole) = text.split_once('/').ok_or_else(wrong)?;
    let read = |digits: &str| number(1, 1_000_000)(digits.trim()).map_err(|_| wrong());
    let (part, whole) = (read(part)?, read(whole)?);
    if part > whole { Err(wrong()) } else { Ok((part, whole)) }
}

/// `0.25`: a part of all, from 0 to 1.
pub fn part(text: &str) -> Result<f64, ScalarError> {
    let part: Option<f64> = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| ScalarError::Part(text.to_owned()))
}

/// One of a few words.
pub fn choice<T: Copy>(choices: &[(&str, T)]) -> impl FnOnce(&str) -> Result<T, ScalarError> {
    move |text| match choices.iter().find(|(word, _)| *word == text) {
        Some((_, choice)) => Ok(*choice),
        None => {
            let advice = suggestion::advice(text, choices.iter().map(|(word, _)| *word));
            Err(ScalarError::Choice { text: text.to_owned(), advice })
        }
    }
}

/// What another type reads, such as an address.
pub fn other<T: FromStr>(what: &'static str, example: &'static str) -> impl FnOnce(&str) -> Result<T, ScalarError>
where
    T::Err: Display,
{
    move |text| text.parse().map_err(|_| ScalarError::Other { text: text.to_owned(), what, example })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [("100ms", 100), ("2s", 2000), ("5m", 300_000), ("1h", 3_600_000), ("2d", 172_800_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "5", "s", "1.5s", "-1s", "5 s", "5S", "5w", "99999999999999999999s", "999999d", "１s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(matches!(time("0ms"), Err(ScalarError::ZeroDuration(_))));
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        for (text, bytes) in [("0", 0), ("65536", 65536), ("64KiB", 65536), ("1MiB", 1 << 20), ("10MB", 10_000_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "KiB", "1 MiB", "1.5MiB", "-1", "1TiBs", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_shares_and_parts_have_bounds() {
        assert_eq!(number(1, 10)("10"), Ok(10));
        for wrong in ["", "0", "11", "+1", "1.0", "0x1", "ten"] {
            assert!(number(1, 10)(wrong).is_err(), "{wrong}");
        }
        assert_eq!(share("1/4"), Ok((1, 4)));
        for wrong in ["", "1", "0/4", "5/4", "1/0", "0.25", "a/b"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        assert_eq!(part("0.5"), Ok(0.5));
        for wrong in ["", "1.1", "-0.1", "NaN", "half"] {
            assert!(part(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_choice_names_the_word_that_was_meant() {
        let said = choice(&[("json", 1), ("text", 2)])("jsno").map_err(|e| e.to_string());
        assert_eq!(said, Err("there is no `jsno` here; did you mean `json`?".to_owned()));
    }
}
