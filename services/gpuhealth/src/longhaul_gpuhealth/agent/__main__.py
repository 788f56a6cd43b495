"""`python -m longhaul_gpuhealth.agent --listen 0.0.0.0:9402`: serve /metrics of this machine until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from longhaul_core.errors import LonghaulError
from longhaul_core.logging import configure_logging, get_logger
from longhaul_core.metrics import address_unusable
from longhaul_core.net import join_address, split_address

from longhaul_gpuhealth.agent.kernel_log import KMSG, KernelLog, exposition
from longhaul_gpuhealth.agent.nvml import NvmlCollector, open_nvml

EXIT_REFUSED = 78
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

log = get_logger(__name__)


class Agent:
    """Collects at each scrape, in a thread: NVML may take long on a sick GPU."""

    def __init__(self, kernel: KernelLog | None, nvml: NvmlCollector | None) -> None:
        self._kernel = kernel
        self._nvml = nvml
        self._collecting = asyncio.Lock()

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application()
        application.add_routes([web.get("/healthz", self._health), web.get("/metrics", self._metrics)])
        return application

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        async with self._collecting:
            text = await asyncio.to_thread(self._collect)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    def _collect(self) -> str:
        page = "" if self._nvml is None else self._nvml.exposition()
        if self._kernel is None:
            return page
        before = self._kernel.error
        self._kernel.read()
        if self._kernel.error and self._kernel.error != before:
            log.warning("kernel log not readable", error=self._kernel.error)
        return page + exposition(self._kernel)


async def serve(agent: Agent, address: str) -> None:
    """Serve until SIGTERM or SIGINT. Raises `FailedPrecondition` when the address cannot be had."""
    host, port = split_address(address, "listen")
    runner = web.AppRunner(agent.application(), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, shutdown_timeout=1.0).start()
        except OSError as error:
            raise address_unusable(address, "listen", error) from None
        bound = runner.addresses[0]
        log.info("agent started", address=join_address(bound[0], bound[1]))
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()


def arguments_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m longhaul_gpuhealth.agent", description="GPU signals of a machine.")
    parser.add_argument("--listen", default="127.0.0.1:9402", help="HOST:PORT; port 0 takes a free one")
    parser.add_argument("--kernel-log", type=Path, default=KMSG, help="the kernel's log, or a file with its lines")
    parser.add_argument("--no-kernel-log", action="store_true", help="do not look for XIDs in the log")
    parser.add_argument("--nvml", choices=("auto", "off"), default="auto", help="off where DCGM is scraped already")
    parser.add_argument("--node", default=socket.gethostname(), help="name in the label Hostname")
    parser.add_argument("--log-format", default="json", choices=("json", "console"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Serve; returns the exit code."""
    parsed = arguments_of(arguments)
    configure_logging("agent", "info", parsed.log_format)
    nvml = open_nvml() if parsed.nvml == "auto" else None
    if nvml is None and parsed.nvml == "auto":
        log.info("no NVML on this machine")
    kernel = None if parsed.no_kernel_log else KernelLog(parsed.kernel_log)
    try:
        asyncio.run(serve(Agent(kernel, None if nvml is None else NvmlCollector(nvml, parsed.node)), parsed.listen))
    except LonghaulError as error:
        sys.stderr.write(f"agent: {error}\n")
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
