"""A token set, a checkpoint service and bare workers, for tests of the trainer."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from longhaul.checkpoint.v1 import checkpoint_pb2, checkpoint_pb2_grpc
from longhaul_core.errors import DataLoss
from longhaul_core.manifests import Manifest, Part, put_part, verify_part, write_manifest
from longhaul_core.objects import open_store
from longhaul_trainer.nursery_wire import LARGEST_PACKET_BYTES, REPORT, Fork
from longhaul_trainer.wire import WORKER_MESSAGE, Assignment, StepRow, WorkerMessage
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

EOS = 0
VOCABULARY = 64
PROJECT, RUN = "lab", "run-1"
DEADLINE_SECONDS = 280.0


def make_token_set(url: str, *, tokens: int = 40_000, seed: int = 0) -> str:
    """Writes a token set of two sources whose text a small model can learn; returns its manifest key."""
    store = open_store(url)
    prefix = "projects/lab/tokensets/words/0123456789ab"
    parts: list[Part] = []
    sources: dict[str, Any] = {}
    for number, source in enumerate(("docs", "code")):
        sources[source] = {
            split: _write_split(store, parts, f"{prefix}/{split}/{source}", size, seed + 10 * number + place)
            for place, (split, size) in enumerate((("train", tokens), ("valid", tokens // 10)))
        }
    tokenizer = put_part(store, "projects/lab/tokenizers/words/0123456789ab/tokenizer.json", make_tokenizer())
    tasks = _write_tasks(store, parts, f"{prefix}/eval", seed)
    extra = {
        "token_dtype": "uint16",
        "vocabulary_size": VOCABULARY,
        "eos_id": EOS,
        "tokenizer": {"name": "projects/lab/tokenizers/words", "key": tokenizer.key, "digest": tokenizer.digest},
        "sources": sources,
        "mixture": [{"source": "docs", "weight": 0.75}, {"source": "code", "weight": 0.25}],
        "eval_tasks": tasks,
    }
    manifest = Manifest(
        kind="TokenSet",
        name="projects/lab/tokenSets/words",
        uid="words",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        parts=parts,
        extra=extra,
    )
    write_manifest(store, f"{prefix}/manifest.json", manifest)
    return f"{prefix}/manifest.json"


def make_tokenizer() -> bytes:
    """One word a token id: w1, w2, …"""
    words = {"<|end|>": EOS, **{f"w{number}": number for number in range(1, VOCABULARY)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer.to_str().encode()


def _write_tasks(store: Any, parts: list[Part], prefix: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed + 100)

    def words(count: int) -> str:
        return " ".join(f"w{number}" for number in rng.integers(1, VOCABULARY, count))

    texts = [{"id": f"t{n}", "text": words(20 + 9 * n), "cluster": f"c{n // 2}"} for n in range(8)]
    questions = [
        {
            "id": f"q{n}",
            "context": words(12),
            "choices": [words(3 + c) for c in range(4)],
            "gold": n % 4,
            "cluster": "c",
        }
        for n in range(10)
    ]
    tasks = {}
    for kind, rows in (("bits_per_byte", texts), ("cloze", questions)):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        parts.append(put_part(store, f"{prefix}/{kind}.jsonl", data))
        tasks[kind] = {"key": parts[-1].key, "kind": kind, "items": len(rows)}
    return tasks


def _write_split(store: Any, parts: list[Part], prefix: str, tokens: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    stream = np.empty(tokens, dtype=np.int64)
    stream[0] = 1
    jumps, steps = rng.random(tokens) < 0.2, rng.integers(1, VOCABULARY, tokens)
    for place in range(1, tokens):
        stream[place] = steps[place] if jumps[place] else (3 * stream[place - 1] + 7) % (VOCABULARY - 1) + 1
    ends = np.unique(np.append(rng.choice(tokens - 1, tokens // 60, replace=False) + 1, tokens))
    stream[ends - 1] = EOS
    half = int(ends[len(ends) // 2])
    shards = []
    for number, (begin, end) in enumerate(((0, half), (half, tokens))):
        inside = ends[(ends > begin) & (ends <= end)] - begin
        key, index_key = f"{prefix}/{number:05d}.ds", f"{prefix}/{number:05d}.ds.index"
        parts.append(put_part(store, key, stream[begin:end].astype("<u2").tobytes()))
        parts.append(put_part(store, index_key, inside.astype("<u8").tobytes()))
        shards.append({"key": key, "index_key": index_key, "tokens": int(end - begin), "documents": len(inside)})
    return {"tokens": tokens, "documents": len(ends), "bytes": 4 * tokens, "shards": shards}


class CheckpointServer(checkpoint_pb2_grpc.CheckpointServiceServicer):
    """The promises of the checkpoint service that the trainer relies on, in memory; can be told to be away."""

    def __init__(self, url: str) -> None:
        self.store = open_store(url)
        self.committed: dict[int, checkpoint_pb2.CommitCheckpointRequest] = {}
        self.manifests: dict[int, str] = {}
        self.verified: list[str] = []
        self.minimum_epoch = 0
        self._arrived = threading.Condition()
        self.refusals_left = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        checkpoint_pb2_grpc.add_CheckpointServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def wait_step(self, step: int) -> None:
        """Waits until a checkpoint of at least this step is committed."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: max(self.committed, default=0) >= step, DEADLINE_SECONDS)

    def BeginCheckpoint(self, request: Any, context: Any) -> Any:
        self._check(request.epoch, context)
        name = f"projects/{PROJECT}/checkpoints/{RUN}-step-{request.step:08d}-e{request.epoch}"
        prefix = f"projects/{PROJECT}/checkpoints/{RUN}/step-{request.step:08d}-e{request.epoch}/"
        return checkpoint_pb2.Checkpoint(metadata={"name": name}, prefix=prefix, step=request.step)

    def CommitCheckpoint(self, request: Any, context: Any) -> Any:
        self._check(request.epoch, context)
        parts = [Part(key=part.key, size=part.size_bytes, digest=part.digest) for part in request.parts]
        for part in parts:
            try:
                verify_part(self.store, part)
            except DataLoss as error:
                context.abort(grpc.StatusCode.DATA_LOSS, str(error))
        step = int(request.name.rsplit("-", 2)[1])
        key = f"projects/{PROJECT}/manifests/checkpoints/{RUN}/step-{step:08d}-e{request.epoch}.json"
        manifest = Manifest(
            kind="Checkpoint",
            name=request.name,
            uid=request.name,
            created=datetime(2026, 1, 1, tzinfo=UTC),
            parts=parts,
            extra={"lineage": MessageToDict(request.lineage)},
        )
        write_manifest(self.store, key, manifest)
        with self._arrived:
            self.committed[step], self.manifests[step] = request, key
            self._arrived.notify_all()
        return checkpoint_pb2.Checkpoint(metadata={"name": request.name}, step=step, manifest_key=key)

    def GetLatestCheckpoint(self, request: Any, context: Any) -> Any:
        steps = [step for step in self.committed if not 0 < request.maximum_step < step]
        if not steps:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        name = self.committed[max(steps)].name
        return checkpoint_pb2.Checkpoint(metadata={"name": name}, manifest_key=self.manifests[max(steps)])

    def VerifyCheckpoint(self, request: Any, context: Any) -> Any:
        self.verified.append(request.name)
        return checkpoint_pb2.VerifyCheckpointResponse(intact=False)

    def _check(self, epoch: int, context: Any) -> None:
        if self.refusals_left:
            self.refusals_left -= 1
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the disk is full")
        if epoch < self.minimum_epoch:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "stale")


