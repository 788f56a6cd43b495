"""Steps of a build in processes of their own, which are killed or find the disk full at a chosen write.

The processes are forked from one that has imported everything and started no thread, so that each costs milliseconds,
which answers requests on its standard input.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from longhaul_core.errors import LonghaulError
from longhaul_core.objects import FilesystemStore, ObjectInfo
from longhaul_corpus.adapters.workspace import BuildContext
from longhaul_corpus.domain.clusters import DisjointSets
from longhaul_corpus.domain.hashing import gram_hashes
from longhaul_corpus.domain.minhash import MinHashParameters, SignatureHasher
from longhaul_corpus.domain.phases import Phase
from longhaul_corpus.domain.piece_cache import PieceCache
from longhaul_corpus.domain.repeats import text_hashes, window_hashes
from longhaul_corpus.domain.spec import TokenizerTraining
from longhaul_corpus.domain.tokenizer import train_tokenizer
from longhaul_corpus.domain.words import simplified_bytes

from tests.integration.corpus.steps import here

MORE_THAN_ANY_DISK = 1 << 60
BEYOND = 1 << 60


class Fault(Enum):
    """What happens at a write."""

    KILLED_BEFORE = "killed before a file has its name, or is deleted"
    KILLED_AFTER = "killed after a file has its name, or is deleted"
    DISK_FULL = "no space is left for a file"


ATTEMPTS = ((Fault.KILLED_BEFORE, 0), (Fault.DISK_FULL, 0), (Fault.KILLED_AFTER, 0), (Fault.KILLED_BEFORE, 4))
"""Faults and the writes at which they come, counted from 0."""


class FaultySteps:
    """Runs the first item of each phase with every fault, and at last undisturbed."""

    def __init__(self) -> None:
        self.fired: Counter[tuple[Phase, Fault]] = Counter()
        self._items: Counter[Phase] = Counter()
        self._server: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        program = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        self._server = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.kill()
        self._server.communicate()

    def __call__(self, context: BuildContext, phase: Phase, item: dict[str, Any]) -> dict[str, Any]:
        """Run a step; returns the result of the attempt that came through."""
        self._items[phase] += 1
        for fault, place in ATTEMPTS if self._items[phase] == 1 else ():
            if self._attempt(context, phase, item, fault, place) is None:
                self.fired[phase, fault] += 1
        result = self._attempt(context, phase, item, Fault.KILLED_BEFORE, BEYOND)
        assert result is not None
        return result

    def _attempt(self, *request: Any) -> dict[str, Any] | None:
        """Run a step with one fault; returns its result where it has fewer writes, None where the fault fired.

        Any other end fails the test.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        pickle.dump(request, self._server.stdin)
        self._server.stdin.flush()
        result, error, status = pickle.load(self._server.stdout)
        if result is not None:
            return dict(result)
        fault = request[3]
        assert (error, status) == (("DISK_FULL", 0) if fault is Fault.DISK_FULL else ("", signal.SIGKILL)), request[1:]
        return None


class FaultyStore:
    """Plants one fault into the folder store of this process."""

    def __init__(self, fault: Fault, place: int) -> None:
        self._fault = fault
        self._left = place + 1

    def plant(self) -> None:
        """Replace the steps of the store at which a file is begun, gets its name, or is deleted."""
        begin, publish, unlink = FilesystemStore.new_temporary, FilesystemStore.publish, FilesystemStore.unlink

        def faulty_begin(store: FilesystemStore) -> tuple[int, Path]:
            if self._fault is Fault.DISK_FULL and self._due():
                store.reserve = MORE_THAN_ANY_DISK
            return begin(store)

        def faulty_publish(store: FilesystemStore, key: str, file: Path, target: Path, if_absent: bool) -> ObjectInfo:
            due = self._fault is not Fault.DISK_FULL and self._due()
            self._kill(due, Fault.KILLED_BEFORE)
            info = publish(store, key, file, target, if_absent)
            self._kill(due, Fault.KILLED_AFTER)
            return info

        def faulty_unlink(store: FilesystemStore, path: Path) -> None:
            due = self._fault is not Fault.DISK_FULL and self._due()
            self._kill(due, Fault.KILLED_BEFORE)
            unlink(store, path)
            self._kill(due, Fault.KILLED_AFTER)

        FilesystemStore.new_temporary = faulty_begin  # type: ignore[method-assign]
        FilesystemStore.publish = faulty_publish  # type: ignore[method-assign]
        FilesystemStore.unlink = faulty_unlink  # type: ignore[method-assign]

    def _due(self) -> bool:
        self._left -= 1
        return self._left == 0

    def _kill(self, due: bool, fault: Fault) -> None:
        if due and self._fault is fault:
            os.kill(os.getpid(), signal.SIGKILL)


def serve() -> None:
    """Fork a process for each request; answers result, reason of the error, and wait status."""
    _warm_up()
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            _run(theirs, *request)
        os.close(theirs)
        with os.fdopen(ours, "rb") as answers:
            answer = answers.read()
        _, status = os.waitpid(child, 0)
        result, reason = pickle.loads(answer) if answer else (None, "")
        pickle.dump((result, reason, status), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _warm_up() -> None:
    """Load what is compiled, once for all processes."""
    text = "Words enough for a signature and for a window, 2 or 3 times over."
    data = simplified_bytes(text)
    SignatureHasher(MinHashParameters()).signature(data)
    gram_hashes(data, 5)
    text_hashes([text])
    window_hashes(np.frombuffer(text.encode(), dtype=np.uint8), 5)
    train_tokenizer([[text]], TokenizerTraining(258))
    PieceCache(lambda piece: [len(piece)], single_digits=True).encode(text)
    sets = DisjointSets(2)
    sets.join_equal(np.zeros(2, dtype=np.uint64), np.ones(2, dtype=np.bool_))
    sets.labels()


def _run(answer: int, context: BuildContext, phase: Phase, item: dict[str, Any], fault: Fault, place: int) -> None:
    """Run a step in this process, a fault planted, and end it."""
    FaultyStore(fault, place).plant()
    try:
        outcome = (here(context, phase, item), "")
    except LonghaulError as error:
        outcome = (None, error.reason)
    finally:
        with os.fdopen(answer, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
