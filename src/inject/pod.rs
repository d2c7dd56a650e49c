//! One pod, or one pod's template: the decision whether the gate goes in, and the document with it.
//!
//! What an earlier injection has put in is taken out first, so that twice is once, and another version replaces the one before.

use serde_json::{Value, json};

use super::names::{NAME, STATUS};
use super::original::{self, Original};
use super::outcome::{InjectionContext, Outcome, Refusal, Settings, asked};
use super::ports::{self, ServicePort};
use super::probes::{self, Rewritten};
use super::shape::{self, list, text};
use super::sidecar;
use super::tuning::{self, Mode, Tuning};
use crate::keys::Digest;

/// How long a pod has to end where it does not say.
const DEFAULT_GRACE: u64 = 30;

/// The document with the gate in it, or as it was, with the reason.
pub fn pod(pod: &Value, context: &InjectionContext<'_>) -> Outcome {
    if let Err(reason) = shape::check(pod) {
        return Outcome::untouched(pod, &reason);
    }
    if shape::annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return Outcome::untouched(pod, "it is a static pod, which only its node's files can change");
    }
    match asked(pod) {
        Ok(()) => {}
        Err(Refusal::NotAsked) => {
            return Outcome::untouched(&original::restored(pod.clone()), "its label says disabled");
        }
        Err(Refusal::Reason(reason)) => return Outcome::left(original::restored(pod.clone()), reason),
    }
    let bare = original::restored(pod.clone());
    match Plan::new(&bare, context) {
        Err(reason) => Outcome::left(bare, reason),
        Ok(plan) if plan.is_in_place(pod) => Outcome::injected(pod.clone(), plan.service_port.port),
        Ok(plan) => Outcome::injected(plan.carried_out(bare), plan.service_port.port),
    }
}

/// Everything that injection changes in a pod.
struct Plan {
    mode: Mode,
    service_port: ServicePort,
    container: Value,
    volumes: Vec<Value>,
    probes: Vec<Rewritten>,
    /// Containers that are kept for a while when the pod ends, and for how many seconds.
    kept: (Vec<String>, u32),
    original: String,
    status: String,
}

impl Plan {
    /// `pod` has nothing of ours in it.
    fn new(pod: &Value, context: &InjectionContext<'_>) -> Result<Self, String> {
        let spec = &pod["spec"];
        may_be_injected(pod)?;
        let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
        let tuning = tuning::read(annotations, context.namespace, context.settings)?;
        let ends_by_itself = context.job || ends_by_itself(pod);
        if tuning.mode == Mode::Classic && ends_by_itself {
            return Err(
                "a classic container would keep this pod from ending; write sidegate.dev/mode: native".to_owned()
            );
        }
        let service_port = ports::service_port(spec, tuning.upstream_port.as_ref())?;
        let probes = probes::rewritten(spec, service_port.port)?;
        let kept = (kept(spec, &service_port, context.settings), context.settings.app_pre_stop);
        let original = Original::of(&service_port, &probes, &kept.0).written();
        let (container, volumes) = (sidecar::container(&tuning, &service_port, &probes), sidecar::volumes(&tuning));
        let status = status(&tuning, &container, &volumes, &original);
        Ok(Self { mode: tuning.mode, service_port, container, volumes, probes, kept, original, status })
    }

    fn carried_out(&self, mut pod: Value) -> Value {
        shape::annotate(&mut pod, STATUS, self.status.clone());
        shape::annotate(&mut pod, super::ORIGINAL, self.original.clone());
        let Some(spec) = pod.get_mut("spec") else { return pod };
        self.service_port.hand_over(spec);
        self.probes.iter().for_each(|probe| probe.write(spec));
        let (kept, seconds) = &self.kept;
        for name in kept {
            if let Some(container) = shape::container_mut(spec, name)
                && let Some(lifecycle) = shape::map_mut(container, "lifecycle")
            {
                lifecycle.insert("preStop".to_owned(), json!({"sleep": {"seconds": seconds}}));
            }
        }
        if let Some(containers) = shape::list_mut(spec, self.list()) {
            // Last: what the other init containers do needs no gate, the service starts when this one has started, and sidecars
            // that the gate itself may need (a mesh's) start before it and end after it.
            containers.push(self.container.clone());
        }
        if let Some(volumes) = shape::list_mut(spec, "volumes") {
            volumes.extend(self.volumes.iter().cloned());
        }
        pod
    }

