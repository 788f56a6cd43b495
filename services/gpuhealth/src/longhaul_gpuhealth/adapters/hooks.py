"""Hooks that reset GPUs and reboot hosts: a webhook, or a pod from a template. Both may be called again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import yaml
from longhaul_core.cluster import Cluster, PodPhase, PodSpec, Toleration
from longhaul_core.errors import AlreadyExists, InvalidArgument, NotFound
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longhaul_gpuhealth.domain.model import Remedy

ANSWER_BYTES = 4096
SESSION_CHARACTERS = 8


class HookState(StrEnum):
    """How far a hook is."""

    UNDER_WAY = "under_way"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class HookCall:
    """What is to be repaired, and why. The same session means the same repair: it is done once."""

    node: str
    session: str
    remedy: Remedy
    cause: str
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What came of a call."""

    state: HookState
    message: str = ""


class Hook(Protocol):
    """Carries a remedy out. `advance` begins it, and says how far it is when it is called again."""

    async def advance(self, call: HookCall) -> HookAnswer:
        """Begin or look. What cannot be reached is UNDER_WAY: it is tried again until the repair's time is over."""
        ...


@dataclass(frozen=True, slots=True)
class Webhook:
    """POSTs the call as JSON: 200 means done, 202 under way, 409 or 422 that it cannot be done."""

    url: str
    timeout_seconds: float

    async def advance(self, call: HookCall) -> HookAnswer:
        """See `Hook`."""
        body = {
            "node": call.node,
            "session": call.session,
            "remedy": call.remedy.name.lower(),
            "cause": call.cause,
            "gpu_uuids": list(call.gpus),
        }
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.post(self.url, json=body, allow_redirects=False) as response,
            ):
                text = (await response.content.read(ANSWER_BYTES)).decode(errors="replace").strip()
                if response.status == 200:
                    return HookAnswer(HookState.DONE, text)
                if response.status in (409, 422):
                    return HookAnswer(HookState.FAILED, text or f"HTTP status {response.status}")
                return HookAnswer(HookState.UNDER_WAY, "" if response.status == 202 else f"HTTP {response.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return HookAnswer(HookState.UNDER_WAY, f"{type(error).__name__}: {error}")


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
        name = f"gpuhealth-{call.remedy.name.lower()}-{call.session[:SESSION_CHARACTERS].lower()}"
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
            labels={"longhaul.dev/managed-by": "gpuhealth", "longhaul.dev/kind": "repair"},
            tolerations=(Toleration(),),
            env={
                **template.env,
                "LONGHAUL_NODE": call.node,
                "LONGHAUL_REMEDY": call.remedy.name.lower(),
                "LONGHAUL_GPU_UUIDS": ",".join(call.gpus),
            },
            overlay=template.overlay,
        )
        try:
            await self.cluster.create_pod(spec)
        except AlreadyExists:
            return


def load_template(path: Path) -> PodTemplate:
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
