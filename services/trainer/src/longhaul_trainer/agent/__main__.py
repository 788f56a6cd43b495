"""Entry point of a training pod: ``python -m longhaul_trainer.agent``."""

from __future__ import annotations

import asyncio
import signal
import sys

from longhaul_core.logging import configure_logging
from longhaul_core.objects import open_store

from longhaul_trainer.agent.agent import Agent
from longhaul_trainer.agent.settings import AgentSettings


async def _serve(settings: AgentSettings) -> int:
    agent = Agent(settings, open_store(settings.object_store_url))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.preempt)
    return int(await agent.run())


def main() -> None:
    """Runs the agent until it is told to end."""
    settings = AgentSettings()
    configure_logging("trainer-agent", settings.log_level, "console" if settings.log_format == "console" else "json")
    sys.exit(asyncio.run(_serve(settings)))


if __name__ == "__main__":
    main()
