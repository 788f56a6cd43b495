"""`longhaul nodes` as a user meets it, against the running service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from longhaul_client.cli import session as session_module
from longhaul_client.cli.main import app
from longhaul_client.connection import Connection
from longhaul_client.local.layout import SERVICES
from typer.testing import CliRunner

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def longhaul(service: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[Any]]:
    connection = Connection(dict.fromkeys(SERVICES, service.address))
    monkeypatch.setattr(session_module.Session, "connection", lambda self: connection)

    async def run(*arguments: str) -> Any:
        return await asyncio.to_thread(CliRunner().invoke, app, ["nodes", *arguments])

    return run


async def test_nodes_are_shown_explained_overruled_and_replayed(
    site: Any, service: Any, longhaul: Any, eventually: Eventually, tmp_path: Path
) -> None:
    await eventually(service.all_healthy)
    shown = await longhaul()
    assert shown.exit_code == 0, shown.output
    assert "node-1" in shown.output
    assert "°" in shown.output, "the heat map"
    ended = await longhaul("override", "node-0", "--state", "healthy", "--reason", "sensor is broken", "--hours", "1")
    assert "healthy" in ended.output
    assert "overrules the verdict until" in (await longhaul("explain", "node-0")).output
    assert (await longhaul("override", "node-0", "--state", "none")).exit_code == 0
    assert (await longhaul("override", "node-0", "--state", "odd")).exit_code == 2
    assert "burn-in" in (await longhaul("burn-in", "node-2")).output
    assert "xid-off-bus" in (await longhaul("rules")).output
    assert "0 of at most 1 nodes" in (await longhaul("budget")).output
    assert (await longhaul("budget", "--reset-breaker")).exit_code == 0
    assert "no GPU is known" in (await longhaul("ranks", "some-run")).output

    gauge = {"node": "a", "gpu": 0, "signal": "DCGM_FI_DEV_XID_ERRORS"}
    times = ("2026-01-01T00:00:00Z", 0), ("2026-01-01T00:00:05Z", 79)
    samples = tmp_path / "samples.json"
    samples.write_text(json.dumps([{**gauge, "time": time, "value": value} for time, value in times]))
    replayed = await longhaul("replay", str(samples), "--nodes", "10")
    assert "quarantined: a" in replayed.output, replayed.output
    rules = tmp_path / "rules.yaml"
    rules.write_text('version: "1"\nrules:\n  - {id: x, whenn: 1}\n')
    refused = await longhaul("replay", str(samples), "--rules", str(rules))
    assert refused.exit_code != 0
    assert "line 3" in str(refused.exception) + refused.output
    assert "did you mean 'when'" in str(refused.exception) + refused.output
