//! Header lines through the reading of a credential: at most one key, none left behind once candidates are stripped, and never
//! one where there are two.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use sidegate::config::load;
use sidegate::gate::{Denial, credential};
use sidegate::keys::Digest;
use sidegate::policy::Policy;

const FORMATS: &str = "
listen: 127.0.0.1:0
upstream: http://127.0.0.1:1
store: file:none.yaml
keys:
  formats:
    - {prefix: ab_, length: [20, 24]}
    - {prefix: ab_test_, length: 20, reject: Not here}
    - {prefix: ck_, length: 40, checksum: true}
routes: {/**: any}
";
const ANY: &str =
    "{listen: '127.0.0.1:0', upstream: 'http://127.0.0.1:1', store: 'file:none.yaml', routes: {/**: any}}";

thread_local! {
    static POLICIES: OnceCell<[Arc<Policy>; 2]> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    let headers = headers(data);
    POLICIES.with(|policies| {
        policies.get_or_init(|| [ANY, FORMATS].map(policy)).iter().for_each(|policy| check(policy, &headers))
    });
}

fn check(policy: &Policy, headers: &HeaderMap) {
    let credentials = &policy.credentials;
    let read = credential::read(credentials, headers);
    let mut stripped = headers.clone();
    let taken = match &read {
        Ok(presented) => credential::KeysToStrip::In(presented.header.clone()),
        Err(_) => credential::KeysToStrip::Candidates,
    };
    credential::strip(credentials, &mut stripped, &taken);
    let again = credential::read(credentials, &stripped);
    let Ok(presented) = read else {
        assert!(again.is_err(), "stripping brought a key to light: {headers:?}");
        return;
    };
    assert!(matches!(again, Err(Denial::MissingKey | Denial::MalformedKey(_))), "a key is left: {stripped:?}");
    let lines = credentials.sources.iter().flat_map(|source| headers.get_all(&source.header));
    let words = lines.flat_map(|line| line.as_bytes().split(|b| *b == b' '));
    let keys =
        words.filter_map(|word| std::str::from_utf8(word).ok()).filter(|word| Digest::of(word) == presented.digest);
    let keys: Vec<&str> = keys.collect();
    // Without formats a key may look like a scheme, so that the word may stand there more than once.
    assert!(!keys.is_empty(), "no word of the headers is the key: {headers:?}");
    assert!(keys.iter().all(|key| key.bytes().all(|b| b.is_ascii_graphic() && b != b',') && key.len() <= 512));
    for source in credentials.sources.iter().filter(|source| headers.contains_key(&source.header)) {
        let mut doubled = headers.clone();
        doubled.append(source.header.clone(), headers[&source.header].clone());
        assert!(matches!(credential::read(credentials, &doubled), Err(Denial::AmbiguousKey)), "{doubled:?}");
    }
}

/// One header a line; a line without a colon is an `Authorization`.
fn headers(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(20) {
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = colon.map_or((&b"authorization"[..], line), |at| (&line[..at], &line[at + 1..]));
        // As HTTP/1.1 hands them over: without the white space around them (RFC 9112 §5).
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    headers
}

fn policy(yaml: &str) -> Arc<Policy> {
    load::from_text(yaml, Path::new("/nonexistent"), "fuzz.yaml").expect("the target's configuration is right").policy
}
