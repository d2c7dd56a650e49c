//! What one pod's injection is like: `sidegate.dev/…` annotations of the pod and of its namespace, the pod's first.
//!
//! An annotation that is not known, or whose value cannot be meant, is a reason to leave the pod alone: a gate that is not the one
//! that was asked for is worse than a missing one, which clients notice at once.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::outcome::Settings;
use super::shape;

/// What annotations and labels of ours begin with.
pub const PREFIX: &str = "sidegate.dev/";

/// Annotations that people write.
const KNOWN: [&str; 9] = [
    "config",
    "upstream-port",
    "mode",
    "tls-secret",
    "secret",
    "image",
    "cpu-request",
    "memory-request",
    "memory-limit",
];
/// Annotations that injection itself writes.
const OWN: [&str; 2] = ["status", "original"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An init container that is restarted always (Kubernetes 1.29 and later): it starts before the service and ends after it.
    Native,
    /// One more container.
    Classic,
}

/// Where the service listens, as it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamPort {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    pub mode: Mode,
    /// The ConfigMap with `sidegate.yaml`.
    pub config: String,
    /// The Secret whose entries are the gate's environment; it may be missing.
    pub secret: String,
    pub tls_secret: Option<String>,
    pub upstream_port: Option<UpstreamPort>,
    pub image: String,
    pub resources: Value,
}

/// `annotations`: the pod's; `inherited`: its namespace's.
pub fn read(
    annotations: Option<&Map<String, Value>>,
    inherited: &BTreeMap<String, String>,
    settings: &Settings,
) -> Result<Tuning, String> {
    let mut told: BTreeMap<&str, &str> = BTreeMap::new();
    let of_pod = annotations.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    let of_namespace = inherited.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in of_namespace.chain(of_pod) {
        let Some(key) = key.strip_prefix(PREFIX).filter(|key| !OWN.contains(key)) else { continue };
        if !KNOWN.contains(&key) {
            let known = KNOWN.join(", ");
            return Err(format!("there is no annotation {PREFIX}{key}; there are {known}"));
        }
        told.insert(key, value);
    }
    let said = |key: &str| told.get(key).copied();
    let mode = match said("mode") {
        None | Some("native") => Mode::Native,
        Some("classic") => Mode::Classic,
        Some(_) => return Err(format!("{PREFIX}mode is neither native nor classic")),
    };
    let named = |key: &str| said(key).map(|value| object_name(key, value)).transpose();
    Ok(Tuning {
        mode,
        config: named("config")?.unwrap_or_else(|| "sidegate".to_owned()),
        secret: named("secret")?.unwrap_or_else(|| "sidegate".to_owned()),
        tls_secret: named("tls-secret")?,
        upstream_port: said("upstream-port").map(upstream_port).transpose()?,
        image: said("image").map(image).transpose()?.unwrap_or_else(|| settings.image.clone()),
        resources: resources(said)?,
    })
}

/// A port as a number or by its name (IANA service names, RFC 6335 §5.1).
pub fn upstream_port(text: &str) -> Result<UpstreamPort, String> {
    let is_name = (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase());
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(UpstreamPort::Number(port)),
        Err(_) if is_name => Ok(UpstreamPort::Name(text.to_owned())),
        _ => Err(format!("{PREFIX}upstream-port is neither a port from 1 to 65535 nor a port's name")),
    }
}

/// A DNS subdomain, as names of ConfigMaps and Secrets are.
fn object_name(key: &str, text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(shape::is_label) {
        return Ok(text.to_owned());
    }
    Err(format!("{PREFIX}{key} is no name of an object (lower-case letters, digits, `-` and `.`)"))
}

fn image(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.len() <= 512 && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!("{PREFIX}image is no name of an image"))
}

