"""The pretend exporter: its program, its scenario files, its values."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from longhaul_core.errors import InvalidArgument
from longhaul_gpuhealth.domain.exposition import PageReader
from longhaul_gpuhealth.exporter.fleet import Fleet
from longhaul_gpuhealth.exporter.scenario import Scenario, load_scenario

SCENARIO = """
seed: 5
xid_counter: true
nodes:
  node-0: {gpus: 2}
  node-1: {gpus: 1, job_utilization: 0}
events:
  - {name: bus, node: node-0, gpu: 1, at: 30s, xid: 79, lost: true, lasts: 1m}
  - {name: heat, node: node-0, gpu: 0, signals: {DCGM_FI_DEV_GPU_TEMP: 95}, lasts: 10s}
  - {name: ecc, node: node-1, growth: {DCGM_FI_DEV_ECC_SBE_AGG_TOTAL: 5}, lasts: 10s}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return path


def values(fleet: Fleet, node: str, now: float) -> dict[tuple[str, str], float]:
    return {(one.name, one.labels["gpu"]): value for one, value in PageReader().read(fleet.page(node, now))}


def test_program_serves_pages_and_triggers_until_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "longhaul_gpuhealth.exporter", "--listen", "127.0.0.1:0"]
    command += ["--scenario", str(write(tmp_path, SCENARIO))]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        address = json.loads(process.stderr.readline())["address"]

        def fetch(path: str, method: str = "GET") -> str:
            with urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", method=method)) as answer:
                return str(answer.read().decode())

        assert 'modelName="NVIDIA H100 80GB HBM3",Hostname="node-0"' in fetch("/nodes/node-0/metrics")
        assert json.loads(fetch("/events"))[1] == {"name": "heat", "fired_at_seconds": None}
        fetch("/events/heat", "POST")
        page = fetch("/nodes/node-0/metrics")
        assert any(line.startswith("DCGM_FI_DEV_GPU_TEMP") and line.endswith(" 95") for line in page.splitlines())
        for path, method in (("/nodes/nowhere/metrics", "GET"), ("/events/unknown", "POST")):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetch(path, method)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("change", "to", "says"),
    [
        ("gpu: 1, at", "gup: 1, at", "line 8, column 31: unknown key 'gup'; did you mean 'gpu'?"),
        ("node: node-1", "node: node-9", "event 'ecc' names node 'node-9', which is not among the nodes"),
        ("gpu: 1, at", "gpu: 7, at", "event 'bus' names GPU 7; node-0 has 2"),
        ("name: heat", "name: bus", "event 'bus' is given twice"),
        ("nodes:", "nodes: [", "line"),
    ],
)
def test_scenario_with_a_fault_is_refused_by_place(tmp_path: Path, change: str, to: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load_scenario(write(tmp_path, SCENARIO.replace(change, to, 1)))
    assert says in caught.value.message


def test_program_refuses_missing_scenario_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "longhaul_gpuhealth.exporter", "--scenario", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "cannot be read" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_events_act_and_end_in_their_time(tmp_path: Path) -> None:
    fleet = Fleet(load_scenario(write(tmp_path, SCENARIO)))
    xid = ("DCGM_FI_DEV_XID_ERRORS", "1")
    assert values(fleet, "node-0", 29.9)[xid] == 0
    assert xid not in values(fleet, "node-0", 31)
    assert values(fleet, "node-0", 100)[xid] == 79
    assert values(fleet, "node-0", 100)["DCGM_EXP_XID_ERRORS_COUNT", "1"] == 1
    assert ("DCGM_EXP_XID_ERRORS_COUNT", "1") not in values(fleet, "node-0", 331)
    assert fleet.trigger("ecc", 50)
    errors = ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "0")
    assert [values(fleet, "node-1", now)[errors] for now in (50, 52, 60, 90)] == [0, 10, 50, 50]


def test_values_are_plausible_and_repeat_for_the_same_seed() -> None:
    scenario = Scenario.model_validate({"seed": 1, "nodes": {"a": {"gpus": 8}, "b": {"gpus": 1, "job_utilization": 0}}})
    first, second = Fleet(scenario), Fleet(scenario)
    for now in (0.0, 10.0, 333.3):
        assert first.page("a", now) == second.page("a", now)
    busy, idle = values(first, "a", 100), values(first, "b", 100)
    assert 50 < busy["DCGM_FI_DEV_GPU_TEMP", "3"] < 70
    assert 550 < busy["DCGM_FI_DEV_POWER_USAGE", "3"] < 700
    assert idle["DCGM_FI_DEV_GPU_UTIL", "0"] == 0
    assert len({value for (name, _), value in busy.items() if name == "DCGM_FI_DEV_POWER_USAGE"}) == 8
    later = values(first, "a", 200)
    assert later["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "0"] > busy["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "0"]
