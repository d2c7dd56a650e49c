//! This machine's clocks: wall-clock time as the documents and the limits use it (milliseconds since the Unix epoch, RFC 3339
//! text), the uptime for what was how long ago, and the units that durations are written in.
//!
//! The pure rooms (`limit`, `keys`, `policy`) never read a clock; they take the time as an argument. What a request is
//! decided by is the store's own clock, so that a sidecar with a wrong one neither gives nor takes quota.

use std::cell::Cell;
use std::thread::LocalKey;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the Unix epoch by this machine's clock.
pub fn now_ms() -> u64 {
    whole_ms(since_epoch())
}

/// Milliseconds since the machine was started. Nobody sets this clock, and it goes on while the machine is suspended, which
/// `Instant` does not.
pub fn uptime_ms() -> u64 {
    whole_ms(uptime())
}

/// How long a look at a clock is good for: what happens to it (it is set, the machine is suspended) shows that much later.
const COMPARED: Duration = Duration::from_secs(1);

/// What a clock showed at an instant.
type Look = Cell<Option<(Instant, Duration)>>;

thread_local! {
    static WALL: Look = const { Cell::new(None) };
    static UPTIME: Look = const { Cell::new(None) };
}

/// What `now_ms` was at an instant that is just past, without another look at the clock.
pub fn ms_at(instant: Instant) -> u64 {
    whole_ms(shown_at(instant, &WALL, since_epoch))
}

/// The same of `uptime_ms`. Never later than it was: a suspension that does not show yet makes what is reckoned from this
/// older, not younger.
pub fn uptime_ms_at(instant: Instant) -> u64 {
    whole_ms(shown_at(instant, &UPTIME, uptime))
}

fn shown_at(instant: Instant, last: &'static LocalKey<Look>, read: impl FnOnce() -> Duration) -> Duration {
    if let Some((at, shown)) = last.get()
        && let Some(since) = instant.checked_duration_since(at)
        && since < COMPARED
    {
        return shown + since;
    }
    let (at, shown) = (Instant::now(), read());
    last.set(Some((at, shown)));
    shown.saturating_sub(at.saturating_duration_since(instant))
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn uptime() -> Duration {
    // CLOCK_BOOTTIME: in the vDSO of x86-64 and arm64, as the clocks of std are.
    clock_gettime(ClockId::Boottime).try_into().unwrap_or_default()
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
    fn an_instant_is_what_a_clock_showed_at_it() {
        agree(now_ms, ms_at);
        agree(uptime_ms, uptime_ms_at);
    }

    fn agree(now: fn() -> u64, at: fn(Instant) -> u64) {
        for _ in 0..100 {
            let (before, instant, after) = (now(), Instant::now(), now());
            // Two clocks are compared, each of which may be set finely in between.
            assert!((before - 1..=after + 1).contains(&at(instant)), "{before} {} {after}", at(instant));
        }
        assert!(at(Instant::now() - Duration::from_secs(5)) <= now() - 4_999);
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
