"""Every service twice, as production has it: one PostgreSQL, one S3, pretend nodes, and clients that know both."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from longhaul_client import Client
from longhaul_client.connection import Connection
from longhaul_client.local.layout import SERVICES
from longhaul_core.cluster.local.launch import running_nodes, start_node, stop_node
from longhaul_core.db.database import Database
from longhaul_core.objects import S3Location
from longhaul_core.objects.s3_client import connect

from tests.conftest import take_port

ACCESS, SECRET = "replicas-access", "replicas-secret"
BUCKET = "replicas"
START_SECONDS = 180.0


class Bucket:
    """A bucket whose objects are real files, served by rclone."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        folder.mkdir(exist_ok=True)
        log = folder.with_suffix(".log")
        program = Path(sys.executable).with_name("rclone")
        options = ["--config", "/dev/null", "--addr", f"{host}:0", "--auth-key", f"{ACCESS},{SECRET}"]
        with log.open("wb") as sink:
            self._server = subprocess.Popen([program, "serve", "s3", folder, *options], stderr=sink)
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(rf"http://({re.escape(host)}:\d+)", log.read_text())):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        if not (folder / BUCKET).exists():
            connect(S3Location(BUCKET, "", found[1], "us-east-1", secure=False)).make_bucket(BUCKET)
        self._endpoint = found[1]
        self.url = f"s3://{BUCKET}/lab?endpoint={found[1]}&secure=false&region=us-east-1"

    def copy(self, folder: Path) -> None:
        """Copy the bucket over its API, as docs/deploy.md says."""
        keys = f"access_key_id={ACCESS},secret_access_key={SECRET}"
        source = f":s3,provider=Other,endpoint='http://{self._endpoint}',{keys}:{BUCKET}"
        program = Path(sys.executable).with_name("rclone")
        command = [program, "sync", "--config", "/dev/null", "--exclude", ".longhaul/**", source, folder / BUCKET]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        self._server.kill()
        self._server.wait()


@dataclass(slots=True)
class Replica:
    """One process of a service."""

    service: str
    address: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self.process.poll() is None, f"{self.service} had ended by itself"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Production:
    """Services, each `count` times."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        store_url: str,
        *,
        count: int,
        nodes: int = 2,
        services: Sequence[str] = SERVICES,
    ) -> None:
        self.folder = folder
        self._cluster = folder / "cluster"
        Database.open(database_url, migrated=True).close()
        addresses = {name: [f"127.0.0.1:{take_port()}" for _ in range(count)] for name in SERVICES}
        targets = {name: f"ipv4:{','.join(own)}" for name, own in addresses.items()}
        self.nodes = [f"node-{number}" for number in range(nodes)]
        for node in self.nodes:
            start_node(self._cluster, node, gpus=1)
        common = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LONGHAUL_")},
            **{f"LONGHAUL_{name.upper()}_ADDRESS": target for name, target in targets.items()},
            "LONGHAUL_CONTROLLER_ADDRESSES": ",".join(addresses["training"]),
            "LONGHAUL_DATABASE_URL": database_url,
            "LONGHAUL_OBJECT_STORE_URL": store_url,
            "LONGHAUL_CLUSTER_URL": f"local://{self._cluster}",
            "LONGHAUL_METRICS_ADDRESS": "",
            "LONGHAUL_WORKERS": "1",
            "LONGHAUL_SCORE_GPUS": "0",
        }
        self.replicas: list[Replica] = []
        for name in services:
            own = addresses[name]
            for number, address in enumerate(own):
                self.replicas.append(self._start(name, address, number, common))
        for replica in self.replicas:
            with grpc.insecure_channel(replica.address) as channel:
                grpc.channel_ready_future(channel).result(timeout=START_SECONDS)
        self.client = Client(Connection(targets, data_dir=folder))  # of this machine: sources are read where they lie

    def of(self, service: str) -> list[Replica]:
        """The replicas of a service."""
        return [replica for replica in self.replicas if replica.service == service]

    def stop(self) -> None:
        """End everything."""
        self.client.close()
        for replica in self.replicas:
            replica.process.terminate()
        for replica in self.replicas:
            replica.process.wait(timeout=30)
        for node in running_nodes(self._cluster):
            stop_node(self._cluster, node)

    def _start(self, name: str, address: str, number: int, common: dict[str, str]) -> Replica:
        folder = self.folder / f"{name}-{number}"
        folder.mkdir(parents=True)
        own = {"LONGHAUL_LISTEN_ADDRESS": address, "LONGHAUL_DATA_DIR": str(folder)}
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"longhaul_{name}"], env={**common, **own}, stdout=log, stderr=log
            )
        return Replica(name, address, process)
