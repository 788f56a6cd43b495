"""Generate values.schema.json, values.yaml and README.md of every chart from charts/values/*.yaml.

Usage: python scripts/generate_chart_docs.py [--check]

A value is described once: its type, default and meaning. The settings of a service come from its settings class.
`--check` fails, naming the files, when the committed ones differ.
"""

import argparse
import copy
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from longhaul_core.settings import ServiceSettings

ROOT = Path(__file__).resolve().parent.parent
CHARTS = ROOT / "charts"
Schema = dict[str, Any]

SERVICES: Mapping[str, Mapping[str, Any]] = {
    "ingest": {
        "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}},
        "metric": ("longhaul_ingest_active_shards", "4"),
        "scratch": "10Gi",
    },
    "corpus": {
        "resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
        "metric": ("longhaul_corpus_jobs", "2"),
        "scratch": "50Gi",
    },
    "training": {
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "metric": ("longhaul_training_agents_connected", "500"),
        "scratch": "1Gi",
    },
    "checkpoint": {
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}},
        "metric": ("longhaul_rpc_server_open_streams", "200"),
        "scratch": "1Gi",
    },
    "evaluation": {
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "metric": ("longhaul_evaluation_active", "50"),
        "scratch": "1Gi",
    },
    "gpuhealth": {
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "metric": ("longhaul_rpc_server_open_streams", "200"),
        "scratch": "1Gi",
    },
}

SET_BY_CHARTS = {
    "controller_addresses",
    "trainer_image",
    "pod_secrets",
    "pod_metrics_address",
    "rules_file",
    "failpoints",
}
"""Settings that templates derive from other values, or that are for tests only."""

INHERITED = ("global", "longhaul-lib")
"""Keys that Helm itself puts into the values of a chart."""

SINGLE_REPLICA = {
    "if": {
        "properties": {
            "global": {
                "properties": {"database": {"properties": {"kind": {"const": "sqlite"}}, "required": ["kind"]}},
                "required": ["database"],
            }
        },
        "required": ["global"],
    },
    "then": {
        "properties": {
            "replicas": {"maximum": 1},
            "autoscaling": {"properties": {"enabled": {"const": False}}},
        }
    },
}
"""SQLite is one process's: more replicas would corrupt nothing, but each would have a database of its own."""


def _needed_by(parent: str, selector: str, value: str, *path: str) -> Schema:
    """A rule of `global.<parent>`: where its `selector` has a value, the text at `path` must not be empty."""
    need: Schema = {"minLength": 1}
    for key in reversed(path):
        need = {"properties": {key: need}, "required": [key]}
    chosen = {"properties": {selector: {"const": value}}, "required": [selector]}
    return {"if": chosen, "then": need, "$comment": f"{parent}.{selector}={value} needs {'.'.join(path)}"}


def main() -> None:
    """Write the files, or check that they are what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    changed = [path for path, text in generated().items() if not _is(path, text)]
    if check and changed:
        names = ", ".join(str(path.relative_to(ROOT)) for path in changed)
        sys.exit(f"generate_chart_docs: run `make charts` and commit; these differ: {names}")
    if not check:
        for path in changed:
            path.write_text(generated()[path], encoding="utf-8")


def generated() -> dict[Path, str]:
    """Return the text of every generated file."""
    files: dict[Path, str] = {}
    for chart, schema in chart_schemas().items():
        folder = CHARTS / chart
        purpose = yaml.safe_load((folder / "Chart.yaml").read_text(encoding="utf-8"))["description"]
        files[folder / "values.schema.json"] = json.dumps(_strict(schema), indent=2) + "\n"
        files[folder / "values.yaml"] = _values(chart, schema)
        files[folder / "README.md"] = _readme(chart, purpose, schema)
    return files


def chart_schemas() -> dict[str, Schema]:
    """Return the schema of each chart's values."""
    shared = _load("global")
    shared["properties"]["database"]["allOf"] = [_needed_by("database", "kind", "postgresql", "existingSecret")]
    shared["properties"]["tls"]["allOf"] = [
        _needed_by("tls", "mode", "certManager", "issuer", "name"),
        _needed_by("tls", "mode", "existingSecret", "existingSecret"),
    ]
    shared["properties"]["runs"]["allOf"] = [_needed_by("runs", "gang", "kueue", "queue")]
    schemas = {f"longhaul-{service}": _service_schema(service, shared) for service in SERVICES}
    umbrella = _load("longhaul")
    services = {service: _as_part(service, schemas[f"longhaul-{service}"]) for service in SERVICES}
    umbrella["properties"] = {"global": shared, **services, **umbrella["properties"]}
    umbrella["allOf"] = [{**SINGLE_REPLICA, "then": {"properties": dict.fromkeys(SERVICES, SINGLE_REPLICA["then"])}}]
    return {"longhaul": umbrella, **schemas}


def _as_part(service: str, schema: Schema) -> Schema:
    """The values of a service within the umbrella chart; `global` is handed down and checked above."""
    part = copy.deepcopy(schema)
    part["description"] = f"Values of the chart longhaul-{service}"
    for key in INHERITED:
        part["properties"][key] = {"type": "object"}
    del part["allOf"]
    return part


