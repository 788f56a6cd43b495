"""Kubelets that run the pods of played nodes as processes of this machine, so that a real run trains on a cluster.

They read and write the API only, as kubelets do: a pod bound to their node is started, its end is reported, a deletion
is SIGTERM, after the grace SIGKILL, then the object is removed. An image called `missing/...` cannot be pulled, and a
Secret that a pod names must exist.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longhaul_core.cluster.kubernetes.manifest import bound_node
from longhaul_core.errors import LonghaulError, NotFound
from player import GPU, SCHEDULER, Player, Raw, container_status, gpus_of, now, path_of

POD_ADDRESS = "127.0.0.1"
TICK_SECONDS = 0.1
HEARTBEAT_SECONDS = 5.0


@dataclass(slots=True)
class Kubelets(Player):
    """`folder` takes the output of the pods; `processes` are the running ones by pod UID."""

    folder: Path = Path()
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _deadlines: dict[str, float] = field(default_factory=dict)
    _nodes_of: dict[str, str] = field(default_factory=dict)
    _heartbeat: float = 0.0

    async def serve(self) -> None:
        """Works until cancelled; an API server that is away is waited for."""
        while True:
            with suppress(LonghaulError):
                await self.tick()
            await asyncio.sleep(TICK_SECONDS)

    async def settle(self) -> None:
        """Nothing waits for these kubelets: they work by themselves."""

    async def tick(self) -> None:
        """One look at all pods of the nodes that are alive."""
        if time.monotonic() - self._heartbeat > HEARTBEAT_SECONDS:
            self._heartbeat = time.monotonic()
            for name in sorted(self.alive):
                await self._ready(name, "True", "KubeletReady")
        pods = await self._pods()
        for pod in pods:
            if "nodeName" not in pod["spec"]:
                node = bound_node(pod["spec"])
                if self.scheduler == SCHEDULER and node in self.alive and not pod["spec"].get("schedulingGates"):
                    await self._bind(pod, node)
                continue
            if pod["spec"]["nodeName"] not in self.alive:
                continue
            with suppress(NotFound):
                if pod["metadata"].get("deletionTimestamp"):
                    await self._end_deleted(pod)
                elif pod["status"].get("phase", "Pending") == "Pending":
                    await self._admit(pod, pod["spec"]["nodeName"], pods)
                else:
                    await self._report_end(pod)

    async def silence_node(self, name: str) -> None:
        """The machine loses its power."""
        self.alive.discard(name)
        for uid in [uid for uid, node in self._nodes_of.items() if node == name]:
            _kill(self.processes.pop(uid), signal.SIGKILL)
            del self._nodes_of[uid]
        await self._ready(name, "Unknown", "NodeStatusUnknown")

    async def stop(self) -> None:
        """Ends all processes and removes nodes and pods."""
        for process in self.processes.values():
            _kill(process, signal.SIGKILL)
        await self.clear()

    async def evict(self, namespace: str, name: str) -> None:
        """Asks for the pod's eviction, as a drain does, and marks it as one that is disrupted."""
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }
        await self.patch_status(namespace, name, {"conditions": [condition]})
        await self._ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", {})

    async def list_raw(self, namespace: str, resource: str) -> list[Raw]:
        """Objects of a kind as they are stored."""
        answer = await self._ask("GET", f"/api/v1/namespaces/{namespace}/{resource}")
        return list(answer["items"] or [])

    async def _admit(self, pod: Raw, node: str, pods: list[Raw]) -> None:
        if (waiting := await self._start_problem(pod)) is not None:
            status = [container_status(pod, {"waiting": waiting})]
            if status != pod["status"].get("containerStatuses"):
                await self._status(path_of(pod), {"containerStatuses": status})
            return
        free = self._free(node, [other for other in pods if other["metadata"]["uid"] != pod["metadata"]["uid"]])
        if gpus_of(pod) > free:
            message = f"Pod was rejected: Node didn't have enough resource: {GPU}"
            await self._status(path_of(pod), {"phase": "Failed", "reason": f"OutOf{GPU}", "message": message})
            return
        uid = pod["metadata"]["uid"]
        if uid not in self.processes:
            self.processes[uid] = self._start(pod)
            self._nodes_of[uid] = node
        status = [container_status(pod, {"running": {"startedAt": now()}})]
        await self._status(
            path_of(pod),
            {"phase": "Running", "podIP": POD_ADDRESS, "startTime": now(), "containerStatuses": status},
        )

    async def _start_problem(self, pod: Raw) -> Raw | None:
        container = pod["spec"]["containers"][0]
        if container["image"].startswith("missing/"):
            return {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
        for source in container.get("envFrom") or ():
            name, namespace = source["secretRef"]["name"], pod["metadata"]["namespace"]
            try:
                await self._ask("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
            except NotFound:
                return {"reason": "CreateContainerConfigError", "message": f'secret "{name}" not found'}
        return None

    def _start(self, pod: Raw) -> subprocess.Popen[bytes]:
        container = pod["spec"]["containers"][0]
        fields = {"status.podIP": POD_ADDRESS}
        given: dict[str, Any] = {
            item["name"]: item["value"] if "value" in item else fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
            for item in container["env"]
        }
        inherited = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{pod['metadata']['name']}.log").open("wb") as output:
            return subprocess.Popen(
                container["command"],
                env={**inherited, **given},
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _report_end(self, pod: Raw) -> None:
        process = self.processes.get(pod["metadata"]["uid"])
        if process is None or process.poll() is None or pod["status"]["phase"] != "Running":
            return
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        _kill(process, signal.SIGKILL)
        await self._end(pod, code, "Completed" if code == 0 else "Error", "")

    async def _end_deleted(self, pod: Raw) -> None:
        metadata = pod["metadata"]
        uid = metadata["uid"]
        process = self.processes.get(uid)
        if process is not None and process.poll() is None:
            if uid not in self._deadlines:
                self._deadlines[uid] = time.monotonic() + metadata.get("deletionGracePeriodSeconds", 30)
                process.terminate()
            elif time.monotonic() >= self._deadlines[uid]:
                _kill(process, signal.SIGKILL)
            return
        if process is not None:
            await self._report_end(pod)  # a finalizer may wait for the phase
            _kill(process, signal.SIGKILL)
            del self.processes[uid]
        self._nodes_of.pop(uid, None)
        await self._ask("DELETE", path_of(pod), {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})


def _kill(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals the pod's whole process group; what ended by itself may have left children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait()
