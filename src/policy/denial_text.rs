//! How a denial reads: `errors:` compiled into one shape per reason, and filled in when a request is denied.
//!
//! An entry is found by reason, then public code, then status, then `default`; what one leaves out comes from the next, and in
//! the end from RFC 9457 problem+json.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::reason::Reason;
use super::template::{Template, TemplateError};

/// What one entry of `errors:` says; the bodies are the YAML's own shapes.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub status: Option<u16>,
    pub code: Option<String>,
    pub kind: Option<String>,
    pub title: Option<String>,
    pub detail: Option<String>,
    pub headers: Option<Vec<(http::HeaderName, String)>>,
    pub body: Option<Value>,
}

/// Every reason's shape.
#[derive(Debug, Default)]
pub struct Texts {
    shapes: HashMap<Reason, Shape>,
}

#[derive(Debug, Default)]
struct Shape {
    status: u16,
    code: Option<Text>,
    kind: Option<Text>,
    title: Option<Text>,
    detail: Option<Text>,
    headers: Vec<(http::HeaderName, Text)>,
    body: Option<Node>,
}

type Text = Template<Placeholder>;

/// A body with placeholders in its texts.
#[derive(Debug, Clone)]
enum Node {
    Fixed(Value),
    Text(Text),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Status,
    Code,
    Reason,
    Kind,
    Title,
    Detail,
    RequestId,
    RetryAfter,
    Limit,
    Remaining,
    Reset,
    Window,
    Policy,
    Scope,
}

const PLACEHOLDERS: &[(&str, Placeholder)] = &[
    ("status", Placeholder::Status),
    ("code", Placeholder::Code),
    ("reason", Placeholder::Reason),
    ("type", Placeholder::Kind),
    ("title", Placeholder::Title),
    ("detail", Placeholder::Detail),
    ("request_id", Placeholder::RequestId),
    ("retry_after", Placeholder::RetryAfter),
    ("limit", Placeholder::Limit),
    ("remaining", Placeholder::Remaining),
    ("reset", Placeholder::Reset),
    ("window", Placeholder::Window),
    ("policy", Placeholder::Policy),
    ("scope", Placeholder::Scope),
];

/// What one denial knows; absent numbers are `null` as values and nothing within a text.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// `None`: the reason's default words.
    pub detail: Option<&'a str>,
    pub request_id: &'a str,
    /// Whole seconds.
    pub retry_after: Option<u64>,
    /// Of the window that the `X-RateLimit-*` headers describe; `window` in seconds, `reset` as the headers say it.
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    pub reset: Option<u64>,
    pub window: Option<u64>,
    /// The window that refused, as it is configured (`100/1h`).
    pub policy: Option<String>,
    /// What the route needs, separated by spaces.
    pub scope: Option<&'a str>,
    /// Names of the policies that denied, for problem+json's `violated-policies`.
    pub violated: &'a [String],
}

/// An answer's status, headers and body, before the gate's own headers.
#[derive(Debug)]
pub struct Worded {
    pub status: u16,
    /// For the person who reads it; gRPC's `grpc-message`.
    pub detail: String,
    pub content_type: &'static str,
    pub headers: Vec<(http::HeaderName, String)>,
    pub body: Vec<u8>,
}

/// The type of a denial by a limit (draft-ietf-httpapi-ratelimit-headers).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

