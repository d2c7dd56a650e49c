//! Extracts the key that a request presents: exactly one candidate, or a denial, without asking the store.
//!
//! Two parsers of one request must not find two different keys, so more than one candidate is refused even when they are equal
//! (Istio CVE-2026-31838).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Denial;
use crate::keys::{Digest, FormatAction, Reading};
use crate::policy::{Credentials, KeySource, UpstreamId};

/// A key by its digest; the key itself is not kept.
#[derive(Debug)]
pub struct Presented {
    pub digest: Digest,
    /// The header that holds it; no other holds a candidate.
    pub header: HeaderName,
    /// The upstream of keys of this format, which overrides the route's.
    pub upstream: Option<UpstreamId>,
}

/// Which values are removed as keys when a request is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysToStrip {
    /// Every candidate in a configured header.
    Candidates,
    /// The same, where `read` has found the only one: only what stands beside it is looked at.
    In(HeaderName),
    /// Values that hold something of a key's format, and the one candidate if the store knows it: in observe mode anything else
    /// may be the service's own credential.
    Recognised { known: bool },
}

/// How one source reads one header value.
enum Candidate<'v> {
    Ours {
        key: &'v str,
        upstream: Option<UpstreamId>,
    },
    Foreign(&'v str),
    /// With a comma: some parsers read two values.
    Several,
    /// For this source, but not a key.
    Malformed {
        white_space: bool,
    },
    /// Not for this source: another scheme, or not text.
    NotOurs,
}

pub fn read(credentials: &Credentials, headers: &HeaderMap) -> Result<Presented, Denial> {
    let mut found: Option<Result<Presented, Denial>> = None;
    let mut present = false;
    let mut white_space = false;
    for source in &credentials.sources {
        let mut values = headers.get_all(&source.header).iter();
        let Some(value) = values.next() else { continue };
        present = true;
        if values.next().is_some() {
            return Err(Denial::AmbiguousKey);
        }
        let candidate = match candidate(credentials, source, value) {
            Candidate::Ours { key, upstream } => {
                Ok(Presented { digest: Digest::of(key), header: source.header.clone(), upstream })
            }
            Candidate::Foreign(text) => Err(Denial::ForeignFormat(text.to_owned())),
            Candidate::Several => return Err(Denial::AmbiguousKey),
            Candidate::Malformed { white_space: seen } => {
                white_space |= seen;
                continue;
            }
            Candidate::NotOurs => continue,
        };
        if found.replace(candidate).is_some() {
            return Err(Denial::AmbiguousKey);
        }
    }
    match found {
        Some(candidate) => candidate,
        None if white_space => {
            Err(Denial::MalformedKey(Some("Invalid API key: remove the white space around or within it")))
        }
        None if present => Err(Denial::MalformedKey(None)),
        None => Err(Denial::MissingKey),
    }
}

/// Removes the values that `taken` says, and those that hold a key in a form in which none is read, so that the upstream never sees
/// a key; other schemes and formats stay.
pub fn strip(credentials: &Credentials, headers: &mut HeaderMap, taken: &KeysToStrip) {
    if credentials.forward {
        return;
    }
    if let KeysToStrip::In(header) = taken {
        headers.remove(header);
    }
    for source in &credentials.sources {
        // Most requests say nothing in the other places.
        if !headers.contains_key(&source.header) {
            continue;
        }
        let ours = |value: &HeaderValue| match (candidate(credentials, source, value), taken) {
            (Candidate::Ours { .. }, KeysToStrip::Recognised { known: true }) => true,
            (_, KeysToStrip::Recognised { .. }) => holds_a_key(credentials, value),
            (Candidate::Malformed { white_space }, _) => {
                (white_space && credentials.formats.take_any()) || holds_a_key(credentials, value)
            }
            (Candidate::NotOurs, _) => holds_a_key(credentials, value),
            (_, KeysToStrip::Candidates | KeysToStrip::In(_)) => true,
        };
        let (theirs, kept): (Vec<_>, Vec<_>) = headers.get_all(&source.header).iter().partition(|value| ours(value));
        if theirs.is_empty() {
            continue;
        }
        let kept: Vec<_> = kept.into_iter().cloned().collect();
        headers.remove(&source.header);
        for value in kept {
            headers.append(source.header.clone(), value);
        }
    }
}

