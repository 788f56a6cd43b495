"""A GPU of a run fails, and with it the exporter, gpuhealth itself, or the API server: the run moves all the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from drain_lab import RUN, STEP_SECONDS, KubeHealthLab, Split, Watch, lose_gpu, start_run
from fakekube import FakeKubernetes, Fault
from longhaul.gpuhealth.v1 import node_health_pb2 as pb
from longhaul_client.cli import session as session_module
from longhaul_client.cli.main import app
from longhaul_client.connection import Connection
from longhaul_client.local.layout import SERVICES
from training_harness import USER_TOKEN, wait
from training_lab import Background
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    made = Background()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def api(background: Background) -> Iterator[FakeKubernetes]:
    made = FakeKubernetes()
    background.run(made.start())
    yield made
    background.run(made.stop())


@pytest.fixture(scope="module")
def watch(background: Background, api: FakeKubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    lab = KubeHealthLab(tmp_path_factory.mktemp("drains"), background, api)
    try:
        start_run(lab)
        yield lab.watch
    finally:
        lab.close()


def printed(name: str, split: Split) -> Split:
    print(json.dumps({"fault": name, **{part: round(value, 2) for part, value in asdict(split).items()}}))
    return split


def test_ranks_are_shown_with_their_own_times_beside_their_gpus(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {**dict.fromkeys(SERVICES, watch.address), "training": f"127.0.0.1:{watch.lab.training_port}"}
    connection = Connection(addresses, token=USER_TOKEN, tls_ca=watch.authority)
    monkeypatch.setattr(session_module.Session, "connection", lambda self: connection)

    def shown() -> Any:
        answer = CliRunner().invoke(app, ["--project", "lab", "nodes", "ranks", RUN, "--json"])
        assert answer.exit_code == 0, answer.output
        ranks = json.loads(answer.output)["ranks"]
        complete = [one for one in ranks if {"own_step_seconds", "sm_clock_mhz", "power_watts"} <= set(one["signals"])]
        return complete if len(complete) == 2 else None

    ranks = wait(shown, "both ranks with times and clocks")
    assert [one.get("rank", 0) for one in ranks] == [0, 1]
    assert all(one["signals"]["own_step_seconds"] >= STEP_SECONDS for one in ranks)
    table = CliRunner().invoke(app, ["--project", "lab", "nodes", "ranks", RUN])
    assert "OWN TIME" in table.output


def test_fatal_signal_moves_the_run_to_its_spare_though_the_exporter_dies(watch: Watch) -> None:
    def kill(watch: Watch) -> Callable[[], None]:
        watch.exporter.kill()
        return watch.exporter.start

    assert printed("exporter killed", lose_gpu(watch, 48, kill)).total < 60


def test_fatal_signal_moves_the_run_though_gpuhealth_dies_and_goes_on_where_it_was(watch: Watch) -> None:
    def kill(watch: Watch) -> Callable[[], None]:
        watch.service.kill()
        watch.service.start()
        return watch.wait_ready

    printed("gpuhealth killed", lose_gpu(watch, 62, kill))


def test_api_server_that_dies_over_the_marks_gets_them_when_it_is_back(
    watch: Watch, background: Background, api: FakeKubernetes
) -> None:
    lost = Fault("patch", "nodes", executed=True, times=1_000_000)

    def die(watch: Watch) -> Callable[[], None]:
        wait(lambda: lost.fired, "marks whose answer is lost")
        background.run(api.stop())
        wait(lambda: any(one.type == "MARKS_REFUSED" for one in watch.events(quarantined(watch))), "the refusal told")
        api.ledger.faults.clear()
        background.run(api.start())
        return lambda: None

    wait(watch.all_healthy_but, "no marks are under way")
    api.ledger.faults.append(lost)
    printed("API server killed", lose_gpu(watch, 95, die))


def quarantined(watch: Watch) -> str:
    return next(node for node, state in watch.states().items() if state == pb.HEALTH_STATE_QUARANTINED)
