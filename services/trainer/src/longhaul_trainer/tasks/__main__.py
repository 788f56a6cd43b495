"""Entry point of task pods: ``python -m longhaul_trainer.tasks {score,export,import,burnin}``."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from longhaul_core.collector import importing
from longhaul_core.errors import InvalidArgument, LonghaulError
from longhaul_core.logging import configure_logging, get_logger
from longhaul_core.objects import ObjectStore, open_store
from longhaul_core.tasks import TaskFailure, failure_key
from pydantic import BaseModel, ValidationError

from longhaul_trainer.tasks.settings import TaskSettings

_log = get_logger(__name__)


def _run(program: str, settings: TaskSettings, store: ObjectStore) -> BaseModel:
    """Each program is imported only when it runs: what it needs takes seconds to import."""
    if program == "score":
        with importing():
            from longhaul_trainer.tasks.score import run_score

        return run_score(settings, store)
    if program == "export":
        with importing():
            from longhaul_trainer.tasks.export import run_export

        return run_export(settings, store)
    if program == "import":
        with importing():
            from longhaul_trainer.tasks.importing import run_import

        return run_import(settings, store)
    with importing():
        from longhaul_trainer.tasks.burnin import run_burnin

    return run_burnin(settings)


def main() -> None:
    """Runs one task, writes its result, exits with its code."""
    parser = argparse.ArgumentParser(prog="python -m longhaul_trainer.tasks", description=__doc__)
    parser.add_argument("program", choices=("score", "export", "import", "burnin"))
    program = parser.parse_args().program
    settings = TaskSettings()
    configure_logging("trainer-task", settings.log_level, settings.log_format)
    try:
        store = open_store(settings.object_store_url)
        result = _run(program, settings, store)
        store.put(settings.task_result_key, result.model_dump_json(indent=1).encode())
    except Exception as error:
        from longhaul_trainer.worker.failure import exit_code_of

        readable = _readable(error)
        code = exit_code_of(readable)
        _say_why(settings, readable)
        _log.error("task failed", program=program, code=int(code), error=str(readable), exc_info=error)
        sys.exit(int(code))
    _log.info("task done", program=program, result=settings.task_result_key)


def _say_why(settings: TaskSettings, error: Exception) -> None:
    """Beside the result's place, for whoever asked for the task; a store that is away is not waited for."""
    action = error.action if isinstance(error, LonghaulError) else ""
    failure = TaskFailure(message=str(error), action=action)
    with suppress(LonghaulError, OSError):
        store = open_store(settings.object_store_url)
        store.put(failure_key(settings.task_result_key), failure.model_dump_json().encode())


def _readable(error: Exception) -> Exception:
    if not isinstance(error, ValidationError):
        return error
    violations = [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
    return InvalidArgument(f"The task's arguments are wrong: {violations}", violations=violations)


if __name__ == "__main__":
    main()
