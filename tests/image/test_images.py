"""Each image, built without an engine, starts as a pod would run it: not as root, on a read-only root."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
ENTER = Path(__file__).parent / "enter.sh"
SERVICES = ["ingest", "corpus", "training", "checkpoint", "evaluation", "gpuhealth"]
BUILD_SECONDS, START_SECONDS, COMPILE_SECONDS = 900, 120, 900
COMPILE = """
import torch
assert torch.__version__.startswith("2.13.0")
f = torch.compile(lambda x: torch.relu(x @ x) + 1)
x = torch.ones(8, 8)
assert torch.equal(f(x), torch.full((8, 8), 9.0))
print("compiled")
"""

pytestmark = [
    pytest.mark.image,
    pytest.mark.timeout(BUILD_SECONDS + COMPILE_SECONDS),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to enter a root file system"),
]


def built(name: str, folder: Path) -> Path:
    """The unpacked root file system of an image; its archive lies beside it."""
    command = [sys.executable, str(ROOT / "scripts/build_image.py"), name, "--rootfs", str(folder / "root")]
    done = subprocess.run(
        [*command, "--output", str(folder / "image.tar")],
        capture_output=True, text=True, timeout=BUILD_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "root"


@contextmanager
def entered(
    root: Path, volume: str, command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the image; everything in it ends with the block."""
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*unshare, "bash", str(ENTER), str(root), volume, *command],
            env={"PATH": os.environ["PATH"], **environment}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)


@pytest.mark.parametrize("service", SERVICES)
def test_service_starts_from_its_image(service: str, tmp_path: Path):
    root = built(service, tmp_path)
    entrypoint, environment, user = run_as(tmp_path / "image.tar")
    assert user == "10001:10001"
    address, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment |= {"LONGHAUL_LISTEN_ADDRESS": address, "LONGHAUL_METRICS_ADDRESS": metrics}
    log = tmp_path / "log"
    with entered(root, "/data", ["python", *entrypoint[1:]], environment, log) as process:  # as the charts call it
        await_serving(address, process, log)
    bill = json.loads((root / "usr/share/longhaul/sbom.cdx.json").read_text())
    purls = {component["purl"] for component in bill["components"]}
    assert f"pkg:pypi/longhaul-{service}@0.1.0" in purls
    assert any(purl.startswith("pkg:deb/debian/python3.11@") for purl in purls)
    installed = {path.name.partition("-")[0] for path in (root / "usr/lib/python3/dist-packages").glob("*.dist-info")}
    assert not installed & {"torch", "ray", "transformers"}
    assert not (root / "bin/sh").exists()
    shutil.rmtree(root)


def test_trainer_compiles_on_a_read_only_root(tmp_path: Path):
    root = built("trainer", tmp_path)
    _, environment, _ = run_as(tmp_path / "image.tar")
    log = tmp_path / "log"
    with entered(root, "/scratch", ["python", "-c", COMPILE], environment, log) as process:
        assert process.wait(timeout=COMPILE_SECONDS) == 0, log.read_text()
    assert "compiled" in log.read_text()
    shutil.rmtree(root)


def run_as(archive: Path) -> tuple[list[str], dict[str, str], str]:
    """Entry point, environment and user as the archive's configuration says."""
    with tarfile.open(archive) as tar:

        def load(name: str) -> dict[str, object]:
            member = tar.extractfile(name)
            assert member is not None
            return json.load(member)

        def blob(descriptor: dict[str, str]) -> dict[str, object]:
            return load(f"blobs/{descriptor['digest'].replace(':', '/')}")

        manifest = blob(load("index.json")["manifests"][0])
        config = blob(manifest["config"])["config"]
    return config["Entrypoint"], dict(pair.split("=", 1) for pair in config["Env"]), config["User"]


def await_serving(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            try:
                if (
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=2).status
                    == health_pb2.HealthCheckResponse.SERVING
                ):
                    return
            except grpc.RpcError:
                time.sleep(0.2)
    raise AssertionError(f"not serving: {log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
