//! Whose a key is: a business, or a user when it is bound to no business. One decision's data lives in its tenant's slot.

use std::borrow::Cow;
use std::fmt;

use uuid::Uuid;

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

/// An id in the form that ids are compared in where nobody looks one up by its bytes: UUIDs mean the same in either case
/// (RFC 9562 §4), other ids do not.
pub fn comparable_id(id: &str) -> Cow<'_, str> {
    let hyphened = id.len() == uuid::fmt::Hyphenated::LENGTH && Uuid::try_parse(id).is_ok();
    if hyphened && id.bytes().any(|b| b.is_ascii_uppercase()) { id.to_ascii_lowercase().into() } else { id.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_mean_the_same_in_either_case_and_other_ids_do_not() {
        let uuid = "01491d84-0220-41bb-8e2b-20041a88d42f";
        assert_eq!(comparable_id("01491D84-0220-41BB-8E2B-20041A88D42F"), uuid);
        for same in [uuid, "Crm", "01491D84022041BB8E2B20041A88D42F", "01491D84-0220-41BB-8E2B-20041A88D42X"] {
            assert_eq!(comparable_id(same), same);
        }
    }

    #[test]
    fn a_tenant_is_a_business_or_a_user() {
        assert_eq!(Tenant::parse("b:acme"), Some(Tenant::Business("acme".to_owned())));
        assert_eq!(Tenant::parse("u:u_42").map(|t| t.to_string()), Some("u:u_42".to_owned()));
        for wrong in ["", "acme", "b:", "x:acme", "b:a b", "b:{a}"] {
            assert_eq!(Tenant::parse(wrong), None, "{wrong}");
        }
    }
}
