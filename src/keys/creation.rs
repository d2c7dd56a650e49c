//! A key as it is created: what somebody asks for, held against the rules, becomes the facts that a store writes down.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::rules::{Holder, Required, RuleError, Rules, check_id, check_name, expiry, networks};
use super::tenant::Tenant;
use crate::limit::Windows;

/// A key as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRequest {
    pub name: String,
    pub business: Option<String>,
    pub user: Option<String>,
    pub scopes: Vec<String>,
    /// `90d`, `24h`, or RFC 3339.
    pub expires: Option<String>,
    /// Limits of its own: a name, and windows such as `60/1m`.
    pub limits: Vec<(String, Vec<String>)>,
    /// From where it may be used; `None`: from anywhere.
    pub allow_addresses: Option<Vec<String>>,
}

/// A key that obeys the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidKey {
    pub name: String,
    pub business: Option<String>,
    pub user: Option<String>,
    pub scopes: Vec<String>,
    pub expires_at: Option<u64>,
    pub limits: BTreeMap<String, Arc<Windows>>,
    pub allow_addresses: Option<Vec<IpNet>>,
}

impl Rules {
    /// Checks what is wanted and fills in what is left out.
    pub fn validate(&self, wanted: KeyRequest, now_ms: u64) -> Result<ValidKey, RuleError> {
        check_name(&wanted.name)?;
        check_id(Required::Business, wanted.business.as_deref())?;
        check_id(Required::User, wanted.user.as_deref())?;
        if self.require.contains(&Required::Business) && wanted.business.is_none() {
            return Err(RuleError::Missing(Required::Business));
        }
        if self.require.contains(&Required::User) && wanted.user.is_none() {
            return Err(RuleError::Missing(Required::User));
        }
        if wanted.business.is_none() && wanted.user.is_none() {
            return Err(RuleError::NoTenant);
        }
        let scopes = self.validate_scopes(wanted.scopes)?;
        if self.require.contains(&Required::Expiry) && wanted.expires.is_none() {
            return Err(RuleError::Missing(Required::Expiry));
        }
        let expires_at = wanted.expires.map(|text| expiry(&text, now_ms)).transpose()?;
        let limits = self.validate_limits(Holder::Key, wanted.limits)?;
        let allow_addresses = wanted.allow_addresses.map(|texts| networks(&texts)).transpose()?;
        let KeyRequest { name, business, user, .. } = wanted;
        Ok(ValidKey { name, business, user, scopes, expires_at, limits, allow_addresses })
    }
}

impl ValidKey {
    /// Whose the key is: the business's, or the user's when it is bound to none. A settled key has at least one of them.
    pub fn tenant(&self) -> Option<Tenant> {
        let business = self.business.clone().map(Tenant::Business);
        business.or_else(|| self.user.clone().map(Tenant::User))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_774_276_200_500;

    fn rules(require: &[Required]) -> Rules {
        Rules { require: require.to_vec(), ..Rules::default() }
    }

    fn wanted() -> KeyRequest {
        KeyRequest { name: "job".to_owned(), business: Some("acme".to_owned()), ..KeyRequest::default() }
    }

    #[test]
    fn what_is_required_must_be_there() {
        let with = |required| rules(&[required]);
        assert_eq!(
            with(Required::Business).validate(KeyRequest { business: None, user: Some("u".into()), ..wanted() }, NOW),
            Err(RuleError::Missing(Required::Business))
        );
        assert_eq!(with(Required::User).validate(wanted(), NOW), Err(RuleError::Missing(Required::User)));
        assert_eq!(with(Required::Expiry).validate(wanted(), NOW), Err(RuleError::Missing(Required::Expiry)));
        assert!(matches!(with(Required::Scopes).validate(wanted(), NOW), Err(RuleError::NoScopes { .. })));
        assert_eq!(rules(&[]).validate(KeyRequest { business: None, ..wanted() }, NOW), Err(RuleError::NoTenant));
        assert!(rules(&[]).validate(wanted(), NOW).is_ok());
    }

    #[test]
    fn a_key_without_a_business_is_its_users() {
        let unscoped = KeyRequest { business: None, user: Some("u_42".to_owned()), ..wanted() };
        let valid = rules(&[]).validate(unscoped, NOW).expect("a good key");
        assert_eq!(valid.tenant(), Some(Tenant::User("u_42".to_owned())));
        let both = KeyRequest { user: Some("u_42".to_owned()), ..wanted() };
        let valid = rules(&[]).validate(both, NOW).expect("a good key");
        assert_eq!(valid.tenant(), Some(Tenant::Business("acme".to_owned())));
    }

    #[test]
    fn names_and_ids_are_what_can_be_stored_and_shown() {
        let named = |name: &str| rules(&[]).validate(KeyRequest { name: name.to_owned(), ..wanted() }, NOW).map(|_| ());
        assert_eq!(named("  "), Err(RuleError::NoName));
        assert_eq!(named("a\nb"), Err(RuleError::NameControl));
        assert_eq!(named(&"ü".repeat(200)), Ok(()));
        assert_eq!(named(&"ü".repeat(201)), Err(RuleError::LongName));
        let bad = KeyRequest { business: Some("a b".to_owned()), ..wanted() };
        assert!(matches!(rules(&[]).validate(bad, NOW), Err(RuleError::BadId { what: Required::Business, .. })));
        let bad = KeyRequest { user: Some("{x}".to_owned()), ..wanted() };
        assert!(matches!(rules(&[]).validate(bad, NOW), Err(RuleError::BadId { what: Required::User, .. })));
    }
}
