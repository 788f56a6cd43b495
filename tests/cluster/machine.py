"""A node whose kubelet, network and names the suite plays; everything else of the cluster is real.

Deployments, Jobs, endpoints and placement are the business of the cluster's own controllers and scheduler. Pods that
they bring to this node run as processes (see containers.py), are probed over gRPC, and end at SIGTERM. Names of
Services are lines of the pods' /etc/hosts, made from the EndpointSlices.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
from chart_lab import Caller, Document, Refused
from containers import Container, NotYet
from forward import forwarded
from grpc_health.v1 import health_pb2, health_pb2_grpc

TAINT = "longhaul.dev/test-machine"
TOLERATION = {"key": TAINT, "operator": "Exists", "effect": "NoSchedule"}
GPU = "nvidia.com/gpu"
TICK_SECONDS, HEARTBEAT_SECONDS, PROBE_SECONDS = 0.2, 5.0, 1.0
NETWORK = "198.18.0.0/16"
"""Addresses for measurements, which no machine has: pods may not have those of loopback. All lead to this machine."""

API_ADDRESS = "198.18.255.254"
LOOPBACK = f"127.0.0.1 localhost\n{API_ADDRESS} kubernetes.default.svc\n"


@dataclass
class Machine:
    """Use as a context manager. `namespaces`: of those, pods that no scheduler wants are taken too (hooks, tests)."""

    admin: Caller
    name: str
    namespaces: list[str]
    gpus: int = 0
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="longhaul-machine-", dir="/var/tmp")))
    running: dict[str, Container] = field(default_factory=dict)
    _started: int = 0
    _killed_after: dict[str, float] = field(default_factory=dict)
    _ready: dict[str, tuple[float, bool]] = field(default_factory=dict)
    _heartbeat: float = 0.0
    _ways: ExitStack = field(default_factory=ExitStack)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)
    _failure: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Machine:
        self.folder.chmod(0o755)
        self.hosts.write_text(LOOPBACK)
        body = {"metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name, TAINT: self.name}}}
        taints = [{"key": TAINT, "value": "true", "effect": "NoSchedule"}]
        self.admin.call("POST", "/api/v1/nodes", {**body, "spec": {"taints": taints}})
        devices = {"cpu": "256", "memory": "1Ti", "pods": "500", "ephemeral-storage": "10Ti", GPU: str(self.gpus)}
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": self.name}]
        self._patch(self._path, {"capacity": devices, "allocatable": devices, "addresses": addresses})
        host, _, port = self.admin.server.removeprefix("https://").rstrip("/").partition(":")
        subprocess.run(["ip", "route", "replace", "local", NETWORK, "dev", "lo"], check=True)
        self._ways.callback(subprocess.run, ["ip", "route", "del", "local", NETWORK, "dev", "lo"], check=False)
        self._ways.enter_context(forwarded(API_ADDRESS, 443, (host, int(port or 443))))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is not None:
            for path in sorted(self.folder.glob("pods/*/log")):
                sys.stderr.write(f"== {path.parent.name}\n{path.read_text(errors='replace')[-1500:]}\n")
        self._stop.set()
        self._thread.join(60)
        for container in self.running.values():
            _kill(container, signal.SIGKILL)
        self._ways.close()
        with suppress(Refused):
            self.admin.call("DELETE", self._path)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._failure:
            raise self._failure[0]

    @property
    def hosts(self) -> Path:
        return self.folder / "hosts"

    @property
    def seen(self) -> list[str]:
        """Names of all pods that ever ran here."""
        return sorted(path.name.split("_")[1] for path in self.folder.glob("pods/*"))

    def log(self, pod: str) -> str:
        """All that pods of that name have written."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"pods/*_{pod}_*/log")))

    @property
    def _path(self) -> str:
        return f"/api/v1/nodes/{self.name}"

    def _serve(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                self._tick()
            except Refused as error:
                if error.status not in (404, 409):
                    self._failure.append(error)
                    return
            except BaseException as error:
                self._failure.append(error)
                raise

    def _tick(self) -> None:
        if time.monotonic() - self._heartbeat > HEARTBEAT_SECONDS:
            self._heartbeat = time.monotonic()
            condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": _now()}
            self._patch(self._path, {"conditions": [condition]})
        self._take_unwanted()
        self._write_hosts()
        found = self.admin.call("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={self.name}")["items"]
        for pod in found:
            with suppress(Refused):
                self._tend(pod)
        for uid in set(self.running) - {pod["metadata"]["uid"] for pod in found}:
            _kill(self.running.pop(uid), signal.SIGKILL)

    def _tend(self, pod: Document) -> None:
        uid, phase = pod["metadata"]["uid"], pod["status"].get("phase", "Pending")
        container = self.running.get(uid)
        if pod["metadata"].get("deletionTimestamp"):
            self._end(pod, container)
        elif phase in ("Succeeded", "Failed"):
            return
        elif container is None:
            self._begin(pod)
        elif container.process is not None and container.process.poll() is not None:
            self._report_end(pod, container, container.process.returncode)
        else:
            self._probe(pod, container)

    def _begin(self, pod: Document) -> None:
        metadata = pod["metadata"]
        self._started += 1
        address = f"198.18.{self._started // 250}.{self._started % 250 + 1}"
        folder = self.folder / "pods" / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid'][:8]}"
        container = Container(self.admin, pod, address, folder, self.folder / "claims", self.hosts)
        try:
            container.start()
        except NotYet as error:
            waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
            self._patch(_path(pod), {"containerStatuses": [_state(pod, waiting, 0)]})
            return
        self.running[metadata["uid"]] = container
        self._report_running(pod, container, ready=False, restarts=0)

    def _report_running(self, pod: Document, container: Container, *, ready: bool, restarts: int) -> None:
        self._ready[pod["metadata"]["uid"]] = (time.monotonic(), ready)
        told = "True" if ready else "False"
        conditions = [
            {"type": kind, "status": status, "lastTransitionTime": _now()}
            for kind, status in (("Initialized", "True"), ("ContainersReady", told), ("Ready", told))
        ]
        state = _state(pod, {"running": {"startedAt": _now()}}, restarts) | {"ready": ready, "started": True}
        addresses = {"podIP": container.address, "podIPs": [{"ip": container.address}], "hostIP": "127.0.0.1"}
        status = {"phase": "Running", "startTime": _now(), "conditions": conditions, "containerStatuses": [state]}
        self._patch(_path(pod), {**status, **addresses})

    def _probe(self, pod: Document, container: Container) -> None:
        looked, was = self._ready[pod["metadata"]["uid"]]
        if was and time.monotonic() - looked < PROBE_SECONDS:
            return
        ready = _serves(container)
        self._ready[pod["metadata"]["uid"]] = (time.monotonic(), ready)
        if ready != was:
            restarts = pod["status"]["containerStatuses"][0]["restartCount"]
            self._report_running(pod, container, ready=ready, restarts=restarts)

    def _report_end(self, pod: Document, container: Container, code: int) -> None:
        _kill(container, signal.SIGKILL)
        restarts = pod["status"]["containerStatuses"][0]["restartCount"]
        if pod["spec"].get("restartPolicy", "Always") == "Always":
            container.start()
            self._report_running(pod, container, ready=False, restarts=restarts + 1)
            return
        code = code if code >= 0 else 128 - code
        message = "" if code == 0 else container.log.read_text(errors="replace")[-2000:]
        reason = "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "message": message, "startedAt": _now(), "finishedAt": _now()}
        state = _state(pod, {"terminated": ended}, restarts)
        told = [{"type": kind, "status": "False", "reason": "PodCompleted"} for kind in ("ContainersReady", "Ready")]
        phase = "Succeeded" if code == 0 else "Failed"
        self._patch(_path(pod), {"phase": phase, "conditions": told, "containerStatuses": [state]})

    def _end(self, pod: Document, container: Container | None) -> None:
        uid = pod["metadata"]["uid"]
        if container is not None and container.process is not None and container.process.poll() is None:
            if uid not in self._killed_after:
                grace = pod["metadata"].get("deletionGracePeriodSeconds", 30)
                self._killed_after[uid] = time.monotonic() + grace
                container.process.terminate()
            elif time.monotonic() > self._killed_after[uid]:
                _kill(container, signal.SIGKILL)
            return
        if container is not None:
            _kill(container, signal.SIGKILL)
            del self.running[uid]
        self.admin.call("DELETE", _path(pod), {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    def _take_unwanted(self) -> None:
        """Pods of hooks and tests tolerate no taint; a cluster's own node would take them."""
        for namespace in self.namespaces:
            pods = self.admin.call("GET", f"/api/v1/namespaces/{namespace}/pods?fieldSelector=spec.nodeName=")["items"]
            for pod in pods:
                tolerated = (item.get("key") for item in pod["spec"].get("tolerations") or ())
                if TAINT not in tolerated and not pod["metadata"].get("deletionTimestamp"):
                    target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
                    binding = {"metadata": {"name": pod["metadata"]["name"]}, "target": target}
                    self.admin.call("POST", f"{_path(pod)}/binding", binding)

    def _write_hosts(self) -> None:
        """Names of Services for those of their pods that are ready. The file is changed in place: it is mounted."""
        lines = {LOOPBACK}
        for namespace in self.namespaces:
            for part in self.admin.call("GET", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")[
                "items"
            ]:
                service = part["metadata"]["labels"]["kubernetes.io/service-name"]
                names = [f"{service}.{namespace}{suffix}" for suffix in ("", ".svc", ".svc.cluster.local")]
                for endpoint in part.get("endpoints") or ():
                    if endpoint["conditions"].get("ready"):
                        lines.add(f"{endpoint['addresses'][0]} {' '.join(names)}\n")
        text = "".join(sorted(lines))
        if text != self.hosts.read_text():
            with self.hosts.open("r+b", buffering=0) as file:
                file.write(text.encode())
                file.truncate()

    def _patch(self, path: str, status: Document) -> None:
        self.admin.call("PATCH", f"{path}/status", {"status": status})


def _serves(container: Container) -> bool:
    probe = container.spec.get("readinessProbe")
    if probe is None:
        return True
    with grpc.insecure_channel(f"{container.address}:{probe['grpc']['port']}") as channel:
        request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service") or "")
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=probe.get("timeoutSeconds", 1))
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _path(pod: Document) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _state(pod: Document, state: Document, restarts: int) -> Document:
    container = pod["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "restartCount": restarts,
        "ready": False,
        "state": state,
    }


def _kill(container: Container, number: signal.Signals) -> None:
    process = container.process
    assert process is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
