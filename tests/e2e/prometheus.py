"""A real Prometheus for tests: started on a local installation, asked over its API."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that answers on loopback; `since` is when it started to scrape."""

    port: int
    since: float

    def get(self, path: str, **parameters: Any) -> Any:
        """Call the HTTP API and return its data."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)["data"]

    def range(self, expression: str) -> list[dict[str, Any]]:
        """Every series of a query, second by second since the start."""
        window = {"start": self.since, "end": time.time(), "step": 1}
        return list(self.get("query_range", query=expression, **window)["result"])

    def metric_names(self) -> set[str]:
        """Names of everything that was scraped."""
        return set(self.get("label/__name__/values"))


@contextmanager
def running_prometheus(folder: Path, port: int, config: dict[str, Any], rules: list[Path]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes and evaluates every second."""
    (folder / "rules").mkdir()
    for path in rules:
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            group["interval"] = "1s"
        (folder / "rules" / path.name).write_text(yaml.safe_dump(document))
    config = {**config, "rule_files": [str(folder / "rules" / "*.yaml")]}
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        for discovery in job.get("file_sd_configs", ()):
            discovery["refresh_interval"] = "1s"
    (folder / "prometheus.yml").write_text(json.dumps(config))
    arguments = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        _await_ready(port, folder / "log")
        yield Prometheus(port, time.time())
    finally:
        server.terminate()
        server.wait(timeout=20)


def _await_ready(port: int, log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"Prometheus does not answer: {log.read_text()[-2000:]}")
