//! A gate whose configuration stands beside its pods in the same manifests, and does not fit them.

use super::offline;
use crate::support::gate::text;

fn said(config: &str, spec: &str) -> Vec<String> {
    let config: String = config.lines().map(|line| format!("    {line}\n")).collect();
    let manifests = format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: app}}
spec:
  template:
    metadata: {{labels: {{app: app}}}}
    spec:
      {spec}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: sidegate}}
data:
  sidegate.yaml: |
{config}"
    );
    let output = offline("inject", &manifests);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("Deployment/app: injected"), "{said}");
    let warnings =
        said.lines().filter_map(|line| line.strip_prefix("Deployment/app: warning: with the configuration in "));
    warnings.map(str::to_owned).collect()
}

const ROUTES: &str = "store: {redis: '${REDIS_URL}'}\nroutes: {/v1/**: any}\n";
const POD: &str = "containers: [{name: app, image: app, ports: [{containerPort: 3000}]}]";

#[test]
fn a_gate_that_listens_elsewhere_than_its_pod_says_is_told_of() {
    let patient = format!("terminationGracePeriodSeconds: 60\n      {POD}");
    let told = said(&format!("listen: 0.0.0.0:8080\n{ROUTES}"), &patient);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("ConfigMap/sidegate the gate listens on port 8080, while the pod leads to 8443"),
        "{told:?}"
    );
    assert!(told[1].contains("nobody answers the pod's probes, which ask port 9901; write `probes: 0.0.0.0:9901`"));
    let told = said(&format!("listen: 0.0.0.0:8443\nprobes: 0.0.0.0:9999\n{ROUTES}"), &patient);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("answered on port 9999, while the pod's ask 9901"), "{told:?}");
    for fits in
        ["listen: 0.0.0.0:8443\nprobes: 0.0.0.0:9901", "listen: {address: '0.0.0.0:${PORT}'}\nprobes: '${PROBES}'"]
    {
        assert_eq!(said(&format!("{fits}\n{ROUTES}"), &patient), Vec::<String>::new(), "{fits}");
    }
}

#[test]
fn a_pod_that_ends_before_its_gate_is_told_of() {
    let ports = "listen: 0.0.0.0:8443\nprobes: 0.0.0.0:9901\n";
    let told = said(&format!("{ports}{ROUTES}"), POD);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("may take 35s") && told[0].contains("killed after 30s"), "{told:?}");
    let hook = "lifecycle: {preStop: {sleep: {seconds: 3}}}";
    let hurried = POD.replace("image: app,", &format!("image: app, {hook},"));
    let told = said(&format!("{ports}drain: {{delay: 8s, deadline: 10s}}\n{ROUTES}"), &hurried);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("takes requests for 8s") && told[0].contains("keeps it for 3s only"), "{told:?}");
    assert_eq!(said(&format!("{ports}drain: {{delay: 2s, deadline: 10s}}\n{ROUTES}"), &hurried), Vec::<String>::new());
}
