//! How a route is written: `GET /v1/agents/**`, `POST,PUT /v1/agents/{id}`, `/v1/account`.
//!
//! Read once, from the configuration, into the form in which a request's path is matched.

use http::Method;
use thiserror::Error;

use super::percent;

/// A pattern as written: methods (none: every one), then segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub methods: Option<Vec<Method>>,
    pub segments: Vec<Segment>,
    /// Ends in `/**`: the path itself and all below.
    pub rest: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    Literal(String),
    /// `{name}`: one segment that is not empty.
    Parameter(String),
}

/// What is wrong with a pattern, and what to write instead.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PatternError {
    #[error(
        "`{0}` is no method that a route can have; write GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, or none for every method"
    )]
    Method(String),
    #[error(
        "a blank or nothing stands beside a comma among the methods; write them without, as in `GET,POST /v1/agents`"
    )]
    MethodGap,
    #[error("one space stands between the methods and the path: `GET /v1/agents`")]
    Space,
    #[error(
        "a path begins with `/`: `GET /v1/agents`; a host is not part of it, since sidegate does not route by host"
    )]
    NoSlash,
    #[error("`{0}` is not how a parameter is written; write `{{{1}}}` for one segment")]
    Colon(String, String),
    #[error("`*` stands only at the end, as `/**`: the path itself and all below; `{{name}}` is one segment")]
    Star,
    #[error("`{0}`: a parameter is a whole segment, `{{name}}`, of letters, digits and `_`")]
    Parameter(String),
    #[error("the parameter `{{{0}}}` stands there twice; name the second one otherwise")]
    SameParameter(String),
    #[error(
        "`{0}` belongs to the query or the fragment; a route is a path alone (`max_query` and `business.from` read the query)"
    )]
    NotAPath(char),
    #[error("`{0}` cannot stand in a path; write its percent-encoded form if the backend needs it")]
    Character(char),
    #[error("empty and dot segments are refused in requests, so this route could never match; remove them")]
    Segment,
    #[error("`{0}` is listed twice among the methods")]
    SameMethod(String),
}

impl Pattern {
    /// Reads `GET /v1/agents/**`, `POST,PUT /v1/agents`, `/v1/account`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (methods, path) = match text.split_once(' ') {
            None => (None, text),
            Some((methods, path)) => (Some(parse_methods(methods)?), path),
        };
        if path.contains(char::is_whitespace) {
            return Err(PatternError::Space);
        }
        if let Some(wrong) = path.chars().find(|c| matches!(c, '?' | '#')) {
            return Err(PatternError::NotAPath(wrong));
        }
        let path = path.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        let (path, rest) = match path.strip_suffix("**") {
            Some("") => (None, true),
            Some(above) => (Some(above.strip_suffix('/').ok_or(PatternError::Star)?), true),
            None => (Some(path), false),
        };
        let segments = path.map_or(Ok(Vec::new()), |path| parse_segments(path, rest))?;
        Ok(Self { methods, segments, rest })
    }

    /// The same pattern below a base path that is itself a pattern of literals.
    pub fn below(mut self, base: &Self) -> Self {
        self.segments.splice(0..0, base.segments.iter().cloned());
        self
    }

    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Parameter(name) => Some(name.as_str()),
        })
    }

    pub fn has(&self, method: &Method) -> bool {
        self.methods.as_ref().is_some_and(|methods| methods.contains(method))
    }
}

fn parse_methods(text: &str) -> Result<Vec<Method>, PatternError> {
    const KNOWN: [Method; 7] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let mut methods = Vec::new();
    for name in text.split(',') {
        if name.is_empty() {
            return Err(PatternError::MethodGap);
        }
        let known = KNOWN.into_iter().find(|m| m.as_str() == name);
        let method = known.ok_or_else(|| PatternError::Method(name.to_owned()))?;
        if methods.contains(&method) {
            return Err(PatternError::SameMethod(name.to_owned()));
        }
        methods.push(method);
    }
    Ok(methods)
}

fn parse_segments(path: &str, rest: bool) -> Result<Vec<Segment>, PatternError> {
    let texts: Vec<&str> = path.split('/').collect();
    let mut segments: Vec<Segment> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        // A trailing slash is a last, empty segment, which a pattern may name; `/` itself is nothing but one.
        let may_be_empty = index + 1 == texts.len() && !rest;
        if (text.is_empty() && !may_be_empty) || matches!(*text, "." | "..") {
            return Err(PatternError::Segment);
        }
        let segment = parse_segment(text)?;
        if let Segment::Parameter(name) = &segment
            && segments.contains(&segment)
        {
            return Err(PatternError::SameParameter(name.clone()));
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn parse_segment(text: &str) -> Result<Segment, PatternError> {
    if let Some(name) = text.strip_prefix(':') {
        return Err(PatternError::Colon(text.to_owned(), name.to_owned()));
    }
    if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return if is_name {
            Ok(Segment::Parameter(name.to_owned()))
        } else {
            Err(PatternError::Parameter(text.to_owned()))
        };
    }
    if text.contains(['{', '}']) {
        return Err(PatternError::Parameter(text.to_owned()));
    }
    if text.contains('*') {
        return Err(PatternError::Star);
    }
    literal(text).map(Segment::Literal)
}

/// A literal in the form that a request's path has when it is matched: unreserved decoded, other triplets as they stand.
/// A request that writes the digits of a triplet in the other case is a near miss, since nothing is forwarded that was not
/// decided on byte for byte.
fn literal(text: &str) -> Result<String, PatternError> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match percent::triplet(rest.as_bytes()) {
            Some(byte) => {
                taken = 3;
                if percent::is_unreserved(byte) {
                    plain.push(char::from(byte));
                } else {
                    plain.push_str(&rest[..taken]);
                }
            }
            None if u8::try_from(first).is_ok_and(percent::is_segment_byte) => plain.push(first),
            None => return Err(PatternError::Character(first)),
        }
        rest = &rest[taken..];
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_cannot_be_meant_says_what_to_write() {
        for (text, said) in [
            ("GET  /a", PatternError::Space),
            ("a", PatternError::NoSlash),
            ("FETCH /a", PatternError::Method("FETCH".to_owned())),
            ("get /a", PatternError::Method("get".to_owned())),
            ("TRACE /a", PatternError::Method("TRACE".to_owned())),
            ("GET,GET /a", PatternError::SameMethod("GET".to_owned())),
            ("/a/:id", PatternError::Colon(":id".to_owned(), "id".to_owned())),
            ("/a/*", PatternError::Star),
            ("/a/**/b", PatternError::Star),
            ("/a**", PatternError::Star),
            ("/a/x{id}", PatternError::Parameter("x{id}".to_owned())),
            ("/{a}/{a}", PatternError::SameParameter("a".to_owned())),
            ("/a?b=c", PatternError::NotAPath('?')),
            ("/a#b", PatternError::NotAPath('#')),
            ("/a//b", PatternError::Segment),
            ("/a/../b", PatternError::Segment),
            ("/a|b", PatternError::Character('|')),
            ("/ä", PatternError::Character('ä')),
            ("/100%", PatternError::Character('%')),
        ] {
            assert_eq!(Pattern::parse(text), Err(said), "{text}");
        }
    }
}
