//! Names that the configuration gives: of limits, plans and upstreams.

/// Whether a name can stand in metrics, in Redis keys and in `RateLimit-Policy` without quoting.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

pub const NAME_ADVICE: &str = "a name has 1 to 64 letters, digits, `_`, `.` and `-`; write another";
