//! Manifests as people keep them: YAML of several documents, or JSON. Pods are found in workloads of every kind and in lists.
//!
//! A document that nothing is changed in stands in the output as it stood in the input, comments and all; in one that is changed,
//! comments are lost and keys are sorted.

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;

use super::names::{LABEL, NAME};
use super::outcome::{InjectionContext, Settings};
use super::{pod, reader, restored, service, shape, sidecar, yaml};

/// Why a stream of documents cannot be read.
#[derive(Debug, Error)]
#[error("document {number} (from line {line}): {error}; write Kubernetes manifests as YAML or JSON")]
pub struct DocumentError {
    number: usize,
    line: usize,
    error: serde_yaml::Error,
}

/// What came of the documents.
#[derive(Debug, PartialEq, Eq)]
pub struct Injected {
    pub text: String,
    /// One line for each object.
    pub messages: Vec<String>,
    /// Those that were put in.
    pub gates: Vec<Gate>,
}

/// A gate in the pods of one object, and what its configuration has to agree with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// `Deployment/app`
    pub object: String,
    /// Its ConfigMap, and what stands in it where it is among the documents.
    pub config: String,
    pub configuration: Option<String>,
    /// How many seconds the pod has to end.
    pub grace: u64,
    /// How many of these the service is kept by a `preStop` that sleeps; `None`: there is none.
    pub kept: Option<u64>,
}

/// Puts the gate into every pod, and before it every Service that selects one of these pods by number.
pub fn inject(text: &str, settings: &Settings) -> Result<Injected, DocumentError> {
    let mut stream = Stream::read(text)?;
    let (namespaces, configs) = (stream.namespaces(), stream.configurations());
    let mut pods = Injector { settings, namespaces, configs, templates: Vec::new(), gates: Vec::new() };
    let mut messages = BTreeMap::new();
    stream.each(|position, object| messages.extend(pods.inject(object).map(|outcome| (position, outcome))));
    // Services may stand before the workloads that they lead to.
    stream.each(|position, object| messages.extend(pods.inject_service(object).map(|outcome| (position, outcome))));
    let gates = std::mem::take(&mut pods.gates);
    let injected = stream.finish(|position| {
        messages.remove(&position).unwrap_or_else(|| "left alone: there is no pod in it".to_owned())
    });
    Ok(Injected { gates, ..injected })
}

/// Takes out again what injection has put in.
pub fn uninject(text: &str) -> Result<Injected, DocumentError> {
    let mut stream = Stream::read(text)?;
    let mut messages = BTreeMap::new();
    stream.each(|position, object| {
        let before = object.clone();
        match template(object) {
            Some((path, _)) => change(object, path, restored),
            None if is(object, "v1", "Service") => *object = restored(object),
            None => {}
        }
        let outcome = if *object == before { "left alone: nothing of sidegate is in it" } else { "restored" };
        messages.insert(position, outcome.to_owned());
    });
    Ok(stream.finish(|position| messages.remove(&position).unwrap_or_default()))
}

/// Where a kind has its pods, and whether they end by themselves.
fn template(object: &Value) -> Option<(&'static str, bool)> {
    const KINDS: [(&str, &str, &str, bool); 8] = [
        ("v1", "Pod", "", false),
        ("v1", "ReplicationController", "/spec/template", false),
        ("apps/", "Deployment", "/spec/template", false),
        ("apps/", "ReplicaSet", "/spec/template", false),
        ("apps/", "StatefulSet", "/spec/template", false),
        ("apps/", "DaemonSet", "/spec/template", false),
        ("batch/", "Job", "/spec/template", true),
        ("batch/", "CronJob", "/spec/jobTemplate/spec/template", true),
    ];
    let (.., path, job) = KINDS.iter().find(|(version, kind, ..)| is(object, version, kind))?;
    Some((path, *job))
}

/// `version` ends with `/` where every version of a group is meant.
fn is(object: &Value, version: &str, kind: &str) -> bool {
    let of_version =
        |stands: &str| if version.ends_with('/') { stands.starts_with(version) } else { stands == version };
    shape::text(object, "kind") == Some(kind) && shape::text(object, "apiVersion").is_some_and(of_version)
}

fn change(object: &mut Value, path: &str, act: impl FnOnce(&Value) -> Value) {
    if let Some(part) = object.pointer_mut(path) {
        *part = act(part);
    }
}

