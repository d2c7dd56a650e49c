//! The segment tree behind `RouteTable`: left to right a literal beats `{name}` beats `/**`, with a way back from dead ends.
//!
//! A second tree holds the same patterns as `lenient` backends would read them. A request that got into a route through a
//! parameter or `/**`, but that such a backend would serve as another route, is a near miss. Each walk visits a node at most
//! once, so a long path costs no more than the tree is large.

use std::collections::BTreeMap;

use super::lenient;
use super::pattern::{Pattern, Segment};

#[derive(Debug, Default)]
pub struct Tree {
    exact: Node<usize>,
    /// Several patterns may fall together here.
    lenient: Node<Vec<usize>>,
}

#[derive(Debug)]
struct Node<E> {
    literals: BTreeMap<Box<str>, Node<E>>,
    parameter: Option<Box<Node<E>>>,
    here: Option<E>,
    rest: Option<E>,
}

/// The pattern that a path means.
#[derive(Debug)]
pub struct Hit<'p> {
    pub endpoint: usize,
    /// What the parameters matched, left to right.
    pub captures: Vec<&'p str>,
    /// Whether a parameter or `/**` matched.
    pub loose: bool,
}

impl Tree {
    /// Inserts the pattern as endpoint `next`, or gives the endpoint that stands there already.
    pub fn insert(&mut self, pattern: &Pattern, next: usize) -> usize {
        let node = self.exact.below(pattern.segments.iter().cloned());
        let place = if pattern.rest { &mut node.rest } else { &mut node.here };
        let endpoint = *place.get_or_insert(next);
        if endpoint == next {
            let node = self.lenient.below(lenient_pattern(pattern));
            let place = if pattern.rest { &mut node.rest } else { &mut node.here };
            place.get_or_insert_default().push(next);
        }
        endpoint
    }

    pub fn find<'p>(&self, path: &'p str) -> Option<Hit<'p>> {
        let mut captures = Vec::new();
        let (endpoint, through_rest) = self.exact.find(Segments(Some(path.strip_prefix('/')?)), &mut captures)?;
        let loose = through_rest || !captures.is_empty();
        Some(Hit { endpoint: *endpoint, captures, loose })
    }

    /// Whether a lenient backend would take the path for another pattern's than `endpoint`.
    pub fn is_meant_for_another(&self, path: &str, endpoint: usize) -> bool {
        lenient::readings(path).iter().any(|read| {
            let segments = read.iter().map(String::as_str);
            self.lenient.find(segments, &mut Vec::new()).is_some_and(|(meant, _)| !meant.contains(&endpoint))
        })
    }

    /// The endpoints that some backend could take the path for.
    pub fn all_meant(&self, path: &str) -> Vec<usize> {
        let mut meant: Vec<usize> = self.find(path).map(|hit| hit.endpoint).into_iter().collect();
        for read in lenient::readings(path) {
            let segments = read.iter().map(String::as_str);
            meant.extend(self.lenient.find(segments, &mut Vec::new()).into_iter().flat_map(|(found, _)| found));
        }
        meant
    }

    /// All endpoints, the most specific first.
    pub fn by_specificity(&self) -> Vec<usize> {
        let mut endpoints = Vec::new();
        self.exact.collect(&mut endpoints);
        endpoints
    }
}

/// What stands between the slashes. Segments are short, so that looking at each byte ends sooner than a search made for long
/// texts begins.
#[derive(Clone)]
struct Segments<'p>(Option<&'p str>);

impl<'p> Iterator for Segments<'p> {
    type Item = &'p str;

    fn next(&mut self) -> Option<&'p str> {
        let rest = self.0?;
        let slash = rest.bytes().position(|byte| byte == b'/');
        self.0 = slash.map(|slash| &rest[slash + 1..]);
        Some(slash.map_or(rest, |slash| &rest[..slash]))
    }
}

impl<E> Default for Node<E> {
    fn default() -> Self {
        Self { literals: BTreeMap::new(), parameter: None, here: None, rest: None }
    }
}

impl<E> Node<E> {
    fn below(&mut self, segments: impl IntoIterator<Item = Segment>) -> &mut Self {
        segments.into_iter().fold(self, |node, segment| match segment {
            Segment::Literal(text) => node.literals.entry(text.into()).or_default(),
            Segment::Parameter(_) => node.parameter.get_or_insert_default(),
        })
    }

    /// The endpoint, and whether it was reached through its `/**`.
    fn find<'p>(
        &self,
        mut segments: impl Iterator<Item = &'p str> + Clone,
        captures: &mut Vec<&'p str>,
    ) -> Option<(&E, bool)> {
        let Some(first) = segments.next() else {
            return self.here.as_ref().map(|e| (e, false)).or_else(|| self.rest.as_ref().map(|e| (e, true)));
        };
        if let Some(hit) = self.literals.get(first).and_then(|node| node.find(segments.clone(), captures)) {
            return Some(hit);
        }
        if let Some(node) = &self.parameter
            && !first.is_empty()
        {
            captures.push(first);
            if let Some(hit) = node.find(segments, captures) {
                return Some(hit);
            }
            captures.pop();
        }
        self.rest.as_ref().map(|e| (e, true))
    }
}

impl Node<usize> {
    fn collect(&self, endpoints: &mut Vec<usize>) {
        self.literals.values().for_each(|node| node.collect(endpoints));
        self.parameter.iter().for_each(|node| node.collect(endpoints));
        endpoints.extend(self.here);
        endpoints.extend(self.rest);
    }
}

/// The pattern as a lenient backend reads it: a trailing slash is no segment to it.
fn lenient_pattern(pattern: &Pattern) -> Vec<Segment> {
    let read = |segment: &Segment| match segment {
        Segment::Literal(text) => lenient::readings(text).swap_remove(0).into_iter().map(Segment::Literal).collect(),
        Segment::Parameter(_) => vec![segment.clone()],
    };
    pattern.segments.iter().flat_map(read).collect()
}
