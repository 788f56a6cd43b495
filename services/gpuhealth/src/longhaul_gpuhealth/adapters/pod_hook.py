"""A repair as one pod on the node itself, from a template; for clusters without Jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from longhaul_core.cluster import Cluster, PodPhase, PodSpec, Toleration
from longhaul_core.errors import AlreadyExists, InvalidArgument, NotFound
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longhaul_gpuhealth.adapters.hooks import HookAnswer, HookCall, HookState


class PodTemplate(BaseModel):
    """A pod that repairs a node. `overlay` is a partial Kubernetes pod, for privileges and mounts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] = Field(min_length=1)
    image: str = ""
    namespace: str = "default"
    service_account: str = ""
    env: Mapping[str, str] = {}
    overlay: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class PodHook:
    """Runs one pod a repair on the node itself; it is named after the session, so that a repeat finds it."""

    cluster: Cluster
    template: PodTemplate

    async def advance(self, call: HookCall) -> HookAnswer:
        """See `Hook`."""
        template = self.template
        name = call.name
        try:
            pod = await self.cluster.get_pod(template.namespace, name)
        except NotFound:
            await self._create(name, call)
            return HookAnswer(HookState.UNDER_WAY)
        if pod.phase is PodPhase.SUCCEEDED:
            return HookAnswer(HookState.DONE)
        if pod.phase is PodPhase.FAILED:
            code = "" if pod.exit_code is None else f" with exit code {pod.exit_code}"
            return HookAnswer(HookState.FAILED, f"pod {name} ended{code}: {pod.reason} {pod.message}".strip())
        return HookAnswer(HookState.UNDER_WAY)

    async def _create(self, name: str, call: HookCall) -> None:
        template = self.template
        spec = PodSpec(
            name=name,
            namespace=template.namespace,
            command=template.command,
            image=template.image,
            service_account=template.service_account,
            node=call.node,
            labels=call.labels,
            tolerations=(Toleration(),),
            env={**template.env, **call.environment},
            overlay=template.overlay,
        )
        try:
            await self.cluster.create_pod(spec)
        except AlreadyExists:
            return


def load_pod_template(path: Path) -> PodTemplate:
    """Read a pod template. Raises `InvalidArgument`."""
    try:
        return PodTemplate.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fault = str(error)
    except ValidationError as error:
        fault = json.dumps([{".".join(map(str, one["loc"])): one["msg"]} for one in error.errors()])
    raise InvalidArgument(
        f"pod template {path}: {fault}", reason="TEMPLATE_INVALID", violations=[("pod_template", fault)]
    )
