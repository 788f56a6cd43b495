"""A thousand runs are submitted while a replica of the controller is killed every few seconds: none is lost or doubled.

Two replicas share a database; one of them at a time is killed with SIGKILL and started again. The clients know both
addresses, give each run a request id, and try again until they have an answer. `make bench-control` does it a
thousand times, a test a few.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from control import ServiceProcess
from control_harness import run_spec
from google.protobuf.struct_pb2 import Struct
from longhaul.training.v1 import training_run_pb2, training_run_pb2_grpc

CLIENTS = 8
DEADLINE_SECONDS = 600.0
ABSENT_TOKEN_SET = "projects/default/tokenSets/absent"
WAITING = training_run_pb2.TRAINING_RUN_STATE_WAITING_FOR_INPUTS
FAILED = training_run_pb2.TRAINING_RUN_STATE_FAILED


@dataclass(slots=True)
class Outcome:
    """What became of the submissions."""

    submitted: int
    kills: int = 0
    retries: int = 0
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether each run is there once and waits for its input, as it should."""
        return not (self.lost or self.doubled or self.failed or self.unsettled)


async def submit_under_kills(folder: Path, runs: int, pause_seconds: float, least_kills: int) -> Outcome:
    """Submits so many runs; goes on killing until at least so many kills have happened."""
    outcome = Outcome(runs)
    replicas = [ServiceProcess(folder, 2, 8, 0.0) for _ in range(2)]
    started = time.monotonic()
    try:
        await asyncio.gather(*(_ready(replica.address) for replica in replicas))
        done = asyncio.Event()
        killer = asyncio.create_task(_kill(folder, replicas, outcome, pause_seconds, least_kills, done))
        answered: Counter[str] = Counter()
        queue = asyncio.Queue[int]()
        for number in range(runs):
            queue.put_nowait(number)
        await asyncio.gather(*(_client(replicas, queue, outcome, answered) for _ in range(CLIENTS)))
        done.set()
        await killer
        await asyncio.gather(*(_ready(replica.address) for replica in replicas))
        await _count(replicas[0].address, outcome, answered)
    finally:
        for replica in replicas:
            replica.stop()
    outcome.seconds = time.monotonic() - started
    return outcome


async def _kill(
    folder: Path,
    replicas: list[ServiceProcess],
    outcome: Outcome,
    pause_seconds: float,
    least: int,
    done: asyncio.Event,
) -> None:
    while outcome.kills < least or not done.is_set():
        await asyncio.sleep(pause_seconds)
        index = outcome.kills % 2
        replicas[index].stop()
        outcome.kills += 1
        replicas[index] = ServiceProcess(folder, 2, 8, 0.0)
        await _ready(replicas[index].address)


async def _client(
    replicas: list[ServiceProcess], queue: asyncio.Queue[int], outcome: Outcome, answered: Counter[str]
) -> None:
    while not queue.empty():
        request = _request(queue.get_nowait())
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            replica = random.choice(replicas)
            try:
                async with grpc.aio.insecure_channel(replica.address) as channel:
                    stub: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
                    created = await stub.CreateTrainingRun(request, timeout=10.0)
            except grpc.aio.AioRpcError as error:
                temporary = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
                if error.code() not in temporary or time.monotonic() > deadline:
                    raise
                outcome.retries += 1
                await asyncio.sleep(0.05)
                continue
            answered[f"{created.metadata.name} {created.metadata.uid}"] += 1
            break


def _request(number: int) -> training_run_pb2.CreateTrainingRunRequest:
    config = Struct()
    config.update(run_spec(1, 1)["trainer_config"])
    spec = training_run_pb2.TrainingRunSpec(
        trainer_config=config,
        token_set=ABSENT_TOKEN_SET,
        resources=training_run_pb2.RunResources(nodes=1, gpus_per_node=1),
    )
    run_id = f"run-{number:05d}"
    return training_run_pb2.CreateTrainingRunRequest(
        parent="projects/default", training_run_id=run_id, spec=spec, request_id=f"request-{run_id}"
    )


async def _count(address: str, outcome: Outcome, answered: Counter[str]) -> None:
    """Compares what clients were told with what is there, once the controller has looked at everything."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
        deadline = time.monotonic() + 90.0
        while True:
            found = await _list(stub)
            waiting = sum(run.status.state == WAITING for run in found)
            if waiting == outcome.submitted or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
    names = Counter(run.metadata.name for run in found)
    told = {entry.split(" ")[0] for entry in answered}
    stored = {f"{run.metadata.name} {run.metadata.uid}" for run in found}
    outcome.lost = sorted((told - set(names)) | {entry for entry in answered if entry not in stored})
    outcome.doubled = sorted(name for name, count in names.items() if count > 1) + sorted(set(names) - told)
    outcome.failed = sorted(run.metadata.name for run in found if run.status.state == FAILED)
    outcome.unsettled = sorted(run.metadata.name for run in found if run.status.state not in (WAITING, FAILED))
    if len(names) != outcome.submitted:
        outcome.lost.append(f"{outcome.submitted - len(names)} of {outcome.submitted} are not there")


async def _list(stub: Any) -> list[training_run_pb2.TrainingRun]:
    found: list[training_run_pb2.TrainingRun] = []
    token = ""
    while True:
        request = training_run_pb2.ListTrainingRunsRequest(parent="projects/default", page_size=500, page_token=token)
        page = await stub.ListTrainingRuns(request)
        found += page.training_runs
        token = page.next_page_token
        if not token:
            return found


async def _ready(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 120.0)
