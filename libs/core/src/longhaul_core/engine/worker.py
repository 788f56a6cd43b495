"""The program of a worker process: `python -m longhaul_core.engine.worker <socket> <parent pid>`.

It dies with its parent, even when that is killed, and runs one task at a time on its main thread.
"""

import ctypes
import faulthandler
import importlib
import os
import signal
import socket
import sys
import threading

from longhaul_core.collector import importing
from longhaul_core.engine.execution import execute
from longhaul_core.engine.failures import record_error
from longhaul_core.engine.messages import Answer, Failed, Progress, Ready, Setup, Started, dump, frame, receive

_PR_SET_PDEATHSIG = 1
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


def main(descriptor: int, parent: int) -> None:
    """Serve tasks until the engine closes its end."""
    _die_with(parent)
    faulthandler.enable()
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as requests:
        answers = _Answers(connection)
        try:
            _prepare(receive(requests))
        except BaseException as error:
            answers.send(Failed(record_error(error)))
            return
        answers.send(Ready())
        while (message := receive(requests)) is not None:
            answers.send(Started())
            answers.send_pickled(execute(message.task, message.payload, lambda value: answers.send(Progress(value))))


class _Answers:
    """The way back to the engine; a task's threads may report at the same time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Answer) -> None:
        self.send_pickled(dump(message))

    def send_pickled(self, body: bytes) -> None:
        with self._lock:
            self._connection.sendall(frame(body))


def _prepare(setup: Setup) -> None:
    os.nice(setup.niceness)
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(setup.threads)))  # before numeric libraries load
    sys.path[:] = setup.import_path
    with importing():
        for module in setup.preload:
            importlib.import_module(module)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