def _service_schema(service: str, shared: Schema) -> Schema:
    facts = SERVICES[service]
    text = (CHARTS / "values" / "service.yaml").read_text(encoding="utf-8")
    metric, metric_value = facts["metric"]
    for mark, value in {
        "longhaul/SERVICE": f"longhaul/{service}",
        "METRIC_VALUE": json.dumps(metric_value),
        "METRIC": metric,
        "SCRATCH": facts["scratch"],
        "RESOURCES": json.dumps(facts["resources"]),
        "SETTINGS": json.dumps(_settings(service)),
    }.items():
        text = text.replace(mark, value)
    schema: Schema = yaml.safe_load(text)
    own = CHARTS / "values" / f"{service}.yaml"
    extra = yaml.safe_load(own.read_text(encoding="utf-8"))["properties"] if own.is_file() else {}
    schema["properties"] = {"global": copy.deepcopy(shared), **schema["properties"], **extra}
    schema["allOf"] = [SINGLE_REPLICA]
    return schema


def _settings(service: str) -> Schema:
    """The settings that a service has of its own, without defaults: those stay the service's."""
    module = importlib.import_module(f"longhaul_{service}.settings")
    classes = [
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, ServiceSettings) and found.service == service
    ]
    known: Schema = classes[0].model_json_schema()["properties"]
    own = [name for name in known if name not in ServiceSettings.model_fields and name not in SET_BY_CHARTS]
    return {name: _setting(known[name]) for name in own}


def _setting(found: Schema) -> Schema:
    kept = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "description")
    setting = {key: found[key] for key in kept if key in found}
    return {"type": ["string", "number", "boolean"], **setting}


def _load(name: str) -> Schema:
    loaded: Schema = yaml.safe_load((CHARTS / "values" / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def _strict(schema: Schema) -> Schema:
    """The schema with unknown keys refused wherever the keys are listed."""
    root = {"$schema": "https://json-schema.org/draft/2020-12/schema", **copy.deepcopy(schema)}
    root["properties"].setdefault("longhaul-lib", {"type": "object"})
    for _, node in _objects(root):
        if "properties" in node:
            node.setdefault("additionalProperties", False)
    return root


def _objects(node: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    if node.get("type") == "object":
        yield path, node
        for key, child in node.get("properties", {}).items():
            yield from _objects(child, (*path, key))


def leaves(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """Every value of a schema that is set as a whole, with its path."""
    for key, child in schema.get("properties", {}).items():
        if child.get("properties"):
            yield from leaves(child, (*path, key))
        elif key not in INHERITED:
            yield (*path, key), child


def _values(chart: str, schema: Schema) -> str:
    head = f"# Values of the chart {chart}. Generated from charts/values by `make charts`; every key is in README.md.\n"
    return head + "\n".join(_value_lines(schema, 0)) + "\n"


def _value_lines(schema: Schema, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for key, child in schema["properties"].items():
        if child.get("description", "").startswith("Values of the chart"):
            yield f"{pad}# {child['description']}, see its README"
            yield f"{pad}{key}:"
            yield f"{pad}  enabled: true"
        elif child.get("properties") and "default" not in child:
            yield f"{pad}# {child['description']}"
            yield f"{pad}{key}:"
            yield from _value_lines(child, depth + 1)
        elif "default" in child:
            yield f"{pad}# {child['description']}"
            yield f"{pad}{key}: {json.dumps(child['default'])}"


def _readme(chart: str, purpose: str, schema: Schema) -> str:
    install = f"helm install {'longhaul' if chart == 'longhaul' else chart} charts/{chart} --namespace longhaul"
    pages = "[docs/deploy.md](../../docs/deploy.md) goes from an empty cluster to the first run."
    shown = [(path, leaf) for path, leaf in leaves(schema) if path[0] not in SERVICES or path[1:] == ("enabled",)]
    rows = [_row(path, leaf) for path, leaf in shown]
    if chart == "longhaul":
        rows += [f"| `{name}.*` | | | [values of longhaul-{name}](../longhaul-{name}/README.md) |" for name in SERVICES]
    return (
        f"# {chart}\n\n{purpose}.\n\n```\n{install} --create-namespace\n```\n\n{pages} A wrong key or type is refused "
        "by the schema.\n\n## Values\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n\nThis page is generated by `make charts`.\n"
    )


def _row(path: tuple[str, ...], leaf: Schema) -> str:
    kind = leaf.get("type", "any")
    shown = " or ".join(f"`{value}`" for value in leaf["enum"]) if "enum" in leaf else _type_name(kind)
    default = f"`{json.dumps(leaf['default'])}`" if "default" in leaf else ""
    return f"| `{'.'.join(path)}` | {shown} | {default} | {leaf.get('description', '')} |".replace("||", "| |")


def _type_name(kind: str | list[str]) -> str:
    return kind if isinstance(kind, str) else " or ".join(kind)


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
