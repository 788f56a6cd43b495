"""What an agent does with its workers at the controller's word.

The controller decides, the agent carries out: it kills workers of older epochs before it says that it is ready for a
new one, has ranks forked from the nursery, reports whatever happens, and decides nothing by itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from longhaul.training.v1 import agent_pb2
from longhaul.training.v1.training_run_pb2 import PreflightCheck
from longhaul_core.logging import get_logger
from longhaul_core.net import join_address
from longhaul_core.objects import ObjectStore
from pydantic import SecretStr

from longhaul_trainer.agent.convert import agent_event, checkpoint_committed, worker_exit
from longhaul_trainer.agent.keeper import PartKeeper
from longhaul_trainer.agent.link import ControllerLink, Superseded
from longhaul_trainer.agent.logs import LogShipper
from longhaul_trainer.agent.metrics import PodMetrics, forget_target, serve_metrics
from longhaul_trainer.agent.nursery import Nursery
from longhaul_trainer.agent.outbox import Outbox
from longhaul_trainer.agent.preflight import check_node
from longhaul_trainer.agent.settings import AgentSettings
from longhaul_trainer.agent.stacks import collect_stacks
from longhaul_trainer.agent.worker import Worker
from longhaul_trainer.exit_codes import ExitCode
from longhaul_trainer.metrics import step_metrics
from longhaul_trainer.wire import (
    Assignment,
    Committed,
    Event,
    Finished,
    Phase,
    Request,
    StepRow,
    WorkerMessage,
)

_LOG_FLUSH_SECONDS = 2.0
_FAREWELL_SECONDS = 5.0
_log = get_logger(__name__)


class Agent:
    """The pod's agent. Fields: what it was told (settings), its workers by rank, the epoch it is prepared for."""

    def __init__(self, settings: AgentSettings, store: ObjectStore) -> None:
        self._settings = settings
        self._host = settings.host()
        self._outbox = Outbox()
        self._nursery = Nursery(self._on_message, self._on_exit)
        self._logs = LogShipper(
            store, f"projects/{settings.project}/runs/{settings.run}/logs", settings.pod, self._outbox.add
        )
        self._link = ControllerLink(
            settings.controllers,
            settings.agent_token.get_secret_value(),
            self._outbox,
            self._join,
            self._heartbeat,
            self._handle,
            settings.tls_ca_pem.encode() or None,
        )
        self._workers: dict[int, Worker] = {}
        self._metrics = PodMetrics(settings, lambda: list(self._workers.values()))
        self._store = store
        self._checks: list[PreflightCheck] = []
        self._epoch = 0
        self._started_epoch = 0
        self._listener: socket.socket | None = None
        self._keeper: PartKeeper | None = None
        self._ended = asyncio.Event()
        self._exit_code = ExitCode.DONE
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> ExitCode:
        """Serves the pod until the controller or the system ends it."""
        server = serve_metrics(self._settings, self._metrics.metrics)
        try:
            return await self._serve()
        finally:
            if server is not None:
                forget_target(self._settings)
                await asyncio.to_thread(server.close)

    async def _serve(self) -> ExitCode:
        self._spawn(self._nursery.run())
        self._spawn(self._ship_logs())
        self._checks = await asyncio.to_thread(check_node, self._settings, self._store)
        link = asyncio.create_task(self._link.run())
        ended = asyncio.create_task(self._ended.wait())
        await asyncio.wait((link, ended), return_when=asyncio.FIRST_COMPLETED)
        if link.done():
            self._exit_code = _link_failure(link)
        await self._kill_workers()
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.close)
        await self._logs.flush()
        with suppress(TimeoutError):
            if not link.done():
                await asyncio.wait_for(self._outbox.drained(), _FAREWELL_SECONDS)
        for task in (link, ended, *self._tasks):
            task.cancel()
        await self._nursery.close()
        return self._exit_code

    def preempt(self) -> None:
        """SIGTERM: have the workers write a checkpoint, then end; at most the grace period."""
        self._spawn(self._leave_in_grace())

    async def _leave_in_grace(self) -> None:
        _log.info("pod is being ended", workers=len(self._workers))
        self._exit_code = ExitCode.PREEMPTED
        await self._request(Request(stop_after=True))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_exited(), self._settings.grace_seconds)
        self._ended.set()

    async def _handle(self, response: agent_pb2.ConnectResponse) -> None:
        match response.WhichOneof("command"):
            case "prepare_epoch":
                await self._prepare(response.prepare_epoch)
            case "start_epoch":
                await self._start(response.start_epoch)
            case "stop_workers":
                self._spawn(self._stop(response.stop_workers))
            case "request_checkpoint" if response.request_checkpoint.epoch == self._epoch:
                await self._request(Request(stop_after=response.request_checkpoint.stop_after))
            case "shutdown":
                _log.info("shut down by the controller", reason=response.shutdown.reason)
                self._ended.set()

    async def _prepare(self, command: agent_pb2.PrepareEpoch) -> None:
        """Kills workers of older epochs, binds the rendezvous port if asked, then says so."""
        if command.epoch < self._epoch:
            _log.warning("older epoch refused", epoch=command.epoch, known=self._epoch)
            return
        if command.epoch > self._epoch:
            await self._kill_workers()
            self._close_listener()
            self._epoch = command.epoch
        address = ""
        if command.bind_rendezvous:
            self._listener = self._listener or socket.create_server((self._host, 0), backlog=1024)
            address = join_address(self._host, self._listener.getsockname()[1])
        ready = agent_pb2.EpochReady(epoch=command.epoch, rendezvous_address=address)
        self._outbox.add(agent_pb2.ConnectRequest(epoch_ready=ready))
        _log.info("epoch prepared", epoch=command.epoch, rendezvous=address)

    async def _start(self, command: agent_pb2.StartEpoch) -> None:
        """Makes workers the ranks of the prepared epoch; a repeated command changes nothing."""
        if command.epoch != self._epoch or command.epoch == self._started_epoch:
            _log.info("start of epoch ignored", epoch=command.epoch, prepared=self._epoch)
            return
        self._started_epoch = command.epoch
        self._open_keeper(command)
        for local_rank, rank in enumerate(command.ranks):
            worker = await self._nursery.make_worker()
            self._workers[rank] = worker
            self._metrics.started(self._settings.slot)
            await worker.assign(self._assignment(command, rank, local_rank), self._listener, self._on_line)
        self._close_listener()
        _log.info("epoch started", epoch=command.epoch, ranks=list(command.ranks))

    def _open_keeper(self, command: agent_pb2.StartEpoch) -> None:
        """Lends memory to other nodes where the run asks for it; it stays open for the pod's life."""
        wanted = MessageToDict(command.trainer_config).get("checkpoint", {}).get("peer_memory_bytes", 0)
        if wanted and self._keeper is None:
            self._keeper = PartKeeper(self._host, int(wanted))
            _log.info("memory lent to other nodes", bytes=int(wanted), address=self._keeper.address)

    def _assignment(self, command: agent_pb2.StartEpoch, rank: int, local_rank: int) -> Assignment:
        settings = self._settings
        return Assignment(
            project=settings.project,
            run=settings.run,
            epoch=command.epoch,
            rank=rank,
            local_rank=local_rank,
            world_size=command.world_size,
            rendezvous=command.rendezvous_address,
            listens=rank == 0 and command.world_size > 1,
            trainer_config=_integral(MessageToDict(command.trainer_config)),
            token_set_manifest_key=command.token_set_manifest_key,
            resume_manifest_key=command.resume_manifest_key,
            resume_checkpoint=command.resume_checkpoint,
            object_store_url=settings.object_store_url,
            checkpoint_address=settings.checkpoint_address,
            token=settings.agent_token,
            keeper_address=self._keeper.address if self._keeper else "",
            keeper_secret=SecretStr(self._keeper.secret if self._keeper else ""),
            tls_ca_pem=settings.tls_ca_pem,
            scratch_dir=str(settings.scratch_dir),
            program=command.program or "train",
            node=settings.node,
            image=settings.image,
        )

    async def _stop(self, command: agent_pb2.StopWorkers) -> None:
        """Kills the epoch's workers, after a checkpoint where there is grace for one."""
        if command.epoch and command.epoch != self._epoch:
            return
        victims = list(self._workers.values())
        _log.info("workers are being stopped", reason=command.reason, grace_seconds=command.grace_seconds)
        if command.grace_seconds > 0:
            await self._request(Request(stop_after=True))
            with suppress(TimeoutError):
                exits = [worker.exited.wait() for worker in victims]
                await asyncio.wait_for(asyncio.gather(*exits), command.grace_seconds)
        await self._report_stacks(victims)
        await asyncio.gather(*(self._nursery.kill(worker) for worker in victims))

    async def _request(self, request: Request) -> None:
        for worker in self._workers.values():
            await worker.request(request)

    async def _kill_workers(self) -> None:
        """Ends all workers; as they are forgotten first, their ends are not reported."""
        victims = list(self._workers.values())
        self._workers.clear()
        await self._report_stacks(victims)
        await asyncio.gather(*(self._nursery.kill(worker) for worker in victims))

    async def _report_stacks(self, victims: Sequence[Worker]) -> None:
        """What the stuck ones among them are doing, before they are killed: into the log and to the controller."""
        for stacks in await collect_stacks(victims):
            event = stacks.event()
            _log.warning("worker is stuck", rank=stacks.rank, epoch=stacks.epoch, found=event.message)
            self._outbox.add(agent_event(event, stacks.epoch, stacks.rank))

    async def _all_exited(self) -> None:
        await asyncio.gather(*(worker.exited.wait() for worker in self._workers.values()))

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _on_message(self, worker: Worker, message: WorkerMessage) -> None:
        assignment = worker.assignment
        if assignment is None or self._workers.get(assignment.rank) is not worker:
            return
        epoch, rank = assignment.epoch, assignment.rank
        match message:
            case StepRow():
                self._metrics.add_row(message)
                self._outbox.add_row(step_metrics(message, epoch))
            case Event():
                self._metrics.add_event(message)
                self._outbox.add(agent_event(message, epoch, rank))
            case Committed():
                self._metrics.add_checkpoint(message)
                self._outbox.add(checkpoint_committed(message, epoch))
            case Finished():
                finished = agent_pb2.RunFinished(epoch=epoch, step=message.step)
                self._outbox.add(agent_pb2.ConnectRequest(run_finished=finished))

    def _on_line(self, worker: Worker, line: str) -> None:
        assert worker.assignment is not None
        self._logs.add(worker.assignment.rank, worker.assignment.epoch, line)

    def _on_exit(self, worker: Worker, code: int) -> None:
        """Reports the end of a worker that belongs to the present epoch."""
        if worker.assignment is None:
            return
        epoch, rank = worker.assignment.epoch, worker.assignment.rank
        _log.info("worker ended", rank=rank, epoch=epoch, code=code)
        if self._workers.get(rank) is worker:
            self._metrics.exited(self._settings.slot, code)
            self._outbox.add(worker_exit(epoch, rank, code, worker.step, worker.last_words))
            self._spawn(self._logs.flush())

    def _join(self) -> agent_pb2.Join:
        settings = self._settings
        return agent_pb2.Join(
            run=settings.run_name,
            pod=settings.pod,
            slot=settings.slot,
            incarnation=settings.incarnation,
            node=settings.node,
            gpus=settings.gpus,
            term=self._link.term,
            epoch=self._epoch,
            workers=self._worker_statuses(),
            host=self._host,
            last_sequence=self._outbox.last_sequence,
            checks=self._checks,
            time=_now(),
        )

    def _heartbeat(self) -> agent_pb2.Heartbeat:
        return agent_pb2.Heartbeat(
            epoch=self._epoch, workers=self._worker_statuses(), unacknowledged=self._outbox.waiting
        )

    def _worker_statuses(self) -> list[agent_pb2.WorkerStatus]:
        return [
            agent_pb2.WorkerStatus(
                rank=rank,
                local_rank=worker.assignment.local_rank if worker.assignment else 0,
                process_id=worker.process_id,
                step=worker.step,
                phase=worker.phase or Phase.STARTING.value,
                silent_seconds=worker.silent_seconds(),
                own_seconds=worker.own_seconds(),
            )
            for rank, worker in self._workers.items()
            if worker.alive and worker.process_id
        ]

    async def _ship_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_FLUSH_SECONDS)
            await self._logs.flush()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _link_failure(link: asyncio.Task[None]) -> ExitCode:
    error = link.exception()
    if isinstance(error, Superseded):
        _log.warning("pod superseded", error=str(error))
        return ExitCode.RETRY
    _log.error("link to the controller failed", error=str(error), exc_info=error)
    return ExitCode.INTERNAL


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


def _integral(value: object) -> dict[str, object]:
    """JSON of a Struct has only floats; whole numbers become integers again, as the configuration wants them."""

    def restore(item: object) -> object:
        if isinstance(item, dict):
            return {key: restore(entry) for key, entry in item.items()}
        if isinstance(item, list):
            return [restore(entry) for entry in item]
        return int(item) if isinstance(item, float) and item.is_integer() else item

    assert isinstance(value, dict)
    return {key: restore(entry) for key, entry in value.items()}