/// What is learned of the pods on the way.
struct Injector<'s> {
    settings: &'s Settings,
    /// Annotations of the namespaces in the stream.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Gates' configurations in the stream, by namespace and name.
    configs: BTreeMap<(String, String), String>,
    templates: Vec<PodTemplate>,
    gates: Vec<Gate>,
}

/// Pods of one template.
struct PodTemplate {
    namespace: String,
    labels: Value,
    /// The port that the gate took the place of; `None`: they were left alone.
    taken: Option<u16>,
}

impl Injector<'_> {
    fn inject(&mut self, object: &mut Value) -> Option<String> {
        let (path, job) = template(object)?;
        let namespace = namespace(object).to_owned();
        let nothing = BTreeMap::new();
        let annotations = self.namespaces.get(&namespace).unwrap_or(&nothing);
        let context = InjectionContext { settings: self.settings, namespace: annotations, job };
        let Some(pod) = object.pointer(path) else { return Some("left alone: it has no template".to_owned()) };
        let outcome = super::pod(pod, &context);
        let labels = outcome.document.pointer("/metadata/labels").cloned().unwrap_or_default();
        if outcome.taken.is_some() {
            self.gates.push(self.gate(object, &namespace, &outcome.document["spec"]));
        }
        self.templates.push(PodTemplate { namespace, labels, taken: outcome.taken });
        let message = message(outcome.left.as_ref(), outcome.taken);
        change(object, path, |_| outcome.document);
        Some(message)
    }

    /// The gate in a pod of this object.
    fn gate(&self, object: &Value, namespace: &str, spec: &Value) -> Gate {
        let config = sidecar::config(spec).to_owned();
        let position = (namespace.to_owned(), config.clone());
        let seconds = |container: &Value| container.pointer("/lifecycle/preStop/sleep/seconds").and_then(Value::as_u64);
        let services = shape::list(spec, "containers").iter().filter(|container| shape::name(container) != NAME);
        Gate {
            object: format!("{}/{}", shape::text(object, "kind").unwrap_or_default(), named(object)),
            configuration: self.configs.get(&position).cloned(),
            config,
            grace: pod::grace(spec),
            kept: services.filter_map(seconds).min(),
        }
    }

    /// One that selects pods injected here, or that says by its label that it wants to, where its pods are not here.
    fn inject_service(&self, object: &mut Value) -> Option<String> {
        if !is(object, "v1", "Service") {
            return None;
        }
        let nothing = BTreeMap::new();
        let annotations = self.namespaces.get(namespace(object)).unwrap_or(&nothing);
        let context = InjectionContext { settings: self.settings, namespace: annotations, job: false };
        let selected: Vec<_> = self.templates.iter().filter(|pods| pods.are_selected_by(object)).collect();
        let is_met = !selected.is_empty();
        let selected = selected.iter().find_map(|pods| pods.taken);
        if selected.is_none() && is_met {
            return Some(without_gate(object));
        }
        if selected.is_none() && shape::label(object, LABEL) != Some("enabled") {
            return Some("left alone: it selects no pod that was injected here".to_owned());
        }
        let outcome = service(object, selected, &context);
        *object = outcome.document;
        Some(message(outcome.left.as_ref(), outcome.taken))
    }
}

impl PodTemplate {
    fn are_selected_by(&self, service: &Value) -> bool {
        let selector = service.pointer("/spec/selector").and_then(Value::as_object).filter(|labels| !labels.is_empty());
        namespace(service) == self.namespace
            && selector.is_some_and(|labels| labels.iter().all(|(key, value)| self.labels.get(key) == Some(value)))
    }
}

/// A Service leads to the gate's port at most where a gate is.
fn without_gate(service: &mut Value) -> String {
    let bare = restored(service);
    let had_gate = bare != *service;
    *service = bare;
    let reason = "the gate was put into none of the pods that it selects";
    if had_gate { format!("restored: {reason}") } else { format!("left alone: {reason}") }
}

fn message(left: Option<&String>, taken: Option<u16>) -> String {
    match (left, taken) {
        (Some(reason), _) => format!("left alone: {reason}"),
        (None, Some(port)) => format!("injected: {NAME} takes the place of port {port}"),
        (None, None) => "injected".to_owned(),
    }
}

fn namespace(object: &Value) -> &str {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default()
}

/// Documents in their order, each with the text it was read from.
struct Stream {
    documents: Vec<Document>,
}

struct Document {
    /// `---` and what may stand behind it, up to the line's end; empty before a first document without it.
    marker: String,
    text: String,
    /// Nothing where only comments stand.
    read: Option<Value>,
    now: Option<Value>,
}

