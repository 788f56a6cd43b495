"""Charts rendered with Helm's own code, as objects by kind and name."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml
from kubernetes_validate import utils as kubernetes_schemas

ROOT = Path(__file__).resolve().parents[3]
CHARTS = ROOT / "charts"
PROFILES = CHARTS / "longhaul" / "profiles"
VALUES = Path(__file__).parent / "values"
SERVICES = ("ingest", "corpus", "training", "checkpoint", "evaluation", "gpuhealth")
KUBERNETES = ("1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
RELEASE, NAMESPACE = "longhaul", "lab"

CUSTOM = {
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "Certificate": "cert-manager.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "BackendTLSPolicy": "gateway.networking.k8s.io/v1",
    "RayCluster": "ray.io/v1",
}
"""Kinds that the schemas of Kubernetes do not know."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Rendering:
    """What a chart makes of values.

    Attributes:
        documents: By kind and name; the name of one in another namespace than the release's is `namespace/name`.
        notes: NOTES.txt.
    """

    documents: Mapping[tuple[str, str], Document]
    notes: str

    def kind(self, kind: str) -> dict[str, Document]:
        return {name: document for (found, name), document in self.documents.items() if found == kind}

    def one(self, kind: str, name: str) -> Document:
        return self.documents[kind, name]

    def pods(self) -> dict[str, Document]:
        """The spec of every pod that follows from the objects, by kind and name of its owner."""
        found = {}
        for (kind, name), document in self.documents.items():
            if kind == "Pod":
                found[f"{kind}/{name}"] = document["spec"]
            elif kind in ("Deployment", "DaemonSet", "Job", "StatefulSet"):
                found[f"{kind}/{name}"] = document["spec"]["template"]["spec"]
            elif kind == "RayCluster":
                found[f"{kind}/{name}/head"] = document["spec"]["headGroupSpec"]["template"]["spec"]
                found[f"{kind}/{name}/workers"] = document["spec"]["workerGroupSpecs"][0]["template"]["spec"]
        return found


@functools.cache
def archive(name: str) -> bytes:
    """The chart packaged, with the charts that it depends on."""
    with tempfile.TemporaryDirectory() as folder, helm.Chart.load(CHARTS / name) as chart:
        return Path(chart.save(folder)).read_bytes()


def render(name: str, values: Mapping[str, Any] | None = None, *, release: str = RELEASE) -> Rendering:
    """Render a chart; the values are checked against its schema first. Nobody changes what this returns."""
    return _render(name, json.dumps(values or {}, sort_keys=True), release)


@functools.cache
def _render(name: str, values: str, release: str) -> Rendering:
    with helm.Chart.load_archive(archive(name)) as chart:  # anew: a rendering takes disabled parts out of its chart
        files = chart.render(json.loads(values), name=release, namespace=NAMESPACE)
    documents: dict[tuple[str, str], Document] = {}
    for path, text in files.items():
        if path.endswith(".yaml"):
            for document in yaml.load_all(text, yaml.CSafeLoader):
                if document:
                    key = document["kind"], _place(document["metadata"])
                    assert key not in documents, f"{path}: {key} is there twice"
                    documents[key] = document
    return Rendering(documents, files.get(f"{name}/templates/NOTES.txt", ""))


def _place(metadata: Document) -> str:
    """The name, after that of its namespace where this is not the release's."""
    namespace = metadata.get("namespace", NAMESPACE)
    name: str = metadata["name"]
    return name if namespace == NAMESPACE else f"{namespace}/{name}"


def profile(*names: str) -> dict[str, Any]:
    """Values of profiles, later ones over earlier ones, as `helm -f one -f two` merges them."""
    merged: dict[str, Any] = {}
    for name in names:
        path = PROFILES / f"{name}.yaml"
        loaded = yaml.safe_load((path if path.is_file() else VALUES / f"{name}.yaml").read_text(encoding="utf-8"))
        merged = merge(merged, loaded or {})
    return merged


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


_read = functools.cache(kubernetes_schemas.schema_contents)
kubernetes_schemas.schema_contents = _read  # else each validation reads megabytes again


def validate(document: Document, version: str) -> None:
    """Raise for an object that Kubernetes of that version would not take; unknown fields are errors."""
    if document["kind"] in CUSTOM:
        assert document["apiVersion"] == CUSTOM[document["kind"]]
        return
    kubernetes_schemas.validate(document, version, strict=True)


def text_of(document: Document) -> str:
    return json.dumps(document, sort_keys=True)


def differences(before: Rendering, after: Rendering) -> list[str]:
    """Lines of `path: value` that only `after` has, and those that only `before` has with a minus."""
    old, new = set(_lines(before)), set(_lines(after))
    return sorted(new - old) + sorted(f"-{line}" for line in old - new)


def _lines(rendering: Rendering) -> Iterator[str]:
    for (kind, name), document in rendering.documents.items():
        yield from _flat(document, f"{kind}/{name}")
    yield from (f"NOTES: {line.strip()}" for line in rendering.notes.splitlines() if line.strip())


def _flat(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _flat(child, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, child in enumerate(value):
            label = child.get("name", index) if isinstance(child, dict) else index
            yield from _flat(child, f"{path}[{label}]")
    else:
        yield f"{path}: {json.dumps(value)}"


def at(path: Sequence[str], value: Any) -> dict[str, Any]:
    """Values with one value set."""
    for key in reversed(path):
        value = {key: value}
    assert isinstance(value, dict)
    return value
