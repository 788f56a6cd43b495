"""Benchmarks of the training controller: Create under load, a large cluster, a large job, many heartbeats, kills.

`make bench-control` prints one JSON object a line and at last how many targets were met. Create and heartbeats go to
the real service in a process of its own on one core; the large cluster is a controller in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
from control_harness import Plane, run_spec
from control_plane import TOKEN_SET
from google.protobuf.struct_pb2 import Struct
from longhaul.training.v1 import agent_pb2, agent_pb2_grpc, training_run_pb2, training_run_pb2_grpc
from longhaul_core.clock import SystemClock
from longhaul_core.db import Database
from longhaul_core.logging import configure_logging
from longhaul_training.adapters.pod_identity import PodIdentity, load_identity

HERE = Path(__file__).parent
CREATES_A_SECOND, CREATE_SECONDS, ROUNDS = 100, 6, 3
NODES, GPUS, RUNS, EVENTS = 1000, 8, 500, 60
WARM_UP = 5
LARGE_JOB_NODES, API_LATENCY_SECONDS = 2000, 0.005
AGENTS, HEARTBEAT_SECONDS = 2000, 15.0
CHANNELS = 16
SUBMISSIONS, KILL_PAUSE_SECONDS, LEAST_KILLS = 1000, 3.0, 5
PRIORITY = -10
results: list[bool] = []


def report(bench: str, ours: float, unit: str, target: str, met: bool, **details: float) -> None:
    """One line. No peer runs the same on one machine without a cluster: none is measured beside it."""
    row = {"bench": bench, "ours": round(ours, 4), "peer": None, "peer_name": "", "unit": unit, "ratio": None}
    print(json.dumps({**row, "target": target, "met": met, **details}), flush=True)
    results.append(met)


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of all lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def prefer(process: int) -> None:
    """What else runs on this machine is not to be measured; where that is not allowed, it is."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, process, PRIORITY)


class ServiceProcess:
    """The training service on one core."""

    def __init__(self, folder: Path, nodes: int, gpus: int, latency_seconds: float) -> None:
        ports = [_free_port() for _ in range(2)]
        self.address, neighbours = (f"127.0.0.1:{port}" for port in ports)
        self.database = folder / "training" / "training.sqlite3"
        environment = {
            **os.environ,
            "LONGHAUL_DATA_DIR": str(folder),
            "LONGHAUL_LISTEN_ADDRESS": self.address,
            "LONGHAUL_METRICS_ADDRESS": "",
            "LONGHAUL_LOG_LEVEL": "warning",
            "LONGHAUL_CORPUS_ADDRESS": neighbours,
            "LONGHAUL_CHECKPOINT_ADDRESS": neighbours,
            "LONGHAUL_GPUHEALTH_ADDRESS": neighbours,
        }
        command = [sys.executable, str(HERE / "control_plane.py"), str(nodes), str(gpus), str(latency_seconds)]
        self.log = folder / "service.log"
        self.process = subprocess.Popen(command, env=environment, stdout=self.log.open("ab"), stderr=subprocess.STDOUT)
        os.sched_setaffinity(self.process.pid, {max(os.sched_getaffinity(0))})
        prefer(self.process.pid)

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory it holds."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """Ends it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def service(nodes: int, gpus: int, latency_seconds: float) -> Iterator[ServiceProcess]:
    """A running service."""
    with tempfile.TemporaryDirectory(prefix="bench-control-") as name:
        process = ServiceProcess(Path(name), nodes, gpus, latency_seconds)
        try:
            with grpc.insecure_channel(process.address) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
            yield process
        finally:
            process.stop()


async def bench_create() -> None:
    """Creates at a fixed rate, whatever the answers take."""
    rounds = []
    for _ in range(ROUNDS):
        with service(4, 8, 0.0) as process:
            rounds.append(await _create_round(process.address))
    p50 = statistics.median(quantile(latencies, 0.50) for latencies in rounds) * 1e3
    p99 = statistics.median(quantile(latencies, 0.99) for latencies in rounds) * 1e3
    count = sum(len(latencies) for latencies in rounds)
    report("create_p50", p50, "ms", "<= 10 at 100/s on one core", p50 <= 10.0, creates=count)
    report("create_p99", p99, "ms", "<= 50 at 100/s on one core", p99 <= 50.0, creates=count)


async def _create_round(address: str) -> list[float]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = training_run_pb2_grpc.TrainingRunServiceStub(channel)
        await _create(stub, "warm-up")
        started = time.perf_counter()
        calls = []
        for number in range(CREATES_A_SECOND * CREATE_SECONDS):
            due = started + number / CREATES_A_SECOND
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            calls.append(asyncio.create_task(_create(stub, f"run-{number}")))
        return list(await asyncio.gather(*calls))