impl Texts {
    /// Compiles the entries by their selectors; each error comes with the path below `errors`.
    pub fn new(entries: &[(String, Entry)]) -> Result<Self, Vec<(String, TextError)>> {
        let mut errors = Vec::new();
        for (selector, entry) in entries {
            if !is_selector(selector) {
                errors.push((selector.clone(), TextError::Selector(selector.clone())));
            }
            if let Err(error) = Shape::of(entry) {
                errors.push((selector.clone(), error));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let shapes = Reason::ALL.into_iter().map(|reason| (reason, shape_for(reason, entries))).collect();
        Ok(Self { shapes })
    }

    pub fn word(&self, reason: Reason, facts: &Facts<'_>) -> Worded {
        match self.shapes.get(&reason) {
            Some(shape) => shape.word(reason, facts),
            None => Shape { status: reason.status(), ..Shape::default() }.word(reason, facts),
        }
    }
}

/// Why an entry of `errors:` cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TextError {
    #[error("`{0}` is no reason, public code or status that sidegate answers with; write one of those, or `default`")]
    Selector(String),
    #[error("`{0}` is no HTTP status; write a number from 400 to 599")]
    Status(u16),
    #[error("{0}")]
    Template(#[from] TemplateError),
}

fn is_selector(selector: &str) -> bool {
    selector == "default" || Reason::ALL.into_iter().any(|reason| selects(selector, reason))
}

fn selects(selector: &str, reason: Reason) -> bool {
    selector == reason.name() || selector == reason.code() || selector == reason.status().to_string()
}

/// The entry by reason, then by code, then by status, then `default`: what one leaves out comes from the next.
fn shape_for(reason: Reason, entries: &[(String, Entry)]) -> Shape {
    let status = reason.status().to_string();
    let mut merged = Entry::default();
    for selector in [reason.name(), reason.code(), &status, "default"] {
        let Some((_, entry)) = entries.iter().find(|(candidate, _)| candidate == selector) else { continue };
        let entry = entry.clone();
        merged = Entry {
            status: merged.status.or(entry.status),
            code: merged.code.or(entry.code),
            kind: merged.kind.or(entry.kind),
            title: merged.title.or(entry.title),
            detail: merged.detail.or(entry.detail),
            headers: merged.headers.or(entry.headers),
            body: merged.body.or(entry.body),
        };
    }
    // Every entry was compiled alone before, so what is merged from them compiles too.
    let shape = Shape::of(&merged).unwrap_or_default();
    Shape { status: merged.status.unwrap_or(reason.status()), ..shape }
}

impl Shape {
    fn of(entry: &Entry) -> Result<Self, TextError> {
        if let Some(status) = entry.status.filter(|status| !(400..600).contains(status)) {
            return Err(TextError::Status(status));
        }
        let text = |text: &Option<String>| text.as_deref().map(parse).transpose();
        let headers = entry.headers.iter().flatten();
        Ok(Self {
            status: entry.status.unwrap_or_default(),
            code: text(&entry.code)?,
            kind: text(&entry.kind)?,
            title: text(&entry.title)?,
            detail: text(&entry.detail)?,
            headers: headers
                .map(|(name, value)| Ok((name.clone(), parse(value)?)))
                .collect::<Result<_, TemplateError>>()?,
            body: entry.body.as_ref().map(Node::of).transpose()?,
        })
    }

    fn word(&self, reason: Reason, facts: &Facts<'_>) -> Worded {
        let mut words = Words {
            status: self.status,
            reason: reason.name(),
            code: reason.code().to_owned(),
            kind: if reason == Reason::RateLimited { QUOTA_EXCEEDED } else { "about:blank" }.to_owned(),
            title: reason.title().to_owned(),
            detail: facts.detail.unwrap_or(reason.default_detail()).to_owned(),
            facts,
        };
        // In this order, so that `detail: "{title}: …"` finds the title that was configured.
        if let Some(text) = &self.code {
            words.code = words.render(text);
        }
        if let Some(text) = &self.kind {
            words.kind = words.render(text);
        }
        if let Some(text) = &self.title {
            words.title = words.render(text);
        }
        if let Some(text) = &self.detail {
            words.detail = words.render(text);
        }
        let headers = self.headers.iter().map(|(name, text)| (name.clone(), words.render(text))).collect();
        let (content_type, body) = match &self.body {
            None => ("application/problem+json", words.problem().to_string().into_bytes()),
            Some(Node::Text(text)) => ("text/plain; charset=utf-8", words.render(text).into_bytes()),
            Some(node) => ("application/json", words.fill(node).to_string().into_bytes()),
        };
        Worded { status: self.status, detail: words.detail, content_type, headers, body }
    }
}

fn parse(text: &str) -> Result<Text, TemplateError> {
    Template::parse(text, PLACEHOLDERS)
}

impl Node {
    fn of(value: &Value) -> Result<Self, TemplateError> {
        Ok(match value {
            Value::String(text) => Self::Text(parse(text)?),
            Value::Array(items) => Self::List(items.iter().map(Self::of).collect::<Result<_, _>>()?),
            Value::Object(members) => Self::Object(
                members.iter().map(|(name, value)| Ok((name.clone(), Self::of(value)?))).collect::<Result<_, _>>()?,
            ),
            Value::Null | Value::Bool(_) | Value::Number(_) => Self::Fixed(value.clone()),
        })
    }
}

/// The words of one answer while it is put together.
struct Words<'f, 'a> {
    status: u16,
    reason: &'static str,
    code: String,
    kind: String,
    title: String,
    detail: String,
    facts: &'f Facts<'a>,
}

impl Words<'_, '_> {
    fn render(&self, text: &Text) -> String {
        text.render(|placeholder, out| match self.value(placeholder) {
            Value::Null => {}
            Value::String(text) => out.push_str(&text),
            other => out.push_str(&other.to_string()),
        })
    }

    fn fill(&self, node: &Node) -> Value {
        match node {
            Node::Fixed(value) => value.clone(),
            Node::Text(text) => match text.whole() {
                Some(placeholder) => self.value(placeholder),
                None => Value::String(self.render(text)),
            },
            Node::List(items) => Value::Array(items.iter().map(|item| self.fill(item)).collect()),
            Node::Object(members) => {
                Value::Object(members.iter().map(|(name, member)| (name.clone(), self.fill(member))).collect())
            }
        }
    }

    fn value(&self, placeholder: Placeholder) -> Value {
        match placeholder {
            Placeholder::Status => json!(self.status),
            Placeholder::Code => json!(self.code),
            Placeholder::Reason => json!(self.reason),
            Placeholder::Kind => json!(self.kind),
            Placeholder::Title => json!(self.title),
            Placeholder::Detail => json!(self.detail),
            Placeholder::RequestId => json!(self.facts.request_id),
            Placeholder::RetryAfter => json!(self.facts.retry_after),
            Placeholder::Limit => json!(self.facts.limit),
            Placeholder::Remaining => json!(self.facts.remaining),
            Placeholder::Reset => json!(self.facts.reset),
            Placeholder::Window => json!(self.facts.window),
            Placeholder::Policy => json!(self.facts.policy),
            Placeholder::Scope => json!(self.facts.scope),
        }
    }

    /// RFC 9457, with the members that the contract names.
    fn problem(&self) -> Value {
        let mut problem = Map::new();
        problem.insert("type".to_owned(), json!(self.kind));
        problem.insert("title".to_owned(), json!(self.title));
        problem.insert("status".to_owned(), json!(self.status));
        problem.insert("detail".to_owned(), json!(self.detail));
        problem.insert("code".to_owned(), json!(self.code));
        problem.insert("request_id".to_owned(), json!(self.facts.request_id));
        if !self.facts.violated.is_empty() {
            problem.insert("violated-policies".to_owned(), json!(self.facts.violated));
        }
        Value::Object(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(entries: &[(&str, Entry)]) -> Texts {
        let entries: Vec<_> = entries.iter().map(|(s, e)| ((*s).to_owned(), e.clone())).collect();
        Texts::new(&entries).expect("the test's entries are right")
    }

    fn body(worded: &Worded) -> Value {
        serde_json::from_slice(&worded.body).expect("the body is JSON")
    }

    #[test]
    fn the_default_is_problem_json_with_every_member() {
        let facts =
            Facts { request_id: "r1", retry_after: Some(12), violated: &["per-key".to_owned()], ..Facts::default() };
        let worded = Texts::default().word(Reason::RateLimited, &facts);
        assert_eq!(worded.content_type, "application/problem+json");
        let expected = json!({"type": QUOTA_EXCEEDED, "title": "Too Many Requests", "status": 429,
            "detail": "Too many requests", "code": "rate_limited", "request_id": "r1", "violated-policies": ["per-key"]});
        assert_eq!(body(&worded), expected);
    }

    #[test]
    fn a_value_that_is_one_placeholder_keeps_its_type() {
        let shape = json!({"error": "limited", "n": "{retry_after}", "s": "{retry_after|string}", "none": "{limit}",
            "text": "Again in {retry_after} s.", "fixed": 1.5});
        let texts = texts(&[("rate_limited", Entry { body: Some(shape), ..Entry::default() })]);
        let worded = texts.word(Reason::RateLimited, &Facts { retry_after: Some(12), ..Facts::default() });
        let expected =
            json!({"error": "limited", "n": 12, "s": "12", "none": null, "text": "Again in 12 s.", "fixed": 1.5});
        assert_eq!(body(&worded), expected);
    }

    #[test]
    fn what_an_entry_leaves_out_comes_from_the_less_specific_one() {
        let texts = texts(&[
            (
                "default",
                Entry { body: Some(json!({"code": "{code}", "m": "{detail}", "s": "{status}"})), ..Entry::default() },
            ),
            ("401", Entry { detail: Some("No.".to_owned()), ..Entry::default() }),
            ("invalid_api_key", Entry { code: Some("bad_key".to_owned()), ..Entry::default() }),
            (
                "expired_key",
                Entry { detail: Some("{title}, expired".to_owned()), status: Some(403), ..Entry::default() },
            ),
        ]);
        let word = |reason| body(&texts.word(reason, &Facts::default()));
        assert_eq!(word(Reason::MissingKey), json!({"code": "missing_key", "m": "No.", "s": 401}));
        assert_eq!(word(Reason::RevokedKey), json!({"code": "bad_key", "m": "No.", "s": 401}));
        assert_eq!(word(Reason::ExpiredKey), json!({"code": "bad_key", "m": "Unauthorized, expired", "s": 403}));
        assert_eq!(word(Reason::RouteNotFound), json!({"code": "route_not_found", "m": "Not found", "s": 404}));
    }

    #[test]
    fn a_text_body_is_text() {
        let texts = texts(&[("default", Entry { body: Some(json!("{status} {title}")), ..Entry::default() })]);
        let worded = texts.word(Reason::RouteNotFound, &Facts::default());
        assert_eq!((worded.content_type, worded.body.as_slice()), ("text/plain; charset=utf-8", &b"404 Not Found"[..]));
    }

    #[test]
    fn a_wrong_entry_is_an_error_when_it_is_read() {
        let entry = |body: Value| Entry { body: Some(body), ..Entry::default() };
        let wrong = |selector: &str, entry: Entry| Texts::new(&[(selector.to_owned(), entry)]).is_err();
        assert!(wrong("rate_limit", Entry::default()));
        assert!(wrong("418", Entry::default()));
        assert!(wrong("default", entry(json!({"a": ["{nope}"]}))));
        assert!(wrong("default", Entry { status: Some(200), ..Entry::default() }));
    }
}
