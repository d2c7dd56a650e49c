//! What a configuration says about keys, and the checks that creating and changing one have in common: scopes, limits of their
//! own, ends, names, addresses. The same for the command line and for management.
//!
//! Pure: what is asked for and the time go in, the settled facts or the first broken rule come out. A new key is settled in
//! `creation`, what may become of one that stands in `change`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use super::tenant::is_id;
use crate::clock;
use crate::limit::{Algorithm, Windows, WindowsError};
use crate::network::{self, NetworkError};

/// The longest name of a key, in characters.
pub const LONGEST_NAME: usize = 200;
/// 9999-12-31T23:59:59Z, the last time that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_000;

/// What a configuration says about new keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    pub require: Vec<Required>,
    /// What a key created without scopes gets.
    pub default_scopes: Vec<String>,
    /// The scopes that routes, `implies` and `scopes.default` mention; `*` and `x:*` need not be among them.
    pub known_scopes: Vec<String>,
    /// The configured limits, and whether a key may override them: only those `by: key`.
    pub known_limits: Vec<(String, bool)>,
    /// How each of them counts: some windows are too large for some.
    pub algorithms: BTreeMap<String, Algorithm>,
    /// The configured plans; empty where plans play no part.
    pub known_plans: Vec<String>,
    /// How many active keys one business may have.
    pub max_active_keys: Option<u64>,
    /// What keys may have that somebody with this role creates; a role that is not among them may grant everything.
    pub grants: BTreeMap<String, Vec<String>>,
}

/// What a key must be created with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required {
    Business,
    User,
    Scopes,
    Expiry,
}

/// Who has limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Only limits `by: key`.
    Key,
    Business,
}

/// The rule that a wanted key breaks, and what to do about it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RuleError {
    #[error("a key needs a name by which people know it, such as `billing job`")]
    NoName,
    #[error("the name is longer than {LONGEST_NAME} characters; shorten it")]
    LongName,
    #[error("the name holds a control character, such as a line break or a tab; leave it out")]
    NameControl,
    #[error("the name holds the invisible character U+{0:04X}, by which it could be shown as another; leave it out")]
    NameHidden(u32),
    #[error("a key belongs to a business, or to a user when it is bound to none; name a business or a user")]
    NoTenant,
    #[error("every key must have {0} here; give one")]
    Missing(Required),
    #[error("every key must have at least one scope here; known scopes: {known}")]
    NoScopes { known: String },
    #[error("`{id}` is no id of {what}; an id is 1 to 128 letters, digits and `.` `_` `~` `@` `-`")]
    BadId { what: Required, id: String },
    #[error("unknown scope `{scope}`; {advice}")]
    UnknownScope { scope: String, advice: String },
    #[error("a scope is empty; is there a comma too many? Without any scope, leave the field out")]
    EmptyScope,
    #[error("`{0}` is later than the year 9999; write an earlier end, or none for a key that never ends")]
    FarExpiry(String),
    #[error("`{0}` is no expiry; write a duration such as `90d` or `24h`, or a time such as `2027-01-31T00:00:00Z`")]
    BadExpiry(String),
    #[error("the expiry `{0}` is not in the future; write a later one")]
    PastExpiry(String),
    #[error("the scope `{0}` is more than your role may grant; leave it out, or ask somebody whose role may")]
    NotGranted(String),
    #[error("there is no limit `{name}`; {advice}")]
    UnknownLimit { name: String, advice: String },
    #[error("the limit `{0}` is not counted by key, so that a key cannot have its own; set it for the business")]
    NotByKey(String),
    #[error("the limit `{0}` is given twice; write all of its windows in one, such as `{0}=20/1s,200/10s`")]
    LimitTwice(String),
    #[error("the limit `{0}` is set and taken away at once; do one of them")]
    LimitSetAndTaken(String),
    #[error("the limit `{name}`: {wrong}")]
    BadWindows { name: String, wrong: WindowsError },
    #[error("{0}")]
    BadAddress(#[from] NetworkError),
    #[error("there is no plan `{plan}`; {advice}")]
    UnknownPlan { plan: String, advice: String },
    #[error("`{0}` is no status; write `active` or `suspended`")]
    UnknownStatus(String),
    #[error("there is nothing to change; say what is to become of it")]
    NothingToChange,
    #[error("`{0}` is no overlap; write a duration such as `24h`, or 0 for none")]
    BadOverlap(String),
    #[error("`{0}` is no age; write a duration such as `90d`")]
    BadAge(String),
    #[error("an overlap is 30 days at the most; write `30d` or less")]
    LongOverlap,
    #[error("this key {0}, so that there is nothing to rotate; create a new one")]
    Ended(&'static str),
    #[error("this key was rotated already; its successor is `{0}`")]
    Rotated(String),
    #[error(
        "the key before this one works until {0}, and beside a key there is one predecessor at the most; rotate without overlap, or \
         wait until then"
    )]
    PredecessorWorks(String),
    #[error("this key was rotated and ends at {0}; its end can only come sooner")]
    LaterThanOverlap(String),
}