async def _create(stub: Any, run_id: str, nodes: int = 1, gpus: int = 1) -> float:
    spec = run_spec(nodes, gpus)
    config = Struct()
    config.update(spec["trainer_config"])
    resources = training_run_pb2.RunResources(nodes=nodes, gpus_per_node=gpus)
    request = training_run_pb2.CreateTrainingRunRequest(
        parent="projects/default",
        training_run_id=run_id,
        spec=training_run_pb2.TrainingRunSpec(trainer_config=config, token_set=TOKEN_SET, resources=resources),
    )
    started = time.perf_counter()
    await stub.CreateTrainingRun(request)
    return time.perf_counter() - started


async def bench_large_cluster() -> None:
    """1,000 nodes, 8,000 GPUs, 500 runs of two nodes, all training: one event, and everything from nothing."""
    with tempfile.TemporaryDirectory(prefix="bench-control-") as name:
        plane = Plane(Path(name), NODES, GPUS, 0.0)
        await plane.open()
        for number in range(RUNS):
            await plane.submit(f"run-{number}", NODES // RUNS)
        await _until_running(plane, RUNS)
        for number in range(EVENTS, EVENTS + WARM_UP):
            await _one_event(plane, f"run-{number}")
        looks = [await _one_event(plane, f"run-{number}") for number in range(EVENTS)]
        p99 = quantile(looks, 0.99) * 1e3
        report("reconcile_event_p99", p99, "ms", "<= 200 with 8,000 GPUs and 500 runs", p99 <= 200.0,
               p50=round(quantile(looks, 0.5) * 1e3, 2), events=EVENTS)  # fmt: skip
        await _mass_event(plane)
        resyncs = []
        for _ in range(ROUNDS):
            plane.renew()
            resyncs.append(await plane.look())
        resync = statistics.median(resyncs)
        report("full_resync", resync, "s", "<= 10", resync <= 10.0)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report("memory", memory, "MiB", "<= 1024 in all", memory <= 1024.0)
        await plane.close()


async def _mass_event(plane: Plane) -> None:
    """The streams of all runs close at once, as when a switch fails: one pass finds all of them suspect."""
    for session in plane.sessions.values():
        plane.hub.detach(session)
    for _ in range(8):
        await asyncio.sleep(0.2)
        plane.attention.beat()
    seconds = await plane.look()
    states = Counter(str(state) for state in (await plane.states()).values())
    assert states["SUSPECT"] >= RUNS - EVENTS - WARM_UP, states
    report("mass_suspect", seconds, "s", "<= 2 for 500 runs at once", seconds <= 2.0, suspect=states["SUSPECT"])


async def _until_running(plane: Plane, runs: int) -> None:
    deadline = time.monotonic() + 300
    while True:
        await plane.look()
        await plane.settle()
        plane.play_agents()
        running = sum(state == "RUNNING" for state in (await plane.states()).values())
        if running == runs:
            return
        assert time.monotonic() < deadline, f"{running} of {runs} runs are running"


async def _one_event(plane: Plane, run_id: str) -> float:
    """A worker dies: from the pass that sees it to the end of that pass, the write included."""
    await plane.kill_worker(run_id)
    seconds = await plane.look()
    assert (await plane.states())[run_id] == "RECOVERING"
    await plane.settle()
    plane.play_agents()
    return seconds


async def bench_large_job() -> None:
    """A job of 2,000 nodes gets its pods from an API whose calls take 5 ms."""
    seconds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="bench-control-") as name:
            plane = Plane(Path(name), LARGE_JOB_NODES, GPUS, API_LATENCY_SECONDS)
            await plane.open()
            started = time.perf_counter()
            await plane.submit("large", LARGE_JOB_NODES)
            while len(plane.cluster._pods) < LARGE_JOB_NODES:
                await plane.look()
                await plane.settle()
            seconds.append(time.perf_counter() - started)
            await plane.close()
    taken = statistics.median(seconds)
    report("large_job_pods", taken, "s", "<= 60 for 2,000 pods at 5 ms a call", taken <= 60.0)


