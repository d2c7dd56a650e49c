"""The Helm chart: it renders what the manifests say, and refuses values that are wrong.

Run by scripts/deploy/helm as `chart.py HELM KUBECTL SIDEGATE`. `chart.py --write SIDEGATE` brings the gate's own schema into
values.schema.json, after the configuration has changed.
"""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

CHART = pathlib.Path("deploy/helm/sidegate")
SCHEMA = CHART / "values.schema.json"
MANIFESTS = pathlib.Path("deploy/kubernetes")
PROMETHEUS = pathlib.Path("deploy/prometheus")
NAMESPACE = "sidegate-system"
# What Helm says of itself.
ITS_OWN = {"app.kubernetes.io/managed-by", "helm.sh/chart"}


def main(helm, kubectl, sidegate):
    gate, management = (load(MANIFESTS / folder / "sidegate.yaml") for folder in ("base", "management"))
    full = {
        "gates": [{"namespace": "shop", "config": gate}],
        "management": {"enabled": True, "config": management},
        "monitoring": {"podMonitor": True, "rules": True},
    }
    problems = [*lint(helm, {}), *lint(helm, full)]
    problems += [*schema(sidegate, write=False), *example(helm, sidegate)]

    injector = objects(kustomize(kubectl, "injector"))
    injector.pop(f"Namespace {NAMESPACE}", None)  # `helm install --create-namespace` makes it
    problems += differ("default values", rendered(helm, {}), injector)
    problems += differ("a certificate of one's own", *with_own_certificate(helm, kubectl))
    everything = {**injector, **objects(kustomize(kubectl, "management")), **gates(gate), **monitoring()}
    problems += differ("every part", rendered(helm, full), everything)
    problems += [text for case in BAD for text in refused(helm, full, *case)]
    problems += [text for case in ACTS for text in acts(helm, full, *case)]
    for text in problems:
        print(text, file=sys.stderr)
    print(f"{len(injector)} objects by default, {len(everything)} with every part; {len(BAD)} bad values")
    return 1 if problems else 0


# What is laid over the full values, and what the refusal has to name.
BAD = [
    ({"imagee": {"tag": "1"}}, ["imagee"]),
    ({"image": {"tag": 1}}, ["/image/tag", "string"]),
    ({"image": {"tag": "latest"}}, ["latest is no version"]),
    ({"injector": {"replica": 2}}, ["/injector", "replica"]),
    ({"injector": {"certificate": "selfsigned"}}, ["/injector/certificate", "cert-manager", "secret"]),
    ({"injector": {"certificate": "secret"}}, ["/injector/caBundle"]),
    ({"management": {"replicas": 0}}, ["/management/replicas"]),
    ({"management": {"replicas": "two"}}, ["/management/replicas", "integer"]),
    ({"management": {"networkPolicy": {"redisPort": [1]}}}, ["redisPort"]),
    ({"management": {"networkPolicy": {"redisPorts": [70000]}}}, ["/management/networkPolicy/redisPorts/0"]),
    ({"management": {"config": {"management": None}}}, ["/management/config", "management"]),
    ({"management": {"config": None}}, ["/management", "config"]),
    ({"gates": {"shop": {}}}, ["/gates", "array"]),
    ({"gates": [{"config": {}}]}, ["/gates/0", "namespace"]),
    ({"gates": [{"namespace": "shop", "config": {"listen": "0.0.0.0:8443", "upstream": "http://127.0.0.1:3000"}}]}, ["/gates/0/config", "routes"]),
    ({"gates": [{"namespace": "shop", "config": {"listen": "0.0.0.0:8443", "upstream": "http://127.0.0.1:3000",
      "store": "redis://redis:6379", "rooutes": {}, "routes": {"/v1/**": "any"}}}]}, ["/gates/0/config", "rooutes"]),
    ({"gates": [{"namespace": "shop", "config": {"listen": "0.0.0.0:8080", "probes": "0.0.0.0:9901", "upstream": "http://127.0.0.1:3000",
      "store": "redis://redis:6379", "routes": {"/v1/**": "any"}}}]}, ["gates[0]/config/listen", "port 8443"]),
    ({"gates": [{"namespace": "shop", "config": {"listen": {"address": "0.0.0.0:8443"}, "upstream": "http://127.0.0.1:3000",
      "store": "redis://redis:6379", "routes": {"/v1/**": "any"}}}]}, ["gates[0]/config/probes", "port 9901"]),
    ({"monitoring": {"rules": "yes"}}, ["/monitoring/rules", "boolean"]),
]

