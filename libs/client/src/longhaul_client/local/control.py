"""What `longhaul up`, `down` and `status` do."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from longhaul_core.errors import FailedPrecondition, Unavailable

from longhaul_client.local import processes
from longhaul_client.local.layout import SERVICES, Layout, ProcessMark, UpOptions, load_layout, new_layout
from longhaul_client.local.lock import in_use, lock_holder
from longhaul_client.local.ports import check_ports, free_port_base
from longhaul_client.local.scenario import write_healthy_scenario

START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 45.0
ASK_AGAIN_SECONDS = 1.0
MOST_REFUSALS = 3
AUTO_PORTS = 0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of a local installation."""

    name: str
    address: str
    pid: int | None
    alive: bool
    serving: bool


def up(data_dir: Path, options: UpOptions, *, given: frozenset[str] = frozenset()) -> tuple[Layout, bool]:
    """Start what is not running and return when all services answer: the layout, and whether it ran already.

    Args:
        data_dir: Folder of everything this installation keeps.
        options: What the user chose; of a folder that was laid out before, only the `given` ones count.
        given: Names of the options that the user gave.

    Raises:
        FailedPrecondition: PORT_TAKEN, or DATA_FOLDER_IN_USE when it runs with other options.
        Unavailable: START_FAILED, when a service does not come up; its last log lines are in the message.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    layout = _lay_out(data_dir, options, given)
    if lock_holder(layout.lock_file) is not None:
        running = load_layout(data_dir)
        if running is None or running.options != layout.options:
            raise in_use(layout.lock_file)
        _wait_until_serving(data_dir)
        return _with_all_nodes(running), True
    check_ports(_without_leftovers(layout))
    replace(layout, refusals={}).save()
    _start_supervisor(layout)
    _wait_until_serving(data_dir)
    return load_layout(data_dir) or layout, False


def down(data_dir: Path) -> bool:
    """Stop everything of a data folder and return whether anything ran. Data is kept."""
    layout = load_layout(data_dir)
    if layout is None:
        return False
    ran = any(processes.is_alive(mark) for mark in layout.processes.values())
    holder = lock_holder(layout.lock_file)
    if holder:
        mark = processes.mark_of(holder)
        if mark is not None:
            asyncio.run(processes.stop_process(mark, grace_seconds=STOP_TIMEOUT_SECONDS))
    # A supervisor that was killed before has left its children.
    leftovers = [mark for mark in layout.processes.values() if processes.is_alive(mark)]
    asyncio.run(_stop_each(leftovers))
    return ran


async def _stop_each(marks: list[ProcessMark]) -> None:
    await asyncio.gather(*(processes.stop_process(mark, grace_seconds=10.0) for mark in marks))


def status(layout: Layout) -> list[ProcessStatus]:
    """Say of each process of an installation whether it lives and, for services, whether it serves."""
    rows = []
    for name in (*SERVICES, *layout.node_names()):
        mark = layout.processes.get(name)
        address = layout.addresses.get(name, "")
        alive = processes.is_alive(mark)
        rows.append(
            ProcessStatus(
                name=name,
                address=address,
                pid=mark.pid if mark else None,
                alive=alive,
                serving=is_serving(address) if address and alive else alive,
            )
        )
    return rows


def is_serving(address: str, timeout_seconds: float = 1.0) -> bool:
    """Ask a service by grpc.health.v1 whether it serves."""
    if not _listens(address, timeout_seconds):  # a fortieth of what it costs to find out by a channel
        return False
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _listens(address: str, timeout_seconds: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_seconds).close()
    except OSError:
        return False
    return True


def _lay_out(data_dir: Path, options: UpOptions, given: frozenset[str]) -> Layout:
    earlier = load_layout(data_dir)
    if earlier is not None:
        chosen = {name: getattr(options, name) for name in given}
        if chosen.get("port_base") == AUTO_PORTS:
            del chosen["port_base"]
        options = replace(earlier.options, **chosen)
    if options.port_base == AUTO_PORTS:
        options = replace(options, port_base=free_port_base())
    if not options.scenario or (earlier is not None and earlier.options.nodes != options.nodes):
        options = replace(options, scenario=str(write_healthy_scenario(data_dir, options)))
    layout = new_layout(data_dir, options)
    return replace(layout, processes=earlier.processes) if earlier is not None else layout


def _without_leftovers(layout: Layout) -> Layout:
    """Return the part of a layout whose ports must be free: services left behind hold theirs until they are stopped."""
    held = {name for name, mark in layout.processes.items() if processes.is_alive(mark)}
    return replace(
        layout,
        addresses={name: address for name, address in layout.addresses.items() if name not in held},
        metrics_addresses={name: address for name, address in layout.metrics_addresses.items() if name not in held},
        exporter_address="127.0.0.1:0" if "exporter" in held else layout.exporter_address,
    )


def _start_supervisor(layout: Layout) -> None:
    layout.log_dir.mkdir(parents=True, exist_ok=True)
    with (layout.log_dir / "up.log").open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "longhaul_client.local.supervisor", "--data-dir", str(layout.data_dir)],
            env=processes.base_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=os.sep,
        )


def _wait_until_serving(data_dir: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    waiting = list(SERVICES)
    while waiting:
        layout = load_layout(data_dir)
        if layout is None:
            raise FailedPrecondition(f"{data_dir} was removed while it started", reason="START_FAILED")
        waiting = [name for name in waiting if not is_serving(layout.addresses[name], timeout_seconds=0.5)]
        if not waiting:
            return
        for name in waiting:
            if layout.refusals.get(name, 0) >= MOST_REFUSALS:
                raise _start_failed(layout, name, f"{name} ended {MOST_REFUSALS} times as it started")
        if time.monotonic() > deadline:
            raise _start_failed(layout, waiting[0], f"{waiting[0]} does not serve after {START_TIMEOUT_SECONDS:.0f} s")
        time.sleep(0.1)


def _with_all_nodes(layout: Layout) -> Layout:
    """Have the supervisor start nodes that died; it may not listen yet, so it is asked again."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    ask_at = 0.0
    while dead := [name for name in layout.node_names() if not processes.is_alive(layout.processes.get(name))]:
        now = time.monotonic()
        if now > deadline:
            raise _start_failed(layout, dead[0], f"{dead[0]} is not there after {START_TIMEOUT_SECONDS:.0f} s")
        if now >= ask_at and (supervisor := lock_holder(layout.lock_file)):
            os.kill(supervisor, signal.SIGHUP)
            ask_at = now + ASK_AGAIN_SECONDS
        time.sleep(0.1)
        layout = load_layout(layout.data_dir) or layout
    return layout


def _start_failed(layout: Layout, name: str, what: str) -> Unavailable:
    log_file = layout.log_dir / f"{name}.log"
    return Unavailable(f"{what}\n{processes.last_lines(log_file)}", reason="START_FAILED", action=f"read {log_file}")