impl Rules {
    /// The scopes asked for, each once and known, or the default ones.
    pub fn validate_scopes(&self, wanted: Vec<String>) -> Result<Vec<String>, RuleError> {
        if wanted.is_empty() {
            if self.default_scopes.is_empty() && self.require.contains(&Required::Scopes) {
                return Err(RuleError::NoScopes { known: self.listed() });
            }
            return Ok(self.default_scopes.clone());
        }
        let mut scopes: Vec<String> = Vec::with_capacity(wanted.len());
        for scope in wanted {
            self.check_scope(&scope)?;
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        Ok(scopes)
    }

    pub fn check_scope(&self, scope: &str) -> Result<(), RuleError> {
        if self.knows(scope) {
            return Ok(());
        }
        if scope.is_empty() {
            return Err(RuleError::EmptyScope);
        }
        Err(RuleError::UnknownScope { scope: scope.to_owned(), advice: self.advice(scope) })
    }

    /// `*`, what is listed, and `x:*` where something listed begins with `x:`.
    fn knows(&self, scope: &str) -> bool {
        if scope == "*" || self.known_scopes.iter().any(|known| known == scope) {
            return true;
        }
        let Some(resource) = scope.strip_suffix('*').filter(|resource| resource.len() > 1 && resource.ends_with(':'))
        else {
            return false;
        };
        self.known_scopes.iter().any(|known| known.starts_with(resource))
    }

    /// The same where these names are known, too.
    pub fn knowing<'a>(
        &self,
        scopes: impl IntoIterator<Item = &'a String>,
        limits: impl IntoIterator<Item = &'a String>,
        plan: Option<&str>,
    ) -> Self {
        let mut rules = self.clone();
        rules.known_scopes.extend(scopes.into_iter().filter(|scope| !scope.is_empty()).cloned());
        // The first of a name is the one that counts.
        rules.known_limits.splice(0..0, limits.into_iter().map(|name| (name.clone(), true)));
        rules.known_plans.extend(plan.map(str::to_owned));
        rules
    }

    fn advice(&self, scope: &str) -> String {
        let known = self.known_scopes.iter().map(String::as_str);
        near_misses(scope, known).unwrap_or_else(|| format!("known scopes: {}", self.listed()))
    }

    fn listed(&self) -> String {
        let mut known: Vec<&str> = self.known_scopes.iter().map(String::as_str).collect();
        known.push("*");
        known.sort_unstable();
        known.dedup();
        known.join(", ")
    }

    /// Limits that are set, none of them removed.
    pub fn validate_limits(
        &self,
        holder: Holder,
        limits: Vec<(String, Vec<String>)>,
    ) -> Result<BTreeMap<String, Arc<Windows>>, RuleError> {
        let set = limits.into_iter().map(|(name, windows)| (name, Some(windows))).collect();
        let valid = self.validate_overrides(holder, set)?;
        Ok(valid.into_iter().filter_map(|(name, windows)| Some((name, windows?))).collect())
    }

    /// A limit that is not configured may still be removed: it is left over from another configuration.
    pub(super) fn validate_overrides(
        &self,
        holder: Holder,
        limits: Vec<(String, Option<Vec<String>>)>,
    ) -> Result<BTreeMap<String, Option<Arc<Windows>>>, RuleError> {
        let mut valid = BTreeMap::new();
        for (name, windows) in limits {
            match valid.get(&name) {
                None => {}
                Some(first) if Option::<Arc<Windows>>::is_some(first) != windows.is_some() => {
                    return Err(RuleError::LimitSetAndTaken(name));
                }
                Some(_) => return Err(RuleError::LimitTwice(name)),
            }
            let Some(texts) = windows else {
                valid.insert(name, None);
                continue;
            };
            self.check_limit(holder, &name)?;
            let windows = Windows::parse(texts.iter().map(String::as_str));
            let windows = windows.map_err(|wrong| RuleError::BadWindows { name: name.clone(), wrong })?;
            self.check_windows(&name, &windows)?;
            valid.insert(name, Some(Arc::new(windows)));
        }
        Ok(valid)
    }

