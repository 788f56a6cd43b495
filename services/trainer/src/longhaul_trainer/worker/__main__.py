"""Entry point of the nursery: ``python -m longhaul_trainer.worker --control FD --agent PID``."""

from __future__ import annotations

import argparse

from longhaul_core.collector import importing

from longhaul_trainer.worker.lifeline import die_with_parent


def main() -> None:
    """Ties the process to its agent before it imports what takes seconds."""
    parser = argparse.ArgumentParser(prog="python -m longhaul_trainer.worker", description=__doc__)
    parser.add_argument("--control", type=int, required=True, help="descriptor of the socket to the agent")
    parser.add_argument("--agent", type=int, required=True, help="process id of the agent")
    arguments = parser.parse_args()
    die_with_parent(arguments.agent)

    with importing():
        from longhaul_trainer.worker.nursery import serve

    serve(arguments.control)


if __name__ == "__main__":
    main()
