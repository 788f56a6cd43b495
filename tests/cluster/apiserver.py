"""etcd and kube-apiserver of a folder (KUBEBUILDER_ASSETS), started on free ports of loopback.

kube-controller-manager and kube-scheduler are started too where the folder has them; else the tests play them, and the
service account admission is off, because the accounts that it asks for are made by a controller. Kubelets are played.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

TOKEN = "longhaul-test-token"
CONTROLLERS, SCHEDULER = "kube-controller-manager", "kube-scheduler"
START_SECONDS = 60.0


@dataclass(slots=True)
class ApiServer:
    """Use as a context manager; `kubeconfig` is there inside."""

    assets: Path
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="longhaul-kube-", dir="/tmp")))
    kubeconfig: Path = field(init=False)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> ApiServer:
        etcd, peer, api = _free_ports(3)
        self._start_etcd(etcd, peer)
        _await(f"http://127.0.0.1:{etcd}/health", self._processes[-1], self.folder / "etcd.log")
        self._start_apiserver(etcd, api)
        _await(f"https://127.0.0.1:{api}/readyz", self._processes[-1], self.folder / "kube-apiserver.log")
        self.kubeconfig = self._write_kubeconfig(api)
        self._start_controllers()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_etcd(self, client: int, peer: int) -> None:
        self._start(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )

    def _start_apiserver(self, etcd: int, port: int) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        signing, tokens = self.folder / "service-accounts.pem", self.folder / "tokens.csv"
        signing.write_bytes(pem)
        tokens.write_text(f'{TOKEN},tester,tester,"system:masters"\n')
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.folder / 'certs'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://127.0.0.1/",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            *(() if (self.assets / CONTROLLERS).exists() else ("--disable-admission-plugins=ServiceAccount",)),
        )

    def _start_controllers(self) -> None:
        common = (f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        if (self.assets / CONTROLLERS).exists():
            key = f"--service-account-private-key-file={self.folder / 'service-accounts.pem'}"
            self._start(CONTROLLERS, *common, key, f"--cert-dir={self.folder / 'controllers'}")
        if (self.assets / SCHEDULER).exists():
            self._start(SCHEDULER, *common)

    def _start(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.log").open("wb") as log:
            command = [str(self.assets / program), *arguments]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder))

    def _write_kubeconfig(self, port: int) -> Path:
        server = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = self.folder / "kubeconfig"
        path.write_text(json.dumps(config))
        return path


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `url` answers 200; its certificate was just made by the server itself."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended with {process.returncode}: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(request, timeout=2, context=context):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer in {START_SECONDS:.0f} s: {log.read_text()[-2000:]}")
