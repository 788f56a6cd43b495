"""Every chart with ten sets of values: taken by Kubernetes 1.32 to 1.37, free of lint, and as the golden files say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import helm_python as helm
import pytest
import yaml

from tests.unit.charts.harness import (
    CHARTS,
    CUSTOM,
    KUBERNETES,
    ROOT,
    SERVICES,
    Document,
    Rendering,
    profile,
    render,
    text_of,
    validate,
)

GOLDEN = ROOT / "tests" / "golden" / "charts"

CASES: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "trial": ("trial",),
    "trial-local-volume": ("trial", "local-volume"),
    "trial-observability": ("trial", "observability"),
    "production": ("production",),
    "production-gpu": ("production", "gpu"),
    "production-ray": ("production", "ray"),
    "production-certmanager": ("production", "certmanager"),
    "production-everything": ("production", "everything"),
    "brought": ("brought",),
    "plaintext": ("plaintext",),
    "rdma": ("rdma",),
}
"""Values files, laid over one another."""

BASES = {"trial-observability": "trial", "trial-local-volume": "trial"} | {
    case: "production" for case in CASES if case.startswith("production-")
}
"""A golden file holds the objects that differ from those of its base; of the others, from those of the defaults."""


@pytest.mark.parametrize("case", CASES)
def test_umbrella_renders_what_the_golden_file_says(case: str, update_golden: bool) -> None:
    compare(GOLDEN / f"{case}.yaml", golden_text(case), update_golden)


@pytest.mark.parametrize("service", SERVICES)
def test_service_chart_alone_renders_what_the_golden_file_says(service: str, update_golden: bool) -> None:
    documents = render(f"longhaul-{service}").documents
    compare(GOLDEN / f"longhaul-{service}.yaml", changes(render("longhaul"), documents, "defaults"), update_golden)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_is_valid_for_kubernetes(version: str) -> None:
    distinct = {text_of(document) for rendering in renderings() for document in rendering.documents.values()}
    assert len(distinct) > 200
    for text in distinct:
        validate(json.loads(text), version)


@pytest.mark.parametrize("chart", ["longhaul", *(f"longhaul-{service}" for service in SERVICES)])
def test_chart_has_no_lint(chart: str) -> None:
    report = helm.lint(CHARTS / chart, {}, strict=True, namespace="lab")
    worse_than_a_hint = [found for found in report["messages"] if found["severity"] > 1]
    assert worse_than_a_hint == []
    assert report["errors"] == []


def test_custom_kinds_are_all_seen() -> None:
    seen = {kind for rendering in renderings() for kind, _ in rendering.documents}
    assert set(CUSTOM) <= seen


def test_two_releases_in_one_namespace_share_no_object() -> None:
    values = profile("production")
    one, other = render("longhaul", values, release="one"), render("longhaul", values, release="other")
    assert set(one.documents) & set(other.documents) == {("Namespace", "longhaul-runs")}


def test_versions_of_all_charts_are_those_of_the_packages() -> None:
    project = (ROOT / "libs" / "core" / "pyproject.toml").read_text(encoding="utf-8")
    version = next(line.split('"')[1] for line in project.splitlines() if line.startswith("version = "))
    for path in CHARTS.glob("longhaul*/Chart.yaml"):
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert described["version"] == described["appVersion"] == version
        assert all(dependency["version"] == version for dependency in described.get("dependencies", ()))


def renderings() -> list[Rendering]:
    alone = [render(f"longhaul-{service}") for service in SERVICES]
    return [*alone, *(render("longhaul", profile(*files)) for files in CASES.values())]


def golden_text(case: str) -> str:
    documents = render("longhaul", profile(*CASES[case])).documents
    if case == "defaults":
        return dump(sorted(documents.values(), key=text_of))
    base = BASES.get(case, "defaults")
    return changes(render("longhaul", profile(*CASES[base])), documents, base)


def changes(base: Rendering, documents: Mapping[tuple[str, str], Document], name: str) -> str:
    before = base.documents
    changed = [documents[key] for key in sorted(documents) if documents[key] != before.get(key)]
    same = (key for key in documents if documents[key] == before.get(key) and not is_dashboard(documents[key]))
    kept = sorted(f"# {kind} {one}" for kind, one in same)
    return "\n".join([f"# As in {name}.yaml:", *kept, "# Different:", dump(changed)])


FILES_OF = ("rules", "prometheus", "grafana", "dcgm")
"""Components that carry charts/longhaul/files, which have tests of their own."""


def is_dashboard(document: Document) -> bool:
    return bool(document["metadata"]["labels"]["app.kubernetes.io/component"] == "dashboards")


def without_files(document: Document) -> Document:
    if document["metadata"]["labels"]["app.kubernetes.io/component"] not in FILES_OF:
        return document
    kept = json.loads(re.sub(r'("longhaul.dev/(?:config|counters)-checksum": )"[^"]*"', r'\1"…"', text_of(document)))
    if document["kind"] == "PrometheusRule":
        kept["spec"]["groups"] = "…"
    if document["kind"] == "ConfigMap":
        kept["data"] = {name: text for name, text in kept["data"].items() if name in CONFIGURATION}
    return dict(kept)


CONFIGURATION = ("prometheus.yml", "datasources.yaml", "providers.yaml")


def test_rules_and_dashboards_arrive_as_they_are_in_the_files() -> None:
    files = CHARTS / "longhaul" / "files"
    rendering = render("longhaul", profile("production", "observability"))
    groups = [
        group
        for path in sorted((files / "rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    assert rendering.one("PrometheusRule", "longhaul")["spec"]["groups"] == groups
    prometheus = rendering.one("ConfigMap", "longhaul-prometheus")["data"]
    grafana = rendering.one("ConfigMap", "longhaul-grafana-dashboards")["data"]
    assert set(prometheus) == {"prometheus.yml", *(path.name for path in (files / "rules").glob("*.yaml"))}
    for path in (files / "dashboards").glob("*.json"):
        alone = rendering.one("ConfigMap", f"longhaul-dashboard-{path.stem}")
        assert alone["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(alone["data"][path.name]) == json.loads(grafana[path.name])
        assert json.loads(grafana[path.name]) == json.loads(path.read_text(encoding="utf-8"))


def dump(documents: list[Document]) -> str:
    documents = [without_files(document) for document in documents if not is_dashboard(document)]
    return yaml.dump_all(documents, Dumper=yaml.CSafeDumper, sort_keys=True, width=160)


def compare(path: Path, text: str, update: bool) -> None:
    if update:
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path.name} is missing: run pytest {Path(__file__).parent} --update-golden"
    assert path.read_text(encoding="utf-8") == text, f"{path.name} differs; if that is meant, run with --update-golden"
