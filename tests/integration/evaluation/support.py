"""What the tests of the evaluation service share: the services around it, a token set, a client."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
from google.protobuf import json_format
from longhaul.checkpoint.v1 import checkpoint_pb2
from longhaul.checkpoint.v1.checkpoint_pb2_grpc import CheckpointServiceStub
from longhaul.common.v1 import resource_pb2 as common
from longhaul.common.v1.resource_pb2 import ObjectReference
from longhaul.corpus.v1 import token_set_pb2, token_set_pb2_grpc
from longhaul.evaluation.v1 import evaluation_pb2 as pb
from longhaul.evaluation.v1.evaluation_pb2_grpc import EvaluationServiceStub, EvaluationSuiteServiceStub
from longhaul.training.v1 import task_pb2, task_pb2_grpc, training_run_pb2, training_run_pb2_grpc
from longhaul_core.digests import hash_bytes
from longhaul_core.manifests import Manifest, put_part, write_manifest
from longhaul_core.objects import FilesystemStore
from longhaul_core.rpc.client import rpc_errors
from longhaul_core.tasks import ItemScore, ScoreArguments, ScoreResult, TaskScore

RUN = "projects/demo/trainingRuns/r1"
TOKEN_SET = "projects/demo/tokenSets/t1"
SUITE = "projects/demo/evaluationSuites/s1"
TASKS = [pb.TaskSelection(task="bits_per_byte"), pb.TaskSelection(task="cloze", few_shot=2)]
ITEMS = 40


def checkpoint_name(step: int, epoch: int = 1) -> str:
    return f"projects/demo/checkpoints/r1-step-{step:08d}-e{epoch}"


class FakeTraining(task_pb2_grpc.TaskServiceServicer, training_run_pb2_grpc.TrainingRunServiceServicer):
    """Runs score tasks at once, in the way that a test sets; it outlives the evaluation service."""

    def __init__(self, store: FilesystemStore) -> None:
        self.store = store
        self.tasks: dict[str, task_pb2.Task] = {}
        self.creates: list[str] = []
        self.run_state: int | None = training_run_pb2.TRAINING_RUN_STATE_RUNNING
        self.hold = False
        self.failures_left = 0
        self.result_bytes: bytes | None = None
        self.changed = asyncio.Event()

    async def CreateTask(self, request, context):
        name = f"{request.parent}/tasks/{request.task_id}"
        self.creates.append(name)
        if name not in self.tasks:
            self.tasks[name] = task_pb2.Task(metadata=common.Metadata(name=name), spec=request.spec)
            self.tasks[name].status.state = common.JOB_STATE_QUEUED
            self.tasks[name].status.pending_reason = "no free GPU"
            self._work()
        return self.tasks[name]

    async def GetTask(self, request, context):
        if request.name not in self.tasks:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such task")
        return self.tasks[request.name]

    async def CancelTask(self, request, context):
        task = await self.GetTask(request, context)
        if task.status.state in (common.JOB_STATE_QUEUED, common.JOB_STATE_RUNNING):
            task.status.state = common.JOB_STATE_CANCELLED
        return task

    async def WatchTasks(self, request, context):
        while True:
            self.changed.clear()
            for revision, task in enumerate(list(self.tasks.values()), start=1):
                yield task_pb2.WatchTasksResponse(task=task, revision=revision)
            await self.changed.wait()

    async def GetTrainingRun(self, request, context):
        if self.run_state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such run")
        run = training_run_pb2.TrainingRun(metadata=common.Metadata(name=request.name))
        run.status.state = self.run_state
        return run

    def release(self) -> None:
        self.hold = False
        self._work()

    def arguments(self) -> list[ScoreArguments]:
        return [_arguments(task) for task in self.tasks.values()]

    def _work(self) -> None:
        for task in self.tasks.values():
            if not self.hold and task.status.state == common.JOB_STATE_QUEUED:
                self._score(task)
        self.changed.set()

    def _score(self, task: task_pb2.Task) -> None:
        if self.failures_left > 0:
            self.failures_left -= 1
            task.status.state = common.JOB_STATE_FAILED
            task.status.reason.code = "POD_FAILED"
            task.status.reason.message = "exit code 80"
            return
        data = self.result_bytes or score(_arguments(task)).model_dump_json(by_alias=True).encode()
        self.store.put(task.spec.result_key, data)
        task.status.state = common.JOB_STATE_SUCCEEDED


def _arguments(task: task_pb2.Task) -> ScoreArguments:
    return ScoreArguments.model_validate(json_format.MessageToDict(task.spec.arguments))


def score(arguments: ScoreArguments) -> ScoreResult:
    """Scores that get better with the step, with noise that the items of all steps share."""
    step = int(arguments.checkpoint.name.split("-")[-2])
    noise = np.random.default_rng(0).normal(size=ITEMS)
    scores = []
    for selection in arguments.tasks:
        bits = selection.task == "bits_per_byte"
        values = 100 * (8 - step / 100 + 0.5 * noise) if bits else (noise + step / 100 > 0.5).astype(float)
        items = tuple(
            ItemScore(id=f"i{index}", cluster=f"d{index // 2}", value=float(value), weight=100.0 if bits else 1.0)
            for index, value in enumerate(values)
        )
        scores.append(
            TaskScore(
                task=selection.task,
                few_shot=selection.few_shot,
                metric="bits_per_byte" if bits else "acc",
                higher_is_better=not bits,
                chance=None if bits else 0.25,
                items=items,
            )
        )
    return ScoreResult(
        checkpoint_digest=arguments.checkpoint.digest,
        token_set_digest=arguments.token_set.digest,
        step=step,
        scores=tuple(scores),
    )


class FakeCorpus(token_set_pb2_grpc.TokenSetServiceServicer):
    """Has the token set that a test committed."""

    def __init__(self) -> None:
        self.token_set: token_set_pb2.TokenSet | None = None
        self.changed = asyncio.Event()

    async def GetTokenSet(self, request, context):
        if self.token_set is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no token set {request.name!r}")
        return self.token_set

    async def WatchTokenSets(self, request, context):
        while True:
            await self.changed.wait()
            self.changed.clear()
            yield token_set_pb2.WatchTokenSetsResponse(token_set=self.token_set)

    def commit(self, store: FilesystemStore, files: dict[str, bytes] | None = None) -> None:
        """Commit a token set with its evaluation tasks."""
        prefix = "projects/demo/tokenSets/t1/abc/"
        files = default_files() if files is None else files
        parts = {task: put_part(store, f"{prefix}eval/{task}.jsonl", data) for task, data in files.items()}
        tasks = {task: {"key": part.key, "kind": task, "items": ITEMS} for task, part in parts.items()}
        manifest = Manifest(
            kind="tokenset",
            name=TOKEN_SET,
            uid="u",
            created=datetime(2026, 1, 1, tzinfo=UTC),
            parts=tuple(parts.values()),
            extra={"eval_tasks": tasks},
        )
        write_manifest(store, f"{prefix}manifest.json", manifest)
        self.token_set = token_set_pb2.TokenSet(
            metadata=common.Metadata(name=TOKEN_SET), manifest_key=f"{prefix}manifest.json", digest=manifest.digest
        )
        self.changed.set()


def default_files() -> dict[str, bytes]:
    bits = [{"id": f"i{n}", "text": "text", "cluster": f"d{n // 2}"} for n in range(ITEMS)]
    cloze = [
        {"id": f"i{n}", "context": "c", "choices": ["a", "b", "c", "d"], "gold": n % 4, "cluster": f"d{n // 2}"}
        for n in range(ITEMS)
    ]
    return {
        task: b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        for task, rows in (("bits_per_byte", bits), ("cloze", cloze))
    }


@dataclass
class Upstream:
    """The services around the one under test."""

    store: FilesystemStore
    training: FakeTraining
    corpus: FakeCorpus
    checkpoints: CheckpointServiceStub
    addresses: dict[str, str]
    restart_checkpoints: Callable[[], Awaitable[str]]

    async def save(self, step: int, epoch: int = 1) -> checkpoint_pb2.Checkpoint:
        """Commit a checkpoint, as a trainer would."""
        begun = await self.checkpoints.BeginCheckpoint(
            checkpoint_pb2.BeginCheckpointRequest(training_run=RUN, step=step, epoch=epoch, world_size=1)
        )
        data = json.dumps({"step": step}).encode()
        self.store.put(f"{begun.prefix}trainer_state.json", data)
        part = ObjectReference(key=f"{begun.prefix}trainer_state.json", size_bytes=len(data), digest=hash_bytes(data))
        return await self.checkpoints.CommitCheckpoint(
            checkpoint_pb2.CommitCheckpointRequest(name=begun.metadata.name, epoch=epoch, parts=[part])
        )

    async def checkpoint(self, step: int) -> checkpoint_pb2.Checkpoint:
        return await self.checkpoints.GetCheckpoint(checkpoint_pb2.GetCheckpointRequest(name=checkpoint_name(step)))

    async def collect(self, keep_last: int = 1) -> None:
        retention = checkpoint_pb2.Retention(training_run=RUN, keep_last=keep_last)
        await self.checkpoints.SetRetention(checkpoint_pb2.SetRetentionRequest(retention=retention))
        await self.checkpoints.CollectGarbage(checkpoint_pb2.CollectGarbageRequest(training_run=RUN))


class Client:
    """A user's view of the evaluation service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.evaluations = EvaluationServiceStub(channel)
        self.suites = EvaluationSuiteServiceStub(channel)

    async def call(self, stub: object, method: str, request: object) -> object:
        with rpc_errors():
            return await getattr(stub, method)(request)

    async def create(self, identifier: str, step: int, **spec: object) -> pb.Evaluation:
        fields = {"checkpoint": checkpoint_name(step), "token_set": TOKEN_SET, "tasks": TASKS} | spec
        request = pb.CreateEvaluationRequest(
            parent="projects/demo", evaluation_id=identifier, spec=pb.EvaluationSpec(**fields)
        )
        return await self.call(self.evaluations, "CreateEvaluation", request)

    async def create_suite(self, **spec: object) -> pb.EvaluationSuite:
        fields = {"training_run": RUN, "token_set": TOKEN_SET, "tasks": TASKS} | spec
        request = pb.CreateEvaluationSuiteRequest(
            parent="projects/demo", evaluation_suite_id="s1", spec=pb.EvaluationSuiteSpec(**fields)
        )
        return await self.call(self.suites, "CreateEvaluationSuite", request)

    async def get(self, identifier: str) -> pb.Evaluation:
        name = f"projects/demo/evaluations/{identifier}"
        return await self.call(self.evaluations, "GetEvaluation", pb.GetEvaluationRequest(name=name))

    async def suite(self) -> pb.EvaluationSuiteStatus:
        request = pb.GetEvaluationSuiteRequest(name=SUITE)
        return (await self.call(self.suites, "GetEvaluationSuite", request)).status

    async def list_evaluations(self) -> list[pb.Evaluation]:
        request = pb.ListEvaluationsRequest(parent="projects/demo", training_run=RUN, page_size=1000)
        return list((await self.call(self.evaluations, "ListEvaluations", request)).evaluations)

    async def reaches(self, identifier: str, state: int) -> pb.Evaluation:
        async def reached() -> bool:
            return (await self.get(identifier)).status.state == state

        await eventually(reached)
        return await self.get(identifier)

    async def suite_reaches(self, state: int) -> pb.EvaluationSuiteStatus:
        async def reached() -> bool:
            return (await self.suite()).state == state

        await eventually(reached)
        return await self.suite()

    async def steps_evaluated(self) -> list[int]:
        return sorted(
            it.status.step for it in await self.list_evaluations() if it.status.state == common.JOB_STATE_SUCCEEDED
        )


class Process:
    """The evaluation service as a process that kills itself at a failpoint."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LONGHAUL_")}
        own = {"data_dir": str(self._data_dir), "listen_address": "127.0.0.1:0", "metrics_address": "", **settings}
        environment |= {f"LONGHAUL_{name.upper()}": value for name, value in own.items()}
        self._process = subprocess.Popen([sys.executable, "-m", "longhaul_evaluation"], env=environment)

    def was_killed(self) -> bool:
        assert self._process is not None
        return self._process.poll() == -9

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def eventually(condition: Callable[[], object], timeout_seconds: float = 15.0) -> None:
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


async def serving(*servicers: tuple[Callable[..., None], object]) -> AsyncIterator[str]:
    """Serve fakes on loopback."""
    server = grpc.aio.server()
    for add, servicer in servicers:
        add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)
