"""Engine on a Ray cluster, through our own streaming tasks.

What is not left to Ray: asking for more than a node has is an error at once (Ray waits for ever), a task that Ray does
not start in time is one too, a dead worker is an exception of its task, and Ray repeats nothing on its own.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, TaskCancelledError

from longhaul_core.engine.failures import RemoteTaskError, TaskNotStarted, WorkerDied, pickle_payload
from longhaul_core.engine.messages import Failed, Progress, Result, Started, load
from longhaul_core.engine.protocol import OnProgress, Payload, Task, task_path
from longhaul_core.engine.ray_task import stream_task
from longhaul_core.errors import Cancelled, DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable

_CANCEL_SECONDS = 10.0
_START_ATTEMPTS = 5
_LOCAL_START_SECONDS = "120"
"""For Ray's first process to come up on this machine; the 30 s that Ray gives it are too few where others work too."""
_TASK_OPTIONS: dict[str, Any] = {
    "num_returns": "streaming",
    "max_retries": 0,
    "_generator_backpressure_num_objects": 1,  # so that the task begins only once we have read Started
}


class RayEngine:
    """Runs as many tasks at a time as the cluster had room for when it was joined.

    Each task asks for `cpus` and `memory_bytes` (a reservation and, by Ray's monitor, a bound). `import_path` is added
    to the workers' `sys.path`, for tasks outside the installed packages.
    """

    def __init__(
        self,
        *,
        capacity: int,
        cpus: float = 1.0,
        memory_bytes: int = 0,
        start_timeout_seconds: float = 300.0,
        import_path: Sequence[str] = (),
        owns_connection: bool = False,
    ) -> None:
        self._capacity = capacity
        self._options = {**_TASK_OPTIONS, "num_cpus": cpus, "memory": memory_bytes or None}
        self._remote: Any = ray.remote(**self._options)(stream_task)
        self._start_timeout_seconds = start_timeout_seconds
        self._import_path = tuple(import_path)
        self._owns_connection = owns_connection
        self._slots = asyncio.Semaphore(capacity)
        self._running: set[asyncio.Task[Payload]] = set()
        self._closed = False

    @classmethod
    def connect(
        cls,
        address: str | None = None,
        *,
        cpus: float = 1.0,
        memory_bytes: int = 0,
        start_timeout_seconds: float = 300.0,
        import_path: Sequence[str] = (),
        **local: Any,
    ) -> "RayEngine":
        """Join the cluster at `address`, or start one on this machine (`local` goes to `ray.init`). Blocks for seconds.

        Raises:
            InvalidArgument: a `ray://` address; Ray's client protocol has no streaming tasks. Run a Ray node with zero
                CPUs beside the service and join by `host:port`.
            ResourceExhausted: no node has what one task asks for (RAY_RESOURCES).
            Unavailable: no cluster answers.
        """
        if address and address.startswith("ray://"):
            raise InvalidArgument(
                f"Address {address!r} is of Ray's client protocol, which has no streaming tasks.",
                reason="RAY_CLIENT_UNSUPPORTED",
                action="Run a Ray node with zero CPUs beside the service and give host:port.",
            )
        owns = not ray.is_initialized()
        if owns:
            _start(address, local)
        try:
            capacity = _capacity(cpus, memory_bytes)
        except ResourceExhausted:
            if owns:
                ray.shutdown()
            raise
        return cls(
            capacity=capacity,
            cpus=cpus,
            memory_bytes=memory_bytes,
            start_timeout_seconds=start_timeout_seconds,
            import_path=import_path,
            owns_connection=owns,
        )

    @property
    def capacity(self) -> int:
        """Tasks that fit the cluster at the same time."""
        return self._capacity

    async def submit(self, task: Task, payload: Payload, *, on_progress: OnProgress | None = None) -> Payload:
        """See `Engine.submit`.

        Also raises DeadlineExceeded where Ray does not start the task in time (RAY_TASK_NOT_STARTED).
        """
        path = task_path(task)
        data = pickle_payload(path, payload)
        async with self._slots:
            if self._closed:
                raise _closed()
            running = asyncio.create_task(self._run(path, data, on_progress))
            self._running.add(running)
            try:
                return await running
            except asyncio.CancelledError:
                if self._closed:
                    raise _closed() from None
                raise
            finally:
                running.cancel()
                self._running.discard(running)

    async def close(self) -> None:
        """See `Engine.close`. Leaves the cluster if `connect` joined it."""
        self._closed = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._owns_connection:
            await asyncio.to_thread(ray.shutdown)

    async def _run(self, path: str, data: bytes, on_progress: OnProgress | None) -> Payload:
        for _ in range(_START_ATTEMPTS):
            stream = self._remote.remote(path, data, self._import_path)
            try:
                await self._wait_for_start(path, stream)
                return await _converse(path, stream, on_progress)
            except TaskNotStarted:
                continue
            except RemoteTaskError:
                raise
            except RayError as error:
                raise WorkerDied(path, detail=_detail(error)) from error
            except BaseException:
                # Ray reuses a worker for the same function, even one that a cancellation is killing: take a new one.
                self._remote = ray.remote(**self._options)(stream_task)
                await asyncio.shield(_cancel(stream))
                raise
        raise WorkerDied(path, detail=f"{_START_ATTEMPTS} workers in a row, before they had the task")

    async def _wait_for_start(self, path: str, stream: Any) -> None:
        """Ray may give a task to the very worker that a cancellation is killing: such a task has not run."""
        try:
            async with asyncio.timeout(self._start_timeout_seconds):
                message = await _next(stream)
        except RayError as error:
            raise TaskNotStarted from error
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"Ray did not start task {path} within {self._start_timeout_seconds} s.",
                reason="RAY_TASK_NOT_STARTED",
                metadata={"task": path},
                action="Look at `ray status`: others may hold the cluster's CPUs, or nodes are missing.",
            ) from error
        if not isinstance(message, Started):
            raise TaskNotStarted


