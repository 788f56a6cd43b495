"""The whole pipeline on generated text, as a user starts it."""

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from installation import Installation
from longhaul_client.local.layout import SERVICES, Layout, load_layout
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]


def layout_of(installation: Installation) -> Layout:
    layout = load_layout(installation.data_dir)
    assert layout is not None
    return layout


def test_run_again_attaches_and_ends_at_once(installation: Installation, finished: Path):
    before = installation.json("runs", "show", "whole")
    done = installation.longhaul("run", str(finished))
    assert done.returncode == 0, done.stderr
    assert installation.json("runs", "show", "whole") == before


def test_every_step_has_its_metrics_once(installation: Installation, finished: Path):
    rows = installation.json("runs", "metrics", "whole")
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_every_checkpoint_is_scored_with_an_error(installation: Installation, finished: Path):
    checkpoints = installation.json("checkpoints", "list", "--run", "whole")
    assert {int(item["step"]) for item in checkpoints} == {10, 20}
    curve = installation.json("evals", "curve", "whole")
    assert [int(point["step"]) for point in curve["points"]] == [10, 20]
    for point in curve["points"]:
        (score,) = point["scores"]
        assert score["metric"] == "bits_per_byte"
        assert score["standard_error"] > 0


def test_committed_checkpoint_verifies(installation: Installation, finished: Path):
    newest = installation.json("checkpoints", "list", "--run", "whole")[0]
    answer = installation.json("checkpoints", "verify", newest["metadata"]["name"])
    assert answer["intact"] is True
    assert int(answer["bytes_read"]) > 0


def test_report_is_one_file_that_fetches_nothing(installation: Installation, finished: Path, tmp_path: Path):
    path = tmp_path / "report.html"
    done = installation.longhaul("report", "whole", "-o", str(path))
    assert done.returncode == 0, done.stderr
    page = path.read_text()
    assert "unigram entropy" in page
    assert "src=" not in page
    assert "<link" not in page


def test_plan_costs_without_creating(installation: Installation, finished: Path):
    before = installation.json("runs", "list")
    plan = installation.json("plan", str(finished))
    assert int(plan["steps"]) == 20
    assert int(plan["tokens"]) == 20 * 4 * 64
    assert installation.json("runs", "list") == before


def test_logs_outlive_the_pods(installation: Installation, finished: Path):
    done = installation.longhaul("runs", "logs", "whole", "--json")
    ranks = {json.loads(line)["rank"] for line in done.stdout.splitlines()}
    assert 0 in ranks


def test_sdk_example_attaches_and_prints_scores(installation: Installation, finished: Path):
    arguments = [sys.executable, str(ROOT / "examples" / "sdk.py"), str(finished), str(installation.data_dir)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "bits_per_byte" in done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_service_answers_health_reflection_and_metrics(installation: Installation, finished: Path, service: str):
    layout = layout_of(installation)
    with grpc.insecure_channel(layout.addresses[service]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
        own = [name for name in names if name.startswith(f"longhaul.{service}.v1.")]
        assert own
        for name in ["", *own]:
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        assert all(pool.FindServiceByName(name).methods for name in own)
    with urllib.request.urlopen(f"http://{layout.metrics_addresses[service]}/metrics", timeout=30) as answer:
        families = {family.name for family in text_string_to_metric_families(answer.read().decode())}
    assert "longhaul_rpc_server_handled" in families


@pytest.mark.needs_program("prometheus")
def test_prometheus_scrapes_every_service(installation: Installation, finished: Path, tmp_path: Path, free_port: int):
    layout = layout_of(installation)
    targets = sorted(layout.metrics_addresses.values())
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "longhaul", "static_configs": [{"targets": targets}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    arguments = [
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{free_port}",
    ]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        assert wait_for_targets(free_port, len(targets)) == targets, (tmp_path / "log").read_text()[-2000:]
        assert query(free_port, 'sum(longhaul_rpc_server_handled_total{code="OK"})') > 0
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for_targets(port: int, count: int) -> list[str]:
    """Return the addresses of the targets that are up, once all are (or none came in time)."""
    deadline = time.monotonic() + 120
    healthy: list[str] = []
    while len(healthy) < count and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=30) as answer:
                active = json.load(answer)["data"]["activeTargets"]
        except OSError:
            active = []
        healthy = sorted(target["labels"]["instance"] for target in active if target["health"] == "up")
        time.sleep(0.2)
    return healthy


def query(port: int, expression: str) -> float:
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        (sample,) = json.load(answer)["data"]["result"]
    return float(sample["value"][1])
