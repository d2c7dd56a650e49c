//! The service's port, whose place the gate takes: which one it is, and what passes from the service's container to the gate's:
//! the port's name, by which Services find it, and the node's port, if it has one.

use serde_json::Value;

use super::names::{ADMIN_PORT, GATE_PORT, PROBES_PORT};
use super::shape::{self, list, name, port, text};
use super::tuning::UpstreamPort;

/// What passes to the gate's port.
const HANDED_OVER: [&str; 3] = ["name", "hostPort", "hostIP"];

/// The service's port.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    pub port: u16,
    /// The container that declares it, if one does.
    pub container: Option<String>,
    /// What of its declaration passes to the gate's.
    pub declared: Option<Value>,
}

/// The port that is named, or the only one that there is.
pub fn service_port(spec: &Value, asked: Option<&UpstreamPort>) -> Result<ServicePort, String> {
    let declared: Vec<_> = list(spec, "containers")
        .iter()
        .filter(|container| !is_of_a_mesh(container))
        .flat_map(|container| list(container, "ports").iter().map(move |port| (container, port)))
        .filter(|(_, port)| is_tcp(port))
        .filter_map(|(container, declared)| Some((container, declared, port(&declared["containerPort"])?)))
        .collect();
    let found = match asked {
        Some(UpstreamPort::Number(asked)) => declared.iter().find(|(.., port)| port == asked),
        Some(UpstreamPort::Name(asked)) => {
            let found = declared.iter().find(|(_, declared, _)| name(declared) == asked);
            Some(found.ok_or_else(|| {
                format!("no container has a TCP port named {asked}, as sidegate.dev/upstream-port says")
            })?)
        }
        None => Some(only(&declared)?),
    };
    let service_port = match (found, asked) {
        (Some((container, declared, port)), _) => ServicePort {
            port: *port,
            container: Some(name(container).to_owned()),
            declared: Some(what_passes(declared)),
        },
        (None, Some(UpstreamPort::Number(port))) => ServicePort { port: *port, container: None, declared: None },
        (None, _) => return Err("the service's port is not known".to_owned()),
    };
    no_conflict(spec, &service_port)?;
    no_init_container(spec, &service_port)?;
    no_way_past(spec, &service_port, found.map(|(_, declared, _)| *declared))?;
    Ok(service_port)
}

type Declared<'s> = (&'s Value, &'s Value, u16);

fn only<'d, 's>(declared: &'d [Declared<'s>]) -> Result<&'d Declared<'s>, String> {
    match declared {
        [] => Err("no container declares a TCP port; write sidegate.dev/upstream-port".to_owned()),
        [only, rest @ ..]
            if rest.iter().all(|(container, _, port)| name(container) == name(only.0) && *port == only.2) =>
        {
            Ok(only)
        }
        several => {
            let ports: Vec<_> =
                several.iter().map(|(container, _, port)| format!("{port} of {}", name(container))).collect();
            Err(format!("there are several ports ({}); write which in sidegate.dev/upstream-port", ports.join(", ")))
        }
    }
}

/// The rest may be filled in by an API server later, which makes it no other port.
fn what_passes(declared: &Value) -> Value {
    let fields = HANDED_OVER.iter().filter_map(|key| Some(((*key).to_owned(), declared.get(*key)?.clone())));
    Value::Object(fields.collect())
}

/// Who else would listen where the gate does, or is named as its ports are.
fn no_conflict(spec: &Value, service_port: &ServicePort) -> Result<(), String> {
    let own = [GATE_PORT, PROBES_PORT, ADMIN_PORT];
    if own.contains(&service_port.port) {
        return Err(format!(
            "its port {} is one of the gate's own (8443, 9900, 9901); let it listen on another",
            service_port.port
        ));
    }
    for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
        let conflict = list(container, "ports").iter().find(|declared| {
            let number = port(&declared["containerPort"]);
            is_tcp(declared) && number.is_some_and(|port| own.contains(&port))
                || matches!(name(declared), "sidegate" | "sidegate-probes")
        });
        if let Some(declared) = conflict {
            let (port, container) = (&declared["containerPort"], name(container));
            return Err(format!(
                "container {container} declares port {port}, whose number or name is one of the gate's own"
            ));
        }
    }
    Ok(())
}

