//! Kubernetes documents as they are read and changed here: JSON values, so that what this version has never heard of passes
//! through as it stands. Whatever is not shaped as expected reads as nothing, and `check` has said so before anything is changed.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// The elements of a list; none where there is no list.
pub fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

pub fn name(value: &Value) -> &str {
    text(value, "name").unwrap_or_default()
}

/// A number that can be a port.
pub fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0)
}

/// The list below `key`, made where there is none.
pub fn list_mut<'v>(value: &'v mut Value, key: &str) -> Option<&'v mut Vec<Value>> {
    let entry = value.as_object_mut()?.entry(key).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Array(Vec::new());
    }
    entry.as_array_mut()
}

/// The map below `key`, made where there is none.
pub fn map_mut<'v>(value: &'v mut Value, key: &str) -> Option<&'v mut Map<String, Value>> {
    let entry = value.as_object_mut()?.entry(key).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut()
}

/// A container by its name, in either list.
pub fn container_mut<'s>(spec: &'s mut Value, named: &str) -> Option<&'s mut Value> {
    let spec = spec.as_object_mut()?;
    let lists = spec.iter_mut().filter(|(key, _)| matches!(key.as_str(), "containers" | "initContainers"));
    let mut containers = lists.filter_map(|(_, list)| list.as_array_mut()).flatten();
    containers.find(|container| name(container) == named)
}

/// What is empty need not stand there.
pub fn drop_empty(value: &mut Value, key: &str) {
    let empty = match value.get(key) {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        _ => false,
    };
    if empty && let Some(map) = value.as_object_mut() {
        map.remove(key);
    }
}

/// A label, or `None`.
pub fn label<'v>(document: &'v Value, key: &str) -> Option<&'v str> {
    document.pointer("/metadata/labels")?.get(key)?.as_str()
}

pub fn annotation<'v>(document: &'v Value, key: &str) -> Option<&'v str> {
    document.pointer("/metadata/annotations")?.get(key)?.as_str()
}

pub fn annotate(document: &mut Value, key: &str, value: String) {
    // A document without metadata gets some: a pod template may have none.
    let Some(_) = map_mut(document, "metadata") else { return };
    if let Some(annotations) = document.get_mut("metadata").and_then(|metadata| map_mut(metadata, "annotations")) {
        annotations.insert(key.to_owned(), Value::String(value));
    }
}

pub fn remove_annotation(document: &mut Value, key: &str) {
    let Some(annotations) = document.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    if annotations.remove(key).is_none() {
        return;
    }
    if let Some(metadata) = document.get_mut("metadata") {
        drop_empty(metadata, "annotations");
    }
    drop_empty(document, "metadata");
}

/// Whether a pod, or a pod's template, has the shape that the rest relies on.
pub fn check(pod: &Value) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what} is not shaped as Kubernetes documents it"));
    let maps = ["/metadata", "/metadata/annotations", "/metadata/labels", "/spec/securityContext"];
    if let Some(path) =
        maps.iter().find(|path| !pod.pointer(path).is_none_or(|value| value.is_object() || value.is_null()))
    {
        return wrong(path);
    }
    let Some(spec) = pod.get("spec").filter(|spec| spec.is_object()) else { return wrong("/spec") };
    for key in ["containers", "initContainers", "volumes"] {
        if !is_list_of_named(spec.get(key)) {
            return wrong(&format!("/spec/{key}"));
        }
    }
    if list(spec, "containers").is_empty() {
        return Err("it has no containers".to_owned());
    }
    let mut names = HashSet::new();
    for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
        // Originals are kept by the name, and the gate is asked by it.
        if !is_container(container) || !is_label(name(container)) || !names.insert(name(container)) {
            return wrong(&format!("container {}", name(container)));
        }
    }
    Ok(())
}

/// A DNS label (RFC 1123 §2.1), as Kubernetes has names in it.
pub fn is_label(text: &str) -> bool {
    let inside = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !text.is_empty() && inside && !text.starts_with('-') && !text.ends_with('-')
}

fn is_container(container: &Value) -> bool {
    let is_map = |key: &str| container.get(key).is_none_or(|value| value.is_object() || value.is_null());
    let ports = container.get("ports");
    let ports_are_maps = list(container, "ports").iter().all(Value::is_object);
    ports.is_none_or(|ports| ports.is_array() || ports.is_null())
        && ports_are_maps
        && ["readinessProbe", "livenessProbe", "startupProbe", "lifecycle"].into_iter().all(is_map)
}

fn is_list_of_named(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(list)) => list.iter().all(|element| text(element, "name").is_some()),
        Some(_) => false,
    }
}
