"""The pods of one node: starts, ends and records the processes of what the folder says is bound here."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from longhaul_core.clock import Clock
from longhaul_core.cluster.local.layout import open_directory
from longhaul_core.cluster.local.records import PodStatus, StoredPod
from longhaul_core.cluster.local.store import Store, is_at, load_stored, write_status
from longhaul_core.cluster.model import PodPhase, PodReason
from longhaul_core.cluster.rules import fits, gpus_used
from longhaul_core.errors import Aborted, NotFound
from longhaul_core.logging import get_logger

GPU_INDICES_VARIABLE = "LONGHAUL_GPU_INDICES"
KILL_PATIENCE_SECONDS = 5.0
KEPT_LOGS = 100
_START_ERROR_CODES = (126, 127)
_POD_INIT = Path(__file__).with_name("pod_init.py")

log = get_logger(__name__)


@dataclass(slots=True)
class RunningPod:
    """A pod whose processes run now. `folder` is held open, so that writes never hit another pod of the name."""

    stored: StoredPod
    folder: int
    process: asyncio.subprocess.Process
    gpu_indices: tuple[int, ...]
    watcher: asyncio.Task[None] | None = None
    killer: asyncio.Task[None] | None = None
    kill_grace_seconds: float | None = None
    end_reason: PodReason | None = None


@dataclass(slots=True)
class NodePods:
    """Reconciles processes with the folder, level-triggered: `look` may be called at any time, for any pod."""

    node: str
    gpus: int
    store: Store
    clock: Clock
    notify: Callable[[StoredPod], None]
    running: dict[str, RunningPod] = field(default_factory=dict)
    draining: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def recover(self) -> None:
        """After a start of the node process: what ran before died with it."""
        for stored in list(self.store.pods()):
            if stored.node != self.node or stored.status.phase is not PodPhase.RUNNING:
                continue
            spec = stored.record.spec
            with self.store.open_pod(spec.namespace, spec.name) as folder:
                message = f"the process of node {self.node} died and its pods with it"
                self._finish(folder, stored, PodReason.NODE_LOST, message, exit_code=None)

    async def sweep(self) -> None:
        """Look at every pod of the folder, and at those that run here but were removed from it."""
        for namespace, name in self.store.pod_keys():
            await self.look(namespace, name)
        for pod in list(self.running.values()):
            spec = pod.stored.record.spec
            if not is_at(pod.folder, self.store.layout.pod(spec.namespace, spec.name)):
                self._end(pod, grace_seconds=0)

    async def look(self, namespace: str, name: str) -> None:
        """Bring one pod's processes to what the folder says."""
        async with self.turn:
            try:
                with self.store.open_pod(namespace, name) as folder:
                    stored = load_stored(folder)
                    if stored.node is None:
                        stored = self._bind(folder, stored)
                    if stored.node == self.node:
                        await self._reconcile(folder, stored)
            except NotFound:
                return

    async def _reconcile(self, folder: int, stored: StoredPod) -> None:
        pod = self.running.get(stored.record.uid)
        if stored.deletion is not None:
            if pod is None:
                self._remove(stored)
            else:
                self._end(pod, stored.deletion.grace_seconds)
        elif pod is None and stored.status.phase is PodPhase.PENDING and not self.draining:
            await self._start(folder, stored)

    def _bind(self, folder: int, stored: StoredPod) -> StoredPod:
        """Take an unbound pod if it fits here."""
        if stored.deletion is not None:
            self._remove(stored)
            return stored
        node = self.store.load_node(self.node).observed(ready=not self.draining)
        used = gpus_used((pod.observed(node_ready=True) for pod in self.store.pods()), self.node)
        if fits(node, used, stored.record.spec) and self.store.bind_pod(folder, self.node):
            return replace(stored, node=self.node)
        return stored

    async def _start(self, folder: int, stored: StoredPod) -> None:
        spec, uid = stored.record.spec, stored.record.uid
        indices = self._free_gpus()
        if spec.gpus > len(indices):
            message = f"the pod asks for {spec.gpus} GPUs, node {self.node} has {len(indices)} of {self.gpus} free"
            self._finish(folder, stored, PodReason.OUT_OF_GPUS, message, exit_code=None)
            return
        indices = indices[: spec.gpus]
        log_path = self.store.layout.log(self.node, spec.namespace, spec.name, uid)
        status = PodStatus(PodPhase.RUNNING, gpu_indices=indices, started_at=self.clock.now())
        stored = replace(stored, status=status)
        write_status(folder, status)  # before the start: a pod that may have run never starts again
        environment = {**inherited_environment(), **spec.env, GPU_INDICES_VARIABLE: ",".join(map(str, indices))}
        try:
            process = await _spawn(spec.command, environment, spec.working_dir or None, log_path)
        except OSError as error:
            self._finish(folder, stored, PodReason.START_ERROR, f"cannot start: {error}", exit_code=None)
            return
        stored = replace(stored, status=replace(status, pid=process.pid))
        pod = RunningPod(stored, os.dup(folder), process, indices)
        self.running[uid] = pod
        write_status(folder, stored.status)
        pod.watcher = asyncio.create_task(self._watch(pod), name=f"pod {spec.name}")
        self.notify(stored)
        log.info("pod started", pod=spec.name, namespace=spec.namespace, uid=uid, pid=process.pid)

    def _free_gpus(self) -> tuple[int, ...]:
        taken = {index for pod in self.running.values() for index in pod.gpu_indices}
        return tuple(index for index in range(self.gpus) if index not in taken)

    async def _watch(self, pod: RunningPod) -> None:
        """Wait for the end of a pod's processes and record it."""
        code = await pod.process.wait()
        if pod.killer is not None:
            pod.killer.cancel()
        code = code if code >= 0 else 128 - code
        stored, spec = pod.stored, pod.stored.record.spec
        reason = pod.end_reason
        if reason is None:
            reason = PodReason.COMPLETED if code == 0 else PodReason.ERROR
            if code in _START_ERROR_CODES:
                reason = PodReason.START_ERROR
        del self.running[stored.record.uid]
        try:
            self._finish(pod.folder, stored, reason, "" if code == 0 else f"exit code {code}", exit_code=code)
        finally:
            os.close(pod.folder)
        await self.look(spec.namespace, spec.name)
        if reason is not PodReason.NODE_SHUTDOWN:
            await self.sweep()  # its GPUs are free: an unbound pod may fit now

    def _finish(
        self, folder: int, stored: StoredPod, reason: PodReason, message: str, *, exit_code: int | None
    ) -> None:
        phase = PodPhase.SUCCEEDED if reason is PodReason.COMPLETED else PodPhase.FAILED
        ended = replace(
            stored.status,
            phase=phase,
            reason=reason,
            message=message,
            exit_code=exit_code,
            finished_at=self.clock.now(),
        )
        write_status(folder, ended)
        self.notify(stored)
        log.info("pod ended", pod=stored.record.spec.name, uid=stored.record.uid, reason=reason, exit_code=exit_code)

    def _remove(self, stored: StoredPod) -> None:
        spec = stored.record.spec
        try:
            self.store.remove_pod(spec.namespace, spec.name, stored.record.uid)
        except (NotFound, Aborted):
            return
        self.notify(stored)

    def _end(self, pod: RunningPod, grace_seconds: float) -> None:
        """End a pod's processes; a later call may only shorten the grace."""
        if pod.kill_grace_seconds is not None and pod.kill_grace_seconds <= grace_seconds:
            return
        pod.kill_grace_seconds = grace_seconds
        if pod.killer is not None:
            pod.killer.cancel()
        pod.killer = asyncio.create_task(_terminate(pod.process, grace_seconds), name="pod end")

    async def shut_down(self, grace_seconds: float) -> None:
        """End all pods because the node goes away."""
        self.draining = True
        pods = list(self.running.values())
        for pod in pods:
            pod.end_reason = PodReason.NODE_SHUTDOWN
            self._end(pod, grace_seconds)
        await asyncio.gather(*(pod.watcher for pod in pods if pod.watcher is not None))

    def prune_logs(self) -> None:
        """Keep the output of the last pods only; that of running ones always."""
        folder = self.store.layout.node(self.node) / "logs"
        folder.mkdir(exist_ok=True, mode=0o700)
        running = {uid[-8:] for uid in self.running}
        logs = sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in logs[KEPT_LOGS:]:
            if path.name.split(".")[-2] not in running:
                path.unlink(missing_ok=True)


def inherited_environment() -> Mapping[str, str]:
    """What a pod sees of the node's environment: nothing that configures longhaul itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LONGHAUL_")}


async def _spawn(
    command: tuple[str, ...], environment: Mapping[str, str], working_dir: str | None, log_path: Path
) -> asyncio.subprocess.Process:
    with open_directory(log_path.parent) as folder:
        output = os.open(log_path.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600, dir_fd=folder)
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(_POD_INIT),
            str(os.getpid()),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=working_dir,
            start_new_session=True,
        )
    finally:
        os.close(output)


async def _terminate(process: asyncio.subprocess.Process, grace_seconds: float) -> None:
    """SIGTERM, after the grace the whole pod's death, and should even that not help the init process's."""
    if grace_seconds > 0:
        _signal(process, signal.SIGTERM)
        await asyncio.sleep(grace_seconds)
    _signal(process, signal.SIGUSR2)
    await asyncio.sleep(KILL_PATIENCE_SECONDS)
    _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return