# What is laid over the full values, and what is rendered then and was not before.
ACTS = [
    ({"image": {"repository": "registry.example.com/sidegate", "tag": "9.8.7"}}, "registry.example.com/sidegate:9.8.7"),
    ({"image": {"tag": "9.8.7"}}, "--image=sidegate:9.8.7"),
    ({"injector": {"replicas": 7}}, "replicas: 7"),
    ({"injector": {"certificate": "secret", "caBundle": "LS0t"}}, "caBundle: LS0t"),
    ({"management": {"replicas": 7}}, "replicas: 7"),
    ({"management": {"secret": "other"}}, "name: other"),
    ({"management": {"resources": {"limits": {"memory": "77Mi"}}}}, "memory: 77Mi"),
    ({"management": {"networkPolicy": {"ingressNamespace": "traefik"}}}, "name: traefik"),
    ({"management": {"networkPolicy": {"monitoringNamespace": "watching"}}}, "name: watching"),
    ({"management": {"networkPolicy": {"redis": [{"ipBlock": {"cidr": "10.20.30.0/24"}}]}}}, "cidr: 10.20.30.0/24"),
    ({"management": {"networkPolicy": {"redisPorts": [6380]}}}, "port: 6380"),
    ({"monitoring": {"labels": {"release": "prometheus"}}}, "release: prometheus"),
]


def run(helm, arguments, values):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        done = subprocess.run([helm, *arguments, "--values", file.name], capture_output=True, text=True)
    # Helm tells of every link that it follows.
    done.stderr = "".join(line for line in done.stderr.splitlines(True) if "found symbolic link" not in line)
    return done


def lint(helm, values):
    done = run(helm, ["lint", "--strict", CHART], values)
    return [f"helm lint: {done.stdout}{done.stderr}"] if done.returncode else []


def template(helm, values):
    return run(helm, ["template", "sidegate", CHART, "--namespace", NAMESPACE], values)


def rendered(helm, values):
    done = template(helm, values)
    if done.returncode:
        raise SystemExit(f"helm template: {done.stderr}")
    return objects(done.stdout)


def with_own_certificate(helm, kubectl):
    """What the chart and the manifests make of a certificate that `make-certificate` wrote; the Secret is the user's to bring."""
    with tempfile.TemporaryDirectory() as folder:
        injector = pathlib.Path(folder, "injector")
        shutil.copytree(MANIFESTS / "injector", injector)
        subprocess.run([injector / "self-signed" / "make-certificate"], check=True, capture_output=True)
        bundle = base64.b64encode((injector / "self-signed" / "ca.crt").read_bytes()).decode()
        manifests = objects(kustomize(kubectl, injector / "self-signed"))
    for brought in (f"Namespace {NAMESPACE}", "Secret sidegate-injector-tls"):
        del manifests[brought]
    return rendered(helm, {"injector": {"certificate": "secret", "caBundle": bundle}}), manifests


def kustomize(kubectl, folder):
    """A folder below MANIFESTS, or any other that is given whole."""
    return subprocess.run([kubectl, "kustomize", MANIFESTS / folder], capture_output=True, text=True, check=True).stdout


def objects(text):
    """By kind and name, without what says that Helm made it, and configurations read rather than compared letter by letter."""
    found = {}
    for one in filter(None, yaml.safe_load_all(text)):
        labels = one["metadata"].get("labels", {})
        one["metadata"]["labels"] = {key: value for key, value in labels.items() if key not in ITS_OWN}
        if "sidegate.yaml" in one.get("data", {}):
            one["data"]["sidegate.yaml"] = yaml.safe_load(one["data"]["sidegate.yaml"])
        for webhook in one.get("webhooks", []):
            if "caBundle" in webhook["clientConfig"]:  # base64, which kustomize breaks into lines
                webhook["clientConfig"]["caBundle"] = "".join(webhook["clientConfig"]["caBundle"].split())
        if one["kind"].startswith("ValidatingAdmissionPolicy"):
            one["metadata"].pop("namespace", None)  # it has none, and kustomize does not know
        name = f"{one['kind']} {one['metadata']['name']}"
        if name in found:
            raise SystemExit(f"{name} is there twice")
        if name.startswith("ConfigMap sidegate"):
            # Those of the gates stand wherever they are applied, and are labelled by nobody.
            one["metadata"].pop("labels"), one["metadata"].pop("namespace", None)
        found[name] = one
    return found


