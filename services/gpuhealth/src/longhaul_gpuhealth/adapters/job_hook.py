"""A repair as a Kubernetes Job from a template: it comes to its end even if its node goes down for it."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from longhaul_core.cluster import DEFAULT_NAMESPACE, JobCluster, JobPhase
from longhaul_core.errors import AlreadyExists, InvalidArgument, NotFound

from longhaul_gpuhealth.adapters.hooks import HookAnswer, HookCall, HookState
from longhaul_gpuhealth.domain.yaml_places import YamlFault, load

PLACEHOLDERS = ("node", "session", "remedy", "gpu_uuids")
"""What `@word@` in any text of the template may be. The cause is no placeholder, since it would reach a shell unquoted:
it is in the variable LONGHAUL_CAUSE and in an annotation."""
CAUSE = "longhaul.dev/gpuhealth-cause"
KEPT_SECONDS = 86_400
_PLACEHOLDER = re.compile(r"@([a-z_]+)@")
Json = Any


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """A checked manifest of a `batch/v1` Job, with placeholders."""

    manifest: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        """Where its Jobs are made."""
        return str((self.manifest.get("metadata") or {}).get("namespace") or DEFAULT_NAMESPACE)

    def render(self, call: HookCall) -> dict[str, Any]:
        """The Job of one repair: on its node, which is out, once, and gone a day after its end."""
        told = call.environment
        values = {"node": call.node, "session": call.session, "remedy": told["LONGHAUL_REMEDY"]}
        values["gpu_uuids"] = told["LONGHAUL_GPU_UUIDS"]
        job: dict[str, Any] = _map_texts(
            copy.deepcopy(dict(self.manifest)), lambda text: _PLACEHOLDER.sub(lambda match: values[match[1]], text)
        )
        metadata = job.setdefault("metadata", {})
        metadata["name"] = call.name
        metadata["namespace"] = self.namespace
        metadata["labels"] = {**(metadata.get("labels") or {}), **call.labels}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), CAUSE: call.cause}
        spec = job["spec"]
        spec.setdefault("backoffLimit", 0)
        spec.setdefault("ttlSecondsAfterFinished", KEPT_SECONDS)
        pod = spec["template"]
        pod["metadata"] = {**(pod.get("metadata") or {})}
        pod["metadata"]["labels"] = {**(pod["metadata"].get("labels") or {}), **call.labels}
        pod["spec"].setdefault("nodeName", call.node)
        pod["spec"].setdefault("restartPolicy", "Never")
        pod["spec"]["tolerations"] = [*(pod["spec"].get("tolerations") or ()), {"operator": "Exists"}]
        for container in pod["spec"]["containers"]:
            given = [{"name": name, "value": value} for name, value in told.items()]
            own = [one for one in container.get("env") or () if one.get("name") not in told]
            container["env"] = [*own, *given]
        return job


@dataclass(frozen=True, slots=True)
class JobHook:
    """Makes one Job a repair, named after the session, so that a repeat finds it."""

    cluster: JobCluster
    template: JobTemplate

    async def advance(self, call: HookCall) -> HookAnswer:
        """See `Hook`."""
        namespace = self.template.namespace
        try:
            job = await self.cluster.get_job(namespace, call.name)
        except NotFound:
            await self._create(call)
            return HookAnswer(HookState.UNDER_WAY)
        if job.phase is JobPhase.SUCCEEDED:
            return HookAnswer(HookState.DONE)
        if job.phase is JobPhase.FAILED:
            return HookAnswer(HookState.FAILED, f"Job {namespace}/{job.name} failed: {job.message}".rstrip(": "))
        return HookAnswer(HookState.UNDER_WAY)

    async def _create(self, call: HookCall) -> None:
        try:
            await self.cluster.create_job(self.template.namespace, self.template.render(call))
        except AlreadyExists:
            return


def load_job_template(path: Path) -> JobTemplate:
    """Read a Job's manifest. Raises `InvalidArgument` for one that no repair could be made from."""
    try:
        document, _ = load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YamlFault, yaml.YAMLError) as error:
        raise _invalid(path, str(error)) from None
    if fault := _fault(document):
        raise _invalid(path, fault)
    return JobTemplate(document)


def _fault(document: Json) -> str:
    """What is wrong with a manifest; empty: nothing that can be seen without the cluster."""
    if not isinstance(document, dict):
        return "it is no mapping"
    if (document.get("apiVersion"), document.get("kind")) != ("batch/v1", "Job"):
        return (
            f"apiVersion and kind are {document.get('apiVersion')!r} and {document.get('kind')!r}, not batch/v1 and Job"
        )
    pod = ((document.get("spec") or {}).get("template") or {}).get("spec") or {}
    containers = pod.get("containers")
    if not isinstance(containers, list) or not containers:
        return "spec.template.spec.containers is missing or empty"
    if not all(isinstance(one, dict) and one.get("image") for one in containers):
        return "spec.template.spec.containers: each needs an image"
    unknown = [word for text in _texts(document) for word in _PLACEHOLDER.findall(text) if word not in PLACEHOLDERS]
    if unknown:
        close = difflib.get_close_matches(unknown[0], PLACEHOLDERS, n=1, cutoff=0.5)
        near = f"; did you mean @{close[0]}@?" if close else f"; known are {', '.join(PLACEHOLDERS)}"
        return f"unknown placeholder @{unknown[0]}@{near}"
    return ""


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _map_texts(value: Json, change: Callable[[str], str]) -> Json:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_texts(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [_map_texts(one, change) for one in value]
    return value


def _invalid(path: Path, fault: str) -> InvalidArgument:
    return InvalidArgument(
        f"Job template {path}: {fault}", reason="TEMPLATE_INVALID", violations=[("job_template", fault)]
    )
