//! Wall-clock time as the documents and the limits use it: milliseconds since the Unix epoch, RFC 3339 text, and the units that
//! durations are written in.
//!
//! The pure rooms (`limit`, `keys`, `policy`) never call `now_ms`; they take the time as an argument. What a request is
//! decided by is the store's own clock, so that a sidecar with a wrong one neither gives nor takes quota.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Milliseconds since the Unix epoch by this machine's clock.
pub fn now_ms() -> u64 {
    whole_ms(since_epoch())
}

/// How long a look at both clocks is good for: a wall clock that is set shows that much later.
const COMPARED: Duration = Duration::from_secs(1);

thread_local! {
    /// The wall clock's time at an instant.
    static BOTH: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// What `now_ms` was at an instant that is just past, without another look at the clock.
pub fn ms_at(instant: Instant) -> u64 {
    if let Some((at, wall)) = BOTH.get()
        && let Some(since) = instant.checked_duration_since(at)
        && since < COMPARED
    {
        return whole_ms(wall + since);
    }
    let (at, wall) = (Instant::now(), since_epoch());
    BOTH.set(Some((at, wall)));
    whole_ms(wall.saturating_sub(at.saturating_duration_since(instant)))
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn whole_ms(since: Duration) -> u64 {
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The units that durations are written in, the longest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

/// How long a unit of `90d`, `24h`, `5m` or `10s` is, in milliseconds.
pub fn unit_ms(unit: &str) -> Option<u64> {
    UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms)
}

/// `1m`, `10s`: whole seconds as a whole number of the longest unit that divides them.
pub fn short_duration(ms: u64) -> String {
    let dividing = UNITS.iter().find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms));
    let (unit, unit_ms) = dividing.copied().unwrap_or(("s", 1000));
    format!("{}{unit}", ms / unit_ms)
}

/// `2026-03-23T14:30:00Z`: RFC 3339 UTC in whole seconds, as every document and answer writes it.
pub fn rfc3339(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// How long a time with milliseconds is, and the second in it: always, since no year that can be written has five digits.
const LENGTH_MS: usize = "2026-03-23T14:30:00.123Z".len();
const SECOND: usize = "2026-03-23T14:30:00".len();

thread_local! {
    /// A second, and a text of it: log lines come many to a second.
    static LAST_WRITTEN: Cell<(u64, [u8; LENGTH_MS])> = Cell::new((0, begun(0)));
}

/// `2026-03-23T14:30:00.123Z`: the same with milliseconds, for logs. ASCII.
pub fn rfc3339_ms(ms: u64) -> [u8; LENGTH_MS] {
    let (second, mut text) = LAST_WRITTEN.get();
    if second != ms / 1000 {
        text = begun(ms);
        LAST_WRITTEN.set((ms / 1000, text));
    }
    let digit = |place: u64| b'0' + (ms / place % 10) as u8;
    text[SECOND + 1..][..3].copy_from_slice(&[digit(100), digit(10), digit(1)]);
    text
}

/// The second, its milliseconds still to be written.
fn begun(ms: u64) -> [u8; LENGTH_MS] {
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (place, written) in text[..SECOND].iter_mut().zip(rfc3339(ms).bytes()) {
        *place = written;
    }
    text
}

/// Reads an RFC 3339 time with any offset; `None` if it is none, or before 1970.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let timestamp: Timestamp = text.parse().ok()?;
    u64::try_from(timestamp.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_told_as_the_wall_clock_told_it() {
        for _ in 0..100 {
            let (before, instant, after) = (now_ms(), Instant::now(), now_ms());
            // Two clocks are compared, each of which may be set finely in between.
            assert!((before - 1..=after + 1).contains(&ms_at(instant)), "{before} {} {after}", ms_at(instant));
        }
        assert!(ms_at(Instant::now() - Duration::from_secs(5)) <= now_ms() - 4_999);
    }

    #[test]
    fn times_are_written_in_whole_seconds_and_read_back() {
        assert_eq!(rfc3339(1_774_276_200_999), "2026-03-23T14:30:00Z");
        for (ms, written) in [
            (1_774_276_200_007, "2026-03-23T14:30:00.007Z"),
            (1_774_276_200_999, "2026-03-23T14:30:00.999Z"),
            (1_774_276_201_000, "2026-03-23T14:30:01.000Z"),
            (7, "1970-01-01T00:00:00.007Z"),
        ] {
            assert_eq!(str::from_utf8(&rfc3339_ms(ms)), Ok(written));
        }
        assert_eq!(parse_rfc3339("2026-03-23T14:30:00Z"), Some(1_774_276_200_000));
        assert_eq!(parse_rfc3339("2026-03-23T16:30:00+02:00"), Some(1_774_276_200_000));
        assert_eq!(parse_rfc3339("tomorrow"), None);
    }
}