async def _converse(path: str, stream: Any, on_progress: OnProgress | None) -> Payload:
    while True:
        match await _next(stream):
            case Progress(value):
                if on_progress:
                    on_progress(value)
            case Result(value):
                return value
            case Failed(record):
                raise RemoteTaskError(record)
            case _:
                raise WorkerDied(path, detail="its stream ended")


async def _next(stream: Any) -> Any:
    try:
        return load(await (await anext(stream)))
    except StopAsyncIteration:
        return None


async def _cancel(stream: Any) -> None:
    """Kill the worker of a task and wait until Ray says that it is gone."""
    ray.cancel(stream, force=True)
    with suppress(TaskCancelledError, RayError, TimeoutError):
        async with asyncio.timeout(_CANCEL_SECONDS):
            while await _next(stream) is not None:
                pass


def _detail(error: RayError) -> str:
    return "its node ran out of memory" if isinstance(error, OutOfMemoryError) else type(error).__name__


def _start(address: str | None, local: dict[str, Any]) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {}
    if address is None:
        options = {"include_dashboard": False, **local}
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", _LOCAL_START_SECONDS)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:  # of a cluster that does not come up in time, Ray raises just this
        raise Unavailable(
            f"No Ray cluster answers at {address or 'this machine, nor did one start'}: {error}",
            reason="RAY_UNREACHABLE",
        ) from error


def _capacity(cpus: float, memory_bytes: int) -> int:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = [min(_times(node, "CPU", cpus), _times(node, "memory", memory_bytes)) for node in nodes]
    if not any(room):
        largest: dict[str, float] = max(nodes, key=lambda node: node.get("CPU", 0.0), default={})
        raise ResourceExhausted(
            f"A task asks for {cpus:g} CPUs and {memory_bytes} bytes of memory; the largest of {len(nodes)} Ray nodes "
            f"has {largest.get('CPU', 0.0):g} CPUs and {int(largest.get('memory', 0))} bytes.",
            reason="RAY_RESOURCES",
            metadata={"cpus": f"{cpus:g}", "memory_bytes": str(memory_bytes)},
            action="Ask for less a task, or add larger nodes to the cluster.",
        )
    return sum(room)


def _times(node: dict[str, float], resource: str, amount: float) -> int:
    """How often `amount` fits the node; without bound (a million) where nothing is asked."""
    return int(node.get(resource, 0.0) // amount) if amount else 1_000_000


def _closed() -> Cancelled:
    return Cancelled("The engine is closed.", reason="ENGINE_CLOSED")
