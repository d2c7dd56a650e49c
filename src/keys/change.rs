//! What may become of a key or of a business that stands: new facts, limits of its own, rotation, suspension.
//!
//! Pure, as `creation` is for new keys. The stores apply what is settled here to the document as it is at that moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::rules::{
    Holder, Required, RuleError, Rules, check_name, duration_ms, expiry, listed, near_misses, networks,
};
use crate::limit::Windows;

/// The longest time for which a key and its successor may both stand: 30 days.
const LONGEST_OVERLAP_MS: u64 = 30 * 86_400_000;

/// What somebody wants to change of a key; `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    pub name: Option<String>,
    pub scopes: Option<Vec<String>>,
    pub expires: Option<Until>,
    /// Limits of its own by name; `None` removes one, so that the configured windows hold again.
    pub limits: Vec<(String, Option<Vec<String>>)>,
    pub allow_addresses: Option<Origins>,
}

/// When a key is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    Never,
    /// `90d`, `24h`, or RFC 3339.
    At(String),
}

/// From where a key is to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    Anywhere,
    Only(Vec<String>),
}

/// A change that obeys the rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValidChange {
    pub name: Option<String>,
    pub scopes: Option<Vec<String>>,
    /// Milliseconds since the Unix epoch; the inner `None` is never.
    pub expires_at: Option<Option<u64>>,
    pub limits: BTreeMap<String, Option<Arc<Windows>>>,
    /// The inner `None` is anywhere.
    pub allow_addresses: Option<Option<Vec<IpNet>>>,
}

/// What somebody wants to change of a business.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BusinessChange {
    /// The inner `None`: no plan.
    pub plan: Option<Option<String>>,
    /// `active` or `suspended`.
    pub status: Option<String>,
    pub limits: Vec<(String, Option<Vec<String>>)>,
}

/// A change of a business that obeys the rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValidBusinessChange {
    pub plan: Option<Option<String>>,
    pub status: Option<String>,
    pub limits: BTreeMap<String, Option<Arc<Windows>>>,
}

impl Rules {
    /// Checks what is to become of a key.
    pub fn validate_change(&self, change: Change, now_ms: u64) -> Result<ValidChange, RuleError> {
        if change == Change::default() {
            return Err(RuleError::NothingToChange);
        }
        if let Some(name) = &change.name {
            check_name(name)?;
        }
        let expires_at = match change.expires {
            None => None,
            Some(Until::Never) if self.require.contains(&Required::Expiry) => {
                return Err(RuleError::Missing(Required::Expiry));
            }
            Some(Until::Never) => Some(None),
            Some(Until::At(text)) => Some(Some(expiry(&text, now_ms)?)),
        };
        let allow_addresses = match change.allow_addresses {
            None => None,
            Some(Origins::Anywhere) => Some(None),
            Some(Origins::Only(texts)) => Some(Some(networks(&texts)?)),
        };
        Ok(ValidChange {
            name: change.name,
            scopes: change.scopes.map(|scopes| self.validate_scopes(scopes)).transpose()?,
            expires_at,
            limits: self.validate_overrides(Holder::Key, change.limits)?,
            allow_addresses,
        })
    }

    /// Checks what is to become of a business.
    pub fn validate_business(&self, change: BusinessChange) -> Result<ValidBusinessChange, RuleError> {
        if change == BusinessChange::default() {
            return Err(RuleError::NothingToChange);
        }
        if let Some(Some(plan)) = &change.plan {
            self.check_plan(plan)?;
        }
        if let Some(status) =
            change.status.as_ref().filter(|status| !["active", "suspended"].contains(&status.as_str()))
        {
            return Err(RuleError::UnknownStatus(status.clone()));
        }
        let limits = self.validate_overrides(Holder::Business, change.limits)?;
        Ok(ValidBusinessChange { plan: change.plan, status: change.status, limits })
    }

    pub fn check_plan(&self, plan: &str) -> Result<(), RuleError> {
        let known = || self.known_plans.iter().map(String::as_str);
        if known().any(|known| known == plan) {
            return Ok(());
        }
        let advice = near_misses(plan, known()).unwrap_or_else(|| listed(known(), "plans are"));
        Err(RuleError::UnknownPlan { plan: plan.to_owned(), advice })
    }
}

/// How long a rotated key goes on beside its successor, in milliseconds: `24h`; none by default.
pub fn overlap(text: Option<&str>) -> Result<u64, RuleError> {
    let Some(text) = text.filter(|text| *text != "0") else { return Ok(0) };
    match duration_ms(text) {
        Some(ms) if ms <= LONGEST_OVERLAP_MS => Ok(ms),
        Some(_) => Err(RuleError::LongOverlap),
        None => Err(RuleError::BadOverlap(text.to_owned())),
    }
}

