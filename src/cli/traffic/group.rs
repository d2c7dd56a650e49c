//! `/v1/calls/123` and `/v1/calls/456` are the same kind of path: what looks like an id becomes `{…}`. A guess for people,
//! nothing is decided by it.

/// Stands for an id.
const ID: &str = "{…}";
/// Words are not longer.
const LONGEST_WORD: usize = 40;
/// A piece of so many letters with digits among them is an id.
const LONG: usize = 16;
/// So many digits are one as well, wherever they stand.
const MANY_DIGITS: usize = 5;

/// The path with each id replaced.
pub fn grouped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            text.push('/');
        }
        text.push_str(if is_id(segment) { ID } else { segment });
    }
    text
}

fn is_id(segment: &str) -> bool {
    if segment.is_empty() {
        return false;
    }
    let digit = |byte: u8| byte.is_ascii_digit();
    // Numbers, dates, times, versions of nothing but digits, telephone numbers.
    let numeric = segment.bytes().any(digit) && segment.bytes().all(|byte| digit(byte) || b"-_.:+,".contains(&byte));
    let mut pieces = segment.split(['-', '_', '.', '~', ':', '=']);
    let first_is_number = || {
        // `123.json`
        segment.split_once('.').is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(digit))
    };
    numeric
        || segment.len() > LONGEST_WORD
        || segment.contains('@')
        || segment.contains("%40")
        || first_is_number()
        || is_uuid(segment)
        || pieces.any(is_random)
}

fn is_uuid(segment: &str) -> bool {
    let lengths = segment.split('-').map(|part| (part.len(), part.bytes().all(|byte| byte.is_ascii_hexdigit())));
    lengths.eq([(8, true), (4, true), (4, true), (4, true), (12, true)])
}

/// Hexadecimal digits of some length, or letters and digits that no word mixes so.
fn is_random(piece: &str) -> bool {
    let digits = piece.bytes().filter(u8::is_ascii_digit).count();
    if digits == 0 || !piece.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return false;
    }
    let mixed =
        piece.bytes().any(|byte| byte.is_ascii_lowercase()) && piece.bytes().any(|byte| byte.is_ascii_uppercase());
    digits == piece.len() && digits >= MANY_DIGITS
        || piece.len() >= LONG
        || piece.len() >= 8 && piece.bytes().all(|byte| byte.is_ascii_hexdigit())
        || piece.len() >= 8 && mixed && digits >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_alike_and_words_are_not() {
        for id in [
            "7",
            "123",
            "2026-03-23",
            "+4930123",
            "4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
            "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
            "deadbeef1",
            "507f1f77bcf86cd799439011",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "cus_N2frFeUfNV2Hib",
            "dQw4w9WgXcQ",
            "invoice-10023",
            "123.json",
            "ana@example.com",
            "ana%40example.com",
            &"x".repeat(41),
        ] {
            assert_eq!(grouped(&format!("/v1/{id}/x")), "/v1/{…}/x", "{id}");
        }
        for word in [
            "v1",
            "v2beta1",
            "contacts",
            "voice-agents",
            "OAuth2Callback",
            "report-2",
            "index.html",
            "logo@2x.png".trim_end_matches("@2x.png"),
            "bulk_export_v2",
            "facade",
            "deadbeef",
            "sha256",
            "",
        ] {
            assert_eq!(grouped(&format!("/{word}/x")), format!("/{word}/x"));
        }
        assert_eq!(grouped("/"), "/");
    }
}
