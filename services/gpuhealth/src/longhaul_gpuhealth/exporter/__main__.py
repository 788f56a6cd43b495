"""`python -m longhaul_gpuhealth.exporter --scenario FILE --listen 127.0.0.1:PORT`: play a scenario until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from longhaul_core.clock import SystemClock
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import configure_logging, get_logger
from longhaul_core.metrics import address_unusable
from longhaul_core.net import join_address, split_address

from longhaul_gpuhealth.exporter.fleet import Fleet
from longhaul_gpuhealth.exporter.scenario import Scenario, load_scenario
from longhaul_gpuhealth.exporter.server import ExporterServer

EXIT_REFUSED = 78
SHUTDOWN_SECONDS = 1.0

log = get_logger(__name__)


async def serve(scenario: Scenario, address: str) -> None:
    """Serve until SIGTERM or SIGINT. Raises `FailedPrecondition` when the address cannot be had."""
    host, port = split_address(address, "listen")
    runner = web.AppRunner(ExporterServer(Fleet(scenario), SystemClock()).application(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, shutdown_timeout=SHUTDOWN_SECONDS)
        try:
            await site.start()
        except OSError as error:
            raise address_unusable(address, "listen", error) from None
        bound = runner.addresses[0]
        log.info("exporter started", address=join_address(bound[0], bound[1]), nodes=sorted(scenario.nodes))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()


def main(arguments: Sequence[str]) -> int:
    """Read the command line and serve; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m longhaul_gpuhealth.exporter", description="Play a GPU scenario.")
    parser.add_argument("--scenario", type=Path, required=True, help="YAML file")
    parser.add_argument("--listen", default="127.0.0.1:9400", help="HOST:PORT; port 0 takes a free one")
    parser.add_argument("--log-format", default="json", choices=("json", "console"))
    parsed = parser.parse_args(arguments)
    try:
        configure_logging("exporter", "info", parsed.log_format)
        asyncio.run(serve(load_scenario(parsed.scenario), parsed.listen))
    except LonghaulError as error:
        sys.stderr.write(f"exporter: {error}\n")
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
