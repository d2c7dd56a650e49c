//! Whose a key is: a business, or a user when it is bound to no business. One decision's data lives in its tenant's slot.

use std::fmt;

/// `b:<business>` or `u:<user>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tenant {
    Business(String),
    User(String),
}

impl Tenant {
    /// Reads what `Display` writes; `None` for anything else, ids that no document may hold included.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, id) = text.split_once(':')?;
        match kind {
            "b" if is_id(id) => Some(Self::Business(id.to_owned())),
            "u" if is_id(id) => Some(Self::User(id.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Business(id) => write!(f, "b:{id}"),
            Self::User(id) => write!(f, "u:{id}"),
        }
    }
}

/// `[A-Za-z0-9._~@-]{1,128}`: what may stand in a Redis key, a header and a log without quoting.
pub fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~@-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_a_business_or_a_user() {
        assert_eq!(Tenant::parse("b:acme"), Some(Tenant::Business("acme".to_owned())));
        assert_eq!(Tenant::parse("u:u_42").map(|t| t.to_string()), Some("u:u_42".to_owned()));
        for wrong in ["", "acme", "b:", "x:acme", "b:a b", "b:{a}"] {
            assert_eq!(Tenant::parse(wrong), None, "{wrong}");
        }
    }
}
