"""Burn-ins that gpuhealth asks for: each becomes a Task on its node, and its result is told back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from longhaul_core.clock import Clock
from longhaul_core.errors import LonghaulError, NotFound
from longhaul_core.ids import fingerprint
from longhaul_core.logging import get_logger
from longhaul_core.objects import ObjectStore
from longhaul_core.tasks import BurnInResult
from pydantic import ValidationError

from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.node_health import BurnInRequest, NodeHealth
from longhaul_training.adapters.project_store import DEFAULT
from longhaul_training.adapters.task_store import StoredTask, TaskStore
from longhaul_training.domain.tasks import TaskState

LOOK_SECONDS = 1.0
TIMEOUT_SECONDS = 1800.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BurnInKeeper:
    """Runs burn-ins on the replica that leads. A session is one Task, however often it is looked at."""

    health: NodeHealth
    tasks: TaskStore
    objects: ObjectStore
    leadership: Leadership
    clock: Clock

    async def run(self, stop: asyncio.Event) -> None:
        """Looks after all requests until `stop` is set."""
        while not stop.is_set():
            if self.leadership.term is not None:
                for request in list(self.health.burn_ins.values()):
                    try:
                        await self._look(request)
                    except LonghaulError as error:
                        log.warning("burn-in not looked after", node=request.node, error=str(error))
            await self.clock.sleep(LOOK_SECONDS)

    async def _look(self, request: BurnInRequest) -> None:
        task_id = f"burn-in-{request.session}"
        try:
            stored = await self.tasks.get(DEFAULT, task_id)
        except NotFound:
            spec = {
                "kind": "BURN_IN",
                "arguments": {},
                "result_key": f"projects/{DEFAULT}/burn-ins/{request.session}.json",
                "gpus": request.gpus,
                "node": request.node,
                "timeout_seconds": TIMEOUT_SECONDS,
                "retries": 1,
            }
            stored = await self.tasks.create(DEFAULT, task_id, spec, fingerprint(spec), "")
            log.info("burn-in begun", node=request.node, task=task_id)
        if stored.task.control.state.terminal:
            await self.health.report(request, await self._result(stored))

    async def _result(self, stored: StoredTask) -> BurnInResult:
        task = stored.task
        if task.control.state is TaskState.SUCCEEDED:
            try:
                text = await asyncio.to_thread(self.objects.get, task.spec.result_key)
                return BurnInResult.model_validate_json(text)
            except (NotFound, ValidationError) as error:
                return _failed(f"{task.name} left no readable result: {error}")
        reason = task.control.reason
        return _failed(f"{task.name} ended as {task.control.state}: {reason.code} {reason.message}")


def _failed(message: str) -> BurnInResult:
    """What is reported of a burn-in that could not be carried out: it proves nothing good of the node."""
    return BurnInResult(
        device="unknown",
        gpus=0,
        passed=False,
        failures=(message,),
        figures=(),
        memory_bytes_checked=0,
        memory_errors=0,
        product_mismatches=0,
        seconds=0.0,
    )
