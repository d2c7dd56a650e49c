//! Whether a gate's configuration fits the pods that it was put into, where both stand in the same manifests. Nothing is changed: a
//! gate that listens elsewhere than its pod says fails its probes for ever, and nobody would know why.

use std::time::Duration;

use crate::config::outline::{self, Outline, Port};
use crate::inject::documents::Gate;
use crate::inject::{GATE_PORT, PROBES_PORT};

/// One line for each thing that does not fit.
pub fn warnings(gates: &[Gate]) -> Vec<String> {
    gates.iter().flat_map(of).collect()
}

fn of(gate: &Gate) -> Vec<String> {
    let Some(outline) = gate.configuration.as_deref().and_then(outline::of) else { return Vec::new() };
    let (pod, config) = (&gate.object, &gate.config);
    let warnings = ports(&outline).into_iter().chain(times(&outline, gate));
    warnings.map(|warning| format!("{pod}: warning: with the configuration in ConfigMap/{config} {warning}")).collect()
}

fn ports(outline: &Outline) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Port::Is(port) = outline.listen
        && port != GATE_PORT
    {
        warnings.push(format!(
            "the gate listens on port {port}, while the pod leads to {GATE_PORT}; write `listen: 0.0.0.0:{GATE_PORT}`"
        ));
    }
    let wanted = format!("write `probes: 0.0.0.0:{PROBES_PORT}`");
    match outline.probes {
        Port::Absent => {
            warnings.push(format!("nobody answers the pod's probes, which ask port {PROBES_PORT}; {wanted}"));
        }
        Port::Is(port) if port != PROBES_PORT => {
            warnings.push(format!("probes are answered on port {port}, while the pod's ask {PROBES_PORT}; {wanted}"));
        }
        Port::Is(_) | Port::Unseen => {}
    }
    warnings
}

fn times(outline: &Outline, gate: &Gate) -> Vec<String> {
    let (Some(delay), Some(deadline)) = (outline.delay, outline.deadline) else { return Vec::new() };
    let mut warnings = Vec::new();
    if let Some(kept) = gate.kept.filter(|kept| Duration::from_secs(*kept) < delay) {
        warnings.push(format!(
            "the gate takes requests for {delay:?} (`drain.delay`) when the pod ends, and the service's `preStop` keeps it for {kept}s only"
        ));
    }
    let (needed, grace) = (delay + deadline, gate.grace);
    if Duration::from_secs(grace) <= needed {
        warnings.push(format!(
            "the gate's end may take {needed:?} (`drain.delay` and `drain.deadline`), and the pod is killed after {grace}s; \
             write a longer `terminationGracePeriodSeconds`, or a shorter `drain.deadline`"
        ));
    }
    warnings
}
