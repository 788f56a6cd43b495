"""Render the charts with every profile and have checkov look for misconfigurations; fails at one that is not excused.

Usage: python scripts/check_charts.py CHECKOV   (the program; it has a virtual environment of its own)

Checkov's severities come from a service that this does not ask, so every finding counts unless it is excused below.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "longhaul"
PROFILES = (
    ("trial",),
    ("production",),
    ("production", "gpu"),
    ("production", "gpu", "node-work"),
    ("production", "ray"),
    ("trial", "observability"),
)
NODE_WORK = {"gpuhealth": {"agent": {"enabled": True}, "repair": {"reset": True, "reboot": True}}}
"""The node agent and the repair Jobs, which no profile switches on."""

LEAST_PASSED = 1000
"""Fewer would mean that the rendered objects were not read."""

EXCUSED = {
    "CKV_K8S_11": "no CPU limits: a throttled service misses heartbeats; requests keep its share",
    "CKV_K8S_43": "digests are a value of every image",
    "CKV_K8S_15": "pulled where absent: tags of releases never move; a value sets it to Always",
    "CKV_K8S_35": "secrets as variables: the URL of the database and the token are read by settings, by design",
    "CKV_K8S_38": "only training, gpuhealth and the certificates hook mount a token, to call the API",
    "CKV_K8S_8": "test pods end by themselves",
    "CKV_K8S_9": "test pods serve nothing",
}
"""Checks that do not apply, and why."""

_PRIVILEGED = {"CKV_K8S_16", "CKV_K8S_20", "CKV_K8S_23", "CKV_K8S_28", "CKV_K8S_37", "CKV_K8S_40"}
EXCUSED_OBJECTS: dict[str, set[str]] = {
    # NVIDIA's exporter reads the GPUs of the whole node, at a port of the node.
    "dcgm-exporter": {"CKV_K8S_23", "CKV_K8S_25", "CKV_K8S_26", "CKV_K8S_39", "CKV_K8S_40"},
    # The agent reads the kernel's log, a device that only privileged containers are given, at a port of the node.
    "gpuhealth-agent": {*_PRIVILEGED, "CKV_K8S_26"},
    # Resetting GPUs and rebooting is work on the host and its processes.
    "repair-": {*_PRIVILEGED, "CKV_K8S_17"},
}
"""Checks that do not apply to an object that works on the whole node, in a namespace of its own, and off by default."""


def main(checkov: str) -> int:
    """Check every profile; print what is found."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for names in PROFILES:
            path = Path(folder) / f"{'-'.join(names)}.yaml"
            path.write_text(render(names), encoding="utf-8")
        found = dict(findings(checkov, folder))
    for place, what in sorted(found.items()):
        sys.stdout.write(f"{place}: {what}\n")
    sys.stdout.write(
        f"check-charts: {len(found)} findings in {len(PROFILES)} profiles, {len(EXCUSED)} checks excused\n"
    )
    return 1 if found else 0


def render(names: tuple[str, ...]) -> str:
    """The objects of the umbrella chart with some profiles."""
    values: dict[str, Any] = {}
    for name in names:
        loaded = (
            yaml.safe_load((CHART / "profiles" / f"{name}.yaml").read_text("utf-8"))
            if name != "node-work"
            else NODE_WORK
        )
        values = _merge(values, loaded)
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="longhaul", namespace="lab")
    texts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return "\n---\n".join([*texts, *(yaml.safe_dump(job) for text in texts for job in _jobs_within(text))])


def _jobs_within(text: str) -> Iterator[dict[str, Any]]:
    """Jobs that lie in ConfigMaps and that gpuhealth creates, with the name that it would give."""
    for document in yaml.safe_load_all(text):
        if document and document["kind"] == "ConfigMap" and document["metadata"]["name"].endswith("-repair"):
            for key, content in document["data"].items():
                job = yaml.safe_load(content)
                job["metadata"]["name"] = f"repair-{Path(key).stem}"
                yield job


def findings(checkov: str, folder: str) -> Iterator[tuple[str, str]]:
    """Failed checks that nothing excuses."""
    command = [checkov, "--directory", folder, "--framework", "kubernetes", "--output", "json", "--quiet", "--compact"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        sys.exit(f"check-charts: checkov said nothing: {done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    if report["summary"]["passed"] < LEAST_PASSED:
        sys.exit(f"check-charts: only {report['summary']['passed']} checks passed: did checkov read the objects?")
    unused = set(EXCUSED)
    for check in report["results"]["failed_checks"]:
        unused.discard(check["check_id"])
        if check["check_id"] in EXCUSED or _is_node_work(check["resource"], check["check_id"]):
            continue
        yield f"{check['file_path']} {check['resource']} {check['check_id']}", check["check_name"]
    for identifier in unused:
        yield f"EXCUSED {identifier}", "excuses nothing: remove it"


def _is_node_work(resource: str, check: str) -> bool:
    return any(name in resource and check in checks for name, checks in EXCUSED_OBJECTS.items())


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
