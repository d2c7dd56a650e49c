//! What stands on standard input where a key is read: the key, nothing, or something that the gate would refuse by its looks,
//! and why. Nothing of what was given is repeated: it may be a key all the same.

use std::io::{BufRead, Read};

use crate::keys::format::LONGEST;
use crate::keys::{Alphabet, Digest, Format, Formats, Reading};
use crate::policy::Reason;

pub(super) const NOTHING: &str =
    "nothing stands on standard input; give it the key, as in `sidegate keys verify < key.txt`";

/// What stands in front of keys in headers; a configured scheme may be another, and then is white space like any.
const SCHEMES: [&str; 5] = ["bearer", "basic", "token", "apikey", "key"];

pub(super) enum Given {
    Nothing,
    Key {
        digest: Digest,
        /// What stands around it, as it seems: then the store does not know it.
        around: Option<&'static str>,
    },
    /// What the gate would say, and why.
    Refused {
        reason: Reason,
        why: String,
    },
}

/// The line's end and spaces around the key are not part of it.
pub(super) fn read(input: &mut dyn BufRead, formats: &Formats) -> anyhow::Result<Given> {
    let mut bytes = Vec::new();
    input.take(4 * LONGEST as u64).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(judge(text.trim(), formats))
}

/// As `gate/credential` judges a header's value.
fn judge(text: &str, formats: &Formats) -> Given {
    if text.is_empty() {
        return Given::Nothing;
    }
    let around = around(text);
    let (reason, why) = match formats.read(text) {
        Reading::Ours(_) | Reading::Any => return Given::Key { digest: Digest::of(text), around },
        Reading::Foreign(_) | Reading::NotOurs if text.contains(',') => {
            (Reason::AmbiguousKey, "it holds a comma, so that some would read two keys".to_owned())
        }
        Reading::Foreign(text) => (Reason::ForeignFormat, text.to_owned()),
        Reading::NotOurs => (Reason::MalformedKey, around.map_or_else(|| malformation(text, formats), str::to_owned)),
    };
    Given::Refused { reason, why }
}

/// What people copy along with a key.
fn around(text: &str) -> Option<&'static str> {
    let quoted = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if ['"', '\'', '`'].into_iter().any(quoted) {
        return Some("there are quotes around it; give the key alone");
    }
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') && name.len() <= 40;
    if text.split_once(':').is_some_and(|(name, _)| is_name(name)) {
        return Some("a header's name and a colon stand in front of it; give the key alone");
    }
    match text.split_once(' ') {
        Some((scheme, _)) if SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
            Some("a scheme such as `Bearer` stands in front of it; give the key alone")
        }
        _ => None,
    }
}

/// Why it can be no key here.
fn malformation(text: &str, formats: &Formats) -> String {
    if text.contains(char::is_whitespace) {
        return "there is white space within it".to_owned();
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return "it holds something else than visible ASCII characters".to_owned();
    }
    if let Some(format) = formats.by_prefix().iter().find(|format| text.starts_with(format.prefix())) {
        return misfit(&text[format.prefix().len()..], format);
    }
    if text.len() > LONGEST {
        return format!("it is longer than {LONGEST} characters");
    }
    let prefixes: Vec<_> = formats.by_prefix().iter().map(|format| format!("`{}`", format.prefix())).collect();
    format!("it begins as no key here does; they begin with {}", prefixes.join(" or "))
}

/// In what the characters after the prefix differ from the format.
fn misfit(rest: &str, format: &Format) -> String {
    let (prefix, length) = (format.prefix(), format.length());
    if !length.contains(&rest.len()) {
        let (least, most) = (length.start(), length.end());
        let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
        return format!("it begins with `{prefix}`, but has {} characters after it instead of {wanted}", rest.len());
    }
    if format.has_shape_of(&format!("{prefix}{rest}")) {
        return format!("it begins with `{prefix}`, but its checksum is wrong: it is mistyped");
    }
    let characters = match format.alphabet() {
        Alphabet::Base62 => "letters and digits",
        Alphabet::Base64Url => "letters, digits, `-` and `_`",
        Alphabet::Hex => "hexadecimal digits",
    };
    format!("it begins with `{prefix}`, but holds something else than {characters} after it")
}