def gates(config):
    return {"ConfigMap sidegate": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sidegate"}, "data": {"sidegate.yaml": config}}}


def monitoring():
    return {
        "PodMonitor sidegate": load(PROMETHEUS / "podmonitor.yaml"),
        "PrometheusRule sidegate": load(PROMETHEUS / "prometheusrule.yaml"),
    }


def load(file):
    return yaml.safe_load(file.read_text())


def differ(what, chart, manifests):
    for name in sorted(set(chart) | set(manifests)):
        if chart.get(name) != manifests.get(name):
            yield f"{what}: {name} differs; of the chart:\n{text(chart.get(name))}\nof the manifests:\n{text(manifests.get(name))}"


def text(one):
    return yaml.safe_dump(one)


def over(values, change):
    """As Helm lays values over others: maps are merged, a null removes, anything else replaces."""
    if not isinstance(values, dict) or not isinstance(change, dict):
        return change
    merged = {key: over(values.get(key), change[key]) if key in change else values[key] for key in {**values, **change}}
    return {key: value for key, value in merged.items() if value is not None}


def refused(helm, full, change, named):
    done = template(helm, over(full, change))
    if done.returncode == 0:
        yield f"these values are taken: {change}"
    for part in named:
        if part not in done.stderr.replace(".", "/"):
            yield f"the refusal of {change} does not name {part}: {done.stderr}"


def acts(helm, full, change, expected):
    before, after = template(helm, full).stdout, template(helm, over(full, change)).stdout
    if expected in before or expected not in after:
        yield f"{change} does not act: {expected} is not rendered"


def example(helm, sidegate):
    """What values.yaml shows as a comment is right when it is uncommented, with each of its ways to name Redis."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    begin = lines.index("# gates:")
    shown = [line[2:] for line in lines[begin : lines.index("", begin)]]
    ways = [index for index, line in enumerate(shown) if line.strip().removeprefix("# ").startswith("redis:")]
    if len(ways) < 3:
        yield f"values.yaml shows {len(ways)} ways to name Redis"
    for way in ways:
        rest = [(index, line) for index, line in enumerate(shown) if index == way or index not in ways]
        chosen = [re.sub(r"^( *)# redis:", r"\1redis:", line) if index == way else line for index, line in rest]
        values = yaml.safe_load("\n".join(chosen))
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(rendered(helm, values)["ConfigMap sidegate"]["data"]["sidegate.yaml"], file)
            file.flush()
            environment = {**os.environ, "REDIS_URL": "rediss://redis.example.com:6380/0", "REDIS_PASSWORD": "x"}
            done = subprocess.run([sidegate, "check", "--config", file.name], env=environment, capture_output=True, text=True)
            if done.returncode:
                yield f"the example in values.yaml, with `{shown[way].strip()}`: {done.stdout}{done.stderr}"


def schema(sidegate, write):
    """The gate's own schema stands in the chart's, so that Helm refuses what the gate would refuse."""
    own = json.loads(subprocess.run([sidegate, "schema"], capture_output=True, text=True, check=True).stdout)
    own.pop("$schema")
    definitions = {**own.pop("definitions"), "Configuration": own}
    chart = json.loads(SCHEMA.read_text())
    if chart.get("definitions") == definitions:
        return []
    if write:
        SCHEMA.write_text(json.dumps({**chart, "definitions": definitions}, indent=1) + "\n")
        return []
    return [f"{SCHEMA} has another schema of the gate than `sidegate schema`; run scripts/deploy/helm --write"]


if sys.argv[1] == "--write":
    sys.exit(schema(sys.argv[2], write=True))
sys.exit(main(*sys.argv[1:]))
