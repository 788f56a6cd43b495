"""Keeps the six services of a local installation running; one process, in the background, a data folder.

A service that dies is started again after a pause that doubles from 0.2 s to 10 s. Pretend nodes are started here but
live in sessions of their own: like real nodes they outlive the services, and one that was killed stays dead until the
next `longhaul up`, which asks for it by SIGHUP.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from longhaul_core.errors import LonghaulError
from longhaul_core.exits import EXIT_CONFIGURATION, EXIT_DEFECT
from longhaul_core.logging import configure_logging, get_logger

from longhaul_client.local import processes
from longhaul_client.local.layout import SERVICES, Layout, load_layout
from longhaul_client.local.lock import hold_lock
from longhaul_client.local.scraping import write_prometheus_config

_log = get_logger("longhaul.up")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
HEALTHY_AFTER_SECONDS = 30.0
SERVICE_GRACE_SECONDS = 10.0
NODE_GRACE_SECONDS = 15.0
SAVE_AGAIN_SECONDS = 1.0
EXPORTER = "exporter"


class Supervisor:
    """Starts, watches and stops the processes of one layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stop = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._asked_for_nodes = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then stop everything in the reverse order."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._asked_for_nodes.set)
        await self._stop_leftovers()
        write_prometheus_config(self._layout)
        await self._start_nodes()
        keepers = [asyncio.create_task(self._keep(name)) for name in (EXPORTER, *SERVICES)]
        keepers += [asyncio.create_task(self._save_again()), asyncio.create_task(self._start_nodes_again())]
        await self._stop.wait()
        _log.info("stopping")
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await self._stop_all()

    async def _stop_leftovers(self) -> None:
        """End services that a killed supervisor left behind: they would hold the ports and the databases."""
        for name in (EXPORTER, *SERVICES):
            mark = self._layout.processes.get(name)
            if mark is not None and processes.is_alive(mark):
                _log.warning("leftover service is stopped", service=name, pid=mark.pid)
                await processes.stop_process(mark, grace_seconds=SERVICE_GRACE_SECONDS)

    async def _start_nodes(self) -> None:
        for node in self._layout.node_names():
            if processes.is_alive(self._layout.processes.get(node)):
                continue
            child = await processes.spawn(
                [
                    "longhaul_core.cluster.local.node",
                    *("--cluster-dir", str(self._layout.data_dir / "cluster")),
                    *("--name", node),
                    *("--gpus", str(self._layout.options.gpus_per_node)),
                    *("--exporter-url", self._layout.exporter_url(node)),
                ],
                processes.base_environment(),
                self._layout.log_dir / f"{node}.log",
                own_session=True,
            )
            self._record(node, child.pid)

    async def _start_nodes_again(self) -> None:
        while True:
            await self._asked_for_nodes.wait()
            self._asked_for_nodes.clear()
            await self._start_nodes()

    async def _keep(self, name: str) -> None:
        """Start one service again whenever it ends."""
        pause = FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            child = await self._start(name)
            started = loop.time()
            exit_code = await child.wait()
            if loop.time() - started > HEALTHY_AFTER_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._count(name, exit_code)
            _log.warning("service ended", service=name, exit_code=exit_code, restart_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _start(self, name: str) -> asyncio.subprocess.Process:
        if name == EXPORTER:
            arguments = ["longhaul_gpuhealth.exporter", "--listen", self._layout.exporter_address]
            arguments += ["--scenario", self._layout.options.scenario]
            environment = processes.base_environment()
        else:
            arguments = [f"longhaul_{name}"]
            environment = processes.service_environment(self._layout, name)
        child = await processes.spawn(arguments, environment, self._layout.log_dir / f"{name}.log")
        self._record(name, child.pid)
        _log.info("service started", service=name, pid=child.pid)
        return child

    def _record(self, name: str, pid: int) -> None:
        self._layout = self._layout.with_process(name, processes.mark_of(pid))
        self._save()

    def _count(self, name: str, exit_code: int) -> None:
        """Notes an end that says that the service will not start, for those who wait for it."""
        times = self._layout.refusals.get(name, 0) + 1 if exit_code in (EXIT_DEFECT, EXIT_CONFIGURATION) else 0
        self._layout = self._layout.with_refusals(name, times)
        self._save()

    def _save(self) -> None:
        """Write the layout; where the disk is full, services are kept all the same and it is written later."""
        try:
            self._layout.save()
        except OSError as error:
            _log.warning("layout not saved", error=str(error))
            self._unsaved.set()

    async def _save_again(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_AGAIN_SECONDS)
            self._unsaved.clear()
            self._save()

    async def _stop_all(self) -> None:
        marks = self._layout.processes
        services = [marks[name] for name in (*SERVICES, EXPORTER) if name in marks]
        await asyncio.gather(*(processes.stop_process(m, grace_seconds=SERVICE_GRACE_SECONDS) for m in services))
        nodes = [marks[name] for name in self._layout.node_names() if name in marks]
        await asyncio.gather(*(processes.stop_process(m, grace_seconds=NODE_GRACE_SECONDS) for m in nodes))


def main() -> int:
    """Run the supervisor of a data folder that `longhaul up` has laid out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    data_dir = parser.parse_args().data_dir
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whoever holds the lock may be asked at any time
    configure_logging("up", "info", "json")
    layout = load_layout(data_dir)
    if layout is None:
        print(f"{data_dir} is not laid out: start it with `longhaul up`", file=sys.stderr)  # noqa: T201
        return 2
    try:
        with hold_lock(layout.lock_file), contextlib.suppress(KeyboardInterrupt):
            asyncio.run(Supervisor(layout).run())
    except LonghaulError as error:
        _log.error("not started", error=str(error), reason=error.reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
