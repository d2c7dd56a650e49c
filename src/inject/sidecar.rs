//! The gate as a container, and what it mounts.

use serde_json::{Map, Value, json};

use super::names::{GATE_PORT, NAME, PROBES_PORT};
use super::ports::ServicePort;
use super::probes::Rewritten;
use super::shape::{list, name};
use super::tuning::{Mode, Tuning};

const CONFIG_VOLUME: &str = "sidegate-config";
const TLS_VOLUME: &str = "sidegate-tls";
pub const VOLUMES: [&str; 2] = [CONFIG_VOLUME, TLS_VOLUME];

/// The user that the image is made for.
const USER: u32 = 65532;

pub fn container(tuning: &Tuning, service_port: &ServicePort, probes: &[Rewritten]) -> Value {
    let mut container = json!({
        "name": NAME,
        "image": tuning.image,
        "args": ["run", "--config", "/etc/sidegate/sidegate.yaml"],
        "env": environment(service_port, probes),
        "envFrom": [{"secretRef": {"name": tuning.secret, "optional": true}}],
        "ports": ports(service_port),
        // The service starts once this has succeeded: the gate needs neither its store nor the service for that.
        "startupProbe": {"httpGet": asked("/livez"), "periodSeconds": 1, "failureThreshold": 30},
        "livenessProbe": {"httpGet": asked("/livez")},
        "readinessProbe": {"httpGet": asked("/readyz")},
        // The kubelet runs it when the pod begins to end; a native sidecar's SIGTERM comes only after the service's end.
        "lifecycle": {"preStop": {"exec": {"command": ["/sidegate", "drain"]}}},
        "resources": tuning.resources,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts(tuning),
    });
    if tuning.mode == Mode::Native
        && let Some(container) = container.as_object_mut()
    {
        container.insert("restartPolicy".to_owned(), json!("Always"));
    }
    container
}

fn asked(path: &str) -> Value {
    json!({"path": path, "port": "sidegate-probes"})
}

fn environment(service_port: &ServicePort, probes: &[Rewritten]) -> Vec<Value> {
    let mut environment = vec![json!({"name": "SIDEGATE_UPSTREAM_PORT", "value": service_port.port.to_string()})];
    if !probes.is_empty() {
        let told: Vec<_> = probes.iter().map(|probe| &probe.told).collect();
        // `$(NAME)` in a value would be replaced by the kubelet; `$$` is a `$` that stays.
        let value = json!(told).to_string().replace('$', "$$");
        environment.push(json!({"name": "SIDEGATE_APP_PROBES", "value": value}));
    }
    environment
}

/// By the service's own port's name, if it has one, Services and policies find the gate in its place.
fn ports(service_port: &ServicePort) -> Value {
    let mut gate = Map::new();
    gate.insert("name".to_owned(), json!(NAME));
    gate.insert("containerPort".to_owned(), json!(GATE_PORT));
    gate.insert("protocol".to_owned(), json!("TCP"));
    gate.extend(service_port.handed_over().map(|(key, value)| (key.to_owned(), value.clone())));
    json!([gate, {"name": "sidegate-probes", "containerPort": PROBES_PORT, "protocol": "TCP"}])
}

fn mounts(tuning: &Tuning) -> Vec<Value> {
    // Whole folders: a mount of one file (`subPath`) would never change when the ConfigMap does.
    let mut mounts = vec![json!({"name": CONFIG_VOLUME, "mountPath": "/etc/sidegate", "readOnly": true})];
    if tuning.tls_secret.is_some() {
        mounts.push(json!({"name": TLS_VOLUME, "mountPath": "/etc/sidegate-tls", "readOnly": true}));
    }
    mounts
}

/// The ConfigMap that an injected pod has the gate's configuration from.
pub fn config(spec: &Value) -> &str {
    let volume = list(spec, "volumes").iter().find(|volume| name(volume) == CONFIG_VOLUME);
    volume.and_then(|volume| volume.pointer("/configMap/name")).and_then(Value::as_str).unwrap_or_default()
}

pub fn volumes(tuning: &Tuning) -> Vec<Value> {
    let mut volumes = vec![json!({"name": CONFIG_VOLUME, "configMap": {"name": tuning.config}})];
    if let Some(secret) = &tuning.tls_secret {
        volumes.push(json!({"name": TLS_VOLUME, "secret": {"secretName": secret}}));
    }
    volumes
}
