"""The configurations that stand in ConfigMaps, given to `sidegate check`: as they stand, and with each variant that their comments
offer (`# … # variant: NAME` replaces the line of the same field, or stands beside it).

Run by scripts/deploy/kubernetes as `configurations.py SIDEGATE`.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

SHARED = ["keys", "scopes", "business", "limits", "defaults", "routes"]
FILES = ["deploy/kubernetes/base/sidegate.yaml", "deploy/kubernetes/management/sidegate.yaml"]
VARIANT = re.compile(r"^(?P<indent> *)# (?P<text>(?P<field>\w+): .*?) +# variant: (?P<name>\w+)")


def main(sidegate):
    failed = 0
    for file in FILES:
        text = pathlib.Path(file).read_text()
        names = variants(text)
        if not {"tls", "managed", "sentinel", "cluster"} <= set(names):
            print(f"{file}: a variant is missing; there are {names}", file=sys.stderr)
            failed = 1
        for variant in [None, *names]:
            said = check(sidegate, chosen(text, variant))
            if said:
                print(f"{file}, variant {variant}:\n{said}", file=sys.stderr)
                failed = 1
        # What must not be taken is not.
        if not check(sidegate, text.replace("routes:", "rooutes:")):
            print(f"{file}: a misspelt field is taken", file=sys.stderr)
            failed = 1
        print(f"{file}: good, and with {', '.join(names)}")
    gate, management = (yaml.safe_load(pathlib.Path(file).read_text()) for file in FILES)
    for part in SHARED:
        if gate[part] != management[part]:
            print(f"`{part}` of the gates and of key management differ", file=sys.stderr)
            failed = 1
    return failed


def variants(text):
    """Their names, in order."""
    found = (VARIANT.match(line) for line in text.splitlines())
    return list(dict.fromkeys(match["name"] for match in found if match))


def chosen(text, variant):
    """The text with this variant's lines in force, each instead of the line of its field where that stands directly above."""
    lines, taken = [], set()
    for line in text.splitlines():
        match = VARIANT.match(line)
        if match and match["name"] == variant:
            own = f"{match['indent']}{match['field']}:"
            lines = [other for other in lines if not (other.startswith(own) and own not in taken)]
            taken.add(own)
            lines.append(match["indent"] + match["text"])
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def check(sidegate, text):
    """What `sidegate check` has against it; nothing when it is good. Files that it names are put beside it."""
    with tempfile.TemporaryDirectory() as folder:
        certificate(folder)
        text = re.sub(r"/etc/sidegate(-tls|-redis)/", f"{folder}/", text)
        file = pathlib.Path(folder, "sidegate.yaml")
        file.write_text(text)
        environment = {**os.environ, "REDIS_PASSWORD": "x", "KEYS_PASSWORD": "y"}
        done = subprocess.run([sidegate, "check", "--config", file], env=environment, capture_output=True, text=True)
        return done.stdout + done.stderr if done.returncode else ""


def certificate(folder):
    """tls.crt, tls.key and ca.crt, made once."""
    global _made
    if not _made:
        with tempfile.TemporaryDirectory() as own:
            command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=app -addext subjectAltName=DNS:app"
            made = [*command.split(), "-keyout", f"{own}/tls.key", "-out", f"{own}/tls.crt"]
            subprocess.run(made, check=True, capture_output=True)
            _made = {name: pathlib.Path(own, name).read_bytes() for name in ("tls.key", "tls.crt")}
            _made["ca.crt"] = _made["tls.crt"]
    for name, content in _made.items():
        pathlib.Path(folder, name).write_bytes(content)


_made = {}

sys.exit(main(sys.argv[1]))
