//! Warns where a pattern answers 405 although a broader one would have served the method: there is no fall-through, and
//! whoever writes `GET /v1/agents/mine` beside `/v1/**` may not expect that `DELETE /v1/agents/mine` is refused.

use http::Method;

use super::reader::Reader;
use crate::config::field_path::FieldPath;
use crate::policy::pattern::{Pattern, Segment};

/// Everything that stands on one pattern, names of parameters aside.
struct MethodsOfPattern<'p> {
    pattern: &'p Pattern,
    /// The first route's text.
    text: &'p str,
    /// `None`: every method.
    methods: Option<Vec<Method>>,
}

pub fn warn<'p>(routes: impl Iterator<Item = (&'p Pattern, &'p str)>, reader: &mut Reader<'_>) {
    let mut patterns: Vec<MethodsOfPattern<'p>> = Vec::new();
    for (pattern, text) in routes {
        match patterns.iter_mut().find(|entry| same(entry.pattern, pattern)) {
            Some(entry) => entry.add(pattern),
            None => patterns.push(MethodsOfPattern { pattern, text, methods: served(pattern) }),
        }
    }
    for entry in &patterns {
        let Some(own) = &entry.methods else { continue };
        let broader =
            patterns.iter().filter(|other| !same(other.pattern, entry.pattern) && covers(other.pattern, entry.pattern));
        let lost = broader.filter_map(|other| lost(own, other).map(|methods| (methods, other.text))).next();
        if let Some((methods, other)) = lost {
            reader.warn(&FieldPath::top("routes").field(entry.text), format_args!(
                "its path answers 405 to {methods}, which `{other}` would have served; name the path with these methods too if you want them"
            ));
        }
    }
}

impl MethodsOfPattern<'_> {
    fn add(&mut self, pattern: &Pattern) {
        self.methods = self.methods.take().zip(served(pattern)).map(|(mut own, more)| {
            own.extend(more);
            own
        });
    }
}

/// GET implies HEAD.
fn served(pattern: &Pattern) -> Option<Vec<Method>> {
    let mut methods = pattern.methods.clone()?;
    if methods.contains(&Method::GET) {
        methods.push(Method::HEAD);
    }
    Some(methods)
}

/// What the broader pattern serves and this one does not.
fn lost(own: &[Method], broader: &MethodsOfPattern<'_>) -> Option<String> {
    let Some(methods) = &broader.methods else { return Some("every other method".to_owned()) };
    let lost: Vec<_> = methods.iter().filter(|method| !own.contains(method)).map(Method::as_str).collect();
    if lost.is_empty() { None } else { Some(lost.join(", ")) }
}

fn same(a: &Pattern, b: &Pattern) -> bool {
    covers(a, b) && covers(b, a)
}

/// Whether every path that `narrow` matches is one of `broad`'s too.
fn covers(broad: &Pattern, narrow: &Pattern) -> bool {
    let segments = broad.segments.iter().zip(&narrow.segments);
    let all = segments.into_iter().all(|pair| match pair {
        (Segment::Literal(broad), Segment::Literal(narrow)) => broad == narrow,
        (Segment::Parameter(_), Segment::Literal(narrow)) => !narrow.is_empty(),
        (Segment::Parameter(_), Segment::Parameter(_)) => true,
        (Segment::Literal(_), Segment::Parameter(_)) => false,
    });
    let lengths = if broad.rest {
        broad.segments.len() <= narrow.segments.len()
    } else {
        broad.segments.len() == narrow.segments.len() && !narrow.rest
    };
    all && lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broader_pattern_covers_a_narrower_one() {
        let covered = |broad: &str, narrow: &str| {
            let parse = |text| Pattern::parse(text).expect("the test's patterns are right");
            covers(&parse(broad), &parse(narrow))
        };
        for (broad, narrow) in
            [("/**", "/a"), ("/a/**", "/a"), ("/a/**", "/a/{x}/**"), ("/{x}/b", "/a/b"), ("/{x}", "/{y}")]
        {
            assert!(covered(broad, narrow), "{broad} {narrow}");
        }
        for (broad, narrow) in
            [("/a", "/**"), ("/a", "/a/b"), ("/{x}", "/a/**"), ("/a/b", "/a/{x}"), ("/{x}", "/"), ("/b/**", "/a/b")]
        {
            assert!(!covered(broad, narrow), "{broad} {narrow}");
        }
    }
}
