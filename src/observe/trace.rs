//! The request's trace, and the gate's span in it (W3C Trace Context, level 2, §3). A trace is continued from any client, since
//! ids grant nothing and clients could send them to the service as well; else one begins here. Malformed headers count as absent.
//!
//! A span begins with the request's head and ends as a `Finished`, which has its times and its outcome; both are in the log line.
//! An exporter (OTLP) would take the `Finished`, as the access log does.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::random::Random;

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-<trace id>-<span id>-<flags>`; there is no other version.
const LENGTH: usize = 55;
const TRACE_ID: std::ops::Range<usize> = 3..35;
const SPAN_ID: std::ops::Range<usize> = 36..52;
const FLAGS: std::ops::Range<usize> = 53..55;

/// The defined flags: sampled, and random since level 2. Others are not passed on (§3.2.2.5).
const KNOWN_FLAGS: u8 = 0b11;
/// A trace that begins here is sampled: services that follow their caller's decision, as most do, would otherwise record nothing
/// behind a gate.
const SAMPLED: &[u8; 2] = b"01";

/// How many entries `tracestate` may have (§3.3.1.1).
const MOST_MEMBERS: usize = 32;
/// How long the key and the value of one may be (§3.3.1.3).
const LONGEST: usize = 256;

/// A span's ids and flags in hexadecimal digits; bytes, so that they can be written without a check of each.
#[derive(Debug, Clone, Copy)]
pub struct Digits<'s> {
    pub trace_id: &'s [u8],
    pub span_id: &'s [u8],
    pub flags: &'s [u8],
    /// The client's span.
    pub parent_id: Option<&'s [u8]>,
}

/// The gate's part of a trace.
#[derive(Debug, Clone)]
pub struct Span {
    /// The `traceparent` for the upstream, whose parent is this span.
    text: [u8; LENGTH],
    /// The client's span, in hexadecimal digits; `None`: the trace begins here.
    parent: Option<[u8; 16]>,
}

impl Span {
    pub fn begin(headers: &HeaderMap, random: &Random) -> Self {
        let mut text = [b'-'; LENGTH];
        text[..2].copy_from_slice(b"00");
        let theirs = incoming(headers);
        match &theirs {
            Some(theirs) => {
                text[TRACE_ID].copy_from_slice(theirs.trace_id);
                let [.., last] = &mut text;
                // Two known bits are one digit.
                *last = b'0' + theirs.flags;
                text[FLAGS.start] = b'0';
            }
            None => {
                write_hex(&mut text[TRACE_ID], &random.take::<16>());
                text[FLAGS].copy_from_slice(SAMPLED);
            }
        }
        write_hex(&mut text[SPAN_ID], &random.take::<8>());
        Self { text, parent: theirs.map(|theirs| theirs.span_id) }
    }

    /// The `traceparent` for the upstream: digits and hyphens.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    pub fn trace_id(&self) -> &str {
        text(&self.text[TRACE_ID])
    }

    pub fn digits(&self) -> Digits<'_> {
        let text = &self.text;
        Digits {
            trace_id: &text[TRACE_ID],
            span_id: &text[SPAN_ID],
            flags: &text[FLAGS],
            parent_id: self.parent.as_ref().map(|id| &id[..]),
        }
    }

    /// Whether a client's field is removed: `traceparent`, which is set anew, and the `tracestate` of a trace that is not
    /// continued.
    pub fn replaces(&self, name: &HeaderName) -> bool {
        *name == TRACEPARENT || (self.parent.is_none() && *name == TRACESTATE)
    }

    /// Passes `tracestate` on if it is well-formed and its trace is continued (§3.3.1, §4.3); several lines are joined. To be
    /// called after the fields that this `replaces` are removed.
    pub fn pass_state(&self, headers: &mut HeaderMap) {
        if self.parent.is_none() {
            return;
        }
        match State::of(headers) {
            State::Absent => drop(headers.remove(TRACESTATE)),
            State::Unchanged => {}
            State::Joined(joined) => drop(headers.insert(TRACESTATE, joined)),
        }
    }
}

/// Digits and hyphens always are text.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A client's `traceparent`.
struct Incoming<'h> {
    trace_id: &'h [u8],
    span_id: [u8; 16],
    /// The defined ones.
    flags: u8,
}

/// The one `traceparent`, if it is well-formed (§3.2).
fn incoming(headers: &HeaderMap) -> Option<Incoming<'_>> {
    let line = headers.get(TRACEPARENT)?;
    if headers.get_all(TRACEPARENT).iter().nth(1).is_some() { None } else { read(line.as_bytes()) }
}

/// A later version than 00 may have more behind the flags, after a hyphen; ff is invalid (§3.2.4).
fn read(line: &[u8]) -> Option<Incoming<'_>> {
    let (known, rest) = line.split_at_checked(LENGTH)?;
    let version = &known[..2];
    let ends_well = rest.is_empty() || (version != b"00" && rest[0] == b'-');
    let hyphens = [2, 35, 52].iter().all(|&at| known[at] == b'-');
    let digits = [version, &known[TRACE_ID], &known[SPAN_ID], &known[FLAGS]];
    if !ends_well || !hyphens || version == b"ff" || !digits.iter().all(|digits| digits.iter().all(is_hex)) {
        return None;
    }
    let (trace_id, span_id) = (&known[TRACE_ID], known[SPAN_ID].try_into().ok()?);
    let zero = |id: &[u8]| id.iter().all(|&digit| digit == b'0');
    if zero(trace_id) || zero(&known[SPAN_ID]) {
        return None;
    }
    let flags = u8::from_str_radix(text(&known[FLAGS]), 16).ok()? & KNOWN_FLAGS;
    Some(Incoming { trace_id, span_id, flags })
}

/// Upper case is malformed (§3.2.2).
fn is_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Each byte in hexadecimal digits.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// An id of zeros is invalid; a random one that is (once in 2⁶⁴ spans) is changed.
fn write_hex(digits: &mut [u8], id: &[u8]) {
    let (pairs, _) = digits.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(id) {
        *pair = PAIRS[usize::from(*byte)];
    }
    if digits.iter().all(|&digit| digit == b'0')
        && let [.., last] = digits
    {
        *last = b'1';
    }
}

/// How a client's `tracestate` is forwarded.
enum State {
    /// Not: there is none, or a malformed one.
    Absent,
    Unchanged,
    /// Its lines joined in their order (RFC 9110 §5.3).
    Joined(HeaderValue),
}

impl State {
    fn of(headers: &HeaderMap) -> Self {
        let lines = || headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes);
        let members = lines().try_fold(0, |count, line| Some(count + members(line)?));
        match members {
            Some(1..=MOST_MEMBERS) if lines().count() == 1 => Self::Unchanged,
            Some(1..=MOST_MEMBERS) => {
                let joined = HeaderValue::from_bytes(&lines().collect::<Vec<_>>().join(&b","[..]));
                joined.map_or(Self::Absent, Self::Joined)
            }
            Some(_) | None => Self::Absent,
        }
    }
}

/// How many entries one line has; `None` if one is malformed. Empty ones are allowed and not counted (§3.3.1.1).
fn members(line: &[u8]) -> Option<usize> {
    let members = line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
    members.into_iter().try_fold(0, |count, member| is_member(member).then_some(count + 1))
}

/// `key=value` (§3.3.1.3).
fn is_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|&byte| byte == b'=') else { return false };
    let (key, value) = (&member[..at], &member[at + 1..]);
    let lower = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = |part: &[u8]| (1..=LONGEST).contains(&part.len());
    fits(key)
        && fits(value)
        && key.first().is_some_and(lower)
        && key.iter().all(|byte| lower(byte) || b"_-*/@".contains(byte))
        && value.iter().all(|&byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn with(name: HeaderName, lines: &[&str]) -> HeaderMap {
        let values = lines.iter().map(|line| (name.clone(), line.parse().expect("the test's headers are right")));
        values.collect()
    }

    /// The header that goes on, as it would have come with this one.
    fn told(lines: &[&str]) -> (bool, String) {
        let span = Span::begin(&with(TRACEPARENT, lines), &Random::default());
        let told = text(span.as_bytes()).to_owned();
        let digits = span.digits();
        let parts = [digits.trace_id, digits.span_id, digits.flags].map(text);
        assert_eq!(told, format!("00-{}", parts.join("-")));
        assert!(read(told.as_bytes()).is_some(), "{told}");
        (digits.parent_id.is_some(), told)
    }

    #[test]
    fn a_trace_goes_on_with_its_flags_and_a_span_of_our_own() {
        let (continued, text) = told(&[GOOD]);
        assert!(continued && text.starts_with(&GOOD[..36]) && text.ends_with("-01"), "{text}");
        assert_ne!(text[SPAN_ID], GOOD[SPAN_ID]);
        let flags = |of: &str| told(&[&format!("{}{of}", &GOOD[..53])]).1[FLAGS].to_owned();
        assert_eq!(["00", "01", "02", "03", "ff", "fc"].map(flags), ["00", "01", "02", "03", "03", "00"]);
        for later in ["cc-{}-01", "01-{}-01-what-ever", "fe-{}-01-"] {
            let text = later.replace("{}", &GOOD[3..52]);
            assert!(told(&[&text]).1.starts_with(&GOOD[..36]), "{text}");
        }
    }

    #[test]
    fn what_is_malformed_begins_another_trace() {
        let swapped = |from: &str, to: &str| GOOD.replacen(from, to, 1);
        for text in [
            String::new(),
            "-".repeat(LENGTH),
            swapped("00-", "ff-"),
            swapped("00-", "0g-"),
            swapped("00-", "0-"),
            swapped("00-", "CC-"),
            swapped(TRACE, &"0".repeat(32)),
            swapped("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.to_uppercase(),
            swapped("-01", "-1"),
            swapped("-01", "-0g"),
            swapped("-01", "+01"),
            format!("{GOOD}-more"),
            format!("{GOOD}-"),
            format!("{}-01what", swapped("00-", "cc-").trim_end_matches("-01")),
            format!("{}-01.what", swapped("00-", "cc-").trim_end_matches("-01")),
        ] {
            let (continued, told) = told(&[&text]);
            assert!(!continued && !told.contains(TRACE) && told.ends_with("-01"), "{text:?} gives {told}");
        }
        assert!(!told(&[GOOD, GOOD]).0, "two of them are malformed");
        assert_ne!(told(&[]).1, told(&[]).1);
    }

    /// What the upstream gets of these `tracestate` lines.
    fn state(parent: &[&str], lines: &[&str]) -> Vec<String> {
        let mut headers = with(TRACEPARENT, parent);
        headers.extend(with(TRACESTATE, lines));
        let span = Span::begin(&headers, &Random::default());
        let replaced: Vec<HeaderName> = headers.keys().filter(|name| span.replaces(name)).cloned().collect();
        replaced.iter().for_each(|name| drop(headers.remove(name)));
        span.pass_state(&mut headers);
        headers.get_all(TRACESTATE).iter().map(|value| value.to_str().expect("it is text").to_owned()).collect()
    }

    #[test]
    fn the_state_of_a_trace_that_goes_on_passes_where_it_is_well_formed() {
        for good in [
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "a=1 , b=2,\t,c= 3",
            "0a/b*c-d_e@f=!~",
            "a=1,a=2",
            &format!("{}={}", "k".repeat(256), "v".repeat(256)),
        ] {
            assert_eq!(state(&[GOOD], &[good]), [good]);
            assert_eq!(state(&[], &[good]), [""; 0], "its trace did not go on");
        }
        assert_eq!(state(&[GOOD], &["a=1", "b=2,c=3"]), ["a=1,b=2,c=3"]);
        let many = |count: usize| (0..count).map(|i| format!("k{i}=1")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&[GOOD], &[&many(32)]), [many(32)]);
        let long = format!("{}=1", "k".repeat(257));
        let bad =
            [&*many(33), "", ",", "a", "a=", "=1", "A=1", "a b=1", "a=1=2", "a=1;b=2,c", "_a=1", "a=\u{e9}", &long];
        for bad in bad {
            assert_eq!(state(&[GOOD], &[bad]), [""; 0], "{bad:?}");
            assert_eq!(state(&[GOOD], &["a=1", bad]).len(), usize::from(["", ","].contains(&bad)), "{bad:?}");
        }
    }
}