/// Whether a word of the value has the format of a key that this gate accepts or mints: also behind a scheme too many, without the
/// one that belongs there or grown together with it, in quotes, as a parameter (`Token token="…"`), or with white space around it.
/// A `.` ends no word: the part of a foreign token between two of them may have any form.
fn holds_a_key(credentials: &Credentials, value: &HeaderValue) -> bool {
    let text = String::from_utf8_lossy(value.as_bytes());
    let claim = |word: &str| credentials.formats.claim(word);
    let schemes = || credentials.sources.iter().filter_map(|source| source.scheme.as_deref());
    let behind = |word: &str, scheme: &str| {
        let (start, rest) = word.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(claim(rest))
    };
    text.split(|sign: char| " \t,;:\"'".contains(sign) || !sign.is_ascii()).any(|word| {
        claim(word)
            || word.rsplit_once('=').is_some_and(|(_, parameter)| claim(parameter))
            || schemes().any(|scheme| behind(word, scheme) == Some(true))
    })
}

fn candidate<'v>(credentials: &'v Credentials, source: &KeySource, value: &'v HeaderValue) -> Candidate<'v> {
    let Ok(text) = value.to_str() else {
        let unreadable = || Candidate::Malformed { white_space: value.as_bytes().contains(&b'\t') };
        return if source.scheme.is_none() { unreadable() } else { Candidate::NotOurs };
    };
    let key = match &source.scheme {
        None => text,
        Some(scheme) => match after_scheme(text, scheme) {
            Some(key) => key,
            // `Basic abc, Bearer key` is one value to some parsers and two to others.
            None if text.split(',').skip(1).any(|part| after_scheme(part.trim(), scheme).is_some()) => {
                return Candidate::Several;
            }
            None => return Candidate::NotOurs,
        },
    };
    match credentials.formats.read(key) {
        // Neither can hold a comma.
        Reading::Any => Candidate::Ours { key, upstream: None },
        Reading::Ours(format) => Candidate::Ours { key, upstream: upstream(credentials, format.action()) },
        Reading::Foreign(_) | Reading::NotOurs if key.contains(',') => Candidate::Several,
        Reading::Foreign(text) => Candidate::Foreign(text),
        Reading::NotOurs => Candidate::Malformed { white_space: key.contains(char::is_whitespace) },
    }
}

/// What follows `Bearer` and exactly one space; the scheme is case-insensitive (RFC 9110 §11.1).
fn after_scheme<'v>(text: &'v str, scheme: &str) -> Option<&'v str> {
    let (start, rest) = text.split_at_checked(scheme.len())?;
    if !start.eq_ignore_ascii_case(scheme) {
        return None;
    }
    match rest.bytes().next() {
        None => Some(rest),
        Some(b' ') => Some(&rest[1..]),
        // A tab is no separator; it is kept so that the value fits no format, and the denial says why.
        Some(b'\t') => Some(rest),
        Some(_) => None,
    }
}

