//! What stood where injection changed something, kept in an annotation, and the way back.
//!
//! A part goes back only where it is still as injection left it: whoever changed it since has reasons that are not known here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::names::{NAME, ORIGINAL, STATUS};
use super::ports::ServicePort;
use super::probes::{self, Rewritten};
use super::shape::{self, container_mut, drop_empty};
use super::sidecar;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Original {
    /// By container and kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    probes: BTreeMap<String, BTreeMap<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<Port>,
    /// Containers that were given a `preStop`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kept: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Port {
    container: String,
    number: u16,
    declared: Value,
}

impl Original {
    pub fn of(service_port: &ServicePort, rewritten: &[Rewritten], kept: &[String]) -> Self {
        let mut probes: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for probe in rewritten {
            let kinds = probes.entry(probe.container.clone()).or_default();
            kinds.insert(probe.kind.to_owned(), probe.original.clone());
        }
        let port = service_port.container.clone().zip(service_port.declared.clone());
        let port = port.map(|(container, declared)| Port { container, number: service_port.port, declared });
        Self { probes, port, kept: kept.to_vec() }
    }

    pub fn written(&self) -> String {
        json!(self).to_string()
    }

    fn put_back(self, spec: &mut Value) {
        for (name, kinds) in self.probes {
            let Some(container) = container_mut(spec, &name) else { continue };
            for (kind, original) in kinds {
                let current = container.get_mut(&kind).filter(|probe| probes::is_ours(probe));
                if let Some(current) = current {
                    *current = original;
                }
            }
        }
        for name in self.kept {
            let Some(container) = container_mut(spec, &name) else { continue };
            let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) else { continue };
            if lifecycle.get("preStop").is_some_and(|hook| hook.get("sleep").is_some()) {
                lifecycle.remove("preStop");
            }
            drop_empty(container, "lifecycle");
        }
        if let Some(Port { container, number, declared }) = self.port {
            ServicePort { port: number, container: Some(container), declared: Some(declared) }.hand_back(spec);
        }
    }
}

/// The pod as it was before injection. A list or map that stood there empty is gone, which means the same.
pub fn restored(mut pod: Value) -> Value {
    let status: Option<Value> = shape::annotation(&pod, STATUS).and_then(|status| serde_json::from_str(status).ok());
    let injected = status.is_some_and(|status| status.get("hash").is_some());
    let original = shape::annotation(&pod, ORIGINAL).and_then(|original| serde_json::from_str(original).ok());
    let original: Original = original.unwrap_or_default();
    shape::remove_annotation(&mut pod, STATUS);
    shape::remove_annotation(&mut pod, ORIGINAL);
    let Some(spec) = pod.get_mut("spec").filter(|_| injected) else { return pod };
    without(spec, "containers", &[NAME]);
    without(spec, "initContainers", &[NAME]);
    without(spec, "volumes", &sidecar::VOLUMES);
    original.put_back(spec);
    pod
}

/// A list without those of these names.
fn without(spec: &mut Value, key: &str, names: &[&str]) {
    let Some(list) = spec.get_mut(key).and_then(Value::as_array_mut) else { return };
    let before = list.len();
    list.retain(|element| !names.contains(&shape::name(element)));
    if list.len() != before {
        drop_empty(spec, key);
    }
}
