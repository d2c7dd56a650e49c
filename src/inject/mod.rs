//! Putting the gate into pods: as a Kubernetes admission webhook, or offline into manifests. Both use the one function `pod`.
//!
//! The gate takes the place of the service's port: what Services and named ports led to the service leads to the gate, which asks
//! the service on loopback. So a service that listens on 127.0.0.1 alone cannot be reached without the gate, and where injection
//! was missed nothing answers. What the kubelet asks the service's port from outside the pod, the gate asks from within.
//!
//! `pod` decides and changes one pod, `ports`, `probes` and `sidecar` are its parts, `tuning` its annotations; `original` knows
//! what stood there before; `service` does the same to a Service; `outcome` is what came of either, `names` what injection writes.
//! `documents` finds pods in manifests of any kind, which `reader` and `yaml` read and write; `review` is what an API server asks
//! and is answered, the answer being a `difference`. All of it is pure, documents in and documents out: the server is
//! `process::webhook`.

mod difference;
pub mod documents;
mod names;
mod original;
mod outcome;
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

use serde_json::Value;

pub use names::{ADMIN_PORT, GATE_PORT, LABEL, NAME, ORIGINAL, PROBES_PORT, STATUS};
pub use outcome::{InjectionContext, Outcome, Settings};
pub use pod::pod;
pub use service::service;
pub use shape::is_label;

/// The document without anything that injection put there.
pub fn restored(document: &Value) -> Value {
    if document.get("kind").and_then(Value::as_str) == Some("Service") {
        service::restored(document.clone())
    } else {
        original::restored(document.clone())
    }
}
