//! Texts with placeholders: `"{key_id}"`, `"Limit: {limit}/min"`, `"{status|string}"`; `{{` and `}}` are braces.
//!
//! One parser for the errors' bodies and the identity headers. Which names exist is the caller's: an unknown one is an error
//! when the configuration is read, not when a request is answered.

use thiserror::Error;

/// A parsed text whose placeholders are `P`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template<P> {
    parts: Vec<Part<P>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part<P> {
    Text(String),
    Placeholder { name: P, as_text: bool },
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    #[error("there is no placeholder `{{{name}}}` here; write one of {known}, or `{{{{` for a brace")]
    Unknown { name: String, known: String },
    #[error("a `{{` is not closed; write `{{{{` for a brace")]
    Unclosed,
    #[error("a `}}` closes nothing; write `}}}}` for a brace")]
    Unopened,
    #[error("`|{0}` is no conversion; only `|string` is")]
    Conversion(String),
}

impl<P: Copy> Template<P> {
    /// `known` lists the names that exist, with what each stands for.
    pub fn parse(text: &str, known: &[(&str, P)]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                plain.push_str(&rest[..1]);
                rest = after;
                continue;
            }
            let inside = rest.strip_prefix('{').ok_or(TemplateError::Unopened)?;
            let (inside, after) = inside.split_once('}').ok_or(TemplateError::Unclosed)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(placeholder(inside, known)?);
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The placeholder that the whole text is, unless it was written with `|string`: it keeps its type.
    pub fn whole(&self) -> Option<P> {
        match self.parts.as_slice() {
            [Part::Placeholder { name, as_text: false }] => Some(*name),
            _ => None,
        }
    }

    /// The text with every placeholder replaced; `write` appends what one stands for.
    pub fn render(&self, mut write: impl FnMut(P, &mut String)) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Placeholder { name, .. } => write(*name, &mut text),
            }
        }
        text
    }
}

fn placeholder<P: Copy>(inside: &str, known: &[(&str, P)]) -> Result<Part<P>, TemplateError> {
    let (name, as_text) = match inside.split_once('|') {
        None => (inside, false),
        Some((name, "string")) => (name, true),
        Some((_, other)) => return Err(TemplateError::Conversion(other.to_owned())),
    };
    match known.iter().find(|(candidate, _)| *candidate == name) {
        Some((_, placeholder)) => Ok(Part::Placeholder { name: *placeholder, as_text }),
        None => {
            let known = known.iter().map(|(name, _)| format!("{{{name}}}")).collect::<Vec<_>>().join(" ");
            Err(TemplateError::Unknown { name: name.to_owned(), known })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[(&str, u8)] = &[("a", 1), ("b", 2)];

    fn rendered(text: &str) -> Result<String, TemplateError> {
        Template::parse(text, KNOWN).map(|t| t.render(|p, out| out.push_str(&p.to_string())))
    }

    #[test]
    fn placeholders_are_replaced_and_doubled_braces_are_braces() {
        assert_eq!(rendered("x{a}y{b|string}{{z}}"), Ok("x1y2{z}".to_owned()));
        assert_eq!(Template::parse("{a}", KNOWN).map(|t| t.whole()), Ok(Some(1)));
        assert_eq!(Template::parse("{a|string}", KNOWN).map(|t| t.whole()), Ok(None));
        assert_eq!(Template::parse("{a} ", KNOWN).map(|t| t.whole()), Ok(None));
    }

    #[test]
    fn a_mistake_is_said_when_the_text_is_read() {
        assert!(matches!(rendered("{c}"), Err(TemplateError::Unknown { .. })));
        assert_eq!(rendered("{a"), Err(TemplateError::Unclosed));
        assert_eq!(rendered("a}"), Err(TemplateError::Unopened));
        assert!(matches!(rendered("{a|int}"), Err(TemplateError::Conversion(_))));
        let said = rendered("{c}").map_err(|e| e.to_string());
        assert_eq!(
            said,
            Err("there is no placeholder `{c}` here; write one of {a} {b}, or `{{` for a brace".to_owned())
        );
    }
}
