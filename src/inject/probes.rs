//! What the kubelet asks the service from outside its pod: a service on 127.0.0.1 would fail it. It asks the gate's port instead,
//! which asks the service the original question on loopback.
//!
//! Only what goes to the port whose place the gate takes is rewritten: that port alone moves to loopback, and the kubelet reaches
//! the others as before. Commands in a container stay as they are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::names::PROBES_PORT;
use super::shape::{container_mut, list, name, port, text};

/// A container's probes, and the last segment of the path that stands for each.
pub const KINDS: [(&str, &str); 3] =
    [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")];
/// How a probe asks.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// One probe that asks the gate instead.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    pub container: String,
    /// `readinessProbe`, …
    pub kind: &'static str,
    pub original: Value,
    /// What the gate is told (`probes.app`).
    pub told: Value,
    path: String,
}

/// Every probe of the service's port; an error where one cannot be asked from within.
pub fn rewritten(spec: &Value, upstream: u16) -> Result<Vec<Rewritten>, String> {
    list(spec, "initContainers").iter().try_for_each(|container| no_wait_for_the_gate(container, upstream))?;
    let mut found = Vec::new();
    for container in list(spec, "containers") {
        no_hook_from_outside(container, upstream)?;
        for (kind, segment) in KINDS {
            let Some(probe) = container.get(kind).filter(|probe| asks(container, probe, upstream)) else { continue };
            let path = format!("/app/{}/{segment}", name(container));
            let told =
                told(probe, &path, upstream).map_err(|why| format!("the {kind} of {} {why}", name(container)))?;
            found.push(Rewritten { container: name(container).to_owned(), kind, original: probe.clone(), told, path });
        }
    }
    Ok(found)
}

/// Init containers start before the gate, and it only once their startup probes have succeeded: asked through the gate, they
/// would wait for each other.
fn no_wait_for_the_gate(container: &Value, upstream: u16) -> Result<(), String> {
    no_hook_from_outside(container, upstream)?;
    let asks = |kind: &str| container.get(kind).is_some_and(|probe| asks(container, probe, upstream));
    match KINDS.iter().find(|(kind, _)| asks(kind)) {
        None => Ok(()),
        Some((kind, _)) => {
            let name = name(container);
            Err(format!(
                "the {kind} of init container {name} asks the service's port, and the gate starts after it; write it as exec"
            ))
        }
    }
}

/// Hooks over HTTP are not probes, and the kubelet ends a container whose `postStart` fails.
fn no_hook_from_outside(container: &Value, upstream: u16) -> Result<(), String> {
    for hook in ["postStart", "preStop"] {
        let action = container.pointer(&format!("/lifecycle/{hook}"));
        if action.is_some_and(|action| asks(container, action, upstream)) {
            let name = name(container);
            return Err(format!(
                "the {hook} hook of {name} asks the service's port from outside the pod; write it as exec"
            ));
        }
    }
    Ok(())
}

/// Whether it goes to the service's port in this pod.
fn asks(container: &Value, probe: &Value, upstream: u16) -> bool {
    let handler = HANDLERS.iter().find_map(|handler| probe.get(handler));
    handler.is_some_and(|handler| {
        let elsewhere = text(handler, "host").is_some_and(|host| !host.is_empty());
        !elsewhere && resolved(container, &handler["port"]) == Some(upstream)
    })
}

/// A port's name means the container's own port of that name.
fn resolved(container: &Value, asked: &Value) -> Option<u16> {
    let Some(named) = asked.as_str() else { return port(asked) };
    let declared = list(container, "ports").iter().find(|declared| name(declared) == named);
    declared.map_or_else(|| named.parse().ok(), |declared| port(&declared["containerPort"]))
}

/// The element of `probes.app` that asks the same.
fn told(probe: &Value, path: &str, upstream: u16) -> Result<Value, String> {
    let seconds = probe.get("timeoutSeconds").and_then(Value::as_u64).filter(|seconds| *seconds > 0).unwrap_or(1);
    let timeout = format!("{seconds}s");
    let local = format!("127.0.0.1:{upstream}");
    if let Some(http) = probe.get("httpGet") {
        let target = format!("http://{local}{}", http_path(http)?);
        let headers = headers(http)?;
        return Ok(if headers.is_empty() {
            json!({"path": path, "target": target, "timeout": timeout})
        } else {
            json!({"path": path, "target": target, "timeout": timeout, "headers": headers})
        });
    }
    let target = match probe.get("grpc") {
        Some(grpc) => format!("grpc://{local}/{}", grpc_service(grpc)?),
        None => format!("tcp://{local}"),
    };
    Ok(json!({"path": path, "target": target, "timeout": timeout}))
}

fn http_path(http: &Value) -> Result<String, String> {
    if text(http, "scheme").is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http")) {
        // The kubelet verifies no certificate, and a client that does not either is nothing that the gate should have.
        return Err("asks over HTTPS without verifying; write it as tcpSocket or exec".to_owned());
    }
    let path = text(http, "path").unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    match path.parse::<http::uri::PathAndQuery>() {
        Ok(parsed) if parsed.as_str() == path => Ok(path),
        _ => Err("has a path that cannot stand in a request; write it percent-encoded".to_owned()),
    }
}

/// By name; the same name twice has both values.
fn headers(http: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in list(http, "httpHeaders") {
        let (name, value) = (name(header), text(header, "value").unwrap_or_default());
        let is_header =
            http::HeaderName::from_bytes(name.as_bytes()).is_ok() && http::HeaderValue::from_str(value).is_ok();
        if !is_header {
            return Err(format!("has a header `{name}` that cannot stand in a request"));
        }
        headers.entry(name.to_ascii_lowercase()).or_default().push(value.to_owned());
    }
    Ok(headers)
}

/// A service's name stands in the target's path.
fn grpc_service(grpc: &Value) -> Result<&str, String> {
    let service = text(grpc, "service").unwrap_or_default();
    let plain = service.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
    if plain { Ok(service) } else { Err("names a service that is no name in gRPC".to_owned()) }
}

impl Rewritten {
    pub fn write(&self, spec: &mut Value) {
        let Some(container) = container_mut(spec, &self.container) else { return };
        let Some(probe) = container.get_mut(self.kind).and_then(Value::as_object_mut) else { return };
        HANDLERS.iter().for_each(|handler| drop(probe.remove(*handler)));
        probe.insert("httpGet".to_owned(), json!({"path": self.path, "port": PROBES_PORT, "scheme": "HTTP"}));
    }

    pub fn is_written(&self, spec: &Value) -> bool {
        let mut probes = list(spec, "containers")
            .iter()
            .filter(|one| name(one) == self.container)
            .filter_map(|one| one.get(self.kind));
        probes.next().is_some_and(is_ours)
    }
}

/// Whether a probe asks the gate about a container.
pub fn is_ours(probe: &Value) -> bool {
    let Some(http) = probe.get("httpGet") else { return false };
    port(&http["port"]) == Some(PROBES_PORT) && text(http, "path").is_some_and(|path| path.starts_with("/app/"))
}
