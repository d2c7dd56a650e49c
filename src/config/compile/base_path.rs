//! `base_path`: where everything is served below. Like the path of `management` it is fixed, without parameters.

use super::reader::Reader;
use crate::config::field_path::FieldPath;
use crate::config::raw::Root;
use crate::policy::pattern::{Pattern, PatternError};

/// `base_path`, as written and as a pattern.
pub struct Base {
    pub text: String,
    pub pattern: Pattern,
}

pub fn base_path(root: &Root, reader: &mut Reader<'_>) -> Option<Base> {
    let path = FieldPath::top("base_path");
    let text = reader.text(&path, root.base_path.as_ref()?)?;
    if text == "/" {
        reader.fail(&path, "`/` is no path to be below; remove this field");
        return None;
    }
    let pattern = literal_path(&text).map_err(|problem| reader.fail(&path, problem)).ok()?;
    Some(Base { text, pattern })
}

/// A path that is none but itself.
pub fn literal_path(text: &str) -> Result<Pattern, String> {
    let advice = "write a path without parameters, such as `/v1/keys`";
    let pattern = Pattern::parse(text).map_err(|error| match error {
        PatternError::NoSlash => format!("`{text}` begins without `/`; {advice}"),
        other => other.to_string(),
    })?;
    let ends = text.ends_with('/');
    if pattern.methods.is_some() || pattern.rest || ends || pattern.parameters().next().is_some() {
        return Err(format!("`{text}` is no fixed path; {advice}"));
    }
    Ok(pattern)
}
