//! What a limit allows: so many requests within so long, in one or several windows at once (`20/1s, 200/10s`).
//!
//! Parsed here once, for the configuration, for the overrides in a store's documents, and for the command line.

use std::fmt;

use thiserror::Error;

use crate::clock::{self, short_duration};

/// How a window counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Aligned to the Unix epoch; everything is given back at the window's end. Up to twice the limit can pass around a boundary.
    Fixed,
    /// The two-bucket estimate: the share of the previous window that still overlaps, plus the current one. Exact when the
    /// previous window's requests were spread evenly; otherwise within any span of one window's length it admits at most
    /// twice the limit, and in the worst case denies until the previous window has slid out.
    Sliding,
    /// A bucket of `limit` tokens that refills evenly over the duration.
    Token,
}

/// `limit` requests in `duration_ms`. A limit of 0 closes (only an override can say it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    pub limit: u64,
    pub duration_ms: u64,
}

/// One or more windows of distinct durations that all must have room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Windows(Box<[Window]>);

/// Why a text is no list of windows, and what to write instead.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WindowsError {
    #[error("`{0}` is not a window; write a count, a slash and a duration, such as `60/1m` (units s, m, h, d)")]
    NotAWindow(String),
    #[error("`{0}` lasts no time; write a duration of at least one second, such as `60/1m`")]
    NoDuration(String),
    #[error("`{0}` is too large to count exactly; the count, and the duration in milliseconds, must stay below 10^15")]
    TooLarge(String),
    #[error(
        "`{0}` is too large for a sliding window or a token bucket, where the count times the duration in milliseconds must stay \
         below 2^50; write less, or `algorithm: fixed-window`"
    )]
    TooManyUnits(String),
    #[error("two windows last equally long (`{0}`); keep the one that you mean")]
    SameDuration(String),
    #[error("no window is given; write one such as `60/1m`")]
    Empty,
}

/// A count and a duration stay below this: it is what a header's field may hold as a number (RFC 9651 §3.3.1), and sums of a few
/// such are exact in Lua (2⁵³).
const MOST: u64 = 1_000_000_000_000_000;

/// `limit × duration_ms` stays below this where it matters, for the same sums.
const MOST_UNITS: u64 = 1 << 50;

impl Windows {
    pub fn new(windows: Vec<Window>) -> Result<Self, WindowsError> {
        if windows.is_empty() {
            return Err(WindowsError::Empty);
        }
        for (index, window) in windows.iter().enumerate() {
            window.check()?;
            if windows[..index].iter().any(|earlier| earlier.duration_ms == window.duration_ms) {
                return Err(WindowsError::SameDuration(window.to_string()));
            }
        }
        Ok(Self(windows.into()))
    }

    /// What an algorithm relies on beyond what all do. One that measures in milliseconds multiplies both numbers of a window; a
    /// fixed window counts requests.
    pub fn check_for(&self, algorithm: Algorithm) -> Result<(), WindowsError> {
        let fits = |window: &&Window| match algorithm {
            Algorithm::Fixed => true,
            // At least those of one request.
            Algorithm::Sliding | Algorithm::Token => {
                window.limit.max(1).checked_mul(window.duration_ms).is_some_and(|units| units < MOST_UNITS)
            }
        };
        match self.0.iter().find(|window| !fits(window)) {
            Some(window) => Err(WindowsError::TooManyUnits(window.to_string())),
            None => Ok(()),
        }
    }

    /// Reads each text as one window: `["20/1s", "200/10s"]`.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, WindowsError> {
        Self::new(texts.into_iter().map(Window::parse).collect::<Result<_, _>>()?)
    }

    pub fn as_slice(&self) -> &[Window] {
        &self.0
    }
}

impl Window {
    /// `60/1m`, `60/m`, `20/10s`, `1000/1h`, `5/1d`.
    pub fn parse(text: &str) -> Result<Self, WindowsError> {
        let not_a_window = || WindowsError::NotAWindow(text.to_owned());
        let (count, duration) = text.split_once('/').ok_or_else(not_a_window)?;
        let limit = digits(count.trim()).ok_or_else(not_a_window)?;
        let duration = duration.trim();
        let (amount, unit) = duration.split_at(duration.len() - duration.chars().last().map_or(0, char::len_utf8));
        let unit_ms = clock::unit_ms(unit).ok_or_else(not_a_window)?;
        let amount = if amount.is_empty() { 1 } else { digits(amount).ok_or_else(not_a_window)? };
        if amount == 0 {
            return Err(WindowsError::NoDuration(text.to_owned()));
        }
        let too_large = || WindowsError::TooLarge(text.to_owned());
        let duration_ms = amount.checked_mul(unit_ms).ok_or_else(too_large)?;
        let window = Self { limit, duration_ms };
        if window.is_too_large() {
            return Err(too_large());
        }
        Ok(window)
    }

    /// What the arithmetic relies on, whoever made the window.
    fn check(&self) -> Result<(), WindowsError> {
        match () {
            () if self.duration_ms == 0 => Err(WindowsError::NoDuration(self.to_string())),
            () if self.is_too_large() => Err(WindowsError::TooLarge(self.to_string())),
            () => Ok(()),
        }
    }

    fn is_too_large(&self) -> bool {
        self.limit >= MOST || self.duration_ms >= MOST
    }
}

/// Digits alone: no sign, no space, no underscore.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl fmt::Display for Window {
    /// The shortest text that `parse` reads back: `60/1m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.limit, short_duration(self.duration_ms))
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, window) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{window}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_as_people_write_them() {
        assert_eq!(Window::parse("60/1m"), Ok(Window { limit: 60, duration_ms: 60_000 }));
        assert_eq!(Window::parse("60/m"), Window::parse("60/1m"));
        assert_eq!(Window::parse("1000/1h").map(|w| w.to_string()), Ok("1000/1h".to_owned()));
        assert_eq!(Windows::parse(["20/1s", "200/10s"]).map(|w| w.to_string()), Ok("20/1s, 200/10s".to_owned()));
    }

    #[test]
    fn what_is_no_window_says_what_to_write() {
        for wrong in ["", "60", "60/", "/1m", "60/1x", "+60/1m", "60/-1m", "6_0/1m", "60/1 m", "60/µ", "60/m1"] {
            assert!(matches!(Window::parse(wrong), Err(WindowsError::NotAWindow(_))), "{wrong:?}");
        }
        assert!(matches!(Window::parse("60/0s"), Err(WindowsError::NoDuration(_))));
        for large in ["1000000000000000/1d", "1/99999999d", "1/999999999999999999d"] {
            assert!(matches!(Window::parse(large), Err(WindowsError::TooLarge(_))), "{large}");
        }
        assert!(matches!(Windows::parse(["1/60s", "2/1m"]), Err(WindowsError::SameDuration(_))));
        assert_eq!(Windows::parse([]), Err(WindowsError::Empty));
    }

    #[test]
    fn a_fixed_window_counts_requests_and_the_others_also_milliseconds() {
        for (text, sliding) in [("1000000/30d", false), ("434374/30d", true), ("434375/30d", false), ("0/400d", true)] {
            let windows = Windows::parse(["1/1s", text]).expect("it is a window");
            assert_eq!(windows.check_for(Algorithm::Fixed), Ok(()), "{text}");
            for algorithm in [Algorithm::Sliding, Algorithm::Token] {
                assert_eq!(windows.check_for(algorithm).is_ok(), sliding, "{text}");
            }
        }
    }
}
