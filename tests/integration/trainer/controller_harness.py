"""A small controller over real gRPC, and agents as pods would run them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from longhaul.training.v1 import agent_pb2, agent_pb2_grpc, training_run_pb2
from trainer_harness import DEADLINE_SECONDS, PROJECT, RUN, World

Commands = queue.SimpleQueue[agent_pb2.ConnectResponse | None]


class Controller(agent_pb2_grpc.AgentServiceServicer):
    """Accepts agents, keeps their reports once by (pod, sequence), sends commands."""

    def __init__(self, *, port: int = 0, term: int = 1, leader: str = "", known: Controller | None = None) -> None:
        self.term = term
        self.leader = leader
        self.joins: list[agent_pb2.Join] = []
        self.heartbeats: dict[str, agent_pb2.Heartbeat] = {}
        self.reports: dict[str, dict[int, agent_pb2.ConnectRequest]] = known.reports if known else {}
        self.doubled = 0
        self._streams: dict[str, Commands] = {}
        self.changed = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        agent_pb2_grpc.add_AgentServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> None:
        for commands in self._streams.values():
            commands.put(None)
        self._server.stop(0).wait()

    def Connect(self, requests: Iterator[agent_pb2.ConnectRequest], context: Any) -> Iterator[Any]:
        join = next(requests).join
        if self.leader:
            yield agent_pb2.ConnectResponse(redirect=agent_pb2.Redirect(leader_address=self.leader))
            return
        assert dict(context.invocation_metadata())["authorization"] == f"Bearer token-of-{join.pod}"
        commands: Commands = queue.SimpleQueue()
        with self.changed:
            self.joins.append(join)
            kept = self.reports.setdefault(join.pod, {})
            self._streams[join.pod] = commands
            self.changed.notify_all()
        yield self._response(welcome=agent_pb2.Welcome(acknowledged_sequence=max(kept, default=0)))
        threading.Thread(target=self._read, args=(join.pod, requests, commands), daemon=True).start()
        while (command := commands.get()) is not None:
            yield command

    def send(self, pod: str, **command: Any) -> None:
        self._streams[pod].put(self._response(**command))

    def start_epoch(self, pods: list[str], epoch: int, world: World, **changes: Any) -> None:
        """Regroups the pods, one rank each, and starts their workers."""
        for pod in pods:
            bind = pod == pods[0]
            self.send(pod, prepare_epoch=agent_pb2.PrepareEpoch(epoch=epoch, bind_rendezvous=bind))
        self.wait(lambda: len(self.of("epoch_ready", lambda ready: ready.epoch == epoch)) == len(pods))
        address = next(
            r.rendezvous_address for r in self.of("epoch_ready") if r.epoch == epoch and r.rendezvous_address
        )
        config = Struct()
        config.update(changes.pop("trainer_config", world.config()))
        for rank, pod in enumerate(pods):
            start = agent_pb2.StartEpoch(
                epoch=epoch,
                world_size=len(pods),
                ranks=[rank],
                rendezvous_address=address,
                trainer_config=config,
                token_set_manifest_key=world.token_set,
                **changes,
            )
            self.send(pod, start_epoch=start)

    def resume(self, world: World) -> dict[str, str]:
        """Fields of StartEpoch that continue from the newest commit."""
        step = max(world.checkpoints.committed)
        return {
            "resume_manifest_key": world.checkpoints.manifests[step],
            "resume_checkpoint": world.checkpoints.committed[step].name,
        }

    def of(self, kind: str, matches: Callable[[Any], bool] = lambda _: True) -> list[Any]:
        """All reports of a kind."""
        found = []
        for reports in list(self.reports.values()):
            for report in list(reports.values()):
                if report.WhichOneof("report") == kind and matches(getattr(report, kind)):
                    found.append(getattr(report, kind))
        return found

    def rows(self) -> list[training_run_pb2.StepMetrics]:
        return [row for batch in self.of("step_metrics") for row in batch.rows]

    def losses(self) -> dict[int, float]:
        """Loss of each step, as the last epoch that made it computed it."""
        return {row.step: row.loss for row in sorted(self.rows(), key=lambda row: row.epoch)}

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        with self.changed:
            while not condition():
                left = deadline - time.monotonic()
                assert left > 0, "nothing happened"
                refused = self.of("worker_exit", lambda exit_: 64 <= exit_.exit_code <= 70)
                assert not refused, refused
                self.changed.wait(min(left, 0.5))

    def wait_step(self, step: int, epoch: int = 1) -> None:
        self.wait(lambda: any(row.step >= step and row.epoch == epoch for row in self.rows()))

    def _read(self, pod: str, requests: Iterator[agent_pb2.ConnectRequest], commands: Commands) -> None:
        try:
            for request in requests:
                with self.changed:
                    if request.sequence:
                        self.doubled += request.sequence in self.reports[pod]
                        self.reports[pod][request.sequence] = request
                    else:
                        self.heartbeats[pod] = request.heartbeat
                    self.changed.notify_all()
                if request.sequence:
                    commands.put(self._response(acknowledge=agent_pb2.Acknowledge(sequence=request.sequence)))
        except grpc.RpcError:
            return
        finally:
            commands.put(None)

    def _response(self, **command: Any) -> agent_pb2.ConnectResponse:
        return agent_pb2.ConnectResponse(term=self.term, **command)


class AgentProcess:
    """The agent of one pod."""

    def __init__(self, world: World, slot: int, controllers: list[str], *, incarnation: int = 0) -> None:
        self.pod = f"{RUN}-{slot}-{incarnation}"
        self.log = Path(tempfile.mkstemp(prefix="agent-", dir=world.folder)[1])
        environment = {
            "LONGHAUL_PROJECT": PROJECT,
            "LONGHAUL_RUN": RUN,
            "LONGHAUL_POD": self.pod,
            "LONGHAUL_SLOT": str(slot),
            "LONGHAUL_INCARNATION": str(incarnation),
            "LONGHAUL_AGENT_TOKEN": f"token-of-{self.pod}",
            "LONGHAUL_CONTROLLER_ADDRESSES": ",".join(controllers),
            "LONGHAUL_OBJECT_STORE_URL": world.url,
            "LONGHAUL_CHECKPOINT_ADDRESS": world.checkpoints.address,
            "LONGHAUL_NODE": f"node-{slot}",
            "LONGHAUL_GPUS": "1",
            "LONGHAUL_SCRATCH_DIR": str(world.folder / f"scratch-{slot}"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "longhaul_trainer.agent"],
            env={**os.environ, **environment},
            stderr=self.log.open("wb"),
        )

    def wait(self) -> int:
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.wait()

    def errors(self) -> str:
        return self.log.read_text()
