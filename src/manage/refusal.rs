//! Maps every error of the API to a denial, with a text for the client.

use crate::gate::Denial;
use crate::keys::rules::RuleError;
use crate::policy::Reason;
use crate::store::StoreError;
use crate::store::keyring::KeyringError;
use crate::store::registry::RegistryError;

/// Why the API refuses.
pub fn refusal(reason: Reason, detail: Option<String>) -> Denial {
    Denial::Unmanaged { reason, detail }
}

/// By a rule of keys.
pub fn broken(rule: RuleError) -> Denial {
    let reason = match &rule {
        RuleError::NotGranted(_) => Reason::RoleRequired,
        RuleError::Rotated(_) => Reason::RotatedAlready,
        _ => Reason::Unprocessable,
    };
    refusal(reason, Some(sentence(&rule.to_string())))
}

/// By the registry.
pub fn denied(error: RegistryError) -> Denial {
    match error {
        RegistryError::Rule(rule) => broken(rule),
        RegistryError::Full { .. } => refusal(Reason::TooManyKeys, Some(sentence(&error.to_string()))),
        RegistryError::NotFound | RegistryError::Ambiguous { .. } => refusal(Reason::KeyNotFound, None),
        RegistryError::Store(error) => error.into(),
        RegistryError::Unreadable(_)
        | RegistryError::IdTaken(_)
        | RegistryError::Differs { .. }
        | RegistryError::BusinessDiffers { .. }
        | RegistryError::Contended
        | RegistryError::Replicas { .. }
        | RegistryError::NotHere(_) => StoreError::Refused(error.to_string()).into(),
    }
}

/// A revocation has taken effect, but too few replicas have confirmed it: a failover may lose it. `done` says what was done.
pub fn unconfirmed(done: &str, error: &RegistryError) -> String {
    let held = match error {
        RegistryError::Replicas { answered, wanted } => {
            format!("only {answered} of {wanted} replicas have confirmed it")
        }
        _ => "whether replicas have it could not be asked".to_owned(),
    };
    format!("{done}, but {held}: a failover to another could undo it")
}

/// By what makes keys.
pub fn failed(error: KeyringError) -> Denial {
    match error {
        KeyringError::Registry(error) => denied(error),
        KeyringError::Mint(_) | KeyringError::Format(_) | KeyringError::NotNew => {
            StoreError::Refused(error.to_string()).into()
        }
    }
}

/// The command line's texts begin in lower case; here they are sentences.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
