"""What the schemas of Kubernetes and general linters do not see in the folders of deploy/kubernetes: that names lead somewhere.

Run by scripts/deploy/kubernetes with kubernetes-validate's Python. Takes the rendered folders (`FOLDER=FILE` each) and says what is
wrong; everything is looked at before it ends.
"""

import base64
import functools
import json
import pathlib
import re
import sys

import kubernetes_validate
import yaml

OLDEST = (1, 29)
# Younger than that.
SINCE = {"ValidatingAdmissionPolicy": (1, 30), "ValidatingAdmissionPolicyBinding": (1, 30)}
# Resources of operators that Kubernetes' own schemas do not know.
FOREIGN = {"cert-manager.io", "monitoring.coreos.com"}
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}
# Of those that stand in deploy/kubernetes, what belongs to no namespace.
GLOBAL = {"Namespace", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"} | set(SINCE)

# Each file of a schema is read once; it is a megabyte and more.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

problems = []
validated = set()


def main(rendered):
    for folder, file in rendered:
        objects = [o for o in yaml.safe_load_all(pathlib.Path(file).read_text()) if o]
        if not objects:
            problem(folder, "nothing is rendered")
        for one in objects:
            valid(folder, one)
            if one["kind"] in GLOBAL and "namespace" in one["metadata"]:
                problem(folder, f"{name(one)} has a namespace; name it at each object instead of for the whole kustomization")
        for one in objects:
            if one["kind"] in WORKLOADS:
                workload(folder, one, objects)
            elif one["kind"] == "Service":
                service(folder, one, objects)
            elif one["kind"] == "NetworkPolicy":
                network_policy(folder, one, objects)
            elif one["kind"] == "PodDisruptionBudget":
                if not selected(one["spec"]["selector"], objects):
                    problem(folder, f"{name(one)}: no pod has these labels")
    every_file_is_used(pathlib.Path("deploy/kubernetes"))
    for text in problems:
        print(text, file=sys.stderr)
    return 1 if problems else 0


def problem(folder, text):
    problems.append(f"deploy/kubernetes/{folder}: {text}")


def name(one):
    return f"{one['kind']} {one['metadata']['name']}"


def valid(folder, one):
    """Against the schema of every version from OLDEST on, unknown fields refused."""
    if one["apiVersion"].split("/")[0] in FOREIGN:
        return
    # Overlays hold the same objects again.
    text = json.dumps(one, sort_keys=True)
    if text in validated:
        return
    validated.add(text)
    for version in versions(SINCE.get(one["kind"], OLDEST)):
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            at = ".".join(str(step) for step in error.path)
            problem(folder, f"{name(one)} is not valid for {version}: {at}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            problem(folder, f"{name(one)}: {error.message}")


def versions(oldest):
    numbered = [(tuple(int(part) for part in v.split(".")[:2]), v) for v in kubernetes_validate.utils.all_versions()]
    return [v for number, v in numbered if number >= oldest]


def pod(one):
    return one["spec"]["template"]


def containers(spec):
    return spec.get("initContainers", []) + spec.get("containers", [])


def selected(selector, objects):
    """The workloads whose pods a selector means."""
    return [o for o in objects if o["kind"] in WORKLOADS and matches(selector, pod(o)["metadata"].get("labels", {}))]


def matches(selector, labels):
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    return all(labels.get(rule["key"]) in rule.get("values", []) for rule in selector.get("matchExpressions", []))


def ports(spec):
    """Every container port: its name and its number."""
    return [(p.get("name"), p["containerPort"]) for c in containers(spec) for p in c.get("ports", [])]


def service(folder, one, objects):
    behind = selected({"matchLabels": one["spec"]["selector"]}, objects)
    if not behind:
        problem(folder, f"{name(one)}: no pod has these labels")
    for port in one["spec"]["ports"]:
        for workload in behind:
            spec = pod(workload)["spec"]
            gates = [c for c in containers(spec) if c["name"] == "sidegate"]
            # Where there is a gate, nothing but it is reached.
            known = ports({"containers": gates}) if gates else ports(spec)
            if port["targetPort"] not in [p for pair in known for p in pair]:
                problem(folder, f"{name(one)}: port {port['targetPort']} is none of its pods, or not their gate's")


def network_policy(folder, one, objects):
    behind = selected(one["spec"]["podSelector"], objects)
    if not behind:
        problem(folder, f"{name(one)}: no pod has these labels")
    for workload in behind:
        open_ports = {number for _, number in ports(pod(workload)["spec"])}
        if folder == "base":
            open_ports |= {8443, 9901}  # the gate's, which an overlay or the injector brings
        for rule in one["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                if port["port"] not in open_ports:
                    problem(folder, f"{name(one)}: its pods have no port {port['port']}")


def workload(folder, one, objects):
    template, spec = pod(one), pod(one)["spec"]
    if not matches(one["spec"].get("selector", {}), template["metadata"].get("labels", {})):
        problem(folder, f"{name(one)}: its selector does not mean its own pods")
    account = spec.get("serviceAccountName")
    if account and not find(objects, "ServiceAccount", account):
        problem(folder, f"{name(one)}: there is no ServiceAccount {account}")
    claims = {c["metadata"]["name"] for c in one["spec"].get("volumeClaimTemplates", [])}
    volumes = {v["name"]: v for v in spec.get("volumes", [])}
    for volume in volumes.values():
        config, secret = volume.get("configMap"), volume.get("secret")
        if config and not config.get("optional") and not find(objects, "ConfigMap", config["name"]):
            problem(folder, f"{name(one)}: there is no ConfigMap {config['name']}")
        made = [o["spec"]["secretName"] for o in objects if o["kind"] == "Certificate"]  # by cert-manager
        made += [o["metadata"]["name"] for o in objects if o["kind"] == "Secret"]
        if secret and not secret.get("optional") and secret["secretName"] not in made:
            problem(folder, f"{name(one)}: there is no Secret {secret['secretName']}")
    for container in containers(spec):
        at = f"{name(one)}, container {container['name']}"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in set(volumes) | claims:
                problem(folder, f"{at}: there is no volume {mount['name']}")
            if "subPath" in mount:
                problem(folder, f"{at}: a file that is mounted with subPath never changes; mount the folder")
        if not re.search(r":[^:/]+$", container["image"]) or container["image"].endswith(":latest"):
            problem(folder, f"{at}: the image {container['image']} names no version")
        own = {p.get("name") for p in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how in ("httpGet", "tcpSocket"):
                port = container.get(probe, {}).get(how, {}).get("port")
                if isinstance(port, str) and port not in own:
                    problem(folder, f"{at}: its {probe} asks port {port}, which it does not have")
        if container["name"] == "sidegate-redirect":
            redirect(folder, at, container, spec)
        if container["name"] == "sidegate" and container["args"][:1] == ["run"]:
            gate(folder, at, container, spec, volumes, objects)


def redirect(folder, at, container, spec):
    """From the application's port to the gate's, for both families."""
    numbers = {c["name"]: [number for _, number in ports({"containers": [c]})] for c in containers(spec)}
    rules = re.findall(r"(?m)^(ip6?tables) .*--dport (\d+) -j REDIRECT --to-ports (\d+)$", container["args"][0])
    if {family for family, _, _ in rules} != {"iptables", "ip6tables"}:
        problem(folder, f"{at}: both families are led to the gate, or one is open")
    for family, taken, to in rules:
        if int(taken) not in numbers["app"] or int(to) not in numbers["sidegate"]:
            problem(folder, f"{at}: {family} leads from {taken} to {to}, which are not the application's port and its gate's")


def gate(folder, at, container, spec, volumes, objects):
    """A gate finds its configuration, and has the time that its drain takes."""
    path = pathlib.PurePosixPath(container["args"][container["args"].index("--config") + 1])
    mount = next((m for m in container["volumeMounts"] if m["mountPath"] == str(path.parent)), None)
    volume = volumes.get(mount["name"], {}) if mount else {}
    config = find(objects, "ConfigMap", volume.get("configMap", {}).get("name"))
    text = config and config["data"].get(path.name)
    if not text:
        problem(folder, f"{at}: nothing is mounted at {path}")
        return
    drain = yaml.safe_load(text).get("drain", {})
    needed = sum(int(drain.get(part, default).rstrip("s")) for part, default in (("delay", "5s"), ("deadline", "30s")))
    if spec.get("terminationGracePeriodSeconds", 30) < needed:
        problem(folder, f"{at}: its drain takes {needed} s, and the pod is killed before")
    # What was taken in last has to be answered.
    taken_in = int(drain.get("delay", "5s").rstrip("s"))
    for app in containers(spec):
        kept = app.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds")
        if kept is not None and kept <= taken_in:
            problem(folder, f"{at}: it takes requests for {taken_in} s, and {app['name']} ends after {kept} s")
    # What the configuration needs from its environment comes from a Secret; where that is one of ours, it is in it.
    wanted = set(re.findall(r"\$\{([A-Z_]+)\}", re.sub(r"(?m)^\s*#.*$", "", text)))
    for source in container.get("envFrom", []):
        secret = find(objects, "Secret", source["secretRef"]["name"])
        if secret:
            for key in wanted - set(secret.get("data", {})):
                problem(folder, f"{at}: the Secret {secret['metadata']['name']} has no {key}")
            for key, value in secret.get("data", {}).items():
                if not base64.b64decode(value):
                    problem(folder, f"{at}: {key} is empty")


def find(objects, kind, wanted):
    return next((o for o in objects if o["kind"] == kind and o["metadata"]["name"] == wanted), None)


def every_file_is_used(root):
    for file in sorted(root.rglob("*")):
        if file.is_dir() or file.name in ("kustomization.yaml", "README.md", ".gitignore"):
            continue
        kustomization = file.parent / "kustomization.yaml"
        if not kustomization.exists() or not re.search(rf"\b{re.escape(file.name)}\b", kustomization.read_text()):
            problems.append(f"{file}: no kustomization names it, so that nothing reads it")


sys.exit(main([argument.split("=", 1) for argument in sys.argv[1:]]))
