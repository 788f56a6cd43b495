"""Objects of the charts that Kubernetes itself does not know, against the definitions that a cluster has of them.

Each kind is skipped where its definition is not installed: Gateway API, cert-manager, Prometheus operator, KubeRay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart_lab import Caller, Document, Refused

from tests.unit.charts.harness import CUSTOM, profile, render
from tests.unit.charts.test_rendering import CASES

pytestmark = pytest.mark.cluster
DRY = "?dryRun=All&fieldValidation=Strict"


@pytest.mark.parametrize("kind", sorted(CUSTOM))
def test_cluster_takes_what_the_charts_make_of_a_kind(kubeconfig: Path, kind: str) -> None:
    caller = Caller.of_kubeconfig(kubeconfig)
    if not (plural := plural_of(caller, kind)):
        pytest.skip(f"the cluster has no {kind}")
    path = f"/apis/{CUSTOM[kind]}/namespaces/default/{plural}{DRY}"
    made = {str(document): document for document in documents(kind)}
    assert made
    for document in made.values():
        stored = caller.call("POST", path, {**document, "metadata": {**document["metadata"], "namespace": "default"}})
        assert lost(document["spec"], stored["spec"]) == [], "fields were dropped"
    unknown = {**document, "metadata": {"name": "wrong", "namespace": "default"}, "spec": {"unknownField": 1}}
    with pytest.raises(Refused):
        caller.call("POST", path, unknown)


def documents(kind: str) -> Iterator[Document]:
    for files in CASES.values():
        yield from render("longhaul", profile(*files)).kind(kind).values()


def plural_of(caller: Caller, kind: str) -> str:
    """The kind's name in paths; empty where the cluster does not have it."""
    try:
        found = caller.call("GET", f"/apis/{CUSTOM[kind]}")["resources"]
    except Refused as error:
        if error.status == 404:
            return ""
        raise
    return next((one["name"] for one in found if one["kind"] == kind and "/" not in one["name"]), "")


def lost(wanted: Any, stored: Any, place: str = "spec") -> list[str]:
    """Where something that was asked for is not stored."""
    if isinstance(wanted, dict):
        missing = [f"{place}.{key}" for key in wanted if key not in stored and wanted[key] not in (None, {}, [])]
        return missing + [
            text for key in wanted if key in stored for text in lost(wanted[key], stored[key], f"{place}.{key}")
        ]
    if isinstance(wanted, list):
        pairs = zip(wanted, stored, strict=True)
        return [text for number, (one, other) in enumerate(pairs) for text in lost(one, other, f"{place}[{number}]")]
    return []