/// How long ago, in milliseconds: `90d`.
pub fn age(text: &str) -> Result<u64, RuleError> {
    duration_ms(text).ok_or_else(|| RuleError::BadAge(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkError;

    const NOW: u64 = 1_774_276_200_000;

    fn rules() -> Rules {
        let limits = [("per-key", true), ("per-business", false)];
        Rules {
            known_scopes: vec!["read".to_owned()],
            known_limits: limits.map(|(name, by_key)| (name.to_owned(), by_key)).to_vec(),
            known_plans: vec!["free".to_owned(), "pro".to_owned()],
            ..Rules::default()
        }
    }

    fn own(name: &str, windows: &str) -> Vec<(String, Option<Vec<String>>)> {
        vec![(name.to_owned(), Some(vec![windows.to_owned()]))]
    }

    #[test]
    fn a_key_overrides_only_limits_by_key_and_a_business_all_of_them() {
        let of_key =
            |name: &str| rules().validate_change(Change { limits: own(name, "5/1m"), ..Change::default() }, NOW);
        assert!(of_key("per-key").is_ok());
        assert_eq!(of_key("per-business"), Err(RuleError::NotByKey("per-business".to_owned())));
        let error = of_key("per-kye").map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(error, Err("there is no limit `per-kye`; did you mean `per-key`?".to_owned()));
        let shared = Rules { known_limits: vec![("per-business".to_owned(), false)], ..rules() };
        let error = shared.validate_change(Change { limits: own("per-key", "5/1m"), ..Change::default() }, NOW);
        let said = error.map(|_| ()).map_err(|error| error.to_string());
        let expected = "there is no limit `per-key`; none of those that are configured is counted by key";
        assert_eq!(said, Err(expected.to_owned()));
        let of_business = |name: &str, windows: &str| {
            rules().validate_business(BusinessChange { limits: own(name, windows), ..BusinessChange::default() })
        };
        assert!(of_business("per-key", "5/1m").is_ok() && of_business("per-business", "0/1m").is_ok());
        assert!(matches!(of_business("per-key", "many"), Err(RuleError::BadWindows { .. })));
        let twice = [own("per-key", "3/1s"), own("per-key", "4/1s")].concat();
        let error = rules().validate_change(Change { limits: twice, ..Change::default() }, NOW);
        assert_eq!(error, Err(RuleError::LimitTwice("per-key".to_owned())));
        let removed = vec![("gone".to_owned(), None)];
        assert!(rules().validate_change(Change { limits: removed, ..Change::default() }, NOW).is_ok());
    }

    #[test]
    fn plans_and_states_of_a_business_are_those_there_are() {
        let with = |plan: &str, status: &str| {
            let (plan, status) = (Some(Some(plan.to_owned())), Some(status.to_owned()));
            rules().validate_business(BusinessChange { plan, status, limits: Vec::new() }).map(|_| ())
        };
        assert_eq!(with("pro", "suspended"), Ok(()));
        assert_eq!(with("pro", "closed"), Err(RuleError::UnknownStatus("closed".to_owned())));
        let error = with("prof", "active").map_err(|error| error.to_string());
        assert_eq!(error, Err("there is no plan `prof`; did you mean `pro`?".to_owned()));
        assert_eq!(rules().validate_business(BusinessChange::default()), Err(RuleError::NothingToChange));
    }

    #[test]
    fn an_end_can_be_taken_away_unless_every_key_must_have_one() {
        let never = || Change { expires: Some(Until::Never), ..Change::default() };
        assert_eq!(rules().validate_change(never(), NOW).map(|change| change.expires_at), Ok(Some(None)));
        let strict = Rules { require: vec![Required::Expiry], ..rules() };
        assert_eq!(strict.validate_change(never(), NOW), Err(RuleError::Missing(Required::Expiry)));
        let past = Change { expires: Some(Until::At("2020-01-01T00:00:00Z".to_owned())), ..Change::default() };
        assert!(matches!(rules().validate_change(past, NOW), Err(RuleError::PastExpiry(_))));
    }

    #[test]
    fn overlaps_and_addresses_are_what_they_say() {
        assert_eq!((overlap(None), overlap(Some("0")), overlap(Some("24h"))), (Ok(0), Ok(0), Ok(86_400_000)));
        assert_eq!(overlap(Some("31d")), Err(RuleError::LongOverlap));
        assert!(matches!(overlap(Some("tomorrow")), Err(RuleError::BadOverlap(_))));
        let texts = |texts: &[&str]| networks(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let good = texts(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]).expect("they are networks");
        assert_eq!(good.iter().map(ToString::to_string).collect::<Vec<_>>()[1], "192.0.2.7/32");
        let said = texts(&["10.0.0.1/8"]).map_err(|error| error.to_string());
        assert_eq!(
            said,
            Err("`10.0.0.1/8` has bits behind its prefix; write `10.0.0.0/8`, or the address alone".to_owned())
        );
        assert_eq!(texts(&["10.0.0.0/40"]), Err(NetworkError::NotANetwork("10.0.0.0/40".to_owned()).into()));
    }
}
