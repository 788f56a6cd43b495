"""The engine that the settings ask for."""

import os
from pathlib import Path

import pytest
from longhaul_core.engine import LocalEngine, open_engine
from longhaul_core.errors import InvalidArgument
from longhaul_core.settings import EngineServiceSettings


@pytest.mark.parametrize(("workers", "capacity"), [(3, 3), (0, len(os.sched_getaffinity(0)))])
def test_open_engine_gives_as_many_local_workers_as_set(tmp_path: Path, workers: int, capacity: int) -> None:
    engine = open_engine(EngineServiceSettings(data_dir=tmp_path, workers=workers))
    assert isinstance(engine, LocalEngine)
    assert engine.capacity == capacity


async def test_a_function_of_the_main_program_is_no_task(tmp_path: Path) -> None:
    def task(payload: dict[str, object]) -> dict[str, object]:
        return payload

    task.__module__, task.__qualname__ = "__main__", "task"
    with pytest.raises(InvalidArgument, match="__main__:task") as caught:
        await open_engine(EngineServiceSettings(data_dir=tmp_path)).submit(task, {})
    assert caught.value.reason == "TASK_NOT_IMPORTABLE"
