"""What the tests of the checkpoint service share: parts, a client, the service as a process."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from blake3 import blake3
from longhaul.checkpoint.v1 import checkpoint_pb2 as pb
from longhaul.checkpoint.v1.checkpoint_pb2_grpc import CheckpointServiceStub
from longhaul.common.v1.resource_pb2 import ObjectReference
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import connect_sync, rpc_errors
from safetensors.numpy import save

RUN = "projects/demo/trainingRuns/r1"
FROZEN = "model/rank-1.safetensors"


def checkpoint_name(step: int, epoch: int = 1, run: str = "r1") -> str:
    return f"projects/demo/checkpoints/{run}-step-{step:08d}-e{epoch}"


def write_parts(store: FilesystemStore, prefix: str, seed: int) -> list[ObjectReference]:
    """Write what two ranks would, straight to the store."""
    rng = np.random.default_rng(seed)
    contents = {
        "model/rank-0.safetensors": save({"w": rng.normal(size=(8, 4)).astype(np.float32)}),
        "model/rank-1.safetensors": save({"w": rng.normal(size=(8, 4)).astype(np.float32)}),
        "trainer_state.json": b'{"step": %d}' % seed,
    }
    return [write_part(store, prefix + path, data) for path, data in contents.items()]


def write_part(store: FilesystemStore, key: str, data: bytes) -> ObjectReference:
    store.put(key, data)
    return ObjectReference(key=key, size_bytes=len(data), digest=blake3(data).hexdigest(), digest_algorithm="blake3")


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@dataclass
class Client:
    """A rank's and a user's view of the service."""

    stub: CheckpointServiceStub
    store: FilesystemStore

    async def call(self, method: str, request: object) -> object:
        with rpc_errors():
            return await getattr(self.stub, method)(request)

    async def begin(self, step: int, epoch: int = 1, run: str = RUN) -> pb.Checkpoint:
        return await self.call(
            "BeginCheckpoint", pb.BeginCheckpointRequest(training_run=run, step=step, epoch=epoch, world_size=2)
        )

    async def commit(self, begun: pb.Checkpoint, parts: list[ObjectReference], **fields: object) -> pb.Checkpoint:
        request = pb.CommitCheckpointRequest(name=begun.metadata.name, epoch=begun.epoch, parts=parts, **fields)
        return await self.call("CommitCheckpoint", request)

    async def save(self, step: int, epoch: int = 1, run: str = RUN, **fields: object) -> pb.Checkpoint:
        begun = await self.begin(step, epoch, run)
        return await self.commit(begun, write_parts(self.store, begun.prefix, step), **fields)

    async def latest(self, maximum_step: int = 0) -> pb.Checkpoint:
        return await self.call(
            "GetLatestCheckpoint", pb.GetLatestCheckpointRequest(training_run=RUN, maximum_step=maximum_step)
        )

    async def steps(self, **fields: object) -> list[int]:
        request = pb.ListCheckpointsRequest(parent="projects/demo", training_run=RUN, **fields)
        return [checkpoint.step for checkpoint in (await self.call("ListCheckpoints", request)).checkpoints]

    async def collect(self, dry_run: bool = False) -> pb.CollectGarbageResponse:
        return await self.call("CollectGarbage", pb.CollectGarbageRequest(training_run=RUN, dry_run=dry_run))

    async def retain(self, **fields: object) -> pb.Retention:
        retention = pb.Retention(training_run=RUN, **fields)
        return await self.call("SetRetention", pb.SetRetentionRequest(retention=retention))

    def objects(self, prefix: str = "projects/") -> list[str]:
        return [info.key for info in self.store.list(prefix)]

    def path(self, key: str) -> Path:
        path = self.store.local_path(key)
        assert path is not None
        return path


class Process:
    """The service as a process of its own."""

    def __init__(self, data_dir: Path, port: int) -> None:
        self._data_dir = data_dir
        self.address = f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LONGHAUL_")}
        own = {
            "data_dir": str(self._data_dir),
            "listen_address": self.address,
            "metrics_address": "",
            "log_level": "error",
            "retention_interval_seconds": "1000000",
            "stale_seconds": "0",
            **settings,
        }
        environment |= {f"LONGHAUL_{name.upper()}": value for name, value in own.items()}
        self._process = subprocess.Popen([sys.executable, "-m", "longhaul_checkpoint"], env=environment)
        with connect_sync(self.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)

    def killed(self, timeout_seconds: float = 20.0) -> bool:
        """Whether the process ended by SIGKILL, within a deadline."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_seconds) == -9
        except subprocess.TimeoutExpired:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


async def save_borrowing(client: Client, step: int, frozen: ObjectReference, **fields: object) -> pb.Checkpoint:
    """Saves a step whose second part is one that is in the store already."""
    begun = await client.begin(step)
    own = [part for part in write_parts(client.store, begun.prefix, step) if not part.key.endswith(FROZEN)]
    client.store.delete(begun.prefix + FROZEN)
    return await client.commit(begun, [*own, frozen], **fields)


async def save_first(client: Client, step: int = 10) -> ObjectReference:
    """Saves a step and returns a part that others may borrow."""
    begun = await client.begin(step)
    parts = write_parts(client.store, begun.prefix, step)
    await client.commit(begun, parts)
    return next(part for part in parts if part.key.endswith(FROZEN))


async def verify(client: Client, step: int) -> dict[str, str]:
    """Damaged parts of a checkpoint."""
    answer = await client.call("VerifyCheckpoint", pb.VerifyCheckpointRequest(name=checkpoint_name(step)))
    return dict(answer.damaged_parts)


@asynccontextmanager
async def client_of(process: Process, store: FilesystemStore) -> AsyncIterator[Client]:
    """A client that does not repeat a call whose server died."""
    async with grpc.aio.insecure_channel(process.address, options=[("grpc.enable_retries", 0)]) as channel:
        yield Client(CheckpointServiceStub(channel), store)


async def eventually(condition: Callable[[], object], timeout_seconds: float = 10.0) -> None:
    """Wait until a condition holds; a coroutine function is awaited."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.02)
