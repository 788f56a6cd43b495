"""A GPU of a run fails, and with it the exporter, gpuhealth itself, or the API server: the run moves all the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest
from drain_lab import LocalLab, Split, Watch, lose_gpu, start_run


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    lab = LocalLab(tmp_path_factory.mktemp("drains"))
    start_run(lab)
    yield lab.watch
    lab.close()


def printed(name: str, split: Split) -> Split:
    print(json.dumps({"fault": name, **{part: round(value, 2) for part, value in asdict(split).items()}}))
    return split


def test_fatal_signal_moves_the_run_to_its_spare(watch: Watch) -> None:
    split = printed("xid", lose_gpu(watch, 79))
    assert split.total < 60


def test_killed_exporter_changes_nothing(watch: Watch) -> None:
    def kill(watch: Watch) -> Callable[[], None]:
        watch.exporter.kill()
        return watch.exporter.start

    printed("exporter killed", lose_gpu(watch, 48, kill))


def test_killed_gpuhealth_goes_on_where_it_was(watch: Watch) -> None:
    def kill(watch: Watch) -> Callable[[], None]:
        watch.service.kill()
        watch.service.start()
        return watch.wait_ready

    printed("gpuhealth killed", lose_gpu(watch, 62, kill))
