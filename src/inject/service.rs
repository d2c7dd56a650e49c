//! A Service in front of a gate: its target port's number becomes the gate's. A target port's name needs nothing, since the name
//! has gone to the gate's port with the pod's injection.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::names::{GATE_PORT, ORIGINAL, STATUS};
use super::outcome::{InjectionContext, Outcome, Refusal, asked};
use super::shape::{self, list, port, text};
use super::tuning::{self, UpstreamPort};

/// What stood at `targetPort`, by the Service's own port (`80/TCP`); nothing stood there where it is null.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Original {
    #[serde(default)]
    targets: BTreeMap<String, Value>,
}

/// The Service with its target port rewritten. `upstream`: the port of the pods that it selects, where that is known.
pub fn service(document: &Value, upstream: Option<u16>, context: &InjectionContext<'_>) -> Outcome {
    let is_shaped = document.get("spec").is_some_and(Value::is_object)
        && list(&document["spec"], "ports").iter().all(Value::is_object)
        && document.get("metadata").is_some_and(Value::is_object);
    if !is_shaped {
        return Outcome::untouched(document, "it is not shaped as Kubernetes documents a Service");
    }
    let bare = restored(document.clone());
    match asked(document) {
        Ok(()) => {}
        Err(Refusal::NotAsked) => return Outcome::untouched(&bare, "its label says disabled"),
        Err(Refusal::Reason(reason)) => return Outcome::left(bare, reason),
    }
    match targets(&bare, upstream, context) {
        Err(reason) => Outcome::left(bare, reason),
        Ok((port, targets)) => Outcome::injected(rewritten(bare, targets), port),
    }
}

/// The service's port, and those that lead to it.
fn targets(
    service: &Value,
    upstream: Option<u16>,
    context: &InjectionContext<'_>,
) -> Result<(u16, BTreeMap<String, Value>), String> {
    let spec = &service["spec"];
    if spec.get("selector").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
        return Err("it selects no pods".to_owned());
    }
    if text(spec, "clusterIP") == Some("None") {
        return Err("it is headless: clients connect to the pods' own port, which is 8443 now".to_owned());
    }
    let ports: Vec<_> =
        list(spec, "ports").iter().filter(|port| matches!(text(port, "protocol"), None | Some("TCP"))).collect();
    let numbered: Vec<_> = ports.iter().filter_map(|port| Some((*port, number(port)?))).collect();
    if numbered.is_empty() && !ports.is_empty() {
        return Err("its target ports are names, which lead to the gate by themselves".to_owned());
    }
    let upstream = match upstream.map(Ok).or_else(|| told(service, context).transpose()) {
        Some(upstream) => upstream?,
        None => match (ports.as_slice(), numbered.as_slice()) {
            ([_], [(_, only)]) => *only,
            ([], _) => return Err("it has no TCP port".to_owned()),
            _ => return Err("it has several ports; write the service's in sidegate.dev/upstream-port".to_owned()),
        },
    };
    let to_upstream = numbered.iter().filter(|(_, number)| *number == upstream);
    let targets: BTreeMap<_, _> =
        to_upstream.map(|(port, _)| (key(port), port.get("targetPort").cloned().unwrap_or(Value::Null))).collect();
    if targets.is_empty() {
        return Err(format!("none of its target ports is {upstream} by number"));
    }
    Ok((upstream, targets))
}

/// By annotation; a name says nothing of a number.
fn told(service: &Value, context: &InjectionContext<'_>) -> Result<Option<u16>, String> {
    let annotations = service.pointer("/metadata/annotations").and_then(Value::as_object);
    match tuning::read(annotations, context.namespace, context.settings)?.upstream_port {
        Some(UpstreamPort::Number(port)) => Ok(Some(port)),
        Some(UpstreamPort::Name(_)) | None => Ok(None),
    }
}

/// Where a port leads by number: to its own where it says nothing.
fn number(service_port: &Value) -> Option<u16> {
    match service_port.get("targetPort") {
        None | Some(Value::Null) => port(&service_port["port"]),
        Some(Value::String(text)) => text.parse().ok(),
        Some(target) => port(target),
    }
}

fn key(service_port: &Value) -> String {
    format!("{}/{}", service_port["port"], text(service_port, "protocol").unwrap_or("TCP"))
}

fn rewritten(mut service: Value, targets: BTreeMap<String, Value>) -> Value {
    for port in ports_mut(&mut service) {
        if targets.contains_key(&key(port))
            && let Some(port) = port.as_object_mut()
        {
            port.insert("targetPort".to_owned(), json!(GATE_PORT));
        }
    }
    let status = json!({"version": env!("CARGO_PKG_VERSION"), "targetPort": GATE_PORT}).to_string();
    shape::annotate(&mut service, STATUS, status);
    shape::annotate(&mut service, ORIGINAL, json!(Original { targets }).to_string());
    service
}

/// The Service as it was; a target port that somebody has changed since stays.
pub fn restored(mut service: Value) -> Value {
    let original = shape::annotation(&service, ORIGINAL).and_then(|original| serde_json::from_str(original).ok());
    let Original { mut targets } = original.unwrap_or_default();
    shape::remove_annotation(&mut service, STATUS);
    shape::remove_annotation(&mut service, ORIGINAL);
    for service_port in ports_mut(&mut service) {
        let original = targets.remove(&key(service_port));
        let is_ours = port(&service_port["targetPort"]) == Some(GATE_PORT);
        let (Some(original), true, Some(service_port)) = (original, is_ours, service_port.as_object_mut()) else {
            continue;
        };
        match original {
            Value::Null => drop(service_port.remove("targetPort")),
            original => drop(service_port.insert("targetPort".to_owned(), original)),
        }
    }
    service
}

fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten()
}
