"""Plays scheduler, kubelets and node controller through the API, where a cluster has none: pods get phases that way.

It acts only when it is told to (`settle`), so that a test decides when things happen. On a real cluster its pods and
nodes are kept apart from the real ones by a scheduler name that nobody serves.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from longhaul_core.cluster.kubernetes.errors import Call
from longhaul_core.cluster.kubernetes.transport import STRATEGIC_PATCH, Request, Transport
from longhaul_core.errors import AlreadyExists, LonghaulError, NotFound

Raw = dict[str, Any]
SCHEDULER = "longhaul-test"
MARK = "longhaul.dev/test"
DERIVED_TAINT = "node.kubernetes.io/"
GPU = "nvidia.com/gpu"
POD_IP = "10.1.2.3"
DEADLINE_SECONDS = 60.0


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Player:
    """`alive` are the played nodes whose kubelet works; pods named in `stubborn` ignore SIGTERM.

    `log_port` is where the kubelets of nodes that are added answer on loopback; 0: nowhere. Played are the pods of
    `scheduler`; any other than `SCHEDULER` binds them itself.
    """

    transport: Transport
    namespaces: tuple[str, ...]
    alive: set[str] = field(default_factory=set)
    nodes: dict[str, int] = field(default_factory=dict)
    stubborn: set[str] = field(default_factory=set)
    log_port: int = 0
    scheduler: str = SCHEDULER

    # What a test does

    async def add_node(self, name: str, gpus: int, labels: dict[str, str] | None = None) -> None:
        # A node controller would add this annotation a moment later, and with it another version of the node.
        annotations = {"node.alpha.kubernetes.io/ttl": "0", MARK: "true"}
        metadata = {"name": name, "labels": dict(labels or {}), "annotations": annotations}
        await self._ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        self.nodes[name] = gpus
        self.alive.add(name)
        devices = {GPU: str(gpus), "cpu": "64", "memory": "512Gi", "pods": "110"}
        status: Raw = {"capacity": devices, "allocatable": devices}
        if self.log_port:
            status["addresses"] = [{"type": "InternalIP", "address": "127.0.0.1"}]
            status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": self.log_port}}
        await self._status(f"/api/v1/nodes/{name}", status)
        await self._ready(name, "True", "KubeletReady")
        await self.settle()

    async def silence_node(self, name: str) -> None:
        """The kubelet stops; the node controller has noticed."""
        self.alive.discard(name)
        await self._ready(name, "Unknown", "NodeStatusUnknown")

    async def revive_node(self, name: str) -> None:
        """The machine was rebooted: the kubelet is back, the containers are not."""
        for pod in await self._pods():
            if pod["spec"].get("nodeName") == name and pod["status"].get("phase") == "Running":
                message = "The container could not be located when the pod was terminated"
                await self._end(pod, 137, "ContainerStatusUnknown", message)
        self.alive.add(name)
        await self._ready(name, "True", "KubeletReady")
        await self.settle()

    async def finish(self, namespace: str, name: str, exit_code: int) -> None:
        pod = await self._ask("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")
        await self._end(pod, exit_code, "Completed" if exit_code == 0 else "Error", "")
        await self.settle()

    async def patch_status(self, namespace: str, name: str, status: Raw) -> None:
        """Whatever else a kubelet may report."""
        await self._status(f"/api/v1/namespaces/{namespace}/pods/{name}", status)

    async def settle(self) -> None:
        """Let scheduler and kubelets do all they can."""
        while await self._step():
            pass

    async def clear(self) -> None:
        """Remove the played nodes and pods."""
        for pod in await self._pods():
            await self._delete(pod)
        for name in self.nodes:
            with contextlib.suppress(NotFound):
                await self._ask("DELETE", f"/api/v1/nodes/{name}")

    async def ensure_namespace(self, name: str) -> None:
        """Create a namespace for tests, once an earlier one has ended; somebody else's is not touched."""
        labels = {MARK: "true", "pod-security.kubernetes.io/enforce": "restricted"}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                try:
                    await self._ask("POST", "/api/v1/namespaces", body)
                    return
                except AlreadyExists:
                    with contextlib.suppress(NotFound):
                        found = await self._ask("GET", f"/api/v1/namespaces/{name}")
                        if (found["metadata"].get("labels") or {}).get(MARK) != "true":
                            raise
                        if not found["metadata"].get("deletionTimestamp"):
                            return
                await asyncio.sleep(0.2)

    async def remove_namespace(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            await self._ask("DELETE", f"/api/v1/namespaces/{name}")

    # The rest is how it works

    async def _step(self) -> bool:
        pods = await self._pods()
        nodes = {name: await self._ask("GET", f"/api/v1/nodes/{name}") for name in sorted(self.nodes)}
        for pod in pods:
            node, status = pod["spec"].get("nodeName"), pod["status"]
            if pod["metadata"].get("deletionTimestamp"):
                if node in self.alive and pod["metadata"]["name"] not in self.stubborn:
                    await self._delete(pod)
                    return True
            elif status.get("phase", "Pending") != "Pending":
                continue
            elif node is None:
                if await self._schedule(pod, nodes, pods):
                    return True
            elif node in self.alive:
                await self._admit(pod, node, pods)
                return True
        return False

    async def _schedule(self, pod: Raw, nodes: dict[str, Raw], pods: list[Raw]) -> bool:
        if pod["spec"].get("schedulingGates"):
            return False
        for name, node in nodes.items():
            if name in self.alive and _fits(pod, node) and gpus_of(pod) <= self._free(name, pods):
                await self._bind(pod, name)
                return True
        message = f"0/{len(nodes)} nodes are available: {len(nodes)} Insufficient {GPU}."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        if not any(item.get("reason") == "Unschedulable" for item in pod["status"].get("conditions") or ()):
            await self._status(path_of(pod), {"conditions": [condition]})
        return False

    async def _bind(self, pod: Raw, node: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        metadata = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
        await self._ask("POST", f"{path_of(pod)}/binding", binding)

    async def _admit(self, pod: Raw, node: str, pods: list[Raw]) -> None:
        free = self._free(node, [other for other in pods if other["metadata"]["uid"] != pod["metadata"]["uid"]])
        if gpus_of(pod) > free:
            message = (
                f"Pod was rejected: Node didn't have enough resource: {GPU}, requested: {gpus_of(pod)}, free: {free}"
            )
            await self._status(path_of(pod), {"phase": "Failed", "reason": f"OutOf{GPU}", "message": message})
            return
        state = {"running": {"startedAt": now()}}
        await self._status(
            path_of(pod),
            {
                "phase": "Running",
                "podIP": POD_IP,
                "startTime": now(),
                "containerStatuses": [container_status(pod, state)],
            },
        )

    async def _end(self, pod: Raw, code: int, reason: str, message: str) -> None:
        ended = {"exitCode": code, "reason": reason, "message": message, "startedAt": now(), "finishedAt": now()}
        phase = "Succeeded" if code == 0 else "Failed"
        await self._status(
            path_of(pod), {"phase": phase, "containerStatuses": [container_status(pod, {"terminated": ended})]}
        )

    def _free(self, node: str, pods: list[Raw]) -> int:
        ended = ("Succeeded", "Failed")
        held = (
            gpus_of(pod)
            for pod in pods
            if pod["spec"].get("nodeName") == node and pod["status"].get("phase") not in ended
        )
        return self.nodes[node] - sum(held)

    async def _pods(self) -> list[Raw]:
        found: list[Raw] = []
        for namespace in self.namespaces:
            answer = await self._ask("GET", f"/api/v1/namespaces/{namespace}/pods")
            found += [pod for pod in answer["items"] or [] if pod["spec"].get("schedulerName") == self.scheduler]
        return sorted(found, key=lambda pod: int(pod["metadata"]["resourceVersion"]))

    async def _ready(self, name: str, status: str, reason: str) -> None:
        moment = {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
        condition = {"type": "Ready", "status": status, "reason": reason, "message": reason, **moment}
        await self._status(f"/api/v1/nodes/{name}", {"conditions": [condition]})

    async def _delete(self, pod: Raw) -> None:
        with contextlib.suppress(NotFound):
            await self._ask("DELETE", path_of(pod), {"gracePeriodSeconds": 0})

    async def _status(self, path: str, status: Raw) -> None:
        await self._ask("PATCH", f"{path}/status", {"status": status})

    async def _ask(self, method: str, path: str, body: Raw | None = None) -> Raw:
        content_type = STRATEGIC_PATCH if method == "PATCH" else "application/json"
        call = Call(method.lower(), path.rsplit("/", 1)[-1])
        request = Request(call, method, path, body=body, content_type=content_type)
        return await self.transport.ask(request)


def path_of(pod: Raw) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def container_status(pod: Raw, state: Raw) -> Raw:
    container = pod["spec"]["containers"][0]
    basics = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
    return {**basics, "ready": "running" in state, "state": state}


def gpus_of(pod: Raw) -> int:
    limits = ((item.get("resources") or {}).get("limits") or {} for item in pod["spec"]["containers"])
    return sum(int(limit.get(GPU, 0)) for limit in limits)


def _fits(pod: Raw, node: Raw) -> bool:
    labels = node["metadata"].get("labels") or {}
    selected = all(labels.get(key) == value for key, value in (pod["spec"].get("nodeSelector") or {}).items())
    spec = node.get("spec") or {}
    cordoned = spec.get("unschedulable")
    taints = (taint for taint in spec.get("taints") or () if not taint["key"].startswith(DERIVED_TAINT))
    hard = [taint for taint in taints if taint["effect"] != "PreferNoSchedule"]
    tolerated = all(any(_tolerates(item, taint) for item in pod["spec"].get("tolerations", ())) for taint in hard)
    return selected and tolerated and not cordoned


def _tolerates(toleration: Raw, taint: Raw) -> bool:
    if toleration.get("effect", taint["effect"]) != taint["effect"]:
        return False
    if toleration.get("key", taint["key"]) != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


__all__ = ["GPU", "SCHEDULER", "LonghaulError", "Player"]
