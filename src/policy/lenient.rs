//! How lenient backends read a path: decoded to the end, in compatibility form, without case, without what some of them
//! drop. The gate forwards one reading; where a backend could make another one of it that matters, it forwards nothing.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;

use super::percent;

/// The paths that some backend may take this one for, each as its segments that count: decoded before it is split and after,
/// whole and up to an encoded `?` or `#` (`/admin%3Fx` is `/admin` to who decodes first).
pub fn readings(path: &str) -> Vec<Vec<String>> {
    let text = folded(path);
    let mut readings = vec![segments(text.split('/'))];
    if let Some(end) = text.find(['?', '#']) {
        readings.push(segments(text[..end].split('/')));
    }
    if path.contains('%') {
        let each: Vec<Cow<'_, str>> = path.split('/').map(folded).collect();
        // What an encoded slash stands in is one segment here until its parameters are cut off.
        let names: Vec<&str> = each.iter().map(|segment| name(segment)).collect();
        readings.push(segments(names.join("/").split('/')));
    }
    readings
}

/// Decoded, in compatibility form, without what shows nothing, and without case: upper before lower, so that `ı` and `ſ` fall
/// together with `i` and `s` as they do in a backend that compares in upper case.
fn folded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        let is_folded = !path.bytes().any(|b| b.is_ascii_uppercase());
        return if is_folded { Cow::Borrowed(path) } else { Cow::Owned(path.to_ascii_lowercase()) };
    }
    let plain: String = decoded(path).chars().filter(|c| !is_ignorable(*c)).collect();
    Cow::Owned(plain.to_uppercase().to_lowercase())
}

fn decoded(path: &str) -> String {
    String::from_utf8_lossy(&percent::decode(path, false)).nfkc().collect()
}

/// A segment without its parameters.
fn name(segment: &str) -> &str {
    segment.split(';').next().unwrap_or(segment)
}

/// The names that count, without the white space around them and the dots behind them.
fn segments<'a>(segments: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names =
        segments.map(|segment| name(segment).trim_start().trim_end_matches(|c: char| c == '.' || c.is_whitespace()));
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Whether some segment is a dot segment to a backend that decodes, or that drops what stands around or behind the dots.
pub fn has_dot_segment(path: &str) -> bool {
    let text = if path.contains('%') { Cow::Owned(decoded(path)) } else { Cow::Borrowed(path) };
    text.contains('.')
        && text.split('/').any(|segment| {
            let name = segment.split([';', '?', '#']).next().unwrap_or(segment);
            let is_blank = |c: char| c.is_whitespace() || is_ignorable(c);
            let dots_and_blanks = || name.contains('.') && name.contains(is_blank);
            matches!(name, "." | "..") || (dots_and_blanks() && name.chars().all(|c| c == '.' || is_blank(c)))
        })
}

/// Whether something is encoded still when it has been decoded once: `%25%32%65` is `%2e` by then.
pub fn is_encoded_twice(path: &str) -> bool {
    path.contains('%') && path.contains("%25") && is_encoded(&folded(path))
}

fn is_encoded(text: &str) -> bool {
    text.bytes().enumerate().any(|(at, byte)| byte == b'%' && percent::triplet(&text.as_bytes()[at..]).is_some())
}

/// Code points that show nothing and that file systems and comparisons leave out (Unicode `Default_Ignorable_Code_Point`;
/// CVE-2014-9390 hid `.git` from git behind one).
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_backends_drop_or_fold_is_dropped_and_folded() {
        for (path, read) in [
            ("/admin", "admin"),
            ("/ADMIN/", "admin"),
            ("/admin.", "admin"),
            ("/%20admin%20.", "admin"),
            ("/admin;v=1", "admin"),
            ("/admin%3Bv=1", "admin"),
            ("/admin;v%2F1", "admin"),
            ("/admin%3Fx", "admin"),
            ("/a%2FB//c", "a b c"),
            ("/%EF%BC%A1dm%C4%B1n%C2%AD", "admin"),
            ("/.well-known", ".well-known"),
        ] {
            assert!(readings(path).iter().any(|segments| segments.join(" ") == read), "{path}: {:?}", readings(path));
        }
    }

    #[test]
    fn dots_are_found_behind_what_is_dropped() {
        for path in
            ["/..", "/a%2f..", "/..%20/a", "/.;x", "/..%3Fa", "/%C2%A0..", "/.%E2%80%8B.", "/..%20.", "/..%E2%80%8B."]
        {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/...", "/..a", "/.well-known", "/a.", "/a%20b.", "/"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn what_is_encoded_twice_is_found_in_pieces_too() {
        for path in ["/%252e", "/%25%32e", "/%25%E2%80%8B2e", "/%25%EF%BC%92%EF%BC%A6"] {
            assert!(is_encoded_twice(path), "{path}");
        }
        assert!(!is_encoded_twice("/100%25"));
    }
}