/// No limit on the processor: a gate that is throttled makes every request late, and requests share what there is fairly.
fn resources<'t>(said: impl Fn(&str) -> Option<&'t str>) -> Result<Value, String> {
    let quantity = |key: &str, default: &str| match said(key) {
        None => Ok(default.to_owned()),
        Some(text) if is_quantity(text) => Ok(text.to_owned()),
        Some(_) => Err(format!("{PREFIX}{key} is no quantity, such as 50m or 64Mi")),
    };
    let (mut request, limit) = (quantity("memory-request", "32Mi")?, quantity("memory-limit", "128Mi")?);
    // The API server refuses a pod that asks for more than it may have.
    if thousandths(&request) > thousandths(&limit) {
        if said("memory-request").is_some() {
            return Err(format!(
                "{PREFIX}memory-request {request} is above the limit of {limit}; write {PREFIX}memory-limit as well"
            ));
        }
        // Where only a limit is said, Kubernetes itself takes it for the request.
        request.clone_from(&limit);
    }
    Ok(json!({
        "requests": {"cpu": quantity("cpu-request", "50m")?, "memory": request},
        "limits": {"memory": limit},
    }))
}

/// `0.5`, `50m`, `64Mi`: digits, perhaps a fraction, perhaps one of the API's units.
fn is_quantity(text: &str) -> bool {
    thousandths(text).is_some()
}

/// A quantity in thousandths, rounded up, so that the smallest unit is a whole number; `None`: it is none. Fifteen digits of the
/// largest unit are far from what the number can hold.
fn thousandths(text: &str) -> Option<u128> {
    const UNITS: [(&str, u128); 14] = [
        ("m", 1),
        ("", 1000),
        ("k", 1000_u128.pow(2)),
        ("M", 1000_u128.pow(3)),
        ("G", 1000_u128.pow(4)),
        ("T", 1000_u128.pow(5)),
        ("P", 1000_u128.pow(6)),
        ("E", 1000_u128.pow(7)),
        ("Ki", 1000 << 10),
        ("Mi", 1000 << 20),
        ("Gi", 1000 << 30),
        ("Ti", 1000 << 40),
        ("Pi", 1000 << 50),
        ("Ei", 1000 << 60),
    ];
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let digits = |text: &str| text.parse::<u128>().ok().filter(|_| text.len() <= 15);
    let Some((whole, part)) = number.split_once('.') else { return Some(digits(number)? * unit) };
    let of_part = (digits(part)? * unit).div_ceil(10_u128.pow(u32::try_from(part.len()).ok()?));
    Some(digits(whole)? * unit + of_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_digits_and_a_unit() {
        for good in ["1", "0.5", "50m", "64Mi", "1.5Gi", "2k"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "m", "-1", "1 Mi", "1mi", "1.", ".5", "1e3", "1.2.3"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }

    #[test]
    fn quantities_compare_whatever_their_units() {
        for (less, more) in [
            ("32Mi", "128Mi"),
            ("128M", "128Mi"),
            ("1023Ki", "1Mi"),
            ("1Mi", "1048577"),
            ("999m", "1"),
            ("1.5Gi", "1.6Gi"),
            ("1Gi", "1.000000001Gi"),
            ("999999k", "1G"),
            ("1P", "1Pi"),
            ("1E", "1Ei"),
            ("1000000000000Ki", "999999999999999Ei"),
        ] {
            assert!(thousandths(less) < thousandths(more), "{less} {more}");
        }
        for (one, other) in [("1Ki", "1024"), ("1000m", "1"), ("0.5Gi", "512Mi"), ("1.50k", "1500"), ("1Ti", "1024Gi")]
        {
            assert_eq!(thousandths(one), thousandths(other));
        }
    }

    #[test]
    fn ports_are_numbers_or_names() {
        assert_eq!(upstream_port("3000"), Ok(UpstreamPort::Number(3000)));
        assert_eq!(upstream_port("http"), Ok(UpstreamPort::Name("http".to_owned())));
        for bad in ["", "0", "65536", "99999", "HTTP", "a b", "a-name-that-is-too-long"] {
            assert!(upstream_port(bad).is_err(), "{bad}");
        }
    }
}
