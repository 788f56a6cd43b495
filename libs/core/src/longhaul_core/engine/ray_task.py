"""What runs inside a Ray worker: the task on a thread, its messages as a stream."""

import queue
import sys
import threading
from collections.abc import Iterator, Sequence

from longhaul_core.engine.execution import execute
from longhaul_core.engine.messages import Progress, Started, dump


def stream_task(task: str, payload: bytes, import_path: Sequence[str]) -> Iterator[bytes]:
    """Run a task and yield pickled Started, Progress as it comes, and last Result or Failed."""
    yield dump(Started())
    sys.path += [entry for entry in import_path if entry not in sys.path]
    progress: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    last: list[bytes] = []

    def work() -> None:
        last.append(execute(task, payload, lambda value: progress.put(dump(Progress(value)))))
        progress.put(None)

    threading.Thread(target=work, name="longhaul-task", daemon=True).start()
    while (message := progress.get()) is not None:
        yield message
    yield last[0]
