//! Percent-encoding (RFC 3986 §2) as routes and paths share it: which bytes may stand plain, which must not stay encoded.

/// `ALPHA DIGIT - . _ ~` (RFC 3986 §2.3): encoded or not, they mean the same, so they are decoded.
pub const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand plain in a path segment (`pchar`, RFC 3986 §3.3), `%` aside.
pub fn is_segment_byte(byte: u8) -> bool {
    SEGMENT_BYTES[usize::from(byte)]
}

/// Looked up, since every byte of every path is.
const SEGMENT_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        bytes[byte as usize] = is_unreserved(byte) || is_sub_delimiter(byte) || matches!(byte, b':' | b'@');
        byte += 1;
    }
    bytes
};

const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// The byte that `%XX` at the start of `rest` stands for; `None` if there is no such triplet.
pub fn triplet(rest: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = rest else { return None };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// Decodes every triplet; what is none stays as it is. With `plus_is_space`, as in a form or query (`+` is a space).
pub fn decode(text: &str, plus_is_space: bool) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some(&byte) = rest.first() {
        if let Some(meant) = triplet(rest) {
            decoded.push(meant);
            rest = &rest[3..];
        } else {
            decoded.push(if plus_is_space && byte == b'+' { b' ' } else { byte });
            rest = &rest[1..];
        }
    }
    decoded
}

/// Appends `%XX` with upper-case digits (RFC 3986 §6.2.2.1).
pub fn push_triplet(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triplets_decode_and_the_rest_stays() {
        assert_eq!(decode("a%2Fb%zz+%2", false), b"a/b%zz+%2");
        assert_eq!(decode("a+b%2B", true), b"a b+");
        let mut text = String::new();
        push_triplet(&mut text, 0xAF);
        assert_eq!(text, "%AF");
    }
}