/// Init containers start before the gate, and a Service that knows the port by such a container's name would pass the gate by.
fn no_init_container(spec: &Value, service_port: &ServicePort) -> Result<(), String> {
    let declares = |container: &&Value| list(container, "ports").iter().any(|declared| service_port.is_it(declared));
    match list(spec, "initContainers").iter().find(declares) {
        None => Ok(()),
        Some(container) => Err(format!(
            "init container {} declares the service's port {}, and starts before the gate; let it be one of the containers",
            name(container),
            service_port.port
        )),
    }
}

/// One declaration passes to the gate. What would still find the service by another, or another container by the same name, would
/// pass the gate by.
fn no_way_past(spec: &Value, service_port: &ServicePort, passing: Option<&Value>) -> Result<(), String> {
    let named = passing.map(name).filter(|name| !name.is_empty());
    for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
        let others = list(container, "ports").iter().filter(|declared| is_tcp(declared));
        for declared in others.filter(|declared| passing.is_none_or(|passing| !std::ptr::eq(*declared, passing))) {
            let (port, container) = (service_port.port, shape::name(container));
            if service_port.is_it(declared) && HANDED_OVER.iter().any(|key| declared.get(key).is_some()) {
                return Err(format!(
                    "port {port} is declared once more, with a name or node's port of its own, by container {container}; \
                     only one can lead to the gate"
                ));
            }
            if named.is_some_and(|named| name(declared) == named) {
                let named = name(declared);
                return Err(format!(
                    "container {container} has another port named {named}, which Services would find in the gate's place"
                ));
            }
        }
    }
    Ok(())
}

/// Containers that other injectors put there. Whether they are there by now must make no difference, so their ports do not count.
pub fn is_of_a_mesh(container: &Value) -> bool {
    matches!(name(container), "istio-proxy" | "linkerd-proxy")
}

fn is_tcp(port: &Value) -> bool {
    matches!(text(port, "protocol"), None | Some("TCP"))
}

impl ServicePort {
    /// What the gate's port gets of the service's.
    pub fn handed_over(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let declared = self.declared.as_ref();
        HANDED_OVER.into_iter().filter_map(move |key| Some((key, declared?.get(key)?)))
    }

    /// Takes it from the service's own declaration.
    pub fn hand_over(&self, spec: &mut Value) {
        if let Some(declared) = self.declaration_mut(spec) {
            HANDED_OVER.iter().for_each(|key| drop(declared.remove(*key)));
        }
    }

    pub fn is_handed_over(&self, spec: &Value) -> bool {
        let Some(container) = &self.container else { return true };
        let mut containers = list(spec, "containers").iter().filter(|other| shape::name(other) == container);
        let ports = containers.next().map_or(&[][..], |container| list(container, "ports"));
        let mut declared = ports.iter().filter(|declared| self.is_it(declared));
        declared.all(|declared| HANDED_OVER.iter().all(|key| declared.get(key).is_none()))
    }

    /// Gives it back.
    pub fn hand_back(&self, spec: &mut Value) {
        let Some(original) = self.declared.as_ref().and_then(Value::as_object) else { return };
        let Some(declared) = self.declaration_mut(spec) else { return };
        for key in HANDED_OVER {
            if let Some(value) = original.get(key) {
                declared.entry(key).or_insert_with(|| value.clone());
            }
        }
    }

    fn declaration_mut<'s>(&self, spec: &'s mut Value) -> Option<&'s mut serde_json::Map<String, Value>> {
        let container = shape::container_mut(spec, self.container.as_ref()?)?;
        let ports = container.get_mut("ports")?.as_array_mut()?;
        ports.iter_mut().find(|declared| self.is_it(declared))?.as_object_mut()
    }

    fn is_it(&self, declared: &Value) -> bool {
        is_tcp(declared) && port(&declared["containerPort"]) == Some(self.port)
    }
}
