"""Tasks that the engine suites run in workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from longhaul_core.engine import report
from longhaul_core.errors import InvalidArgument

Payload = dict[str, Any]


def add(payload: Payload) -> Payload:
    return {"sum": payload["left"] + payload["right"], "pid": os.getpid()}


def count(payload: Payload) -> Payload:
    for number in range(payload["to"]):
        report({"number": number})
    return {"to": payload["to"]}


def count_on_a_thread(payload: Payload) -> Payload:
    thread = threading.Thread(target=count, args=(payload,))
    thread.start()
    thread.join()
    return {}


def echo(payload: Payload) -> Payload:
    sys.stdout.write("a task may print")
    return payload


def raise_plain(payload: Payload) -> Payload:
    raise ValueError(f"no {payload['what']}")


def raise_longhaul(payload: Payload) -> Payload:
    raise InvalidArgument(
        "bad shard", reason="BAD_SHARD", metadata={"shard": "7"}, action="fix it", violations=[("shard", "is bad")]
    )


def leave(payload: Payload) -> Payload:
    sys.exit(3)


def return_text(payload: Payload) -> Any:
    return "text"


def return_unpicklable(payload: Payload) -> Payload:
    return {"lock": threading.Lock()}


def exit_hard(payload: Payload) -> Payload:
    os._exit(payload["code"])


def kill_self(payload: Payload) -> Payload:
    os.kill(os.getpid(), payload["signal"])
    signal.pause()
    return {}


def meet(payload: Payload) -> Payload:
    """Return only if as many tasks as `payload['count']` run at the same time."""
    folder = Path(payload["folder"])
    (folder / str(payload["index"])).touch()
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < payload["count"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return {"pid": os.getpid()}


def wait_for_ever(payload: Payload) -> Payload:
    report({"pid": os.getpid()})
    while True:
        time.sleep(3600)


def wait_with_a_child(payload: Payload) -> Payload:
    child = subprocess.Popen(["sleep", "3600"])
    report({"pid": child.pid})
    child.wait()
    return {}


def take_memory(payload: Payload) -> Payload:
    held = bytearray(payload["bytes"])
    held[::4096] = b"x" * len(held[::4096])
    report({"taken": len(held)})
    while payload["hold"]:
        time.sleep(3600)
    return {}


def describe(payload: Payload) -> Payload:
    return {
        "pid": os.getpid(),
        "nice": os.nice(0),
        "threads": os.environ["OMP_NUM_THREADS"],
        "modules": sorted(sys.modules),
    }
