"""Running one task inside a worker, whatever kind of worker it is."""

import pickle

from longhaul_core.engine.failures import record_error
from longhaul_core.engine.messages import Failed, Result, dump
from longhaul_core.engine.progress import Reporter, reporting_to
from longhaul_core.engine.protocol import load_task


def execute(task: str, payload: bytes, reporter: Reporter) -> bytes:
    """Import the task, run it, and return its pickled Result or Failed; never raises."""
    try:
        with reporting_to(reporter):
            value = load_task(task)(pickle.loads(payload))  # noqa: S301  from our own engine
        if not isinstance(value, dict):
            raise TypeError(f"Task {task} returned {type(value).__name__}, not dict.")
        return dump(Result(value))
    except BaseException as error:
        return dump(Failed(record_error(error)))