fn upstream(credentials: &Credentials, action: &FormatAction) -> Option<UpstreamId> {
    let FormatAction::Upstream(name) = action else { return None };
    credentials.format_upstreams.iter().find(|(known, _)| known == name).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Alphabet, Format, Formats};

    const KEY: &str = "kc_live_0123456789012345678901234567890123456789abcd";

    fn credentials(formats: Vec<Format>) -> Credentials {
        let source = |header: &'static str, scheme: Option<&str>| KeySource {
            header: HeaderName::from_static(header),
            scheme: scheme.map(str::to_owned),
        };
        Credentials {
            sources: vec![source("authorization", Some("Bearer")), source("x-api-key", None)],
            formats: Formats::new(formats),
            format_upstreams: vec![("sandbox".to_owned(), UpstreamId(1))],
            guessing: None,
            forward: false,
            realm: "api".to_owned(),
        }
    }

    fn kaicalls() -> Credentials {
        let format = |prefix: &str, action| {
            Format::new(prefix, Some(44..=44), Alphabet::Base64Url, false, action).expect("the format is right")
        };
        credentials(vec![
            format("kc_live_", FormatAction::Accept),
            format("kc_test_", FormatAction::Reject("Test keys are not available yet".to_owned())),
            format("kc_sand_", FormatAction::Upstream("sandbox".to_owned())),
        ])
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("the test's values are right"));
        }
        headers
    }

    fn reading(credentials: &Credentials, lines: &[(&'static str, &str)]) -> String {
        match read(credentials, &headers(lines)) {
            Ok(presented) if presented.digest == Digest::of(KEY) => "ours".to_owned(),
            Ok(presented) => format!("another for {:?}", presented.upstream),
            Err(denial) => denial.reason().name().to_owned(),
        }
    }

    #[test]
    fn one_candidate_is_read_and_two_are_refused() {
        let credentials = kaicalls();
        let bearer = format!("Bearer {KEY}");
        for (lines, expected) in [
            (vec![], "missing_key"),
            (vec![("authorization", bearer.as_str())], "ours"),
            (vec![("authorization", bearer.replace("Bearer", "bEaReR").as_str())], "ours"),
            (vec![("x-api-key", KEY)], "ours"),
            (vec![("authorization", "Basic dTpw"), ("x-api-key", KEY)], "ours"),
            (vec![("authorization", "Bearer eyJhbGciOi.J9.x"), ("x-api-key", KEY)], "ours"),
            (vec![("authorization", bearer.as_str()), ("x-api-key", KEY)], "ambiguous_key"),
            (vec![("authorization", bearer.as_str()), ("authorization", bearer.as_str())], "ambiguous_key"),
            (vec![("authorization", "Basic dTpw"), ("authorization", "Basic dTpw")], "ambiguous_key"),
            (vec![("authorization", format!("{bearer}, {bearer}").as_str())], "ambiguous_key"),
            (vec![("authorization", format!("Basic dTpw, {bearer}").as_str())], "ambiguous_key"),
            (vec![("x-api-key", format!("{KEY},x").as_str())], "ambiguous_key"),
            (vec![("authorization", "Digest username=\"a\", realm=\"b\"")], "malformed_key"),
            (vec![("authorization", "Basic dTpw")], "malformed_key"),
            (vec![("authorization", "Bearer")], "malformed_key"),
            (vec![("authorization", "Bearer ")], "malformed_key"),
            (vec![("authorization", KEY)], "malformed_key"),
            (vec![("authorization", format!("Bearer\t{KEY}").as_str())], "malformed_key"),
            (vec![("authorization", format!("Bearer  {KEY}").as_str())], "malformed_key"),
            (vec![("x-api-key", "kc_test_whatever")], "foreign_format"),
        ] {
            assert_eq!(reading(&credentials, &lines), expected, "{lines:?}");
        }
        let sandbox = KEY.replace("live", "sand");
        assert_eq!(reading(&credentials, &[("x-api-key", &sandbox)]), "another for Some(UpstreamId(1))");
    }

    #[test]
    fn without_formats_any_key_is_a_candidate() {
        let credentials = credentials(vec![]);
        assert_eq!(reading(&credentials, &[("x-api-key", KEY)]), "ours");
        assert_eq!(reading(&credentials, &[("x-api-key", "anything")]), "another for None");
        assert_eq!(reading(&credentials, &[("x-api-key", "two words")]), "malformed_key");
    }

    #[test]
    fn candidates_are_stripped_and_what_is_not_ours_stays() {
        let credentials = kaicalls();
        let mut lines = headers(&[("authorization", "Basic dTpw"), ("x-api-key", KEY), ("x-api-key", "theirs")]);
        strip(&credentials, &mut lines, &KeysToStrip::Candidates);
        assert_eq!(lines, headers(&[("authorization", "Basic dTpw"), ("x-api-key", "theirs")]));
    }

    #[test]
    fn a_key_is_stripped_in_whichever_form_it_stands() {
        let kept = |credentials: &Credentials, name: &'static str, value: &str| {
            let mut lines = headers(&[(name, value)]);
            strip(credentials, &mut lines, &KeysToStrip::Candidates);
            !lines.is_empty()
        };
        let (any, formats) = (credentials(vec![]), kaicalls());
        let minted = format!("sg_{}", "a".repeat(43));
        for (credentials, key) in [(&any, minted.as_str()), (&formats, KEY)] {
            for (name, value) in [
                ("authorization", key.to_owned()),
                ("authorization", format!("Bearer  {key}")),
                ("authorization", format!("Bearer\t{key}")),
                ("authorization", format!("bearer{key}")),
                ("authorization", format!("Bearer:{key}")),
                ("authorization", format!("Basic {key}")),
                ("authorization", format!("Token token=\"{key}\", x=1")),
                ("authorization", format!("ApiKey key={key}")),
                ("x-api-key", format!("Bearer {key}")),
                ("x-api-key", format!("'{key}'")),
                ("x-api-key", format!("{key} ü")),
            ] {
                assert!(!kept(credentials, name, &value), "{name}: {value}");
            }
            for value in ["Basic dTpw", "Basic dTpwdTpwdA==", "Digest username=\"a\", realm=\"b\"", "Negotiate"] {
                assert!(kept(credentials, "authorization", value), "{value}");
            }
        }
        assert!(kept(&formats, "authorization", "Bearer eyJhbGciOi.J9.x"));
        // Where any value may be a key, two words in its place may be one beside something else.
        assert!(!kept(&any, "x-api-key", "Bearer imported"));
        assert!(!kept(&any, "authorization", "Bearer  imported"));
        assert!(kept(&formats, "x-api-key", "two words"));
    }

    #[test]
    fn where_a_key_was_read_the_same_is_stripped_as_where_it_is_looked_for() {
        let credentials = kaicalls();
        let values = ["Basic dTpw", "Bearer", KEY, "theirs", "kc_test_x", ""];
        let wrong = [format!("Basic {KEY}"), format!("Bearer  {KEY}"), format!("Bearer {KEY}"), format!("{KEY},{KEY}")];
        let values = values.map(str::to_owned).into_iter().chain(wrong);
        let values: Vec<String> = values.collect();
        let mut read_some = 0;
        for (authorization, key) in values.iter().flat_map(|first| values.iter().map(move |second| (first, second))) {
            let lines = headers(&[("authorization", authorization), ("x-api-key", key), ("x-other", KEY)]);
            let Ok(presented) = read(&credentials, &lines) else { continue };
            let (mut knowing, mut looking) = (lines.clone(), lines);
            strip(&credentials, &mut knowing, &KeysToStrip::In(presented.header));
            strip(&credentials, &mut looking, &KeysToStrip::Candidates);
            assert_eq!(knowing, looking, "{authorization} {key}");
            read_some += 1;
        }
        assert!(read_some > 5, "{read_some}");
    }

    #[test]
    fn what_is_only_observed_keeps_what_is_not_recognised_as_a_key() {
        let kept = |credentials: &Credentials, name: &'static str, value: &str, known: bool| {
            let mut lines = headers(&[(name, value)]);
            strip(credentials, &mut lines, &KeysToStrip::Recognised { known });
            !lines.is_empty()
        };
        let minted = format!("sg_{}", "a".repeat(43));
        let (any, formats) = (credentials(vec![]), kaicalls());
        for (value, of_any, of_formats) in [
            ("Bearer eyJhbGciOi.J9.x", true, true),
            ("Basic dTpw", true, true),
            (&*format!("Bearer {minted}"), false, true),
            (&*format!("Bearer {KEY}"), true, false),
            (&*format!("Bearer x, Bearer {KEY}"), true, false),
            ("Bearer x, Bearer y", true, true),
            ("Bearer kc_test_x", true, false),
        ] {
            assert_eq!(kept(&any, "authorization", value, false), of_any, "{value}");
            assert_eq!(kept(&formats, "authorization", value, false), of_formats, "{value}");
        }
        for (name, value) in [
            ("x-api-key", format!("Bearer {KEY}")),
            ("authorization", KEY.to_owned()),
            ("authorization", format!("Basic {KEY}")),
            ("x-api-key", format!("{KEY}\t")),
            ("x-api-key", format!("my key: {KEY}")),
        ] {
            assert!(!kept(&formats, name, &value, false), "{name}: {value}");
        }
        assert!(kept(&any, "x-api-key", "theirs", false));
        assert!(!kept(&any, "x-api-key", "imported", true), "the store knows it");
        assert!(kept(&any, "authorization", "Basic dTpw", true));
    }
}
