//! Header lines through the continuing of a trace: whatever a client sends, the upstream gets one well-formed `traceparent` with
//! a span that is not the client's, and a `tracestate` only where the trace goes on.

use http::{HeaderMap, HeaderValue};
use sidegate::observe::Span;
use sidegate::observe::random::Random;

/// The lines up to an empty one are `traceparent`, those behind it `tracestate`.
pub fn run(data: &[u8]) {
    let mut headers = HeaderMap::new();
    let mut name = "traceparent";
    for line in data.split(|&byte| byte == b'\n') {
        match HeaderValue::from_bytes(line) {
            Ok(_) if line.is_empty() => name = "tracestate",
            Ok(value) => drop(headers.append(name, value)),
            Err(_) => {}
        }
    }
    let came = headers.clone();
    let span = Span::begin(&headers, &Random::default());
    // As the proxy does it, which writes what is added behind the rest.
    let replaced: Vec<_> = headers.keys().filter(|name| span.replaces(name)).cloned().collect();
    replaced.iter().for_each(|name| drop(headers.remove(name)));
    span.pass_state(&mut headers);

    assert!(!headers.contains_key("traceparent"), "beside the gate's own");
    let told = std::str::from_utf8(span.as_bytes()).expect("it is text");
    let parts: Vec<&str> = told.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!((lengths, parts[0]), (vec![2, 32, 16, 2], "00"), "{told}");
    assert!(parts.iter().all(|part| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))), "{told}");
    assert!(parts[1..3].iter().all(|id| id.bytes().any(|byte| byte != b'0')), "{told}");
    assert!(["00", "01", "02", "03"].contains(&parts[3]), "{told}");

    let theirs: Vec<_> = came.get_all("traceparent").iter().collect();
    let parent = span.digits().parent_id;
    let continued = parent.is_some();
    if let Some(parent) = parent {
        let [theirs] = theirs[..] else { panic!("one of {theirs:?} went on") };
        // Of a later version anything may stand behind what is known.
        let known = std::str::from_utf8(&theirs.as_bytes()[..55]).expect("what goes on is made of digits and hyphens");
        assert_eq!((&known[3..35], &known.as_bytes()[36..52]), (parts[1], parent));
        assert_ne!(parent, parts[2].as_bytes(), "the upstream's caller is the gate");
    }
    let state: Vec<_> = headers.get_all("tracestate").iter().collect();
    assert!(state.len() <= 1 && (continued || state.is_empty()), "{state:?}");
    if let [state] = state[..] {
        let members = text(state).split(',').filter(|member| !member.trim().is_empty()).count();
        assert!((1..=32).contains(&members), "{state:?}");
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().expect("what passes is visible ASCII")
}