async def bench_heartbeats() -> None:
    """2,000 agents on real streams, a heartbeat a second each, one core for the service."""
    with service(AGENTS, 1, 0.0) as process:
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(process.address)) for _ in range(CHANNELS)
            ]
            runs: Any = training_run_pb2_grpc.TrainingRunServiceStub(channels[0])
            await _create(runs, "many", AGENTS)
            name = training_run_pb2.GetTrainingRunRequest(name="projects/default/trainingRuns/many")
            uid = (await runs.GetTrainingRun(name)).metadata.uid
            identity = await _identity(process.database)
            await asyncio.sleep(5.0)
            fleet = [PlayedAgent(channels[n % CHANNELS], identity, uid, n) for n in range(AGENTS)]
            tasks = [asyncio.create_task(agent.run()) for agent in fleet]
            await _until_state(runs, name, training_run_pb2.TRAINING_RUN_STATE_RUNNING)
            cpu, started = process.cpu_seconds(), time.perf_counter()
            sent = sum(agent.sent for agent in fleet)
            await asyncio.sleep(HEARTBEAT_SECONDS)
            elapsed = time.perf_counter() - started
            share = (process.cpu_seconds() - cpu) / elapsed
            rate = (sum(agent.sent for agent in fleet) - sent) / elapsed
            run = await runs.GetTrainingRun(name)
            oldest = max(time.time() - rank.heartbeat_time.ToNanoseconds() / 1e9 for rank in run.status.ranks)
            well = run.status.state == training_run_pb2.TRAINING_RUN_STATE_RUNNING and oldest < 5.0
            report("heartbeats", rate, "heartbeats/s", ">= 1,900 of 2,000 on one core, none older than 5 s",
                   well and rate >= 1900, core_share=round(share, 3), oldest_seconds=round(oldest, 2),
                   resident_mib=process.resident_bytes() >> 20)  # fmt: skip
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def bench_submissions() -> None:
    """Runs are submitted while one of two replicas after the other is killed."""
    from submissions import submit_under_kills

    with tempfile.TemporaryDirectory(prefix="bench-control-") as name:
        outcome = await submit_under_kills(Path(name), SUBMISSIONS, KILL_PAUSE_SECONDS, LEAST_KILLS)
    wrong = len(outcome.lost) + len(outcome.doubled) + len(outcome.failed) + len(outcome.unsettled)
    report("submissions_under_kills", wrong, "lost, doubled, wrongly failed", f"0 of {SUBMISSIONS}", wrong == 0,
           kills=outcome.kills, retries=outcome.retries, seconds=round(outcome.seconds, 1))  # fmt: skip


class PlayedAgent:
    """One pod's agent: joins, prepares, starts, beats."""

    def __init__(self, channel: grpc.aio.Channel, identity: PodIdentity, uid: str, slot: int) -> None:
        self._stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        self._token = identity.issue("projects/default/trainingRuns/many", uid, slot, 1)
        self._slot = slot
        self._epoch = 0
        self._stepping = False
        self._outbox: asyncio.Queue[agent_pb2.ConnectRequest] = asyncio.Queue()
        self.sent = 0

    async def run(self) -> None:
        """Holds a stream until cancelled; one that ends is opened again, as by an agent whose pod is not known yet."""
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._hold()
            await asyncio.sleep(1.0)

    async def _hold(self) -> None:
        metadata = (("authorization", f"Bearer {self._token}"),)
        stream = self._stub.Connect(self._requests(), metadata=metadata)
        async for response in stream:
            match response.WhichOneof("command"):
                case "prepare_epoch":
                    self._epoch = response.prepare_epoch.epoch
                    ready = agent_pb2.EpochReady(epoch=self._epoch)
                    if response.prepare_epoch.bind_rendezvous:
                        ready.rendezvous_address = "127.0.0.1:1"
                    self._outbox.put_nowait(agent_pb2.ConnectRequest(epoch_ready=ready))
                case "start_epoch":
                    self._stepping = True
                    self._outbox.put_nowait(self._heartbeat())

    async def _requests(self) -> AsyncIterator[agent_pb2.ConnectRequest]:
        join = agent_pb2.Join(run="projects/default/trainingRuns/many", slot=self._slot, incarnation=1, gpus=1)
        join.pod = f"default.run-many-{self._slot}-1"
        yield agent_pb2.ConnectRequest(join=join)
        while True:
            try:
                yield await asyncio.wait_for(self._outbox.get(), 1.0)
            except TimeoutError:
                self.sent += 1
                yield self._heartbeat()

    def _heartbeat(self) -> agent_pb2.ConnectRequest:
        workers = []
        if self._stepping:
            workers = [agent_pb2.WorkerStatus(rank=self._slot, phase="stepping", step=1, process_id=1)]
        return agent_pb2.ConnectRequest(heartbeat=agent_pb2.Heartbeat(epoch=self._epoch, workers=workers))


async def _identity(database: Path) -> PodIdentity:
    db = Database.open(f"sqlite:///{database}")
    try:
        return await load_identity(db, SystemClock().now())
    finally:
        db.close()


async def _until_state(runs: Any, name: Any, state: int) -> None:
    deadline = time.monotonic() + 180
    while (run := await runs.GetTrainingRun(name)).status.state != state:
        assert time.monotonic() < deadline, f"still {run.status.state}: {run.status.reason.message}"
        await asyncio.sleep(1.0)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def main() -> None:
    """Runs those that were asked for, or all."""
    benches = {
        "create": bench_create,
        "large-cluster": bench_large_cluster,
        "large-job": bench_large_job,
        "heartbeats": bench_heartbeats,
        "submissions": bench_submissions,
    }
    prefer(os.getpid())
    for name in sys.argv[1:] or list(benches):
        await benches[name]()
    print(f"bench-control: {sum(results)} of {len(results)} targets met")


if __name__ == "__main__":
    configure_logging("bench", "error")
    asyncio.run(main())
