//! What a signed-in user may do with which keys: by the user's role in their business, and never beyond the user's businesses.
//!
//! Pure. What a role may grant to a key is in the rules; a role that they do not name may grant everything.

use std::collections::BTreeMap;

use super::refusal::refusal;
use super::session::{Membership, Session};
use crate::gate::Denial;
use crate::keys::Tenant;
use crate::policy::{Reason, Scopes};
use crate::store::registry::StoredKey;

/// A caller's own.
pub struct Authority<'a> {
    pub session: &'a Session,
    /// Those that may manage keys.
    pub roles: &'a [String],
    pub grants: &'a BTreeMap<String, Vec<String>>,
    pub scopes: &'a Scopes,
}

/// What may be granted to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granted {
    Everything,
    /// These scopes, and what they imply.
    UpTo(Vec<String>),
}

impl Authority<'_> {
    /// Over the keys of a business.
    pub fn over_business(&self, id: &str) -> Result<Granted, Denial> {
        let mut here = self.session.businesses.iter().filter(|business| business.id == id).peekable();
        if here.peek().is_none() {
            return Err(Denial::BusinessForbidden);
        }
        self.least(here)
    }

    /// Over the caller's own unscoped keys: they reach all businesses that the caller owns, so that the caller must manage keys
    /// in some business, and may grant no more than in every one of these.
    pub fn over_own(&self) -> Result<Granted, Denial> {
        self.least(self.session.businesses.iter())
    }

    /// Over an existing key. Another's key gives the same error as one that does not exist.
    pub fn over_key(&self, key: &StoredKey) -> Result<Granted, Denial> {
        let granted = match &key.tenant {
            Tenant::Business(id) => self.over_business(id),
            Tenant::User(user) if *user == self.session.user => self.over_own(),
            Tenant::User(_) => Err(Denial::BusinessForbidden),
        };
        granted.map_err(|denial| match denial {
            Denial::BusinessForbidden => refusal(Reason::KeyNotFound, None),
            other => other,
        })
    }

    /// Whose keys the caller may see: those of one business, or all.
    pub fn tenants(&self, business: Option<&str>) -> Result<Vec<Tenant>, Denial> {
        if let Some(id) = business {
            return self.over_business(id).map(|_| vec![Tenant::Business(id.to_owned())]);
        }
        self.over_own()?;
        let managed = self.session.businesses.iter().filter(|business| self.manages(business));
        let mut tenants = vec![Tenant::User(self.session.user.clone())];
        for business in managed {
            let tenant = Tenant::Business(business.id.clone());
            if !tenants.contains(&tenant) {
                tenants.push(tenant);
            }
        }
        Ok(tenants)
    }

    /// What all of these roles that manage keys may grant.
    fn least<'m>(&self, memberships: impl Iterator<Item = &'m Membership>) -> Result<Granted, Denial> {
        let mut managing = memberships.filter(|membership| self.manages(membership)).peekable();
        if managing.peek().is_none() {
            return Err(refusal(Reason::RoleRequired, None));
        }
        let bounds: Vec<&Vec<String>> = managing.filter_map(|membership| self.grants.get(&membership.role)).collect();
        if bounds.is_empty() {
            return Ok(Granted::Everything);
        }
        let by_all = |scope: &&String| bounds.iter().all(|granted| self.scopes.allow(granted, scope));
        Ok(Granted::UpTo(bounds.iter().copied().flatten().filter(by_all).cloned().collect()))
    }

    fn manages(&self, membership: &Membership) -> bool {
        self.roles.contains(&membership.role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask<T>(
        businesses: &[(&str, &str)],
        question: impl FnOnce(&Authority<'_>) -> Result<T, Denial>,
    ) -> Result<T, &'static str> {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let businesses = businesses.iter().map(|&(id, role)| Membership { id: id.to_owned(), role: role.to_owned() });
        let session = Session { user: "u_42".to_owned(), businesses: businesses.collect() };
        let grants = [("editor", texts(&["calls:*", "leads:read"])), ("caller", texts(&["calls:read"]))];
        let authority = Authority {
            session: &session,
            roles: &texts(&["admin", "editor", "caller"]),
            grants: &grants.map(|(role, scopes)| (role.to_owned(), scopes)).into(),
            scopes: &Scopes::new(Vec::new()),
        };
        question(&authority).map_err(|denial| denial.reason().name())
    }

    #[test]
    fn a_role_decides_in_its_own_business_alone() {
        let session = [("acme", "admin"), ("umbrella", "viewer"), ("initech", "caller")];
        let over = |business: &str| ask(&session, |authority| authority.over_business(business));
        assert_eq!(over("acme"), Ok(Granted::Everything));
        assert_eq!(over("initech"), Ok(Granted::UpTo(vec!["calls:read".to_owned()])));
        assert_eq!(over("umbrella"), Err("role_required"));
        assert_eq!(over("hooli"), Err("business_forbidden"));
    }

    #[test]
    fn a_key_of_no_business_gets_what_may_be_given_everywhere() {
        let own = |session: &[(&str, &str)]| ask(session, |authority| authority.over_own());
        assert_eq!(own(&[("acme", "admin"), ("umbrella", "viewer")]), Ok(Granted::Everything));
        let calls = Granted::UpTo(vec!["calls:read".to_owned()]);
        assert_eq!(own(&[("acme", "caller"), ("umbrella", "editor"), ("initech", "admin")]), Ok(calls.clone()));
        assert_eq!(own(&[("umbrella", "editor"), ("acme", "caller")]), Ok(calls));
        assert_eq!(own(&[("acme", "viewer")]), Err("role_required"));
        assert_eq!(own(&[]), Err("role_required"));
    }

    #[test]
    fn who_sees_keys_sees_his_own_and_those_of_the_businesses_that_he_manages() {
        let session = [("acme", "admin"), ("umbrella", "viewer")];
        let tenants = |business| ask(&session, |authority| authority.tenants(business));
        let acme = Tenant::Business("acme".to_owned());
        assert_eq!(tenants(None), Ok(vec![Tenant::User("u_42".to_owned()), acme.clone()]));
        assert_eq!(tenants(Some("acme")), Ok(vec![acme]));
        assert_eq!(tenants(Some("umbrella")), Err("role_required"));
        assert_eq!(tenants(Some("hooli")), Err("business_forbidden"));
    }
}
