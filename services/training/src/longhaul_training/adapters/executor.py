"""Carries the controller's actions out. Each runs beside the control loop; the same one is never under way twice.

An action that fails is simply decided again: its failure is logged once until it succeeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from longhaul_core.clock import Clock
from longhaul_core.cluster import Cluster, Pod, PodSpec
from longhaul_core.cluster.liveness import Death
from longhaul_core.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    LonghaulError,
    NotFound,
    Unavailable,
)
from longhaul_core.logging import get_logger

from longhaul_training.adapters.checkpoints import Checkpoints
from longhaul_training.adapters.codec import load_pod_config
from longhaul_training.adapters.commands import StartWorkers
from longhaul_training.adapters.hub import AgentHub
from longhaul_training.adapters.leadership import Leadership
from longhaul_training.adapters.node_health import NodeHealth
from longhaul_training.adapters.pod_environment import PodEnvironment
from longhaul_training.adapters.pod_identity import PodIdentity
from longhaul_training.adapters.pod_specs import LABEL_OWNER_UID, managed, owner_name, run_pod, task_pod
from longhaul_training.adapters.report_store import ReportStore
from longhaul_training.adapters.run_store import RunStore, StoredRun
from longhaul_training.adapters.task_store import StoredTask
from longhaul_training.domain.actions import (
    AccuseNode,
    AcknowledgeDrain,
    Action,
    CreatePod,
    DeletePod,
    PrepareEpoch,
    RegisterEpoch,
    RunEvent,
    StartEpoch,
    StopAfterCheckpoint,
)
from longhaul_training.domain.observations import Refusal
from longhaul_training.domain.placement import Claim
from longhaul_training.domain.states import ResumePoint, Run
from longhaul_training.domain.tasks import CreateTaskPod

CONCURRENCY = 32
# After a failure the same action waits this long, doubling, so that a service that is away is not hammered.
FAILURE_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0

log = get_logger(__name__)


class Executor:
    """Does actions for the leader."""

    def __init__(
        self,
        cluster: Cluster,
        hub: AgentHub,
        checkpoints: Checkpoints,
        health: NodeHealth,
        runs: RunStore,
        reports: ReportStore,
        leadership: Leadership,
        identity: PodIdentity,
        clock: Clock,
        environment: PodEnvironment,
        wake: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._hub = hub
        self._checkpoints = checkpoints
        self._health = health
        self._runs = runs
        self._reports = reports
        self._leadership = leadership
        self._identity = identity
        self._clock = clock
        self._environment = environment
        self._wake = wake
        self._gate = asyncio.Semaphore(CONCURRENCY)
        self._under_way: dict[Any, asyncio.Task[None]] = {}
        self._failing: dict[Any, int] = {}
        self._refusals: dict[str, Refusal] = {}
        self._creations: dict[str, tuple[Claim, float]] = {}
        self._defect: BaseException | None = None

    def for_run(self, stored: StoredRun, action: Action, namespace: str) -> None:
        """Starts one action of a run."""
        run = stored.run
        match action:
            case CreatePod():
                image, config = stored.row.spec["resources"]["image"], load_pod_config(stored.row)
                spec = run_pod(run, action, namespace, image, config, self._identity, self._environment)
                self._start((run.uid, action), lambda: self._create(spec))
            case DeletePod():
                self._start((run.uid, action.uid), lambda: self._delete(namespace, action))
            case RegisterEpoch():
                self._start((run.uid, action), lambda: self._register(stored, action))
            case PrepareEpoch() | StopAfterCheckpoint():
                self._hub.send(action.pod, action)
            case StartEpoch():
                self._hub.send(action.pod, _start_workers(stored, action))
            case AcknowledgeDrain():
                self.acknowledge(action)
            case AccuseNode():
                self._start((run.uid, action.key), lambda: self._accuse(stored, action))

    def for_task(self, stored: StoredTask, action: CreateTaskPod | DeletePod, namespace: str) -> None:
        """Starts one action of a task."""
        if isinstance(action, CreateTaskPod):
            spec = task_pod(stored.task, action, namespace, self._environment)
            self._start((stored.task.uid, action), lambda: self._create(spec))
        else:
            self._start((stored.task.uid, action.uid), lambda: self._delete(namespace, action))

    def delete_orphan(self, namespace: str, action: DeletePod) -> None:
        """Deletes a pod whose run or task does not exist."""
        self._start(("orphan", action.uid), lambda: self._delete(namespace, action))

    def acknowledge(self, action: AcknowledgeDrain) -> None:
        """Tells gpuhealth that a node is free."""
        self._start(action, lambda: self._health.acknowledge(action))

    def force_delete(self, pod: Pod, death: Death) -> None:
        """Removes a pod whose node is dead and will never say that it ended."""
        self._start(("force", pod.uid), lambda: self._force(pod, death))

    def release_owner(self, run: Run, namespace: str) -> None:
        """Removes what stands for a run in the cluster, once the run is over."""
        name = owner_name(run)
        self._start(("owner", run.uid), lambda: self._cluster.delete_owner(namespace, name))

    def sweep_owners(self, live_runs: Collection[str]) -> None:
        """Removes what an earlier leader left of runs that are over."""
        self._start(("owners",), lambda: self._sweep(frozenset(live_runs)))

    @property
    def refusals(self) -> Mapping[str, Refusal]:
        """Pods that the cluster refused to create when it was last asked, by name."""
        return self._refusals

    def claims(self, listed_at: float) -> list[Claim]:
        """GPUs of pods whose creation ended, well or not, after a listing began: that listing may lack them."""
        self._creations = {pod: entry for pod, entry in self._creations.items() if entry[1] >= listed_at}
        return [claim for claim, _ in self._creations.values()]

    def check(self) -> None:
        """Raises what an action raised that no error of this system explains: the process must not go on."""
        if self._defect is not None:
            raise self._defect

    async def settle(self) -> None:
        """Waits until nothing is under way."""
        while self._under_way:
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def close(self) -> None:
        """Waits for nothing: what is under way is dropped, the next leader decides it again."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: Any, act: Callable[[], Awaitable[None]]) -> None:
        if key in self._under_way:
            return
        task = asyncio.create_task(self._guarded(key, act))
        self._under_way[key] = task
        task.add_done_callback(lambda ended: self._ended(key, ended))

    def _ended(self, key: Any, task: asyncio.Task[None]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            self._defect = self._defect or task.exception()

    async def _guarded(self, key: Any, act: Callable[[], Awaitable[None]]) -> None:
        async with self._gate:
            if self._leadership.term is None:
                return
            try:
                await act()
            except LonghaulError as error:
                failed = error
            else:
                self._failing.pop(key, None)
                self._wake()
                return
        failures = self._failing[key] = self._failing.get(key, 0) + 1
        if failures == 1:
            log.warning("action failed", action=repr(key), reason=failed.reason, error=str(failed))
        self._wake()
        await self._clock.sleep(min(FAILURE_PAUSE_SECONDS * 2.0 ** (failures - 1), LONGEST_PAUSE_SECONDS))

    async def _create(self, spec: PodSpec) -> None:
        claim = Claim(spec.name, spec.node or "", spec.gpus)
        self._creations[spec.name] = (claim, float("inf"))
        try:
            with suppress(AlreadyExists):
                await self._cluster.create_pod(spec)
            self._refusals.pop(spec.name, None)
        except (Unavailable, DeadlineExceeded):
            raise
        except LonghaulError as error:
            self._refusals[spec.name] = _refusal(error)
            raise
        finally:
            self._creations[spec.name] = (claim, self._clock.monotonic())

    async def _force(self, pod: Pod, death: Death) -> None:
        with suppress(NotFound, Aborted):
            await self._cluster.delete_pod(pod.namespace, pod.name, pod.uid, force=True)
            log.warning("pod removed by force", pod=pod.name, node=pod.node, why=death.value)

    async def _sweep(self, live_runs: frozenset[str]) -> None:
        for owner in await self._cluster.list_owners(managed(self._environment.installation)):
            if owner.labels.get(LABEL_OWNER_UID) not in live_runs:
                await self._cluster.delete_owner(owner.namespace, owner.name)

    async def _delete(self, namespace: str, action: DeletePod) -> None:
        self._hub.dismiss(action.pod, "the pod is no longer needed")
        with suppress(NotFound, Aborted):
            await self._cluster.delete_pod(namespace, action.pod, action.uid, action.grace_seconds)

    async def _accuse(self, stored: StoredRun, action: AccuseNode) -> None:
        """Hands a verdict to gpuhealth, then forgets it; what gpuhealth decides about it is its own affair."""
        outcome = await self._health.accuse(action)
        term = self._leadership.term
        if term is None:
            return
        present = await self._runs.get(stored.run.project, stored.run.id)
        left = tuple(a for a in present.run.control.accusations if a.key != action.key)
        if left != present.run.control.accusations:
            event = RunEvent("NODE_ACCUSED", outcome, action.message, {"node": action.node})
            await self._runs.commit(present, replace(present.run.control, accusations=left), (event,), term.number)

    async def _register(self, stored: StoredRun, action: RegisterEpoch) -> None:
        """Fences the epoch, gets the metric rows that only the journal has, then records what the epoch begins with."""
        run = stored.run
        resume = await self._checkpoints.begin_epoch(run.name, action.epoch, rollback=action.rollback)
        term = self._leadership.term
        if term is None:
            return
        if resume is not None:
            await self._reports.recover(run.project, run.id, resume.step, term.number)
        present = await self._runs.get(run.project, run.id)
        control = present.run.control
        if control.epoch != action.epoch or control.registered_epoch >= action.epoch:
            return
        changed = replace(control, registered_epoch=action.epoch, resume=resume)
        await self._runs.commit(present, changed, (_registered(action.epoch, resume),), term.number)


def _refusal(error: LonghaulError) -> Refusal:
    # A malformed pod stays malformed; quota, rights, namespaces and policies can change while the run waits.
    return Refusal(error.reason, error.message, error.action, lasting=isinstance(error, InvalidArgument))


def _registered(epoch: int, resume: ResumePoint | None) -> RunEvent:
    if resume is None:
        return RunEvent("EPOCH_REGISTERED", "", f"epoch {epoch} begins at step 0", {"epoch": epoch})
    data = {"epoch": epoch, "checkpoint": resume.checkpoint, "step": resume.step}
    return RunEvent("EPOCH_REGISTERED", "", f"epoch {epoch} begins after step {resume.step}", data)


def _start_workers(stored: StoredRun, action: StartEpoch) -> StartWorkers:
    control = stored.run.control
    resume, pinned = control.resume, control.pinned
    return StartWorkers(
        epoch=action.epoch,
        world_size=action.world_size,
        ranks=action.ranks,
        rendezvous_address=action.rendezvous_address,
        token_set_manifest_key=pinned.manifest_key if pinned is not None else "",
        resume_manifest_key=resume.manifest_key if resume is not None else "",
        resume_checkpoint=resume.checkpoint if resume is not None else "",
        trainer_config=_fitted_config(stored, action.world_size),
        program=action.program,
    )


def _fitted_config(stored: StoredRun, world_size: int) -> Mapping[str, Any]:
    """The run's configuration; for a group of another size than its own the data-parallel degree is left open."""
    config: Mapping[str, Any] = stored.row.spec["trainer_config"]
    resources = stored.row.spec["resources"]
    if world_size == resources["nodes"] * resources["gpus_per_node"] or not config.get("layout"):
        return config
    return {**config, "layout": {**config["layout"], "data_parallel": 0}}
