"""A namespace for a release: calls on the API as anybody, and hook jobs whose programs run here."""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
DEADLINE_SECONDS = 60.0

PLURALS = {
    "Pod": ("/api/v1", "pods"),
    "Node": ("/api/v1", "nodes"),
    "Secret": ("/api/v1", "secrets"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Namespace": ("/api/v1", "namespaces"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Job": ("/apis/batch/v1", "jobs"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "PersistentVolume": ("/api/v1", "persistentvolumes"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
}
CLUSTER_WIDE = ("Node", "Namespace", "PersistentVolume", "ClusterRole", "ClusterRoleBinding")


class Refused(Exception):  # noqa: N818
    """An answer of the API server that is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


@dataclass(frozen=True)
class Caller:
    """Somebody who calls the API: where it is, how it is trusted, and a token unless a certificate speaks for them."""

    server: str
    context: ssl.SSLContext
    token: str = ""

    @classmethod
    def of_kubeconfig(cls, path: Path) -> Caller:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        chosen = next(one["context"] for one in loaded["contexts"] if one["name"] == loaded["current-context"])
        cluster = next(one["cluster"] for one in loaded["clusters"] if one["name"] == chosen["cluster"])
        user = next(one["user"] for one in loaded["users"] if one["name"] == chosen["user"])
        return cls(cluster["server"], _context(cluster, user), user.get("token", ""))

    def call(self, method: str, path: str, body: Document | None = None) -> Document:
        """One request. Raises `Refused`."""
        kind = "strategic-merge-patch+json" if method == "PATCH" else "json"
        headers = {"Content-Type": f"application/{kind}", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.server + path, method=method, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=DEADLINE_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from error
        return json.loads(text) if text[:1] == b"{" else {}

    def authority(self) -> bytes:
        """The certificates that the server shows, as PEM: its own and those that it was issued by."""
        place = self.server.removeprefix("https://").rstrip("/")
        shown = subprocess.run(
            ["openssl", "s_client", "-connect", place, "-showcerts"], input=b"", capture_output=True, check=True
        )
        found = re.findall(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", shown.stdout, re.DOTALL)
        return b"".join(found)

    def status(self, method: str, path: str, body: Document | None = None) -> int:
        """The HTTP status of a request, refused or not."""
        try:
            self.call(method, path, body)
        except Refused as error:
            return error.status
        return 200


def _context(cluster: Document, user: Document) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if "certificate-authority-data" in cluster:
        context.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    elif "certificate-authority" in cluster:
        context.load_verify_locations(cluster["certificate-authority"])
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if "client-certificate-data" in user:
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
    elif "client-certificate" in user:
        context.load_cert_chain(user["client-certificate"], user["client-key"])
    return context


@dataclass
class Lab:
    """Calls on the API of a kubeconfig, in one namespace."""

    kubeconfig: Path
    namespace: str
    admin: Caller = field(init=False)

    def __post_init__(self) -> None:
        self.admin = Caller.of_kubeconfig(self.kubeconfig)

    def call(self, method: str, path: str, body: Document | None = None) -> Document:
        """One request with the rights of the kubeconfig."""
        return self.admin.call(method, path, body)

    def path(self, kind: str, name: str = "", namespace: str = "") -> str:
        root, plural = PLURALS[kind]
        within = "" if kind in CLUSTER_WIDE else f"/namespaces/{namespace or self.namespace}"
        return f"{root}{within}/{plural}" + (f"/{name}" if name else "")

    def get(self, kind: str, name: str) -> Document:
        return self.call("GET", self.path(kind, name))

    def items(self, kind: str, selector: str = "") -> list[Document]:
        query = f"?labelSelector={selector}" if selector else ""
        items: list[Document] = self.call("GET", self.path(kind) + query)["items"]
        return items

    def names(self, kind: str, selector: str = "") -> set[str]:
        return {item["metadata"]["name"] for item in self.items(kind, selector)}

    def create_namespace(self, level: str) -> None:
        labels = {"pod-security.kubernetes.io/enforce": level}
        self.call("POST", self.path("Namespace"), {"metadata": {"name": self.namespace, "labels": labels}})
        deadline = time.monotonic() + DEADLINE_SECONDS
        while "default" not in self.names("ServiceAccount"):
            assert time.monotonic() < deadline, "no controller made the default service account"
            time.sleep(0.1)

    def as_account(self, name: str) -> Caller:
        """A caller with a token of a service account and nothing else."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = self.call("POST", f"{self.path('ServiceAccount', name)}/token", body)["status"]["token"]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return Caller(self.admin.server, context, token)


@dataclass
class HookRunner:
    """Runs the programs of hook jobs here, with the rights of their service accounts, and reports their ends."""

    lab: Lab
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    ran: list[tuple[str, int, str]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[HookRunner]:
        with api_proxy(self.lab) as server:
            thread = threading.Thread(target=self._run, args=(server,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._stop.set()
                thread.join(DEADLINE_SECONDS)

    def _run(self, server: str) -> None:
        seen: set[str] = set()
        while not self._stop.wait(0.1):
            try:
                for job in self.lab.items("Job"):
                    if job["metadata"]["uid"] not in seen:
                        seen.add(job["metadata"]["uid"])
                        self._finish(job, self._execute(job, server))
            except Refused as error:
                if error.status not in (404, 409):
                    raise

    def _execute(self, job: Document, server: str) -> int:
        pod = job["spec"]["template"]["spec"]
        container = pod["containers"][0]
        command = [sys.executable, *(self._expanded(text, container["env"]) for text in container["command"][1:])]
        if "longhaul_core.certificates" in command:
            command += ["--server", server, "--account", str(self._account(pod["serviceAccountName"]))]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
        self.ran.append((job["metadata"]["name"], done.returncode, done.stdout + done.stderr))
        return done.returncode

    def _expanded(self, text: str, environment: list[Document]) -> str:
        """What a kubelet makes of `$(NAME)` in a command, for variables of ConfigMaps."""
        for variable in environment:
            reference = variable.get("valueFrom", {}).get("configMapKeyRef")
            if reference and reference["name"] in self.lab.names("ConfigMap"):
                value = self.lab.get("ConfigMap", reference["name"])["data"][reference["key"]]
                text = text.replace(f"$({variable['name']})", value)
        return text

    def _account(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(self.lab.as_account(name).token)
        return folder

    def _finish(self, job: Document, code: int) -> None:
        """The status that the job controller would write."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        kinds = ("SuccessCriteriaMet", "Complete") if code == 0 else ("FailureTarget", "Failed")
        reason = "CompletionsReached" if code == 0 else "BackoffLimitExceeded"
        conditions = [{"type": kind, "status": "True", "reason": reason, "lastTransitionTime": now} for kind in kinds]
        path = self.lab.path("Job", job["metadata"]["name"]) + "/status"
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            present = self.lab.get("Job", job["metadata"]["name"])
            ended = {"succeeded": 1, "completionTime": now} if code == 0 else {"failed": 1}
            began = present.get("status", {}).get("startTime", now)
            present["status"] = {"conditions": conditions, "startTime": began, **ended}
            try:
                self.lab.call("PUT", path, present)
                return
            except Refused as error:
                if error.status != 409 or time.monotonic() > deadline:
                    raise


@contextmanager
def api_proxy(lab: Lab) -> Iterator[str]:
    """The API server in plain text on loopback, so that a program needs no roots of a self-signed server."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = urllib.request.Request(
                lab.admin.server + self.path,
                method=self.command,
                data=self.rfile.read(length) if length else None,
                headers={key: self.headers[key] for key in ("Authorization", "Content-Type") if key in self.headers},
            )
            try:
                with urllib.request.urlopen(request, context=lab.admin.context, timeout=DEADLINE_SECONDS) as answer:
                    self._answer(answer.status, answer.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.read())

        def _answer(self, code: int, payload: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def secret_data(secret: Document) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in secret["data"].items()}


def load_values(path: Path) -> Document:
    loaded: Document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return json.loads(json.dumps(loaded))  # type: ignore[no-any-return]
