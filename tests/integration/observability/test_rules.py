"""Every recording rule and alert, evaluated by promtool: a firing and a quiet case each."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rule_cases import CASES, RECORDED

ROOT = Path(__file__).resolve().parents[3]
RULES = sorted((ROOT / "charts" / "longhaul" / "files" / "rules").glob("*.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks"

pytestmark = pytest.mark.needs_program("promtool")


def rules(kind: str) -> dict[str, dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rule_files_are_valid():
    promtool("check", "rules", *map(str, RULES))


def test_every_rule_has_its_cases():
    assert CASES.keys() == rules("alert").keys()
    assert RECORDED.keys() == rules("record").keys()


def test_alerts_fire_and_stay_quiet(tmp_path: Path):
    tests = []
    for alert, case in CASES.items():
        query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
        fired = {"expr": query, "eval_time": case.at, "exp_samples": [{"labels": "{}", "value": 1}]}
        silent = {"expr": query, "eval_time": case.at, "exp_samples": []}
        tests += [_test(f"{alert} fires", case.firing, fired), _test(f"{alert} is quiet", case.quiet, silent)]
    promtool("test", "rules", str(_write(tmp_path, tests)))


def test_recording_rules_give_the_expected_value(tmp_path: Path):
    tests = []
    for name, (at, series, value, selector) in RECORDED.items():
        rounded = {
            "expr": f"round(sum({name}{{{selector}}}), 0.001)",
            "eval_time": at,
            "exp_samples": [{"labels": "{}", "value": round(value, 3)}],
        }
        absent = {"expr": f"count({name})", "eval_time": at, "exp_samples": []}
        tests += [_test(name, series, rounded), _test(f"{name} without input", {"unrelated": "1x400"}, absent)]
    promtool("test", "rules", str(_write(tmp_path, tests)))


def test_every_alert_names_its_runbook_and_every_runbook_has_an_alert():
    linked = {alert: ROOT / rule["annotations"]["runbook_url"] for alert, rule in rules("alert").items()}
    for alert, page in linked.items():
        words = "-".join(re.findall("[A-Z][a-z0-9]*", alert.removeprefix("Longhaul"))).lower()
        assert page == RUNBOOKS / f"{words}.md"
        text = page.read_text()
        assert text.startswith(f"# {alert}\n")
        for heading in ("## Meaning", "## Find out", "## Repair"):
            assert heading in text, f"{page} has no {heading!r}"
    assert set(linked.values()) == set(RUNBOOKS.glob("*.md")) - {RUNBOOKS / "README.md"}


def test_every_alert_says_how_bad_it_is():
    for alert, rule in rules("alert").items():
        assert rule["labels"]["severity"] in {"warning", "critical"}, alert
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, alert


def _test(name: str, series: dict[str, str], expectation: dict[str, Any]) -> dict[str, Any]:
    given = [{"series": key, "values": values} for key, values in series.items()]
    return {"name": name, "interval": "15s", "input_series": given, "promql_expr_test": [expectation]}


def _write(folder: Path, tests: list[dict[str, Any]]) -> Path:
    path = folder / "tests.yaml"
    document = {"rule_files": [str(rule) for rule in RULES], "evaluation_interval": "1m", "tests": tests}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
