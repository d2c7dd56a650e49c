"""Whether the overlays `native` and `classic` are what `sidegate inject` makes of the base.

Run by scripts/deploy/kubernetes as `injected.py SIDEGATE BASE NATIVE CLASSIC`, the last three being rendered folders. Injection
writes down what it did in annotations, and the overlays are labelled so that nothing is injected into them; the rest is equal.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import yaml


def main(sidegate, base, native, classic):
    failed = 0
    for mode, overlay in (("native", native), ("classic", classic)):
        objects = load(base)
        for one in objects:
            if one["kind"] == "Deployment":
                one["spec"]["template"]["metadata"]["annotations"]["sidegate.dev/mode"] = mode
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump_all(objects, file)
            file.flush()
            done = subprocess.run([sidegate, "inject", "-f", file.name], capture_output=True, text=True, check=True)
        injected = by_name(list(yaml.safe_load_all(done.stdout)))
        written = by_name(load(overlay))
        for name in sorted(set(injected) | set(written)):
            if injected.get(name) != written.get(name):
                print(f"overlays/{mode}: {name} is not what `sidegate inject` makes of it:", file=sys.stderr)
                for line in differences(injected.get(name), written.get(name), ""):
                    print(f"  {line}", file=sys.stderr)
                failed = 1
        if injected == written:
            print(f"overlays/{mode}: what `sidegate inject` makes of the base")
    return failed


def load(file):
    return [one for one in yaml.safe_load_all(pathlib.Path(file).read_text()) if one]


def by_name(objects):
    for one in objects:
        for metadata in (one["metadata"], one.get("spec", {}).get("template", {}).get("metadata", {})):
            for annotation in ("sidegate.dev/status", "sidegate.dev/original", "sidegate.dev/mode"):
                metadata.get("annotations", {}).pop(annotation, None)
            if not metadata.get("annotations", True):
                del metadata["annotations"]
            metadata.get("labels", {}).pop("sidegate.dev/inject", None)
    return {f"{one['kind']} {one['metadata']['name']}": one for one in objects}


def differences(left, right, at):
    """Where two documents differ: injected first."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted(set(left) | set(right)):
            yield from differences(left.get(key), right.get(key), f"{at}.{key}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (a, b) in enumerate(zip(left, right)):
            yield from differences(a, b, f"{at}[{index}]")
    elif left != right:
        yield f"{at}: {json.dumps(left)} and, in the overlay, {json.dumps(right)}"


sys.exit(main(*sys.argv[1:]))
