//! What injection is given with a document, whether it may touch it, and what comes of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::names::{LABEL, STATUS};
use super::shape;

/// What holds for every pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The gate's image where no annotation names one.
    pub image: String,
    /// How many seconds the service is kept when its pod ends, until nobody sends to the pod any more; 0: it is not kept.
    pub app_pre_stop: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { image: concat!("sidegate:", env!("CARGO_PKG_VERSION")).to_owned(), app_pre_stop: 7 }
    }
}

/// What one document stands in.
#[derive(Debug, Clone, Copy)]
pub struct InjectionContext<'s> {
    pub settings: &'s Settings,
    /// The namespace's annotations.
    pub namespace: &'s BTreeMap<String, String>,
    /// Whether the pod belongs to a Job and has to end by itself.
    pub job: bool,
}

/// A document after injection.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub document: Value,
    /// Why it was left alone; it then differs by its status at most.
    pub left: Option<String>,
    /// The service's port that the gate took the place of.
    pub taken: Option<u16>,
}

impl Outcome {
    pub(super) fn injected(document: Value, port: u16) -> Self {
        Self { document, left: None, taken: Some(port) }
    }

    /// Left alone, and its status says why.
    pub(super) fn left(mut document: Value, reason: String) -> Self {
        shape::annotate(&mut document, STATUS, json!({"skipped": reason}).to_string());
        Self { document, left: Some(reason), taken: None }
    }

    pub(super) fn untouched(document: &Value, reason: &str) -> Self {
        Self { document: document.clone(), left: Some(reason.to_owned()), taken: None }
    }
}

/// Whether a document may be injected, by its own label.
pub(super) fn asked(document: &Value) -> Result<(), Refusal> {
    match shape::label(document, LABEL) {
        None | Some("enabled") => Ok(()),
        Some("disabled") => Err(Refusal::NotAsked),
        Some(_) => Err(Refusal::Reason(format!("label {LABEL} is neither enabled nor disabled"))),
    }
}

pub(super) enum Refusal {
    NotAsked,
    Reason(String),
}