@dataclass
class World:
    """Where a test's workers find everything."""

    folder: Path
    url: str
    token_set: str
    checkpoints: CheckpointServer

    def config(self, **sections: Any) -> dict[str, Any]:
        """A trainer configuration of a very small model."""
        base: dict[str, Any] = {
            "steps": 12,
            "seed": 3,
            "model": {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 64},
            "optimizer": {"learning_rate": 0.01, "gradient_clip": 0.5},
            "schedule": {"warmup_steps": 2},
            "data": {"sequence_length": 32, "global_batch_size": 8, "micro_batch_size": 2},
            "validation": {"every_steps": 4, "sequences": 10},
            "checkpoint": {"every_steps": 4},
            "runtime": {"device": "cpu"},
        }
        for name, value in sections.items():
            base[name] = {**base.get(name, {}), **value} if isinstance(value, dict) else value
        return base

    def assignment(self, rank: int, ranks: int, rendezvous: str, **changes: Any) -> Assignment:
        """What the agent would tell a worker."""
        fields: dict[str, Any] = {
            "project": PROJECT,
            "run": RUN,
            "epoch": 1,
            "rank": rank,
            "local_rank": 0,
            "world_size": ranks,
            "rendezvous": rendezvous,
            "listens": rank == 0 and ranks > 1,
            "trainer_config": self.config(),
            "token_set_manifest_key": self.token_set,
            "object_store_url": self.url,
            "checkpoint_address": self.checkpoints.address,
            "scratch_dir": str(self.folder / "scratch"),
        }
        return Assignment(**{**fields, **changes})


