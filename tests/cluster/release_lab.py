"""A release on a machine of the suite: its pods run, clients are pods beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import helm_python as helm
from chart_lab import PLURALS, Document, Lab
from machine import TOLERATION, Machine

T = TypeVar("T")
RELEASE = "lh"
OF_RELEASE = f"app.kubernetes.io/instance={RELEASE}"
SERVICES = ("ingest", "corpus", "training", "checkpoint", "evaluation", "gpuhealth")
LOAD = Path(__file__).parent / "load.py"
READY_SECONDS = 240.0


@dataclass
class Release:
    """Helm, the API and the machine together."""

    lab: Lab
    machine: Machine
    helm: helm.Config
    auth: bool = False
    clients: list[str] = field(default_factory=list)

    def wait(self, find: Callable[[], T], what: str, seconds: float = READY_SECONDS) -> T:
        """What `find` returns, once it is something."""
        deadline = time.monotonic() + seconds
        while not (found := find()):
            assert time.monotonic() < deadline, f"{what}: not in {seconds:.0f} s\n{self.describe()}"
            time.sleep(0.2)
        return found

    def describe(self) -> str:
        """Pods and the end of what they wrote, for a failure's message."""
        lines = []
        for pod in self.lab.items("Pod"):
            name = pod["metadata"]["name"]
            status = {key: value for key, value in pod["status"].items() if key in ("phase", "conditions")}
            lines.append(f"{name}: {json.dumps(status)[:600]}\n{self.machine.log(name)[-1500:]}")
        return "\n".join(lines)

    def left(self) -> dict[str, set[str]]:
        """What is there of the release, apart from its volume, which is kept."""
        kinds = set(PLURALS) - {"Namespace", "Node", "PersistentVolumeClaim", "PersistentVolume"}
        found = {kind: self.lab.names(kind, OF_RELEASE) for kind in kinds}
        for kind in ("ClusterRole", "ClusterRoleBinding"):
            found[kind] = {name for name in found[kind] if name.startswith(f"{self.lab.namespace}-")}
        return {kind: names for kind, names in found.items() if names}

    def rolled_out(self) -> bool:
        """Whether every Deployment has the pods it should have, of its newest template, and no others."""
        for deployment in self.lab.items("Deployment", OF_RELEASE):
            wanted, status = deployment["spec"]["replicas"], deployment["status"]
            counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
            seen = status.get("observedGeneration") == deployment["metadata"]["generation"]
            if not seen or counts != [wanted] * 3:
                return False
        gone = (pod["metadata"].get("deletionTimestamp") for pod in self.lab.items("Pod", OF_RELEASE))
        return not any(gone)

    def await_rollout(self, what: str) -> None:
        self.wait(self.rolled_out, what)

    def pods_of(self, service: str) -> list[Document]:
        return self.lab.items("Pod", f"{OF_RELEASE},app.kubernetes.io/component={service}")

    def scale(self, service: str, replicas: int) -> None:
        """Set the number of pods: of a Deployment, or by the bounds of its autoscaler, which it gets back."""
        name = f"{RELEASE}-{service}"
        scaled = name in self.lab.names("HorizontalPodAutoscaler")
        kind = "HorizontalPodAutoscaler" if scaled else "Deployment"
        path = self.lab.path(kind, name)
        before = self.lab.get(kind, name)["spec"]
        spec = {"minReplicas": replicas, "maxReplicas": replicas} if scaled else {"replicas": replicas}
        self.lab.call("PATCH", path, {"spec": spec})
        what = f"{service} with {replicas} pods"
        self.wait(lambda: len(self.pods_of(service)) == replicas and self.rolled_out(), what)
        if scaled:  # Helm refuses to upgrade what others have changed
            self.lab.call("PATCH", path, {"spec": {key: before[key] for key in spec}})

    def restart(self, service: str) -> None:
        """What `kubectl rollout restart` does."""
        stamp = {"kubectl.kubernetes.io/restartedAt": str(time.time())}
        template = {"template": {"metadata": {"annotations": stamp}}}
        self.lab.call("PATCH", self.lab.path("Deployment", f"{RELEASE}-{service}"), {"spec": template})

    def start_pod(self, name: str, command: list[str], **more: Any) -> None:
        """A client's pod, as a user would make it: restricted, with the release's roots and its token."""
        namespace = self.lab.namespace
        env = [
            {"name": "LONGHAUL_TLS_CA", "value": "/etc/longhaul/tls/ca.crt"},
            {"name": "HOSTNAME_OF_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "HOME", "value": "/tmp"},
        ]
        if self.auth:
            reference = {"name": "longhaul-token", "key": "token"}
            env.append({"name": "LONGHAUL_API_TOKEN", "valueFrom": {"secretKeyRef": reference}})
        roots = {"secretName": f"{RELEASE}-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
        volumes = [{"name": "tls", "secret": roots}, {"name": "tmp", "emptyDir": {}}, *more.get("volumes", ())]
        mounts = [
            {"name": "tls", "mountPath": "/etc/longhaul/tls", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            *more.get("mounts", ()),
        ]
        safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {"name": "main", "image": "client", "command": command, "env": env, "volumeMounts": mounts}
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "tolerations": [TOLERATION],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{**container, "securityContext": safe}],
            "volumes": volumes,
        }
        labels = {"longhaul.dev/client": "true"}
        body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
        self.lab.call("POST", f"/api/v1/namespaces/{namespace}/pods", body)

    def phase(self, pod: str) -> str:
        return str(self.lab.get("Pod", pod)["status"].get("phase", "Pending"))

    def start_clients(self, count: int) -> None:
        """Clients at work on every service."""
        pattern = f"{RELEASE}-{{}}-pods.{self.lab.namespace}.svc"
        for number in range(count):
            self.clients.append(f"client-{number}")
            self.start_pod(self.clients[-1], ["python", str(LOAD), pattern])
        for name in self.clients:
            self.wait(lambda name=name: "at work" in self.machine.log(name), f"{name} at work")  # type: ignore[misc]

    def end_clients(self) -> list[Document]:
        """Stop them, and what each of them says."""
        for name in self.clients:
            self.lab.call("DELETE", self.lab.path("Pod", name))
        for name in self.clients:
            self.wait(lambda name=name: not self._there(name), f"{name} gone")  # type: ignore[misc]
        return [json.loads(self.machine.log(name).splitlines()[-1]) for name in self.clients]

    def _there(self, pod: str) -> bool:
        return self.lab.admin.status("GET", self.lab.path("Pod", pod)) != 404
