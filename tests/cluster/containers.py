"""What a kubelet makes of a container: its environment, its volumes, and a process among them.

The process is Python of this checkout in place of the image, in a mount namespace of its own, as the pod's user and
without capabilities. All pods share the network of this machine: each has an address of it, and what would listen on
all addresses of the pod listens on that one.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chart_lab import Caller, Refused

Document = dict[str, Any]
ENCLOSURE = Path(__file__).parent / "enclosure.sh"
ROOT = Path(__file__).resolve().parents[2]
OWN_USER = 10001
ANY_ADDRESS = "0.0.0.0:"
INHERITED = ("PATH", "LANG", "PYTEST_LONGHAUL_SESSION")


class NotYet(Exception):  # noqa: N818
    """Something that the pod needs is not there; a kubelet tries again."""


@dataclass(slots=True)
class Container:
    """The one container of a pod. `claims` holds a folder a claim, `hosts` is the file of names."""

    admin: Caller
    pod: Document
    address: str
    folder: Path
    claims: Path
    hosts: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def spec(self) -> Document:
        found: Document = self.pod["spec"]["containers"][0]
        return found

    @property
    def namespace(self) -> str:
        name: str = self.pod["metadata"]["namespace"]
        return name

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Start the process. Raises `NotYet`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = self.environment()
        command = [_expanded(part, environment) for part in [*self.spec["command"], *self.spec.get("args", ())]]
        if command[0] == "python":
            command[0] = sys.executable
        mounts = [(self.hosts, "/etc/hosts", "ro"), *self._mounts()]
        (self.folder / "mounts").write_text("".join(f"{source} {target} {mode}\n" for source, target, mode in mounts))
        kept = {str(place) for place in (ROOT, Path(sys.prefix)) if place.is_relative_to("/tmp")}
        (self.folder / "kept").write_text("".join(f"{place}\n" for place in sorted(kept)))
        closed = (place for place in Path(sys.executable).resolve().parents if not place.stat().st_mode & 0o001)
        (self.folder / "opened").write_text("".join(f"{place}\n" for place in closed))
        context = self.pod["spec"].get("securityContext") or {}
        enclosure = ["bash", str(ENCLOSURE), str(self.folder), str(context.get("runAsUser", OWN_USER))]
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", *enclosure, *command],
                env={**inherited, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment},
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )

    def environment(self) -> dict[str, str]:
        """Variables as a kubelet resolves them, in their order."""
        made = {"KUBERNETES_SERVICE_HOST": "", "KUBERNETES_SERVICE_PORT": ""}
        host, _, port = self.admin.server.removeprefix("https://").rstrip("/").partition(":")
        made |= {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port or "443"}
        for source in self.spec.get("envFrom") or ():
            kind = "secretRef" if "secretRef" in source else "configMapRef"
            made |= {key: value.decode() for key, value in self._data(kind[:-3], source[kind]).items()}
        for variable in self.spec.get("env") or ():
            value = self._value(variable)
            if value is not None:
                made[variable["name"]] = _expanded(value, made).replace(ANY_ADDRESS, f"{self.address}:")
        return made

    def _value(self, variable: Document) -> str | None:
        if "valueFrom" not in variable:
            return str(variable.get("value", ""))
        source = variable["valueFrom"]
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"])
        kind = "secretKeyRef" if "secretKeyRef" in source else "configMapKeyRef"
        data = self._data(kind[: -len("KeyRef")], source[kind])
        if source[kind]["key"] not in data:
            if source[kind].get("optional"):
                return None
            raise NotYet(f"couldn't find key {source[kind]['key']} in {source[kind]['name']}")
        return data[source[kind]["key"]].decode()

    def _field(self, path: str) -> str:
        if path in ("status.podIP", "status.hostIP"):
            return self.address
        found: Any = self.pod
        for part in path.split("."):
            found = found[part]
        return str(found)

    def _data(self, kind: str, reference: Document) -> dict[str, bytes]:
        """What a Secret or ConfigMap holds; nothing where it is optional and absent."""
        plural = "secrets" if kind == "secret" else "configmaps"
        name = reference.get("name") or reference["secretName"]
        try:
            found = self.admin.call("GET", f"/api/v1/namespaces/{self.namespace}/{plural}/{name}")
        except Refused as error:
            if error.status == 404 and reference.get("optional"):
                return {}
            raise NotYet(f'{kind} "{name}" not found') from error
        data: Document = found.get("data") or {}
        return {key: base64.b64decode(text) if kind == "secret" else text.encode() for key, text in data.items()}

    def _mounts(self) -> list[tuple[Path, str, str]]:
        volumes = {volume["name"]: volume for volume in self.pod["spec"].get("volumes") or ()}
        made = []
        for mount in self.spec.get("volumeMounts") or ():
            source = self._volume(volumes[mount["name"]]) / mount.get("subPath", "")
            if not source.exists():
                _writable(source)
            made.append((source, mount["mountPath"], "ro" if mount.get("readOnly") else "rw"))
        return sorted(made, key=lambda one: len(one[1]))

    def _volume(self, volume: Document) -> Path:
        if "persistentVolumeClaim" in volume:
            return _writable(self.claims / self.namespace / volume["persistentVolumeClaim"]["claimName"])
        place = self.folder / "volumes" / volume["name"]
        if "emptyDir" in volume:
            return _writable(place)
        place.mkdir(parents=True, exist_ok=True)
        for path, content in self._files(volume).items():
            (place / path).write_bytes(content)
            (place / path).chmod(0o440)
            shutil.chown(place / path, group=OWN_USER)
        return place

    def _files(self, volume: Document) -> dict[str, bytes]:
        if "projected" in volume:
            files: dict[str, bytes] = {}
            for source in volume["projected"]["sources"]:
                files |= self._projected(source)
            return files
        kind = "secret" if "secret" in volume else "configMap"
        data = self._data(kind, volume[kind])
        items = volume[kind].get("items")
        return {item["path"]: data[item["key"]] for item in items} if items else data

    def _projected(self, source: Document) -> dict[str, bytes]:
        if "serviceAccountToken" in source:
            account = self.pod["spec"]["serviceAccountName"]
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
            token: str = self.admin.call("POST", path, body)["status"]["token"]
            return {source["serviceAccountToken"]["path"]: token.encode()}
        if "configMap" in source:
            data = self._data("configMap", source["configMap"])
            # A control plane that was given no root publishes an empty one: then what the server shows is trusted.
            data = {key: (text.strip() and text) or self.admin.authority() for key, text in data.items()}
            return {item["path"]: data[item["key"]] for item in source["configMap"]["items"]}
        return {
            item["path"]: self._field(item["fieldRef"]["fieldPath"]).encode() for item in source["downwardAPI"]["items"]
        }


def _writable(folder: Path) -> Path:
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o2777)
        shutil.chown(folder, OWN_USER, OWN_USER)
    return folder


def _expanded(text: str, environment: dict[str, str]) -> str:
    """`$(NAME)` of a variable that is there; others stay as they are."""
    return re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), text)