    /// Whether the limit can count in these windows; where it cannot, they have no effect.
    pub fn check_windows(&self, name: &str, windows: &Windows) -> Result<(), RuleError> {
        let Some(algorithm) = self.algorithms.get(name) else { return Ok(()) };
        let wrong = |wrong| RuleError::BadWindows { name: name.to_owned(), wrong };
        windows.check_for(*algorithm).map_err(wrong)
    }

    /// Whether the holder may have its own windows of this limit. What a document says of another has no effect.
    pub fn check_limit(&self, holder: Holder, name: &str) -> Result<(), RuleError> {
        match self.known_limits.iter().find(|(known, _)| known == name) {
            Some((_, by_key)) if *by_key || holder == Holder::Business => Ok(()),
            Some(_) => Err(RuleError::NotByKey(name.to_owned())),
            None => {
                let known = || self.known_limits.iter().filter(|(_, by_key)| *by_key || holder == Holder::Business);
                let names = || known().map(|(known, _)| known.as_str());
                let otherwise = || match (names().next(), self.known_limits.is_empty()) {
                    (None, false) => "none of those that are configured is counted by key".to_owned(),
                    _ => listed(names(), "it can set"),
                };
                let advice = near_misses(name, names()).unwrap_or_else(otherwise);
                Err(RuleError::UnknownLimit { name: name.to_owned(), advice })
            }
        }
    }
}

impl Required {
    /// As `keys.require` names it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "business" => Some(Self::Business),
            "user" => Some(Self::User),
            "scopes" => Some(Self::Scopes),
            "expiry" => Some(Self::Expiry),
            _ => None,
        }
    }
}

impl fmt::Display for Required {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Business => "a business",
            Self::User => "a user",
            Self::Scopes => "scopes",
            Self::Expiry => "an expiry",
        })
    }
}

pub fn check_name(name: &str) -> Result<(), RuleError> {
    if name.trim().is_empty() {
        return Err(RuleError::NoName);
    }
    if name.chars().any(char::is_control) {
        return Err(RuleError::NameControl);
    }
    if let Some(hidden) = name.chars().find(|character| is_hidden(*character)) {
        return Err(RuleError::NameHidden(hidden.into()));
    }
    if name.chars().count() > LONGEST_NAME {
        return Err(RuleError::LongName);
    }
    Ok(())
}

/// Characters that show nothing and change how what is around them is shown or compared: those that turn the direction of text
/// (UAX #9), separators of lines, and the other format characters (general category Cf, and U+034F). The two joiners U+200C and
/// U+200D are none of them: Persian words and emoji are written with them.
pub fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}'
            | '\u{8e2}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// When a key ends (milliseconds since the epoch, whole seconds): `90d`, `24h`, `30m`, `90s` from now, or RFC 3339.
pub fn expiry(text: &str, now_ms: u64) -> Result<u64, RuleError> {
    let at = match amount_and_unit(text) {
        Some((amount, unit_ms)) => amount.saturating_mul(unit_ms).saturating_add(now_ms),
        None => clock::parse_rfc3339(text).ok_or_else(|| RuleError::BadExpiry(text.to_owned()))?,
    };
    if at > LAST_MS {
        return Err(RuleError::FarExpiry(text.to_owned()));
    }
    // Documents hold whole seconds; what is cut off must not make the key last longer.
    let at = at / 1000 * 1000;
    if at <= now_ms {
        return Err(RuleError::PastExpiry(text.to_owned()));
    }
    Ok(at)
}

pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let (amount, unit_ms) = amount_and_unit(text)?;
    amount.checked_mul(unit_ms)
}

/// `90d` is 90 times so many milliseconds. Digits that are too many for a number are the largest one.
fn amount_and_unit(text: &str) -> Option<(u64, u64)> {
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_ms = clock::unit_ms(unit)?;
    if amount.is_empty() || !amount.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((amount.parse().unwrap_or(u64::MAX), unit_ms))
}

