"""A real Prometheus watches a run with a real fault; every panel, rule and metric shows something, or is excused."""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from installation import Installation
from longhaul.training.v1 import training_run_pb2
from longhaul_client import Client, read_recipe, submit
from longhaul_client.local.layout import load_layout
from longhaul_client.local.scraping import prometheus_config
from longhaul_client.sdk import call
from longhaul_client.watching import TERMINAL_RUN_STATES
from prometheus import Prometheus, running_prometheus
from recipes import recipe, write_recipe

RunStatus = training_run_pb2.TrainingRunStatus
ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "charts" / "longhaul" / "files"
RULES = sorted((FILES / "rules").glob("*.yaml"))
UNANSWERED: dict[str, dict[str, str]] = yaml.safe_load((Path(__file__).parent / "unanswered.yaml").read_text())
VARIABLES = {"$project": "default", "$run": "watched", "$node": ".*", "$__rate_interval": "10s"}
SUFFIXES = re.compile("(_bucket|_sum|_count)$")

pytestmark = [pytest.mark.needs_program("prometheus"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def watched(
    installation: Installation, documents: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus after it has watched a pipeline in which a worker was killed."""
    folder = tmp_path_factory.mktemp("prometheus")
    layout = load_layout(installation.data_dir)
    assert layout is not None
    steps = {"steps": 120, "schedule": {"warmup_steps": 4}, "validation": {"every_steps": 40, "sequences": 4}}
    document = recipe("watched", documents, training={**recipe("watched", documents)["training"], **steps})
    document["checkpoints"] = {"every_steps": 40}
    document["evaluation"]["every_steps"] = 120
    path = write_recipe(folder / "recipe.yaml", document)
    with running_prometheus(folder, _free_port(), prometheus_config(layout), RULES) as prometheus:
        _await(lambda: prometheus.range('sum(up{job="longhaul"}) == 6'), "the first scrape of all services")
        with installation.client() as client:
            run = submit(client, read_recipe(path)).run
            _kill_a_worker(client, run)
            ended = _await_run(client, run, lambda status: status.state in TERMINAL_RUN_STATES)
        assert ended.state == training_run_pb2.TRAINING_RUN_STATE_SUCCEEDED, ended.reason
        assert ended.incidents, "the fault did not fire"
        _await(lambda: prometheus.range('longhaul_training_run_state{run="watched",state="SUCCEEDED"}'), "the end")
        _await(lambda: prometheus.range('longhaul_evaluation_score_step{run="watched"} == 120'), "the last score")
        yield prometheus


def test_every_panel_shows_something_or_is_excused(watched: Prometheus):
    silent = {}
    for path in sorted((FILES / "dashboards").glob("*.json")):
        panels = [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]
        for panel in panels:
            for target in panel["targets"]:
                if not watched.range(_filled(target["expr"])):
                    silent[f"{path.stem} / {panel['title']}"] = target["expr"]
    assert silent.keys() - UNANSWERED["panels"].keys() == set(), silent


def test_every_metric_of_every_rule_is_scraped_or_is_excused(watched: Prometheus):
    names = {
        name for path in RULES for rule in _rules(path) for name in re.findall(r"longhaul[:_][a-z0-9_:]+", rule["expr"])
    }
    assert len(names) > 20
    silent = {name for name in names if not watched.range(f"count({name})")}
    assert silent - UNANSWERED["metrics"].keys() == set()


def test_no_alert_fires_in_a_healthy_installation(watched: Prometheus):
    """Runs of other tests on the same installation may have failed, as those tests want."""
    fired = [series["metric"] for series in watched.range('ALERTS{alertstate="firing"}')]
    assert [metric for metric in fired if metric.get("run", "watched") == "watched"] == []


def test_catalogue_names_what_is_scraped_and_nothing_else(watched: Prometheus):
    sys.path.insert(0, str(ROOT / "scripts"))
    from metrics_catalogue import catalogue

    known = {metric.exposed for metric in catalogue()}
    scraped = {SUFFIXES.sub("", name) for name in watched.metric_names() if name.startswith("longhaul_")}
    assert scraped - known == set()
    assert known - scraped - UNANSWERED["metrics"].keys() == set()


def test_excuses_are_for_what_exists(watched: Prometheus):
    sys.path.insert(0, str(ROOT / "scripts"))
    from metrics_catalogue import catalogue

    titles = {
        f"{path.stem} / {panel['title']}"
        for path in (FILES / "dashboards").glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
    }
    assert UNANSWERED["panels"].keys() <= titles
    recorded = {rule.get("record") for path in RULES for rule in _rules(path)}
    assert UNANSWERED["metrics"].keys() <= {metric.exposed for metric in catalogue()} | recorded


def _rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def _filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def _kill_a_worker(client: Client, run: str) -> None:
    """kill -9 the worker of rank 1 once a checkpoint is committed."""
    status = _await_run(client, run, lambda status: bool(status.checkpoint) and len(status.ranks) == 2)
    os.kill(status.ranks[1].process_id, signal.SIGKILL)


def _await_run(client: Client, run: str, condition: Callable[[RunStatus], bool]) -> RunStatus:
    request = training_run_pb2.GetTrainingRunRequest(name=run)

    def look() -> RunStatus | None:
        status: RunStatus = call(client.runs.GetTrainingRun, request).status
        return status if condition(status) else None

    found: RunStatus = _await(look, f"{run} to get there", pause_seconds=0.05)
    return found


def _await(look: Callable[[], Any], what: str, pause_seconds: float = 0.3) -> Any:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(pause_seconds)
    raise AssertionError(f"waited in vain for {what}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