class TestNursery:
    """The nursery of all bare workers of the tests: torch is imported once."""

    __test__ = False

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "longhaul_trainer.worker"]
        self.process = subprocess.Popen(
            [*command, "--control", str(theirs.fileno()), "--agent", str(os.getpid())], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        self.reports: dict[tuple[str, int], Any] = {}
        self.changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def fork(self, number: int, channel: socket.socket, log: Path) -> None:
        with log.open("wb") as output:
            order = Fork(number=number).model_dump_json().encode()
            socket.send_fds(self._control, [order], [channel.fileno(), output.fileno()])

    def wait_for(self, kind: str, number: int) -> Any:
        with self.changed:
            assert self.changed.wait_for(lambda: (kind, number) in self.reports, DEADLINE_SECONDS)
            return self.reports[kind, number]

    def close(self) -> None:
        self._control.shutdown(socket.SHUT_RDWR)
        self.process.wait(timeout=DEADLINE_SECONDS)

    def _read(self) -> None:
        while packet := self._control.recv(LARGEST_PACKET_BYTES):
            report = REPORT.validate_json(packet)
            with self.changed:
                self.reports[report.type, getattr(report, "number", 0)] = report
                self.changed.notify_all()


@cache
def nursery() -> TestNursery:
    return TestNursery()


class WorkerProcess:
    """A worker as an agent would keep it."""

    _numbers = itertools.count(1)

    def __init__(self, folder: Path) -> None:
        self._socket, theirs = socket.socketpair()
        self.messages: list[WorkerMessage] = []
        self._arrived = threading.Condition()
        self.log = Path(tempfile.mkstemp(prefix="worker-", dir=folder)[1])
        self.number = next(self._numbers)
        nursery().fork(self.number, theirs, self.log)
        theirs.close()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def assign(self, assignment: Assignment, listener: socket.socket | None) -> None:
        secrets = {name: getattr(assignment, name).get_secret_value() for name in ("token", "keeper_secret")}
        document = assignment.model_dump(mode="json") | secrets
        line = json.dumps(document).encode() + b"\n"
        if assignment.listens and listener is not None:
            socket.send_fds(self._socket, [line], [listener.fileno()])
        else:
            self._socket.sendall(line)

    def send(self, message: Any) -> None:
        self._socket.sendall(message.model_dump_json().encode() + b"\n")

    def rows(self) -> list[StepRow]:
        return [message for message in list(self.messages) if isinstance(message, StepRow)]

    def wait_row(self, step: int) -> None:
        """Waits until the metrics of a step have arrived."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        with self._arrived:
            while not any(row.step >= step for row in self.rows()):
                left = deadline - time.monotonic()
                assert left > 0, self.errors()
                assert ("exited", self.number) not in nursery().reports, self.errors()
                self._arrived.wait(min(left, 0.5))

    def wait(self) -> int:
        code: int = nursery().wait_for("exited", self.number).code
        self._thread.join(timeout=DEADLINE_SECONDS)
        self._socket.close()
        return code

    def kill(self) -> None:
        os.kill(nursery().wait_for("forked", self.number).process_id, signal.SIGKILL)
        self.wait()

    def errors(self) -> str:
        return self.log.read_text()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                with self._arrived:
                    self.messages.append(WORKER_MESSAGE.validate_json(line))
                    self._arrived.notify_all()


def start_workers(
    world: World, ranks: int, *, by_rank: Sequence[dict[str, Any]] = (), **changes: Any
) -> list[WorkerProcess]:
    """Starts the ranks of one epoch; `by_rank` is what is told to each of them alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rendezvous = f"127.0.0.1:{listener.getsockname()[1]}"
        workers = [WorkerProcess(world.folder) for _ in range(ranks)]
        for rank, worker in enumerate(workers):
            own = by_rank[rank] if by_rank else {}
            worker.assign(world.assignment(rank, ranks, rendezvous, **changes, **own), listener)
    return workers


def finish(workers: list[WorkerProcess], code: int = 0) -> list[StepRow]:
    """Waits for all ranks and returns rank 0's rows."""
    codes = [worker.wait() for worker in workers]
    assert codes == [code] * len(workers), "\n".join(worker.errors() for worker in workers)
    return workers[0].rows()