/// A document's number, and its place in a list.
type Position = (usize, usize);

impl Stream {
    fn read(text: &str) -> Result<Self, DocumentError> {
        let mut documents = Vec::new();
        let mut line = 1;
        for (marker, text) in split(text) {
            let number = documents.len() + 1;
            let read = parsed(text).map_err(|error| DocumentError { number, line, error })?;
            line += marker.matches('\n').count() + text.matches('\n').count();
            documents.push(Document { marker: marker.to_owned(), text: text.to_owned(), now: read.clone(), read });
        }
        Ok(Self { documents })
    }

    /// Every object, those of lists one by one.
    fn each(&mut self, mut act: impl FnMut(Position, &mut Value)) {
        for (number, document) in self.documents.iter_mut().enumerate() {
            let Some(object) = &mut document.now else { continue };
            objects(object).enumerate().for_each(|(index, object)| act((number, index), object));
        }
    }

    fn namespaces(&mut self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut namespaces = BTreeMap::new();
        self.each(|_, object| {
            if is(object, "v1", "Namespace") {
                let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
                let texts = annotations.into_iter().flatten();
                let texts = texts.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
                namespaces.insert(named(object).to_owned(), texts);
            }
        });
        namespaces
    }

    fn configurations(&mut self) -> BTreeMap<(String, String), String> {
        let mut configs = BTreeMap::new();
        self.each(|_, object| {
            let text = object.pointer("/data/sidegate.yaml").and_then(Value::as_str);
            if let Some(text) = text.filter(|_| is(object, "v1", "ConfigMap")) {
                configs.insert((namespace(object).to_owned(), named(object).to_owned()), text.to_owned());
            }
        });
        configs
    }

    fn finish(mut self, mut outcome: impl FnMut(Position) -> String) -> Injected {
        let mut messages = Vec::new();
        self.each(|position, object| {
            let kind = shape::text(object, "kind").unwrap_or("document");
            messages.push(format!("{kind}/{}: {}", named(object), outcome(position)));
        });
        let mut text = String::new();
        for document in &self.documents {
            match &document.now {
                Some(now) if document.now != document.read => {
                    let is_first = document.marker.is_empty() && !document.text.starts_with("---");
                    text.push_str(if is_first { "" } else { "---\n" });
                    text.push_str(&yaml::written(now));
                }
                _ => {
                    text.push_str(&document.marker);
                    text.push_str(&document.text);
                    // The next marker stands at the beginning of a line.
                    if !document.text.is_empty() && !document.text.ends_with('\n') {
                        text.push('\n');
                    }
                }
            }
        }
        Injected { text, messages, gates: Vec::new() }
    }
}

fn named(object: &Value) -> &str {
    let metadata = |key: &str| object.get("metadata").and_then(|metadata| shape::text(metadata, key));
    metadata("name").or_else(|| metadata("generateName")).unwrap_or("(without a name)")
}

/// An object itself, or what a list holds.
fn objects(object: &mut Value) -> Box<dyn Iterator<Item = &mut Value> + '_> {
    let is_list = shape::text(object, "kind").is_some_and(|kind| kind.ends_with("List"));
    if is_list && object.get("items").is_some_and(Value::is_array) {
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        return Box::new(items.into_iter().flatten());
    }
    Box::new(std::iter::once(object))
}

/// At lines that begin with `---`, which no text in a document can do (YAML 1.2 §9.1.2), each with its marker's line.
fn split(text: &str) -> Vec<(&str, &str)> {
    let mut documents = Vec::new();
    let (mut marker, mut begun, mut at) = ("", 0, 0);
    for line in text.split_inclusive('\n') {
        let is_marker =
            line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker {
            if at > 0 {
                documents.push((marker, &text[begun..at]));
            }
            // What stands behind the dashes belongs to the document.
            let is_bare = line.trim_end() == "---";
            marker = if is_bare { line } else { "" };
            begun = if is_bare { at + line.len() } else { at };
        }
        at += line.len();
    }
    documents.push((marker, &text[begun..]));
    documents
}

fn parsed(text: &str) -> Result<Option<Value>, serde_yaml::Error> {
    let is_blank = |line: &str| line.is_empty() || line.starts_with('#') || line == "---";
    if text.lines().map(str::trim).all(is_blank) {
        return Ok(None);
    }
    Ok(Some(reader::read(text)?).filter(|value| !value.is_null()))
}