/// `did you mean `a` or `b`?`: the known names that differ by a slip, the closest first.
pub(super) fn near_misses<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut near: Vec<(usize, &str)> = known.map(|known| (strsim::osa_distance(name, known), known)).collect();
    near.sort_unstable();
    near.dedup();
    near.retain(|(distance, known)| *distance <= (known.len() / 3).clamp(1, 4));
    let names: Vec<_> = near.iter().take(3).map(|(_, known)| format!("`{known}`")).collect();
    (!names.is_empty()).then(|| format!("did you mean {}?", names.join(" or ")))
}

pub fn networks(texts: &[String]) -> Result<Vec<IpNet>, RuleError> {
    texts.iter().map(|text| Ok(network::written(text)?)).collect()
}

pub(super) fn listed<'a>(known: impl Iterator<Item = &'a str>, what: &str) -> String {
    let names: Vec<_> = known.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none is configured".to_owned() } else { format!("{what} {}", names.join(", ")) }
}

pub fn check_id(what: Required, id: Option<&str>) -> Result<(), RuleError> {
    match id {
        Some(id) if !is_id(id) => Err(RuleError::BadId { what, id: id.to_owned() }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_774_276_200_500;

    fn rules(require: &[Required]) -> Rules {
        let known = ["contacts:read", "contacts:write", "calls:read"].map(str::to_owned).to_vec();
        Rules { require: require.to_vec(), known_scopes: known, ..Rules::default() }
    }

    fn texts(scopes: &[&str]) -> Vec<String> {
        scopes.iter().map(|&scope| scope.to_owned()).collect()
    }

    #[test]
    fn default_scopes_stand_in_for_none() {
        let rules = Rules { default_scopes: texts(&["calls:read"]), ..rules(&[]) };
        assert_eq!(rules.validate_scopes(Vec::new()), Ok(texts(&["calls:read"])));
        assert_eq!(rules.validate_scopes(texts(&["*"])), Ok(texts(&["*"])));
    }

    #[test]
    fn an_unknown_scope_is_refused_with_what_was_meant() {
        let rules = rules(&[]);
        assert_eq!(
            rules.validate_scopes(texts(&["contacts:*", "calls:read", "calls:read"])),
            Ok(texts(&["contacts:*", "calls:read"]))
        );
        let refused = |scope: &str| rules.validate_scopes(texts(&[scope])).map_err(|e| e.to_string());
        assert_eq!(
            refused("contact:read"),
            Err("unknown scope `contact:read`; did you mean `contacts:read`?".to_owned())
        );
        assert_eq!(
            refused("billing"),
            Err("unknown scope `billing`; known scopes: *, calls:read, contacts:read, contacts:write".to_owned())
        );
        for wrong in ["", "x:*", ":*", "contacts:re*", "contacts*", "contacts:", "**"] {
            assert!(refused(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_expiry_is_a_duration_or_a_time_to_come() {
        assert_eq!(expiry("24h", NOW), Ok(NOW / 1000 * 1000 + 86_400_000));
        assert_eq!(expiry("90d", NOW), Ok(NOW / 1000 * 1000 + 90 * 86_400_000));
        assert_eq!(expiry("2026-03-23T14:30:01Z", NOW), Ok(1_774_276_201_000));
        for past in ["2026-03-23T14:30:00Z", "2020-01-01T00:00:00Z", "0d", "0s"] {
            assert_eq!(expiry(past, NOW), Err(RuleError::PastExpiry(past.to_owned())), "{past}");
        }
        for bad in ["", "d", "90", "-1d", "+1d", "1.5h", "90 d", "tomorrow", "2026-03-23"] {
            assert_eq!(expiry(bad, NOW), Err(RuleError::BadExpiry(bad.to_owned())), "{bad}");
        }
        for far in ["9999999d", "99999999999999d", "99999999999999999999999s"] {
            assert_eq!(expiry(far, NOW), Err(RuleError::FarExpiry(far.to_owned())), "{far}");
        }
    }

    #[test]
    fn a_name_shows_all_that_is_in_it() {
        for good in ["billing job", "Größe", "می\u{200c}خواهم", "👩\u{200d}💻", "請求"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for hidden in ['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{2028}', '\u{ad}', '\u{e0041}'] {
            assert_eq!(check_name(&format!("a{hidden}b")), Err(RuleError::NameHidden(hidden.into())));
        }
        assert_eq!(check_name("a\nb"), Err(RuleError::NameControl));
    }
}
