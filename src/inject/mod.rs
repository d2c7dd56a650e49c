//! Putting the gate into pods: as a Kubernetes admission webhook, or offline into manifests. Both use the one function `pod`.
//!
//! The gate takes the place of the service's port: what Services and named ports led to the service leads to the gate, which asks
//! the service on loopback. So a service that listens on 127.0.0.1 alone cannot be reached without the gate, and where injection
//! was missed nothing answers. What the kubelet asks the service's port from outside the pod, the gate asks from within.
//!
//! `pod` decides and changes one pod, `ports`, `probes` and `sidecar` are its parts, `tuning` its annotations; `original` knows what
//! stood there before; `service` does the same to a Service; `documents` finds pods in manifests of any kind, which `reader` and `yaml` read and write; `review` is what an
//! API server asks and is answered, the answer being a `difference`. All of it is pure, documents in and documents out: the server is
//! `process::webhook`.

mod difference;
pub mod documents;
mod original;
mod pod;
mod ports;
mod probes;
mod reader;
pub mod review;
mod service;
mod shape;
mod sidecar;
#[cfg(test)]
mod tests;
pub mod tuning;
pub mod yaml;

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub use pod::pod;
pub use service::service;
pub use shape::is_label;

/// Opt-in, on a namespace or on a pod or Service, which wins.
pub const LABEL: &str = "sidegate.dev/inject";
/// What was done, or why nothing was.
pub const STATUS: &str = "sidegate.dev/status";
/// What stood where injection has changed something.
pub const ORIGINAL: &str = "sidegate.dev/original";

/// Where the gate listens in a pod; the configuration in the ConfigMap says the same.
pub const GATE_PORT: u16 = 8443;
pub const PROBES_PORT: u16 = 9901;
pub const ADMIN_PORT: u16 = 9900;
/// The gate's container, and what its volumes' and ports' names begin with.
pub const NAME: &str = "sidegate";

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
pub struct Surroundings<'s> {
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
    fn injected(document: Value, port: u16) -> Self {
        Self { document, left: None, taken: Some(port) }
    }

    /// Left alone, and its status says why.
    fn left(mut document: Value, reason: String) -> Self {
        shape::annotate(&mut document, STATUS, json!({"skipped": reason}).to_string());
        Self { document, left: Some(reason), taken: None }
    }

    fn untouched(document: &Value, reason: &str) -> Self {
        Self { document: document.clone(), left: Some(reason.to_owned()), taken: None }
    }
}

/// The document without anything that injection put there.
pub fn restored(document: &Value) -> Value {
    if document.get("kind").and_then(Value::as_str) == Some("Service") {
        service::restored(document.clone())
    } else {
        original::restored(document.clone())
    }
}

/// Whether a document may be injected, by its own label.
fn asked(document: &Value) -> Result<(), Refusal> {
    match shape::label(document, LABEL) {
        None | Some("enabled") => Ok(()),
        Some("disabled") => Err(Refusal::NotAsked),
        Some(_) => Err(Refusal::Reason(format!("label {LABEL} is neither enabled nor disabled"))),
    }
}

enum Refusal {
    NotAsked,
    Reason(String),
}