    /// Whether a pod has all of it already. Other webhooks and the API server's defaults may have added to what was injected.
    fn is_in_place(&self, pod: &Value) -> bool {
        let spec = &pod["spec"];
        let container = list(spec, self.list()).iter().any(|container| shape::name(container) == NAME);
        let probes = self.probes.iter().all(|probe| probe.is_written(spec));
        let has_volume =
            |volume: &Value| list(spec, "volumes").iter().any(|other| shape::name(other) == shape::name(volume));
        container
            && probes
            && shape::annotation(pod, STATUS) == Some(&self.status)
            && shape::annotation(pod, super::ORIGINAL) == Some(&self.original)
            && self.service_port.is_handed_over(spec)
            && self.volumes.iter().all(has_volume)
    }

    fn list(&self) -> &'static str {
        match self.mode {
            Mode::Native => "initContainers",
            Mode::Classic => "containers",
        }
    }
}

/// What has to be so of a pod whatever its annotations say.
fn may_be_injected(pod: &Value) -> Result<(), String> {
    let spec = &pod["spec"];
    let refuse = |reason: &str| Err(reason.to_owned());
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        return refuse("it uses its node's network, where 127.0.0.1 and every port are shared with other pods");
    }
    let windows = |value: Option<&Value>| value.and_then(Value::as_str) == Some("windows");
    if windows(spec.pointer("/os/name")) || windows(spec.pointer("/nodeSelector/kubernetes.io~1os")) {
        return refuse("it runs on Windows, for which there is no image");
    }
    let mut containers = ["containers", "initContainers", "ephemeralContainers"].iter().flat_map(|key| list(spec, key));
    if containers.any(|container| shape::name(container) == NAME) {
        return refuse("it has a container named sidegate, which injection did not put there");
    }
    if list(spec, "volumes").iter().any(|volume| sidecar::VOLUMES.contains(&shape::name(volume))) {
        return refuse("it has a volume whose name is one of the gate's own (sidegate-config, sidegate-tls)");
    }
    Ok(())
}

fn ends_by_itself(pod: &Value) -> bool {
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let of_job = owners.is_some_and(|owners| owners.iter().any(|owner| text(owner, "kind") == Some("Job")));
    of_job || matches!(text(&pod["spec"], "restartPolicy"), Some("Never" | "OnFailure"))
}

/// How many seconds a pod has to end.
pub fn grace(spec: &Value) -> u64 {
    spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(DEFAULT_GRACE)
}

/// The service has to outlive its endpoint: requests that the gate still takes in are answered. Whoever has a `preStop` of his
/// own has thought of it.
fn kept(spec: &Value, service_port: &ServicePort, settings: &Settings) -> Vec<String> {
    let grace = grace(spec);
    let seconds = u64::from(settings.app_pre_stop);
    // The API server refuses one that is not shorter than the pod's grace.
    if seconds == 0 || seconds >= grace {
        return Vec::new();
    }
    let is_service = |container: &&Value| match &service_port.container {
        Some(name) => shape::name(container) == name,
        None => !ports::is_of_a_mesh(container),
    };
    let has_hook = |container: &&Value| container.pointer("/lifecycle/preStop").is_some_and(|hook| !hook.is_null());
    let containers = list(spec, "containers").iter().filter(is_service).filter(|container| !has_hook(container));
    containers.map(|container| shape::name(container).to_owned()).collect()
}

/// Version and digest of what is injected: another of either is injected anew.
fn status(tuning: &Tuning, container: &Value, volumes: &[Value], original: &str) -> String {
    let all = json!([format!("{:?}", tuning.mode), container, volumes, original]).to_string();
    let hash = &Digest::of(&all).to_hex()[..12];
    json!({"version": env!("CARGO_PKG_VERSION"), "hash": hash}).to_string()
}
