//! Scopes: what a granted one covers (`*`, `resource:*`, itself) and what the configuration says it implies.

/// The rules of `scopes.implies`.
#[derive(Debug, Default)]
pub struct Scopes {
    implies: Vec<(String, Vec<String>)>,
}

impl Scopes {
    pub fn new(implies: Vec<(String, Vec<String>)>) -> Self {
        Self { implies }
    }

    /// Whether a key that was granted `granted` may do what needs `required`, by itself or by what the grants imply.
    pub fn allow(&self, granted: &[String], required: &str) -> bool {
        if granted.iter().any(|scope| covers(scope, required)) {
            return true;
        }
        !self.implies.is_empty() && self.implied_by(granted).iter().any(|scope| covers(scope, required))
    }

    /// All that the grants imply, through several steps. Each rule is taken once, so a circle of rules ends.
    fn implied_by<'a>(&'a self, granted: &'a [String]) -> Vec<&'a str> {
        let mut held: Vec<&str> = granted.iter().map(String::as_str).collect();
        let mut waiting: Vec<_> = self.implies.iter().collect();
        loop {
            let (taken, left): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(scope, _)| held.iter().any(|granted| covers(granted, scope)));
            if taken.is_empty() {
                return held;
            }
            held.extend(taken.into_iter().flat_map(|(_, implied)| implied.iter().map(String::as_str)));
            waiting = left;
        }
    }
}

/// `*` covers all, `contacts:*` covers what begins with `contacts:`, anything else itself.
pub fn covers(granted: &str, required: &str) -> bool {
    granted == "*"
        || granted == required
        || granted.strip_suffix('*').is_some_and(|prefix| prefix.ends_with(':') && required.starts_with(prefix))
}

/// A scope-token of RFC 6749 §3.3: it must fit into `WWW-Authenticate` unquoted.
pub fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\,".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_grant_covers_itself_its_resource_or_all() {
        let scopes = Scopes::default();
        assert!(scopes.allow(&granted(&["contacts:read"]), "contacts:read"));
        assert!(scopes.allow(&granted(&["contacts:*"]), "contacts:read"));
        assert!(scopes.allow(&granted(&["*"]), "contacts:read"));
        for wrong in ["contacts:write", "contacts:", "contact*", "contacts", ":*", ""] {
            assert!(!scopes.allow(&granted(&[wrong]), "contacts:read"), "{wrong}");
        }
        assert!(!scopes.allow(&[], "contacts:read"));
    }

    #[test]
    fn what_a_grant_implies_holds_through_several_steps_and_circles_end() {
        let rule = |scope: &str, implied: &[&str]| (scope.to_owned(), granted(implied));
        let scopes = Scopes::new(vec![rule("read", &["list"]), rule("write", &["read"]), rule("list", &["write"])]);
        assert!(scopes.allow(&granted(&["write"]), "list"));
        assert!(!scopes.allow(&granted(&["other"]), "list"));
        let scopes = Scopes::new(vec![rule("admin", &["*"])]);
        assert!(scopes.allow(&granted(&["admin"]), "anything:at-all"));
    }

    #[test]
    fn a_wildcard_grant_also_implies_what_the_scopes_below_it_imply() {
        let scopes = Scopes::new(vec![("calls:write".to_owned(), granted(&["audit"]))]);
        assert!(scopes.allow(&granted(&["calls:*"]), "audit"));
    }
}
