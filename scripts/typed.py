"""typed.py KIND FILE: reads a document into the types that its program publishes, writes it again, and says what was lost.

A misspelt member is lost on the way, a member of another type is an error or comes back as something else. What the types add
(their defaults) is no difference.
"""

import json
import sys

import yaml


def podmonitor(document):
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor

    return written(PodMonitor.model_validate(document))


def prometheusrule(document):
    from cloudcoil.models.prometheus_operator.v1 import PrometheusRule

    return written(PrometheusRule.model_validate(document))


def written(model):
    return json.loads(model.model_dump_json(by_alias=True))


def dashboard(document):
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))


def lost(before, after, place):
    """What stands in `before` and not, or otherwise, in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            if name not in after:
                yield f"{place}.{name}: nothing reads this"
            else:
                yield from lost(value, after[name], f"{place}.{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{place}[{index}]")
    elif before != after:
        yield f"{place}: {before!r} is read as {after!r}"


kind, file = sys.argv[1:]
with open(file, encoding="utf-8") as text:
    document = yaml.safe_load(text)
found = list(lost(document, globals()[kind](document), file))
print("\n".join(found), file=sys.stderr) if found else print(f"{file}: every member is read")
sys.exit(bool(found))
