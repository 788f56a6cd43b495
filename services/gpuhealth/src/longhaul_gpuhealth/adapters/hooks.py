"""Hooks that reset GPUs and reboot hosts, and the webhook among them. Each may be called again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import aiohttp

from longhaul_gpuhealth.domain.model import Remedy

ANSWER_BYTES = 4096
SESSION_CHARACTERS = 8
_GPU_ID = re.compile(r"[A-Za-z0-9/-]{1,80}")


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

    @property
    def name(self) -> str:
        """The name of whatever carries it out; a repeat of the call finds it by that."""
        return f"gpuhealth-{self.remedy.name.lower()}-{self.session[:SESSION_CHARACTERS].lower()}"

    @property
    def labels(self) -> dict[str, str]:
        """What it carries."""
        return {"longhaul.dev/managed-by": "gpuhealth", "longhaul.dev/kind": "repair"}

    @property
    def environment(self) -> dict[str, str]:
        """What its containers are told. A GPU's id comes from an exporter: one that is none is not passed on."""
        return {
            "LONGHAUL_NODE": self.node,
            "LONGHAUL_REMEDY": self.remedy.name.lower(),
            "LONGHAUL_SESSION": self.session,
            "LONGHAUL_CAUSE": self.cause,
            "LONGHAUL_GPU_UUIDS": ",".join(gpu for gpu in self.gpus if _GPU_ID.fullmatch(gpu)),
        }


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
